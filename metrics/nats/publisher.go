package nats

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	client "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// How a publisher works: a window of events is sent, then every answer awaited, then the next.
const (
	windowSize   = 256
	answerWithin = 5 * time.Second
	findWithin   = 2 * time.Second // a request that a dying server did not answer ends only so
)

// flying is an event that is sent or about to be.
type flying struct {
	entry
	sent    time.Time // first; zero: not yet
	refused bool      // the server said that it did not store it
	stored  bool
}

// publisher sends the events of one Sink. It belongs to one goroutine.
type publisher struct {
	sink   *Sink
	nc     *client.Conn
	js     jetstream.JetStream
	lost   chan client.Status // the connection broke
	acks   chan *client.Msg
	inbox  string // answers come to inbox.SEQUENCE
	prefix string // of our messages' identities
	flight []flying

	stream jetstream.Stream // nil: not known
}

func newPublisher(ctx context.Context, s *Sink) (*publisher, error) {
	nc, err := connection{
		url: s.c.URL, credentials: s.c.Credentials, tls: s.c.TLS, name: "mp " + s.c.Job + " " + s.c.Worker, log: s.log, changed: s.wake,
	}.connect(ctx)
	if err != nil {
		return nil, err
	}
	p := &publisher{sink: s, nc: nc, acks: make(chan *client.Msg, 4*windowSize), inbox: nc.NewInbox()}
	p.prefix = messageID(s.c.Job, s.c.Worker, s.session, 0)
	p.prefix = p.prefix[:len(p.prefix)-1]
	p.lost = nc.StatusChanged(client.RECONNECTING, client.CLOSED)
	if p.js, err = jetstream.New(nc); err == nil {
		_, err = nc.ChanSubscribe(p.inbox+".*", p.acks)
	}
	if err != nil {
		nc.Close()
		return nil, fmt.Errorf("listen for answers of NATS: %w", err)
	}
	return p, nil
}

func (p *publisher) close() {
	p.nc.RemoveStatusListener(p.lost)
	p.nc.Close()
}

func (p *publisher) away() bool { return !p.nc.IsConnected() }

// publish sends until nothing waits, NATS goes away (which is no error) or refuses something.
func (p *publisher) publish(ctx context.Context) error {
	progress := p.sink.takeProgress()
	if p.away() {
		return nil
	}
	if progress != nil {
		if err := p.nc.Publish(subjectOf(p.sink.c.Job, p.sink.c.Worker, "progress"), progress); err != nil {
			return p.unlessAway(fmt.Errorf("publish progress: %w", err))
		}
	}
	for {
		for _, e := range p.sink.take(windowSize - len(p.flight)) {
			p.flight = append(p.flight, flying{entry: e})
		}
		if len(p.flight) == 0 {
			return nil
		}
		if p.stream == nil {
			within, cancel := context.WithTimeout(ctx, findWithin)
			stream, err := findStream(within, p.js)
			cancel()
			if err != nil {
				return p.unlessAway(err)
			}
			p.stream = stream
		}
		p.forgetStored(ctx)
		if len(p.flight) == 0 {
			continue
		}
		err := p.window(ctx)
		p.land()
		if err != nil {
			return p.unlessAway(err)
		}
	}
}

// unlessAway is err, or nil when the connection is gone: its return says so.
func (p *publisher) unlessAway(err error) error {
	if p.away() || errors.Is(err, client.ErrDisconnected) {
		return nil
	}
	return err
}

// window sends the flight and waits for its answers.
func (p *publisher) window(ctx context.Context) error {
	for len(p.lost) > 0 {
		<-p.lost
	}
	open := 0
	at := map[uint64]int{}
	for i := range p.flight {
		f := &p.flight[i]
		at[f.sequence] = i
		msg := client.NewMsg(subjectOf(p.sink.c.Job, p.sink.c.Worker, f.kind))
		msg.Data = f.data
		msg.Reply = p.inbox + "." + strconv.FormatUint(f.sequence, 10)
		msg.Header.Set(jetstream.MsgIDHeader, p.prefix+strconv.FormatUint(f.sequence, 10))
		switch err := p.nc.PublishMsg(msg); {
		case errors.Is(err, client.ErrMaxPayload):
			p.leaveOut(f)
			continue
		case err != nil:
			return fmt.Errorf("publish events from %d on: %w", p.flight[0].sequence, err)
		}
		open++
		f.refused = false
		if f.sent.IsZero() {
			f.sent = time.Now()
		}
	}
	late := time.NewTimer(answerWithin)
	defer late.Stop()
	var refusal error
	for open > 0 {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-p.lost:
			return client.ErrDisconnected
		case <-late.C:
			return fmt.Errorf("no answer to %d of %d events within %v", open, len(p.flight), answerWithin)
		case msg := <-p.acks:
			sequence, ok := sequenceOf(msg.Subject, p.inbox+".")
			i, ours := at[sequence]
			if !ok || !ours || p.flight[i].stored || p.flight[i].refused { // an answer to an earlier attempt
				continue
			}
			open--
			switch err := p.answer(msg); {
			case tooLarge(err):
				p.leaveOut(&p.flight[i])
			case err != nil:
				p.flight[i].refused, refusal = true, err
			default:
				p.flight[i].stored = true
			}
		}
	}
	return refusal
}

// answer is nil if the server stored the event, now or before.
func (p *publisher) answer(msg *client.Msg) error {
	if len(msg.Data) == 0 {
		p.stream = nil // gone, or JetStream is
		return errors.New("nobody stores events: JetStream is off, or stream " + streamName + " is gone")
	}
	var reply struct {
		Stream string
		Error  *jetstream.APIError
	}
	switch err := json.Unmarshal(msg.Data, &reply); {
	case err != nil:
		return fmt.Errorf("read answer of NATS: %w", err)
	case reply.Error != nil:
		return fmt.Errorf("store event: %w", reply.Error)
	case reply.Stream == "":
		return fmt.Errorf("answer of NATS names no stream: %q", msg.Data)
	}
	return nil
}

// tooLarge says whether a stream refused an event for its size.
func tooLarge(err error) bool {
	const exceedsMaximum = 10054
	refusal, ok := errors.AsType[*jetstream.APIError](err)
	return ok && refusal.ErrorCode == exceedsMaximum
}

// leaveOut gives up an event that would be refused for ever.
func (p *publisher) leaveOut(f *flying) {
	p.sink.log.Warn("an event is larger than NATS takes and is left out", keyError, fmt.Sprintf("%d bytes of kind %s", len(f.data), f.kind))
	f.stored = true
}

// land removes what is stored from the flight.
func (p *publisher) land() {
	left := p.flight[:0]
	for _, f := range p.flight {
		if !f.stored {
			left = append(left, f)
		}
	}
	clear(p.flight[len(left):])
	p.flight = left
}

// forgetStored finds out which events of the flight are stored although their answers were lost. The server itself knows
// only those of the last minutes; after that it would store them twice. Events are stored in the order in which they were
// sent, so the newest stored one says it all.
func (p *publisher) forgetStored(ctx context.Context) {
	old := p.stream.CachedInfo().Config.Duplicates / 2
	if first := p.flight[0]; first.sent.IsZero() || time.Since(first.sent) < old {
		return
	}
	within, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	last, err := p.stream.GetLastMsgForSubject(within, "mp."+escape(p.sink.c.Job)+"."+escape(p.sink.c.Worker)+".*")
	if err != nil {
		return // none, or not allowed to ask
	}
	newest, ok := sequenceOf(last.Header.Get(jetstream.MsgIDHeader), p.prefix)
	for i := range p.flight {
		f := &p.flight[i]
		f.stored = f.stored || ok && f.sequence <= newest && !f.sent.IsZero() && !f.refused
	}
	p.land()
}
