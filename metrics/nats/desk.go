package nats

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"syscall"
	"time"

	client "github.com/nats-io/nats.go"

	"mp/metrics"
)

// SinkOf makes the sink of a job; a nil Sink leaves the job's events out. It is called again after IdleAfter without
// events. The recorder calls the sink from one goroutine and closes it if it is an io.Closer.
//
// An error of SinkOf, or of the sink's method Err() error, if it has one as metrics.JSONL has, means that events were not
// kept. They are handed to the job's next sink, and the events of all jobs wait for that: for ever while a disk is full,
// and for a minute otherwise; then the events of this job are left out for a minute, and said to be, so that one broken
// run does not hold up the others.
type SinkOf func(job string) (metrics.Sink, error)

// giveUpAfter is how long a job whose sink fails holds up the others, and how long it is left out then.
const giveUpAfter = time.Minute

// desk is where the events of one job go.
type desk struct {
	sink  metrics.Sink // nil: nowhere
	known bool         // sink is what SinkOf said
	dirty bool         // it took events since the last check
	last  metrics.Origin
	used  time.Time

	failing time.Time // since when; zero: it is not
	out     time.Time // events are left out until then
	left    int       // events left out
}

// desks are those of all jobs. They belong to one goroutine.
type desks struct {
	sinkOf SinkOf
	log    *slog.Logger
	open   map[string]*desk
}

// emit hands e to the sink of its job. An error means that e has to come again.
func (d *desks) emit(job string, e metrics.Event, now time.Time) error {
	k := d.open[job]
	if k == nil {
		k = &desk{}
		d.open[job] = k
	}
	k.used = now
	if now.Before(k.out) {
		k.left++
		return nil
	}
	if !k.known {
		sink, err := d.sinkOf(job)
		if err != nil {
			return d.fail(job, k, err, now)
		}
		k.sink, k.known = sink, true
	}
	if k.sink == nil || k.last.Stream.Equal(e.Origin.Stream) && e.Origin.Sequence <= k.last.Sequence {
		return nil
	}
	k.last, k.dirty = *e.Origin, true
	k.sink.Emit(e)
	return nil
}

// check says whether every sink has kept what it took since the last check. An error means that all of it has to come
// again; sinks that kept it do not get it twice.
func (d *desks) check(now time.Time) error {
	for job, k := range d.open {
		if !k.dirty {
			continue
		}
		k.dirty = false
		if sink, ok := k.sink.(interface{ Err() error }); ok {
			if err := sink.Err(); err != nil {
				d.close(job, k)
				if err := d.fail(job, k, err, now); err != nil {
					return err
				}
				continue
			}
		}
		k.failing = time.Time{}
		if k.left > 0 {
			d.log.Warn("events of a job were left out; from here on they are recorded", keyJob, job, keyCount, k.left)
			k.left = 0
		}
	}
	return nil
}

// fail is err with the job's name, or nil when it has lasted too long.
func (d *desks) fail(job string, k *desk, err error, now time.Time) error {
	err = fmt.Errorf("record events of job %s: %w", job, err)
	if k.failing.IsZero() {
		k.failing = now
	}
	full := errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
	if full || now.Sub(k.failing) < giveUpAfter {
		return err
	}
	d.log.Error("events of a job are left out for a minute", keyJob, job, keyError, err.Error())
	k.failing, k.out = time.Time{}, now.Add(giveUpAfter)
	k.left++
	return nil
}

// pass hands progress on to the sink of its job, if it is open.
func (d *desks) pass(msg *client.Msg) {
	job, _, err := parseSubject(msg.Subject)
	if err != nil {
		return
	}
	var e metrics.Event
	if k := d.open[job]; k != nil && k.sink != nil && json.Unmarshal(msg.Data, &e) == nil && e.Kind == metrics.KindProgress {
		k.sink.Emit(e)
	}
}

// closeIdle closes the sinks of jobs that have been quiet for so long.
func (d *desks) closeIdle(now time.Time, idle time.Duration) {
	for job, k := range d.open {
		if now.Sub(k.used) >= idle {
			d.close(job, k)
			delete(d.open, job)
		}
	}
}

func (d *desks) closeAll() {
	for job, k := range d.open {
		d.close(job, k)
	}
}

// close closes the sink of a job; the next event asks for another.
func (d *desks) close(job string, k *desk) {
	if c, ok := k.sink.(io.Closer); ok {
		if err := c.Close(); err != nil {
			d.log.Warn("the record of a job has an error", keyJob, job, keyError, err.Error())
		}
	}
	k.sink, k.known, k.last = nil, false, metrics.Origin{}
}
