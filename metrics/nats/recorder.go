package nats

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"mp/metrics"
)

// RecorderConfig says which events a recorder reads.
type RecorderConfig struct {
	URL         string
	Credentials Credentials
	Durable     string        // name under which NATS remembers what it has recorded; one running recorder a name
	IdleAfter   time.Duration // a job's sink without events for so long is closed, and made again when one comes
	Logger      *slog.Logger  // nil: nothing is logged
}

// DefaultRecorderConfig closes sinks after ten minutes.
func DefaultRecorderConfig(url, durable string) RecorderConfig {
	return RecorderConfig{URL: url, Durable: durable, IdleAfter: 10 * time.Minute}
}

// Validate reports what is wrong with c, as an ErrConfig.
func (c RecorderConfig) Validate() error { return c.Credentials.Validate() }

// SinkOf makes the sink of a job. A nil Sink leaves the job's events out; an error is tried again. The recorder closes
// what it got, if it can be closed.
type SinkOf func(job string) (metrics.Sink, error)

// Recorder reads the stored events in the stream's order and hands each to the sink of its job.
type Recorder struct{ c RecorderConfig }

// NewRecorder checks c.
func NewRecorder(c RecorderConfig) (*Recorder, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	return &Recorder{c: c}, nil
}

// Run records until ctx ends, and returns nil then; while NATS is away it waits. Call it once.
func (r *Recorder) Run(ctx context.Context, sinkOf SinkOf) error { return errors.ErrUnsupported }

// Sync waits until everything that is stored at the time of the call is recorded.
func (r *Recorder) Sync(ctx context.Context) error { return errors.ErrUnsupported }
