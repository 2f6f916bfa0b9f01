package nats

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/nats-io/nuid"

	"mp/metrics"
)

// SinkConfig says where the events of one worker of one job go.
type SinkConfig struct {
	URL         string        // of one server, or of several of a cluster with commas between
	Credentials Credentials   // zero: none
	TLS         *tls.Config   // to a server that is one of ours; nil: what the URL says, with the system's authorities
	Job         string        // identity of the job
	Worker      string        // identity of whoever emits: a worker's number, "coordinator"; one running Sink each
	MaxEvents   int           // waiting while NATS is away
	MaxBytes    int           // of memory for them
	FlushWithin time.Duration // how long Close waits for the last ones
	Logger      *slog.Logger  // nil: nothing is logged
}

// DefaultSinkConfig waits with up to 200,000 events or 64 MiB, and 3 s at the end.
func DefaultSinkConfig(url, job, worker string) SinkConfig {
	return SinkConfig{URL: url, Job: job, Worker: worker, MaxEvents: 200_000, MaxBytes: 64 << 20, FlushWithin: 3 * time.Second}
}

// Validate reports what is wrong with c, as an ErrConfig.
func (c SinkConfig) Validate() error {
	switch {
	case c.Job == "":
		return fmt.Errorf("%w: metrics of no job", ErrConfig)
	case c.Worker == "":
		return fmt.Errorf("%w: metrics of no worker", ErrConfig)
	case c.MaxEvents < 1 || c.MaxBytes < 1:
		return fmt.Errorf("%w: room for %d events and %d bytes while NATS is away: at least 1 each is needed", ErrConfig, c.MaxEvents, c.MaxBytes)
	case c.FlushWithin < 0:
		return fmt.Errorf("%w: flush within %v", ErrConfig, c.FlushWithin)
	}
	if err := checkURL(c.URL); err != nil {
		return err
	}
	return c.Credentials.Validate()
}

// Sink is a metrics.Sink that publishes events to NATS. While NATS is away they wait in memory, in order; where there is
// no room the oldest steps are given up, and a story says how many. An event is stored once, however often it is sent.
// Of progress only the newest is published, and only while NATS is there. Safe for concurrent use.
type Sink struct {
	c       SinkConfig
	log     *slog.Logger
	session string        // tells this life of the worker from others in identities of messages
	wake    chan struct{} // holds a value when run has something to look at
	stop    context.CancelFunc
	running sync.WaitGroup

	mu       sync.Mutex
	queue    queue
	sequence uint64 // of the last event
	progress []byte // the newest, not published yet; nil: none
	closed   bool
}

// NewSink starts to connect and returns at once, whether NATS is there or not. An error is an ErrConfig.
func NewSink(c SinkConfig) (*Sink, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(context.Background())
	s := &Sink{
		c: c, log: logger(c.Logger).With(keyJob, c.Job), session: nuid.Next(), wake: make(chan struct{}, 1), stop: stop,
		queue: queue{maxEvents: c.MaxEvents, maxBytes: c.MaxBytes},
	}
	s.running.Go(func() { s.run(ctx) })
	return s, nil
}

// Emit queues e; it neither blocks nor keeps anything of e. After Close it does nothing.
func (s *Sink) Emit(e metrics.Event) {
	data, err := json.Marshal(e)
	if err != nil {
		s.log.Warn("an event cannot be written as JSON and is left out", keyError, err.Error())
		return
	}
	s.mu.Lock()
	switch {
	case s.closed:
	case e.Kind == metrics.KindProgress:
		s.progress = data
	default:
		s.sequence++
		s.queue.push(entry{sequence: s.sequence, kind: e.Kind, data: data})
	}
	s.mu.Unlock()
	s.poke()
}

// Close sends what waits, for up to FlushWithin, and ends the connection. It always returns nil: a run does not fail with
// its metrics; what could not be sent is logged.
func (s *Sink) Close() error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.poke()
	late := time.AfterFunc(s.c.FlushWithin, s.stop)
	s.running.Wait()
	late.Stop()
	s.stop()
	return nil
}

// poke makes run look again.
func (s *Sink) poke() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// retryEvery is the pause after NATS has refused something.
const retryEvery = 500 * time.Millisecond

// run publishes until the Sink is closed and empty, or ctx ends.
func (s *Sink) run(ctx context.Context) {
	p, err := newPublisher(ctx, s)
	if err != nil { // the configuration is checked: this is a kind of it that Validate does not know
		s.log.Error("metrics go nowhere", keyError, err.Error())
		<-ctx.Done()
		return
	}
	defer p.close()
	retry := time.NewTimer(0)
	for said := ""; ; {
		select {
		case <-ctx.Done():
			if n := s.waiting() + len(p.flight); n > 0 {
				s.log.Warn("the last events did not reach NATS", keyURL, redact(s.c.URL), keyCount, n)
			}
			return
		case <-s.wake:
		case <-retry.C:
		}
		err := p.publish(ctx)
		switch empty := s.waiting()+len(p.flight) == 0; {
		case s.isClosed() && empty:
			return
		case ctx.Err() != nil: // said above
		case err != nil:
			if text := err.Error(); text != said {
				s.log.Warn("NATS takes no metrics; they wait", keyURL, redact(s.c.URL), keyError, text)
				said = text
			}
			retry.Reset(retryEvery)
		case p.away(): // wake tells when it is back
		case !empty:
			retry.Reset(retryEvery)
		default:
			said = ""
		}
	}
}

// take moves up to n of the oldest events to the caller.
func (s *Sink) take(n int) []entry {
	s.mu.Lock()
	defer s.mu.Unlock()
	var taken []entry
	for len(taken) < n {
		e, ok := s.queue.pop()
		if !ok {
			break
		}
		taken = append(taken, e)
	}
	if len(taken) > 0 { // there is room for it now
		if dropped := s.queue.takeDropped(); dropped > 0 {
			s.sequence++
			s.queue.push(entry{sequence: s.sequence, kind: metrics.KindStory, data: s.confess(dropped)})
		}
	}
	return taken
}

// confess is the story of events that are lost.
func (s *Sink) confess(dropped int) []byte {
	data, err := json.Marshal(metrics.Event{Time: time.Now(), Kind: metrics.KindStory, Story: &metrics.Story{
		Topic: "metrics", Warning: true,
		Text: fmt.Sprintf("%d reported steps of worker %s are lost: NATS was away for long, and there is room for %d events or %d MiB",
			dropped, s.c.Worker, s.c.MaxEvents, s.c.MaxBytes>>20),
	}})
	if err != nil {
		panic("nats: a story cannot be written as JSON: " + err.Error())
	}
	return data
}

// takeProgress is the newest progress, once.
func (s *Sink) takeProgress() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	data := s.progress
	s.progress = nil
	return data
}

func (s *Sink) waiting() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.queue.len()
}

func (s *Sink) isClosed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
}
