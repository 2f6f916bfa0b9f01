package nats

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	client "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"mp/metrics"
)

// RecorderConfig says which events a recorder reads.
type RecorderConfig struct {
	URL         string // of one server, or of several of a cluster with commas between
	Credentials Credentials
	TLS         *tls.Config   // to a server that is one of ours; nil: what the URL says, with the system's authorities
	Durable     string        // name under which NATS remembers what it has recorded; one running recorder a name
	IdleAfter   time.Duration // a job's sink without events for so long is closed, and made again when one comes
	Logger      *slog.Logger  // nil: nothing is logged
}

// DefaultRecorderConfig closes sinks after ten minutes.
func DefaultRecorderConfig(url, durable string) RecorderConfig {
	return RecorderConfig{URL: url, Durable: durable, IdleAfter: 10 * time.Minute}
}

// Validate reports what is wrong with c, as an ErrConfig.
func (c RecorderConfig) Validate() error {
	switch {
	case c.Durable == "":
		return fmt.Errorf("%w: a recorder without a name", ErrConfig)
	case escape(c.Durable) != c.Durable:
		return fmt.Errorf("%w: a recorder of name %q: letters, digits, - and _ only", ErrConfig, c.Durable)
	case c.IdleAfter <= 0:
		return fmt.Errorf("%w: sinks are closed after %v", ErrConfig, c.IdleAfter)
	}
	if err := checkURL(c.URL); err != nil {
		return err
	}
	return c.Credentials.Validate()
}

// Recorder reads the stored events in the stream's order and hands each, with its Origin, to the sink of its job; NATS
// learns that an event is recorded after the sink took it. A recorder that is killed and started again goes on there: it
// misses nothing and repeats what it had no time to report, which a sink that looks at the Origin (metrics.JSONL) does not
// keep twice. Progress is handed on as it passes by, to sinks that are open.
type Recorder struct {
	c         RecorderConfig
	log       *slog.Logger
	ackWithin time.Duration // before the server thinks that a recorder is gone

	mu      sync.Mutex
	stream  jetstream.Stream // nil: not known
	done    uint64           // everything up to this sequence is recorded
	changed chan struct{}    // closed and made anew when one of those changes
}

// NewRecorder checks c. Nothing is opened before Run.
func NewRecorder(c RecorderConfig) (*Recorder, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	return &Recorder{c: c, log: logger(c.Logger), ackWithin: 30 * time.Second, changed: make(chan struct{})}, nil
}

// Sync waits until everything that is stored at the time of the call is recorded. It needs a Run.
func (r *Recorder) Sync(ctx context.Context) error {
	var target uint64
	for known := false; ; {
		r.mu.Lock()
		stream, done, changed := r.stream, r.done, r.changed
		r.mu.Unlock()
		if stream != nil && !known {
			info, err := stream.Info(ctx)
			if err == nil {
				known, target = true, info.State.LastSeq
				if info.State.Msgs == 0 {
					return nil
				}
			}
		}
		if known && done >= target {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait until metrics are recorded: %w", ctx.Err())
		case <-changed:
		}
	}
}

// note publishes what Sync looks at.
func (r *Recorder) note(stream jetstream.Stream, done uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stream == stream && r.done == done {
		return
	}
	r.stream, r.done = stream, done
	close(r.changed)
	r.changed = make(chan struct{})
}

// Run records until ctx ends, and returns nil then; while NATS is away, or a sink fails, it waits. The last events before
// the end of ctx may be recorded after the next start: Sync first where that matters. Call it once.
func (r *Recorder) Run(ctx context.Context, sinkOf SinkOf) error {
	desks := &desks{sinkOf: sinkOf, log: r.log, open: map[string]*desk{}}
	defer desks.closeAll()
	c := connection{url: r.c.URL, credentials: r.c.Credentials, tls: r.c.TLS, name: "mp recorder " + r.c.Durable, log: r.log}
	return c.sessions(ctx, "recording of metrics is interrupted; it goes on where it was", func(js jetstream.JetStream) error {
		return r.session(ctx, js, desks)
	})
}

// How a session reads.
const (
	batchSize  = 256
	batchLasts = time.Second
)

// errGap says that the server delivered something that did not arrive.
var errGap = errors.New("events were delivered elsewhere: does another recorder use the same name?")

// session records until something goes wrong, and says what.
func (r *Recorder) session(ctx context.Context, js jetstream.JetStream, desks *desks) error {
	s, err := r.open(ctx, js)
	if err != nil {
		return err
	}
	lost := js.Conn().StatusChanged(client.RECONNECTING, client.CLOSED)
	defer js.Conn().RemoveStatusListener(lost)
	live := make(chan *client.Msg, batchSize)
	sub, err := js.Conn().ChanSubscribe(liveSubjects, live)
	if err != nil {
		return fmt.Errorf("listen for progress: %w", err)
	}
	defer sub.Unsubscribe()
	for ctx.Err() == nil {
		r.note(s.stream, s.done)
		batch, err := s.consumer.Fetch(batchSize, jetstream.FetchMaxWait(batchLasts))
		if err != nil {
			return fmt.Errorf("ask for events: %w", err)
		}
		for open := true; open; {
			select {
			case <-ctx.Done():
				return s.settle(desks)
			case <-lost: // what is under way will not arrive
				return client.ErrDisconnected
			case msg := <-live:
				desks.pass(msg)
			case msg, ok := <-batch.Messages():
				if open = ok; !ok {
					break
				}
				if err := s.take(msg, desks); err != nil {
					return errors.Join(err, s.settle(desks))
				}
				if len(batch.Messages()) > 0 && s.unsettled < batchSize {
					break
				}
				if err := s.settle(desks); err != nil {
					return err
				}
				r.note(s.stream, s.done)
			}
		}
		if err := batch.Error(); err != nil && !errors.Is(err, client.ErrTimeout) {
			return fmt.Errorf("read events: %w", err)
		}
		desks.closeIdle(time.Now(), r.c.IdleAfter)
	}
	return nil
}

// session is one consumer from its opening on.
type session struct {
	stream   jetstream.Stream
	created  time.Time
	consumer jetstream.Consumer

	delivered uint64 // by the consumer's count
	last      uint64 // in the stream, handed to its sink
	done      uint64 // acknowledged
	unsettled int    // events from done to last
	msg       jetstream.Msg
	log       *slog.Logger
}

// open finds where recording has to go on. Events that were delivered but not acknowledged would come again only after
// later ones: then the consumer is made anew from there.
func (r *Recorder) open(ctx context.Context, js jetstream.JetStream) (*session, error) {
	within, cancel := context.WithTimeout(ctx, findWithin)
	defer cancel()
	stream, err := findStream(within, js)
	if err != nil {
		return nil, err
	}
	config := jetstream.ConsumerConfig{
		Durable: r.c.Durable, Description: "recorder of mp", AckPolicy: jetstream.AckAllPolicy, AckWait: r.ackWithin,
		DeliverPolicy: jetstream.DeliverAllPolicy, MaxAckPending: 4 * batchSize,
	}
	consumer, err := stream.Consumer(within, r.c.Durable)
	if errors.Is(err, jetstream.ErrConsumerNotFound) {
		consumer, err = stream.CreateConsumer(within, config)
	}
	if err != nil {
		return nil, fmt.Errorf("find recorder %s in NATS: %w", r.c.Durable, err)
	}
	info := consumer.CachedInfo()
	if info.NumAckPending > 0 {
		config.DeliverPolicy, config.OptStartSeq = jetstream.DeliverByStartSequencePolicy, info.AckFloor.Stream+1
		if err := stream.DeleteConsumer(within, r.c.Durable); err != nil {
			return nil, fmt.Errorf("put recorder %s back to %d: %w", r.c.Durable, info.AckFloor.Stream, err)
		}
		if consumer, err = stream.CreateConsumer(within, config); err != nil {
			return nil, fmt.Errorf("put recorder %s back to %d: %w", r.c.Durable, info.AckFloor.Stream, err)
		}
	}
	floor := info.AckFloor.Stream
	return &session{
		stream: stream, created: stream.CachedInfo().Created, consumer: consumer, log: r.log,
		delivered: consumer.CachedInfo().Delivered.Consumer, last: floor, done: floor,
	}, nil
}

// take hands an event to the sink of its job.
func (s *session) take(msg jetstream.Msg, desks *desks) error {
	at, err := msg.Metadata()
	if err != nil {
		return fmt.Errorf("read event: %w", err)
	}
	if at.Sequence.Consumer != s.delivered+1 {
		return errGap
	}
	s.delivered++
	if at.Sequence.Stream <= s.last { // came again because a sink took long
		return nil
	}
	if gone := at.Sequence.Stream - s.last - 1; gone > 0 && s.last > 0 {
		s.log.Warn("events grew too old or too many before they were recorded", keyCount, gone)
	}
	job, worker, err := parseSubject(msg.Subject())
	var e metrics.Event
	if err == nil {
		err = json.Unmarshal(msg.Data(), &e)
	}
	if err != nil {
		s.log.Warn("what is no event of ours is not recorded", keyError, err.Error())
	} else {
		e.Origin = &metrics.Origin{Worker: worker, Stream: s.created, Sequence: at.Sequence.Stream}
		if err := desks.emit(job, e, time.Now()); err != nil {
			return err
		}
	}
	s.last = at.Sequence.Stream
	s.unsettled++
	s.msg = msg
	return nil
}

// settle tells NATS that everything up to the last event is recorded, if every sink says so.
func (s *session) settle(desks *desks) error {
	if s.unsettled == 0 {
		return nil
	}
	if err := desks.check(time.Now()); err != nil {
		return err
	}
	if err := s.msg.Ack(); err != nil {
		return fmt.Errorf("acknowledge events: %w", err)
	}
	s.done, s.unsettled = s.last, 0
	return nil
}
