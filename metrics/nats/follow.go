package nats

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	client "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"mp/metrics"
)

// FollowConfig says which events of one job a follower wants.
type FollowConfig struct {
	URL         string // of one server, or of several of a cluster with commas between
	Credentials Credentials
	TLS         *tls.Config    // to a server that is one of ours; nil: what the URL says, with the system's authorities
	Job         string         // identity of the job
	Kinds       []metrics.Kind // stored kinds to hand on; progress comes besides
	Logger      *slog.Logger   // nil: nothing is logged
}

// Validate reports what is wrong with c, as an ErrConfig.
func (c FollowConfig) Validate() error {
	switch {
	case c.Job == "":
		return fmt.Errorf("%w: metrics of no job", ErrConfig)
	case len(c.Kinds) == 0:
		return fmt.Errorf("%w: no kind of event to follow", ErrConfig)
	}
	if err := checkURL(c.URL); err != nil {
		return err
	}
	return c.Credentials.Validate()
}

// subjects are those of the stored events that c wants.
func (c FollowConfig) subjects() []string {
	var all []string
	for _, k := range c.Kinds {
		all = append(all, "mp."+escape(c.Job)+".*."+escape(string(k)))
	}
	return all
}

// Follower reads along what happens in one job, without leaving a trace in NATS: it hands on every stored event from the
// first on in the stream's order, each once, with its Origin, and goes on with new ones as they come. While NATS is away it
// waits and goes on where it was.
type Follower struct {
	c   FollowConfig
	log *slog.Logger
}

// NewFollower checks c. Nothing is opened before Run.
func NewFollower(c FollowConfig) (*Follower, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	return &Follower{c: c, log: logger(c.Logger)}, nil
}

// reader is how far a Follower has read.
type reader struct {
	created time.Time // of the stream
	last    uint64    // newest sequence that was handed on
	seen    bool      // what was stored at the start has been handed on
}

// Run calls emit with every event, and caughtUp once, when all that the server counted as stored at its start has been
// emitted; both from the goroutine of Run. It blocks until ctx ends and returns nil then. Call it once.
func (f *Follower) Run(ctx context.Context, emit func(metrics.Event), caughtUp func()) error {
	read := &reader{}
	c := connection{url: f.c.URL, credentials: f.c.Credentials, tls: f.c.TLS, name: "mp watch " + f.c.Job, log: f.log.With(keyJob, f.c.Job)}
	return c.sessions(ctx, "following a job is interrupted; it goes on where it was", func(js jetstream.JetStream) error {
		return f.session(ctx, js, read, emit, caughtUp)
	})
}

// session reads until something goes wrong, and says what.
func (f *Follower) session(ctx context.Context, js jetstream.JetStream, r *reader, emit func(metrics.Event), caughtUp func()) error {
	lost := js.Conn().StatusChanged(client.RECONNECTING, client.CLOSED)
	defer js.Conn().RemoveStatusListener(lost)
	live := make(chan *client.Msg, batchSize)
	sub, err := js.Conn().ChanSubscribe("mp."+escape(f.c.Job)+".*."+liveSuffix, live)
	if err != nil {
		return fmt.Errorf("listen for progress: %w", err)
	}
	defer sub.Unsubscribe()
	consumer, err := f.open(ctx, js, r)
	if err != nil {
		return err
	}
	stored := consumer.CachedInfo().NumPending // by its making
	arrived := func() {
		if stored == 0 && !r.seen {
			r.seen = true
			caughtUp()
		}
	}
	for arrived(); ctx.Err() == nil; {
		batch, err := consumer.Fetch(batchSize, jetstream.FetchMaxWait(batchLasts))
		if err != nil {
			return fmt.Errorf("ask for events: %w", err)
		}
		for open := true; open; {
			select {
			case <-ctx.Done():
				return nil
			case <-lost: // what is under way will not arrive
				return client.ErrDisconnected
			case msg := <-live:
				var e metrics.Event
				if json.Unmarshal(msg.Data, &e) == nil && e.Kind == metrics.KindProgress {
					emit(e)
				}
			case msg, ok := <-batch.Messages():
				if open = ok; !ok {
					break
				}
				if err := f.take(msg, r, emit); err != nil {
					return err
				}
				stored -= min(stored, 1)
				arrived()
			}
		}
		if err := batch.Error(); err != nil && !errors.Is(err, client.ErrTimeout) {
			return fmt.Errorf("read events: %w", err)
		}
	}
	return nil
}

// open makes a consumer that vanishes with the session.
func (f *Follower) open(ctx context.Context, js jetstream.JetStream, r *reader) (jetstream.Consumer, error) {
	within, cancel := context.WithTimeout(ctx, findWithin)
	defer cancel()
	stream, err := js.Stream(within, streamName)
	if err != nil {
		return nil, fmt.Errorf("find stream %s: %w", streamName, err)
	}
	if created := stream.CachedInfo().Created; !created.Equal(r.created) { // another stream counts from 1 again
		r.created, r.last = created, 0
	}
	consumer, err := stream.CreateConsumer(within, jetstream.ConsumerConfig{
		Description: "mp watch", AckPolicy: jetstream.AckNonePolicy, InactiveThreshold: time.Minute, MemoryStorage: true,
		FilterSubjects: f.c.subjects(), DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: r.last + 1,
	})
	if err != nil {
		return nil, fmt.Errorf("follow %s in NATS: %w", f.c.Job, err)
	}
	return consumer, nil
}

// take hands an event on.
func (f *Follower) take(msg jetstream.Msg, r *reader, emit func(metrics.Event)) error {
	at, err := msg.Metadata()
	if err != nil {
		return fmt.Errorf("read event: %w", err)
	}
	if at.Sequence.Stream <= r.last {
		return nil
	}
	r.last = at.Sequence.Stream
	_, worker, err := parseSubject(msg.Subject())
	var e metrics.Event
	if err == nil {
		err = json.Unmarshal(msg.Data(), &e)
	}
	if err != nil {
		f.log.Warn("what is no event of ours is left out", keyError, err.Error())
		return nil
	}
	e.Origin = &metrics.Origin{Worker: worker, Stream: r.created, Sequence: r.last}
	emit(e)
	return nil
}
