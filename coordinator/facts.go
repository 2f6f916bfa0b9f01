package coordinator

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	"mp/coordinator/membership"
	"mp/metrics"
)

// counts is what has happened since this process began. Safe for concurrent use.
type counts struct {
	mu      sync.Mutex
	faults  map[string]uint64 // workers lost while this node led, by cause
	leader  string            // the newest
	changes uint64            // of leader
}

// lost counts a worker that was lost; empty: none was.
func (c *counts) lost(cause string) {
	if cause == "" {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.faults == nil {
		c.faults = map[string]uint64{}
	}
	c.faults[cause]++
}

// leads notes who leads; empty: nobody does now.
func (c *counts) leads(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if id == "" || id == c.leader {
		return
	}
	if c.leader != "" {
		c.changes++
	}
	c.leader = id
}

func (c *counts) read() (faults map[string]uint64, changes uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	faults = map[string]uint64{}
	for _, cause := range []membership.Cause{membership.Vanished, membership.Failed, membership.Silent, membership.Stuck, membership.Accused, membership.Absent} {
		faults[string(cause)] = 0 // a rate wants to have seen zero
	}
	maps.Copy(faults, c.faults)
	return faults, c.changes
}

// askWithin bounds how long Facts waits for the leader's loop.
const askWithin = time.Second

// Facts is what this node knows. A node that does not lead may be behind, and knows nothing of connections.
func (c *Coordinator) Facts() metrics.ClusterFacts {
	out := metrics.ClusterFacts{Leads: c.Leads()}
	out.Failures, out.LeaderChanges = c.counts.read()
	if k := c.core.Load(); k != nil {
		out.Term, out.Applied, out.Committed = k.raft.CurrentTerm(), k.raft.AppliedIndex(), k.raft.CommitIndex()
	}
	ctx, cancel := context.WithTimeout(context.Background(), askWithin)
	defer cancel()
	connected := map[uint64]bool{}
	r := c.reigns.Load()
	asked := r != nil && r.answers(ctx, func() {
		c.fsm.read(func(s *membership.State) {
			for _, w := range s.Workers {
				connected[w.ID] = r.brain.Seen(s, w.ID).Connected
			}
		})
	}) == nil
	c.fsm.read(func(s *membership.State) {
		out.Workers = workersByState(s, func(id uint64) bool { return !asked || connected[id] })
		for _, j := range s.Jobs {
			out.Jobs = append(out.Jobs, jobFacts(j))
		}
	})
	return out
}

// workersByState counts who is in.
func workersByState(s *membership.State, connected func(uint64) bool) map[string]int {
	shards := map[uint64]int{}
	for _, m := range s.View.Members {
		shards[m.Worker] = 1 + len(m.Shards)
	}
	out := map[string]int{}
	for _, w := range s.Workers {
		switch n := shards[w.ID]; {
		case !connected(w.ID):
			out[metrics.WorkerAway]++
		case n > 1:
			out[metrics.WorkerComputing]++
		case n == 1:
			out[metrics.WorkerCopying]++
		default:
			out[metrics.WorkerWaiting]++
		}
	}
	for _, q := range s.Quarantines {
		if q.Active {
			out[metrics.WorkerQuarantined]++
		}
	}
	return out
}

func jobFacts(j *membership.Job) metrics.JobFacts {
	out := metrics.JobFacts{ID: j.ID, State: string(j.State), Update: j.Update, Updates: j.Updates(), Epochs: j.EpochsDone, Ended: j.State.Ended()}
	for _, l := range j.Ledger() {
		out.Lost += l.Missing
		out.Repeated += l.Repeated
	}
	if n := j.Newest(); n != nil {
		out.Saved = time.Unix(0, n.Time)
	}
	return out
}

// answers runs look in the loop, as ask does, and gives up when ctx ends.
func (r *reign) answers(ctx context.Context, look func()) error {
	done := make(chan struct{})
	if err := r.post(ctx, func() { look(); close(done) }); err != nil {
		return err
	}
	select {
	case <-done:
		return nil
	case <-r.ended:
		return errEnded
	case <-ctx.Done():
		return ctx.Err()
	}
}

// glance is the time between two looks for a lock that is held.
const glance = 5 * time.Millisecond

// Alive says whether this node's loops turn: the one that applies raft's log and, where it leads, the one that decides. It
// returns when ctx ends, at the latest. A disk that is full or silent is no reason: another process would find the same one.
func (c *Coordinator) Alive(ctx context.Context) error {
	for !c.fsm.mu.TryRLock() {
		select {
		case <-time.After(glance):
		case <-ctx.Done():
			return errors.New("the state of the cluster is locked: entries of raft's log are not applied")
		}
	}
	c.fsm.mu.RUnlock()
	if r := c.reigns.Load(); r != nil {
		if err := r.answers(ctx, func() {}); err != nil && !errors.Is(err, errEnded) {
			return fmt.Errorf("the loop that decides does not answer: %w", err)
		}
	}
	return nil
}
