package worker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"mp/mppb"
)

// errFenced ends one session of several: the worker was taken out of the cluster and may come again.
var errFenced = errors.New("taken out of the cluster")

// errFailed ends the session of a worker that has failed and said so.
var errFailed = errors.New("this worker has failed")

// errFinished is the word that nothing is left to do.
var errFinished = errors.New("nothing is left to do")

// session is the control of a worker that belongs to a cluster. Whatever becomes of the connection, the engine goes on:
// its views stay in force until others come, for as long as steady allows. Safe for concurrent use.
type session struct {
	client *mppb.Client
	hello  *mppb.Hello // without the identity before
	log    *slog.Logger

	views    chan order
	progress atomic.Uint64
	wake     chan struct{} // the status has changed

	mu        sync.Mutex // guards what follows
	status    *mppb.Status
	posted    uint64                       // changes of status
	history   map[uint32]*mppb.LedgerEntry // of the job
	base      uint64                       // updates done when the view began
	identity  uint64                       // 0: none yet
	seen      uint64                       // number of the newest view
	newest    *mppb.View                   // that this session brought
	heartbeat time.Duration                // longest pause between two words
	welcome   *mppb.Welcome                // of the last session
	lost      time.Time                    // when the last session broke; zero: one is open
	connected chan struct{}                // closed while a session is open
	failed    bool                         // the status is the last one
}

func newSession(client *mppb.Client, hello *mppb.Hello, log *slog.Logger) *session {
	return &session{
		client: client, hello: hello, log: log, views: make(chan order, 1), wake: make(chan struct{}, 1),
		status: &mppb.Status{Phase: mppb.Phase_READY}, history: map[uint32]*mppb.LedgerEntry{},
		lost: time.Now(), connected: make(chan struct{}),
	}
}

func (s *session) orders() <-chan order { return s.views }
func (s *session) beat()                { s.progress.Add(1) }

func (s *session) post(change func(*mppb.Status)) {
	s.mu.Lock()
	before := s.news()
	change(s.status)
	now := s.news()
	if now.job != before.job {
		clear(s.history)
	}
	if now.view != before.view {
		s.base = s.status.Update
	}
	for _, e := range s.status.Ledger {
		s.history[e.Epoch] = e
	}
	s.posted++
	s.mu.Unlock()
	if now == before {
		return
	}
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// news is what the coordinator hears of at once; the rest can wait for the next heartbeat.
type news struct {
	job, failure            string
	view                    uint64
	phase                   mppb.Phase
	broken, caughtUp, moved bool
	leaving, finished       bool
	validated               uint32
}

// news is of the status as it is. s.mu is held.
func (s *session) news() news {
	st := s.status
	phase := st.Phase
	if phase == mppb.Phase_REDUCING { // a step is both
		phase = mppb.Phase_COMPUTING
	}
	return news{
		job: st.Job, failure: st.Failure, view: st.View, phase: phase, broken: st.Fault != nil, caughtUp: st.CaughtUp,
		moved: st.Update != s.base, leaving: st.Leaving, finished: st.Finished, validated: st.Validated,
	}
}

// steady lets the engine go on for as long as the coordinators said that it may without them.
func (s *session) steady(ctx context.Context) error {
	s.mu.Lock()
	open, lost, welcome := s.connected, s.lost, s.welcome
	s.mu.Unlock()
	if lost.IsZero() || time.Since(lost) < time.Duration(welcome.GetPauseAfterMs())*time.Millisecond {
		return ctx.Err()
	}
	s.log.Warn("no coordinator answers: paused until one does", "for", time.Since(lost).Round(time.Millisecond))
	var before mppb.Phase
	s.post(func(st *mppb.Status) { before, st.Phase = st.Phase, mppb.Phase_PAUSED })
	defer s.post(func(st *mppb.Status) { st.Phase = before })
	select {
	case <-open:
		return ctx.Err()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// confess tells the coordinator that this worker has failed, and why, as its last words: run ends once they are heard. It waits
// for that, or until ctx ends.
func (s *session) confess(ctx context.Context, why error) {
	s.mu.Lock()
	s.failed = true
	me := s.identity
	s.mu.Unlock()
	s.post(func(st *mppb.Status) {
		st.Fault = &mppb.Fault{View: st.View, Suspect: me, Kind: "local", Text: why.Error()}
	})
	for {
		select {
		case _, open := <-s.views:
			if !open {
				return
			}
		case <-ctx.Done():
			return
		}
	}
}

// run belongs to the cluster until it is refused (ErrRefused), drained (ErrDrained), not needed any more (errFinished), or
// ctx ends. Views end with it.
func (s *session) run(ctx context.Context) error {
	defer close(s.views)
	attend := func(ctx context.Context, conn grpc.ClientConnInterface) error { return passing(s.attend(ctx, conn)) }
	for {
		err := s.client.Do(ctx, attend)
		switch {
		case errors.Is(err, errFenced):
			s.log.Warn("taken out of the cluster; coming back as another", "reason", err)
		case err != nil:
			return err
		}
	}
}

// passing makes an error that may be over at the next try one that a client tries again after.
func passing(err error) error {
	switch status.Code(err) {
	case codes.OK, codes.Unavailable, codes.Unimplemented, codes.InvalidArgument, codes.PermissionDenied, codes.Unauthenticated:
		return err
	}
	for _, final := range []error{errFenced, errFailed, errFinished, ErrDrained, ErrRefused} {
		if errors.Is(err, final) {
			return err
		}
	}
	return status.Error(codes.Unavailable, err.Error())
}

// attend is one session, from Hello to the end of its stream.
func (s *session) attend(ctx context.Context, conn grpc.ClientConnInterface) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := mppb.NewControlClient(conn).Session(ctx)
	if err != nil {
		return err
	}
	hello := proto.CloneOf(s.hello)
	s.mu.Lock()
	hello.Previous = s.identity
	s.mu.Unlock()
	if err := stream.Send(&mppb.FromWorker{Message: &mppb.FromWorker_Hello{Hello: hello}}); err != nil {
		_, err = stream.Recv() // it has the reason
		return err
	}
	m, err := stream.Recv()
	if err != nil {
		return err
	}
	if m.GetWelcome() == nil {
		return s.hear(m)
	}
	s.open(m.GetWelcome())
	defer s.close()
	ended := make(chan error, 1)
	go func() {
		for {
			m, err := stream.Recv()
			if err == nil {
				err = s.hear(m)
			}
			if err != nil {
				ended <- err
				return
			}
		}
	}()
	switch err = s.speak(stream, ended); err {
	case nil:
		return <-ended
	case errFailed:
		return err
	}
	cancel()
	if heard := <-ended; status.Code(heard) != codes.Canceled { // it knows better why the stream broke
		return heard
	}
	return err
}

// open notes that a session has begun.
func (s *session) open(w *mppb.Welcome) {
	s.mu.Lock()
	if s.identity != w.Worker {
		s.seen = 0
	}
	s.identity, s.welcome, s.lost, s.newest = w.Worker, w, time.Time{}, nil
	s.heartbeat = time.Duration(max(w.HeartbeatMs, 1)) * time.Millisecond
	close(s.connected)
	s.mu.Unlock()
	s.log.Info("belongs to the cluster", "worker", w.Worker, "leader", w.Leader)
}

// belongs says whether a session is open.
func (s *session) belongs() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lost.IsZero()
}

// me is this worker's identity, 0 before it has one.
func (s *session) me() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.identity
}

// natsURL is where metrics go; empty: nowhere.
func (s *session) natsURL() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.welcome.GetNatsUrl()
}

// failAfter is how long a peer may be silent.
func (s *session) failAfter() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return time.Duration(max(s.welcome.GetFailAfterMs(), 1)) * time.Millisecond
}

func (s *session) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lost, s.connected = time.Now(), make(chan struct{})
}

// speak sends the status at every change and at least once a heartbeat, until the stream breaks (the error of sending), nothing
// more is heard (nil), or a failure has been confessed (errFailed).
func (s *session) speak(stream mppb.Control_SessionClient, ended chan error) error {
	beat := s.beats()
	every := time.NewTicker(beat)
	defer every.Stop()
	for first := true; ; first = false {
		text, last := s.compose(first)
		if err := stream.Send(text); err != nil {
			return err
		}
		if last { // the coordinator's end of the stream answers this one, so all before is heard
			if err := stream.CloseSend(); err != nil {
				return err
			}
			ended <- <-ended
			return errFailed
		}
		if now := s.beats(); now != beat { // a view said how often
			beat = now
			every.Reset(beat)
		}
		select {
		case <-s.wake:
		case <-every.C:
		case err := <-ended:
			ended <- err
			return nil
		}
	}
}

// beats is the longest pause between two words to the coordinator.
func (s *session) beats() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.heartbeat
}

// maxLedger is how many epochs a status tells of: more than pass while no coordinator answers.
const maxLedger = 1000

// compose is the status as it is now. The first of a session says all that is known of the ledger.
func (s *session) compose(first bool) (text *mppb.FromWorker, last bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := proto.CloneOf(s.status)
	out.Progress = s.progress.Load()
	if first {
		out.Ledger = slices.SortedFunc(maps.Values(s.history), func(a, b *mppb.LedgerEntry) int { return cmp.Compare(b.Epoch, a.Epoch) })
		out.Ledger = out.Ledger[:min(len(out.Ledger), maxLedger)]
	}
	return &mppb.FromWorker{Message: &mppb.FromWorker_Status{Status: out}}, s.failed && out.Fault.GetKind() == "local"
}

// hear acts on a message of the coordinator; an error ends the session.
func (s *session) hear(m *mppb.ToWorker) error {
	switch {
	case m.GetView() != nil:
		v, err := s.whole(m.GetView())
		if err != nil {
			return status.Error(codes.Unavailable, err.Error()) // another session begins with a whole one
		}
		s.hearView(v)
	case m.GetRefusal() != nil:
		return refused(m.GetRefusal())
	}
	return nil
}

// whole is the view of which only what has changed may have come.
func (s *session) whole(v *mppb.View) (*mppb.View, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v, err := v.After(s.newest)
	if err == nil {
		s.newest = v
	}
	return v, err
}

// hearView hands a view that is new to the engine, in the place of one that it has not taken yet.
func (s *session) hearView(v *mppb.View) {
	s.mu.Lock()
	known := v.Number <= s.seen
	s.seen = max(s.seen, v.Number)
	if v.HeartbeatMs > 0 {
		s.heartbeat = time.Duration(v.HeartbeatMs) * time.Millisecond
	}
	o := order{view: v, rank: -1}
	for i, m := range v.Members {
		if m.Worker == s.identity {
			o.rank = i
		}
	}
	s.mu.Unlock()
	if known {
		return
	}
	select {
	case <-s.views:
	default:
	}
	s.views <- o // nobody else sends
}

// refused is the error that a Refusal ends a session with.
func refused(r *mppb.Refusal) error {
	text := r.Text
	if r.Advice != "" {
		text += "; " + r.Advice
	}
	switch r.Kind {
	case mppb.Refusal_FENCED:
		return fmt.Errorf("%s: %w", text, errFenced)
	case mppb.Refusal_DRAINED:
		return fmt.Errorf("%s: %w", text, ErrDrained)
	case mppb.Refusal_FINISHED:
		return fmt.Errorf("%s: %w", text, errFinished)
	}
	return fmt.Errorf("%w: %s", ErrRefused, text)
}
