package coordinator

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/raft"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"mp/coordinator/membership"
	"mp/mppb"
)

// reign is one node's time as leader: the one loop that feeds a membership.Leader with what sessions report and proposes
// what it decides. It ends with the leadership, and with it every session, so that workers find the next leader.
//
// The loop never waits for the raft log: proposals are on their way in one other goroutine while it goes on listening, so
// that a slow disk makes nobody look silent. It decides only while none is on its way.
type reign struct {
	c     *Coordinator
	raft  *raft.Raft
	brain *membership.Leader // of the loop
	inbox chan any           // what happens; see take
	ended chan struct{}      // closed when the loop has ended

	// Of the loop.
	sessions map[uint64]*session // by worker
	hellos   []*session          // said Hello, not answered yet
	busy     bool                // proposals are on their way
	due      bool                // decide as soon as not busy
	clock    time.Duration       // the latest time that brain was told
	latest   *prepared           // the newest view that was sent to anybody
}

// What the inbox carries, beside *session (a Hello) and func() (a question of a client, answered between two events).
type (
	heard struct {
		s  *session
		at time.Duration
		st membership.Status
	}
	gone struct {
		s      *session
		at     time.Duration
		reason string
	}
	poke      struct{}                     // the state changed
	proposals struct{ outcomes []outcome } // what was on its way has arrived
)

// proposal is a command and for whom.
type proposal struct {
	command membership.Command
	session *session // whose Join it is; nil: nobody's
}

type outcome struct {
	proposal
	result membership.Result
	err    error // it was not applied, or nobody knows
}

// inboxSize lets a thousand workers speak while the loop decides.
const inboxSize = 4096

func newReign(c *Coordinator, leads *raft.Raft) *reign {
	return &reign{c: c, raft: leads, inbox: make(chan any, inboxSize), ended: make(chan struct{}), sessions: map[uint64]*session{}}
}

// errEnded says that this node leads no more.
var errEnded = errors.New("the leadership ended")

// post hands something to the loop.
func (r *reign) post(ctx context.Context, message any) error {
	select {
	case r.inbox <- message:
		return nil
	case <-r.ended:
		return errEnded
	case <-ctx.Done():
		return ctx.Err()
	}
}

// ask runs look in the loop, between two events, and returns when it is done.
func (r *reign) ask(ctx context.Context, look func()) error {
	done := make(chan struct{})
	if err := r.post(ctx, func() { look(); close(done) }); err != nil {
		return err
	}
	select {
	case <-done:
		return nil
	case <-r.ended:
		return errEnded
	}
}

// nudge says that the state changed. It never waits.
func (r *reign) nudge() {
	select {
	case r.inbox <- poke{}:
	default: // so much is waiting that the loop will look anyway
	}
}

// propose puts one command through the raft log and returns what it did. It may be called from any goroutine and takes as
// long as the log does, or until ctx ends: then nobody knows yet whether it will be applied.
func (r *reign) propose(ctx context.Context, c membership.Command) (membership.Result, error) {
	return r.start(c)(ctx)
}

// start proposes a command and returns a function that waits for its outcome, so that many can be on their way.
func (r *reign) start(c membership.Command) func(context.Context) (membership.Result, error) {
	c.Time = time.Now().UnixNano()
	text, err := json.Marshal(c)
	if err != nil {
		return func(context.Context) (membership.Result, error) { return membership.Result{}, err }
	}
	future := r.raft.Apply(text, 0)
	return func(ctx context.Context) (membership.Result, error) {
		done := make(chan error, 1)
		// Nobody waits for this goroutine: raft never answers for entries that its state machine has in hand when raft stops.
		go func() { done <- future.Error() }()
		select {
		case err := <-done:
			if err != nil {
				return membership.Result{}, fmt.Errorf("write the raft log: %w", err)
			}
			return future.Response().(membership.Result), nil
		case <-ctx.Done():
			return membership.Result{}, ctx.Err()
		}
	}
}

// run leads until ctx ends.
func (r *reign) run(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	defer close(r.ended)
	// Everything in the log is applied before anything is decided.
	if err := r.raft.Barrier(0).Error(); err != nil || ctx.Err() != nil {
		return
	}
	cfg := r.c.cfg
	r.c.fsm.read(func(s *membership.State) {
		r.brain = membership.NewLeader(membership.LeaderConfig{
			Times: r.c.times, MinWorkers: cfg.MinWorkers, Protocol: mppb.Protocol, Version: cfg.Version, Node: cfg.ID, Dismiss: cfg.Dismiss,
		}, s, r.now())
	})
	r.c.reigns.Store(r)
	defer r.c.reigns.Store(nil)
	r.c.log.Info("this coordinator leads", keyNode, cfg.ID, "term", r.raft.CurrentTerm())
	defer r.c.log.Info("this coordinator leads no more", keyNode, cfg.ID)

	wg.Go(func() { r.spread(ctx) })

	arrived := make(chan proposals, 1)
	r.due = true
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		if !r.busy {
			r.step(ctx, arrived)
		}
		if wait := r.brain.NextDeadline() - r.c.elapsed(); r.busy {
			timer.Reset(time.Hour) // what arrives wakes
		} else {
			timer.Reset(max(wait, time.Millisecond))
		}
		select {
		case m := <-r.inbox:
			r.take(m)
		case p := <-arrived:
			r.finish(p)
		case <-timer.C:
			r.due = true
		case <-ctx.Done():
			return
		}
		for more := true; more; { // all that is known counts before anything is decided
			select {
			case m := <-r.inbox:
				r.take(m)
			default:
				more = false
			}
		}
	}
}

// now is the time that brain is told: that of the process, never earlier than before.
func (r *reign) now() time.Duration { return r.at(r.c.elapsed()) }

func (r *reign) at(t time.Duration) time.Duration {
	r.clock = max(r.clock, t)
	return r.clock
}

// take lets brain know what happened.
func (r *reign) take(message any) {
	switch m := message.(type) {
	case heard:
		if r.sessions[m.s.worker] != m.s {
			return // fenced, or replaced
		}
		if r.brain.Heard(r.at(m.at), m.s.worker, m.st) {
			r.due = true
		}
	case *session:
		r.hellos = append(r.hellos, m)
		r.due = true
	case gone:
		r.forget(m)
		r.due = true
	case poke:
		r.due = true
		r.publish()
	case func():
		m()
	}
}

func (r *reign) forget(m gone) {
	for i, s := range r.hellos {
		if s == m.s {
			r.hellos = append(r.hellos[:i], r.hellos[i+1:]...)
			return
		}
	}
	m.s.lost = m.reason
	if m.s.worker == 0 {
		return // its Join is on its way: finish looks at lost
	}
	r.brain.Disconnected(r.at(m.at), m.s.worker, m.s.number, m.reason)
	if r.sessions[m.s.worker] == m.s {
		delete(r.sessions, m.s.worker)
	}
}

// step decides, if there is a reason to, and sends the proposals on their way.
func (r *reign) step(ctx context.Context, arrived chan<- proposals) {
	if !r.due {
		return
	}
	r.due = false
	var batch []proposal
	hellos := r.hellos
	r.hellos = nil
	r.c.fsm.read(func(s *membership.State) {
		now := r.now()
		for _, h := range hellos {
			a := r.brain.Arrive(now, s, h.hello)
			switch {
			case a.Refusal != nil:
				h.refuse(a.Refusal)
			case a.Resume != 0:
				r.welcome(h, a.Resume)
			}
			for i, c := range a.Commands {
				p := proposal{command: c}
				if i == len(a.Commands)-1 {
					p.session = h
				}
				batch = append(batch, p)
			}
		}
		// Whoever arrives is in before the next decision, which is then made once for all of them.
		if len(batch) == 0 {
			for _, c := range r.brain.Decide(now, s) {
				batch = append(batch, proposal{command: c})
			}
		}
	})
	if len(batch) == 0 {
		return
	}
	r.busy = true
	r.c.background.Go(func() { arrived <- r.carry(ctx, batch) })
}

// carry puts commands through the log, in order, all at once.
func (r *reign) carry(ctx context.Context, batch []proposal) proposals {
	var waits []func(context.Context) (membership.Result, error)
	for _, p := range batch {
		waits = append(waits, r.start(p.command))
	}
	var out proposals
	for i, wait := range waits {
		result, err := wait(ctx)
		out.outcomes = append(out.outcomes, outcome{batch[i], result, err})
	}
	return out
}

// finish takes in what the log did with the proposals.
func (r *reign) finish(p proposals) {
	r.busy, r.due = false, true
	for _, o := range p.outcomes {
		switch {
		case o.session != nil:
			r.admit(o)
		case o.err != nil:
			r.c.log.Debug("a decision did not reach the log", "error", o.err)
		case o.result.Err != nil:
			r.c.log.Debug("a decision was too late", "error", o.result.Err)
		case o.command.Leave != nil:
			r.dismiss(o.command.Leave.Worker, o.result.Refusal)
		}
	}
	r.publish()
}

// admit answers a Hello whose Join has come through the log.
func (r *reign) admit(o outcome) {
	s := o.session
	switch {
	case o.err != nil:
		s.end(r.c.notLeader())
	case o.result.Refusal != nil:
		s.refuse(o.result.Refusal)
	case o.result.Err != nil:
		s.end(status.Error(codes.Internal, o.result.Err.Error()))
	default:
		r.welcome(s, o.result.Worker)
		if s.lost != "" { // it went while its Join was on its way
			r.forget(gone{s, r.now(), s.lost})
		}
	}
}

// welcome opens the session of a worker.
func (r *reign) welcome(s *session, worker uint64) {
	if old := r.sessions[worker]; old != nil {
		old.end(status.Error(codes.Aborted, "the worker has opened another session"))
	}
	s.worker = worker
	s.number = r.brain.Connected(r.now(), worker)
	r.sessions[worker] = s
	cfg, workers := r.c.cfg, 0
	r.c.fsm.read(func(s *membership.State) { workers = len(s.Workers) })
	s.send(&mppb.ToWorker{Message: &mppb.ToWorker_Welcome{Welcome: &mppb.Welcome{
		Worker: worker, HeartbeatMs: milliseconds(r.c.times.Beat(workers)), FailAfterMs: milliseconds(r.c.times.FailAfter),
		PauseAfterMs: milliseconds(r.c.times.PauseAfter), NatsUrl: cfg.NATSURL, Leader: cfg.ID,
	}}})
	r.due = true
}

func milliseconds(d time.Duration) uint32 { return uint32(max(1, d.Milliseconds())) }

// dismiss ends the session of a worker that is in no more.
func (r *reign) dismiss(worker uint64, why *membership.Refusal) {
	s := r.sessions[worker]
	if s == nil {
		return
	}
	delete(r.sessions, worker)
	if why == nil {
		why = &membership.Refusal{Kind: membership.Fenced, Text: "you are in the cluster no more"}
	}
	s.refuse(why)
}
