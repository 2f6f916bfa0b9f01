package worker

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"runtime"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"mp/mppb"
)

// script is a coordinator that does as it is told: the n-th session, from 0, is its n-th function's.
type script struct {
	mppb.UnimplementedControlServer
	mu       sync.Mutex
	sessions []func(*call) error
	next     int
}

// call is one session of a script.
type call struct {
	mppb.Control_SessionServer
	hello *mppb.Hello
}

func (s *script) Session(stream mppb.Control_SessionServer) error {
	m, err := stream.Recv()
	if err != nil {
		return err
	}
	s.mu.Lock()
	n := s.next
	s.next++
	s.mu.Unlock()
	if n >= len(s.sessions) {
		<-stream.Context().Done()
		return nil
	}
	return s.sessions[n](&call{Control_SessionServer: stream, hello: m.GetHello()})
}

// welcome gives an identity.
func (c *call) welcome(id uint64) error {
	return c.Send(&mppb.ToWorker{Message: &mppb.ToWorker_Welcome{Welcome: &mppb.Welcome{
		Worker: id, HeartbeatMs: 10, FailAfterMs: 1000, PauseAfterMs: 50, NatsUrl: "nats://there"}}})
}

func (c *call) refuse(kind mppb.Refusal_Kind, text string) error {
	return c.Send(&mppb.ToWorker{Message: &mppb.ToWorker_Refusal{Refusal: &mppb.Refusal{Kind: kind, Text: text, Advice: "do this"}}})
}

func (c *call) view(v *mppb.View) error {
	return c.Send(&mppb.ToWorker{Message: &mppb.ToWorker_View{View: v}})
}

// until reads statuses until one is right.
func (c *call) until(right func(*mppb.Status) bool) (*mppb.Status, error) {
	for {
		m, err := c.Recv()
		if err != nil {
			return nil, err
		}
		if s := m.GetStatus(); right(s) {
			return s, nil
		}
	}
}

// perform serves a script until the end of the test and returns its address.
func perform(t *testing.T, sessions ...func(*call) error) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	mppb.RegisterControlServer(server, &script{sessions: sessions})
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	t.Cleanup(func() {
		server.Stop()
		<-served
	})
	return l.Addr().String()
}

// belong runs a session against a script until it ends.
func belong(t *testing.T, sessions ...func(*call) error) (s *session, ended chan error) {
	t.Helper()
	client, err := mppb.NewClient(mppb.ClientConfig{Addresses: []string{perform(t, sessions...)}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	s = newSession(client, &mppb.Hello{Protocol: mppb.Protocol, Name: "worker 1"}, slog.New(slog.DiscardHandler))
	ended = make(chan error, 1)
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		ended <- s.run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-finished
		client.Close()
	})
	return s, ended
}

// end waits for the end of a session.
func end(t *testing.T, ended chan error) error {
	t.Helper()
	select {
	case err := <-ended:
		return err
	case <-time.After(time.Minute):
		t.Fatal("the session does not end")
		return nil
	}
}

// poll waits until what holds.
func poll(t *testing.T, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !holds(); runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatal("it did not happen within a minute")
		}
	}
}

func TestRefusalsEndASession(t *testing.T) {
	for _, c := range []struct {
		kind mppb.Refusal_Kind
		want error
	}{
		{mppb.Refusal_CONFIGURATION, ErrRefused}, {mppb.Refusal_DRAINED, ErrDrained}, {mppb.Refusal_FINISHED, errFinished},
	} {
		t.Run(c.kind.String(), func(t *testing.T) {
			_, ended := belong(t, func(o *call) error { return o.refuse(c.kind, "no") })
			if err := end(t, ended); !errors.Is(err, c.want) {
				t.Errorf("at Hello: got %v, want %v", err, c.want)
			}
			s, ended := belong(t, func(o *call) error {
				if err := o.welcome(5); err != nil {
					return err
				}
				return o.refuse(c.kind, "no")
			})
			if err := end(t, ended); !errors.Is(err, c.want) {
				t.Errorf("later: got %v, want %v", err, c.want)
			}
			if _, open := <-s.orders(); open {
				t.Error("the engine is not told")
			}
		})
	}
}

// A worker whose step has failed says so before it goes: the others know who and why at once.
func TestAFailureIsConfessed(t *testing.T) {
	heard := make(chan *mppb.Fault, 1)
	s, ended := belong(t, func(o *call) error {
		if err := o.welcome(5); err != nil {
			return err
		}
		status, err := o.until(func(st *mppb.Status) bool { return st.GetFault() != nil })
		heard <- status.GetFault()
		if err == nil {
			_, err = o.Recv()
		}
		if err != io.EOF {
			t.Errorf("after its last words: %v, want the end of the stream", err)
		}
		return err
	})
	poll(t, s.belongs)
	confessed := make(chan struct{})
	go func() {
		defer close(confessed)
		s.confess(t.Context(), errors.New("shard 3: no memory"))
	}()
	select {
	case <-confessed:
	case <-time.After(time.Minute):
		t.Fatal("it does not get to the end of its words")
	}
	if f := <-heard; f.GetSuspect() != 5 || f.GetKind() != "local" || f.GetText() != "shard 3: no memory" {
		t.Errorf("the coordinator hears %v", f)
	}
	if err := end(t, ended); !errors.Is(err, errFailed) {
		t.Errorf("the session ends with %v", err)
	}
}

func TestAFencedWorkerComesBackAsAnother(t *testing.T) {
	hellos := make(chan *mppb.Hello, 3)
	_, ended := belong(t, func(o *call) error {
		hellos <- o.hello
		if err := o.welcome(5); err != nil {
			return err
		}
		return o.refuse(mppb.Refusal_FENCED, "it was silent")
	}, func(o *call) error {
		hellos <- o.hello
		if err := o.welcome(9); err != nil {
			return err
		}
		return nil // the coordinator stops
	}, func(o *call) error {
		hellos <- o.hello
		return o.refuse(mppb.Refusal_FINISHED, "done")
	})
	if err := end(t, ended); !errors.Is(err, errFinished) {
		t.Fatal(err)
	}
	for _, want := range []uint64{0, 5, 9} {
		if h := <-hellos; h.Previous != want || h.Name != "worker 1" {
			t.Errorf("said Hello as %v, want it to have been %d before", h, want)
		}
	}
}

// A coordinator sends of a view what has changed since the one before, and how often many workers shall speak.
func TestViewsAreWholeAndSetThePace(t *testing.T) {
	first := &mppb.View{Number: 7, Job: "job-1", Spec: []byte("{}"), Members: []*mppb.Member{{Worker: 3, Name: "c"}, {Worker: 5, Name: "e"}}}
	next := &mppb.View{Number: 8, Job: "job-1", Spec: []byte("{}"), HeartbeatMs: 5, Members: []*mppb.Member{{Worker: 5, Name: "e"}}}
	taken, spoke := make(chan struct{}), make(chan error, 1)
	s, ended := belong(t, func(o *call) error {
		const hour = 3_600_000
		welcome := &mppb.ToWorker{Message: &mppb.ToWorker_Welcome{Welcome: &mppb.Welcome{Worker: 5, HeartbeatMs: hour, FailAfterMs: hour}}}
		if err := errors.Join(o.Send(welcome), o.view(first)); err != nil {
			return err
		}
		<-taken
		if err := o.view(next.Since(first)); err != nil {
			return err
		}
		statuses := 0
		_, err := o.until(func(*mppb.Status) bool { statuses++; return statuses == 20 })
		spoke <- err
		<-taken
		return o.view((&mppb.View{Number: 10}).Since(&mppb.View{Number: 9})) // of which this worker knows nothing
	}, func(o *call) error { return o.refuse(mppb.Refusal_FINISHED, "done") })
	if o := <-s.orders(); o.view.Number != 7 || o.rank != 1 {
		t.Errorf("got rank %d of %v", o.rank, o.view)
	}
	s.post(func(st *mppb.Status) { st.View = 7 })
	taken <- struct{}{}
	if o := <-s.orders(); o.rank != 0 || !proto.Equal(o.view, next) {
		t.Errorf("got rank %d of %v, want %v", o.rank, o.view, next)
	}
	s.post(func(st *mppb.Status) { st.View = 8 })
	if err := <-spoke; err != nil {
		t.Errorf("it does not speak as often as the view asks: %v", err)
	}
	taken <- struct{}{}
	if err := end(t, ended); !errors.Is(err, errFinished) {
		t.Errorf("a view that does not follow: got %v, want another session", err)
	}
}

func TestViewsReachTheEngineOnce(t *testing.T) {
	v := &mppb.View{Number: 7, Members: []*mppb.Member{{Worker: 3}, {Worker: 5}}}
	next := &mppb.View{Number: 8, Members: []*mppb.Member{{Worker: 3}}}
	taken := make(chan struct{})
	s, ended := belong(t, func(o *call) error {
		if err := errors.Join(o.welcome(5), o.view(v)); err != nil {
			return err
		}
		<-taken
		return nil
	}, func(o *call) error { // the same worker, the same view: nothing has changed
		if err := errors.Join(o.welcome(5), o.view(v), o.view(next)); err != nil {
			return err
		}
		<-taken
		return o.refuse(mppb.Refusal_FINISHED, "done")
	})
	first := <-s.orders()
	if !proto.Equal(first.view, v) || first.rank != 1 {
		t.Errorf("got view %v and rank %d, want 7 and 1", first.view, first.rank)
	}
	taken <- struct{}{}
	if second := <-s.orders(); second.view.GetNumber() != 8 || second.rank != -1 {
		t.Errorf("got view %v and rank %d, want 8 and none", second.view, second.rank)
	}
	taken <- struct{}{}
	if err := end(t, ended); !errors.Is(err, errFinished) {
		t.Error(err)
	}
}

func TestTheCoordinatorHearsWhatItMissed(t *testing.T) {
	entries := func(from, to int) []ledgerEntry {
		var out []ledgerEntry
		for e := from; e < to; e++ {
			out = append(out, ledgerEntry{Epoch: e, From: 10 * e, To: 10*e + 10, Images: 80, Hash: uint64(e)})
		}
		return out
	}
	first, second := make(chan *mppb.Status, 1), make(chan *mppb.Status, 1)
	broken := make(chan struct{})
	s, ended := belong(t, func(o *call) error {
		if err := o.welcome(5); err != nil {
			return err
		}
		st, err := o.until(func(s *mppb.Status) bool { return s.Update == 20 && s.Progress >= 2 })
		first <- st
		<-broken
		return err
	}, func(o *call) error {
		if err := o.welcome(5); err != nil {
			return err
		}
		st, err := o.until(func(s *mppb.Status) bool { return len(s.Ledger) > 2 })
		second <- st
		return errors.Join(err, o.refuse(mppb.Refusal_FINISHED, "done"))
	})
	s.beat()
	s.beat()
	s.post(func(st *mppb.Status) { st.Job, st.Update, st.Ledger = "j", 20, recent(entries(0, 2), false) })
	if st := <-first; len(st.GetLedger()) != 2 {
		t.Errorf("got %v, want two epochs", st)
	}
	s.post(func(st *mppb.Status) { st.Update, st.Ledger = 40, recent(entries(0, 4), false) }) // nobody may hear this
	close(broken)
	if st := <-second; len(st.GetLedger()) != 4 || st.Update != 40 {
		t.Errorf("got %v, want all four epochs", st)
	}
	if err := end(t, ended); !errors.Is(err, errFinished) {
		t.Error(err)
	}
}

func TestNoCoordinatorForTooLongIsAPause(t *testing.T) {
	gone, back := make(chan struct{}), make(chan struct{})
	s, ended := belong(t, func(o *call) error {
		if err := o.welcome(5); err != nil {
			return err
		}
		if _, err := o.until(func(*mppb.Status) bool { return true }); err != nil {
			return err
		}
		<-gone
		return nil
	}, func(o *call) error {
		<-back
		if err := o.welcome(5); err != nil {
			return err
		}
		_, err := o.until(func(s *mppb.Status) bool { return s.Phase == mppb.Phase_COMPUTING })
		return errors.Join(err, o.refuse(mppb.Refusal_FINISHED, "done"))
	})
	ctx := t.Context()
	s.post(func(st *mppb.Status) { st.Phase = mppb.Phase_COMPUTING })
	poll(t, s.belongs)
	if err := s.steady(ctx); err != nil {
		t.Fatal(err)
	}
	close(gone)
	poll(t, func() bool { return !s.belongs() })
	went := make(chan error)
	began := time.Now()
	go func() {
		for s.steady(ctx) == nil && time.Since(began) < 60*time.Millisecond { // steps without a coordinator
		}
		went <- s.steady(ctx) // and here it waits
	}()
	poll(t, func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.status.Phase == mppb.Phase_PAUSED
	})
	select {
	case <-went:
		t.Error("it did not wait")
	default:
	}
	close(back)
	if err := <-went; err != nil {
		t.Error(err)
	}
	if err := end(t, ended); !errors.Is(err, errFinished) {
		t.Error(err)
	}
}

func TestOnlyNewsIsSentAtOnce(t *testing.T) {
	s := newSession(nil, &mppb.Hello{}, slog.New(slog.DiscardHandler))
	woken := func() bool {
		select {
		case <-s.wake:
			return true
		default:
			return false
		}
	}
	for _, c := range []struct {
		what   string
		change func(*mppb.Status)
		want   bool
	}{
		{"a view", func(st *mppb.Status) { st.View = 3 }, true},
		{"computing", func(st *mppb.Status) { st.Phase = mppb.Phase_COMPUTING }, true},
		{"reducing", func(st *mppb.Status) { st.Phase = mppb.Phase_REDUCING }, false},
		{"the first update of a view", func(st *mppb.Status) { st.Update = 1 }, true},
		{"another", func(st *mppb.Status) { st.Update = 2 }, false},
		{"an epoch's end", func(st *mppb.Status) { st.Validated = 1 }, true},
		{"a fault", func(st *mppb.Status) { st.Fault = &mppb.Fault{} }, true},
	} {
		s.post(c.change)
		if got := woken(); got != c.want {
			t.Errorf("%s: sent at once %v, want %v", c.what, got, c.want)
		}
	}
}
