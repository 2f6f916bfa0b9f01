package coordinator

import (
	"context"
	"strings"
	"testing"
	"time"

	"mp/metrics"
)

func TestFactsFollowTheCluster(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3, func(cfg *Config) { cfg.FailAfter = time.Second })
	first := c.leader()
	job := c.submit(testSpec)
	a, b := c.twoWorkers()
	for _, n := range c.nodes {
		c.until("node "+n.cfg.ID+" knows of the job", func() bool {
			f := n.Facts()
			return len(f.Jobs) == 1 && f.Jobs[0].Update > 0 && f.Workers[metrics.WorkerComputing] == 2
		})
		f := n.Facts()
		if f.Leads != (n == first) || f.Term == 0 || f.Applied == 0 || f.Committed == 0 || f.LeaderChanges != 0 && !c.starved() {
			t.Errorf("node %s: got %+v", n.cfg.ID, f)
		}
		if j := f.Jobs[0]; j.ID != job.Id || j.State != "running" || j.Ended || j.Updates == 0 || !j.Saved.IsZero() {
			t.Errorf("node %s: got job %+v", n.cfg.ID, j)
		}
		if err := n.Alive(c.context()); err != nil {
			t.Errorf("node %s: %v", n.cfg.ID, err)
		}
	}
	// These workers keep no ledger: what they did must count as lost.
	if j := first.Facts().Jobs[0]; j.Lost == 0 {
		t.Errorf("updates without a ledger: got %+v, want lost samples", j)
	}
	b.cancel()
	c.until("one computes alone", func() bool { return a.in(1) && first.Facts().Workers[metrics.WorkerComputing] == 1 })
	for _, n := range c.nodes {
		want := uint64(0)
		if n == first {
			want = 1
		}
		if got := n.Facts().Failures; got["vanished"] != want && !c.starved() || len(got) != 6 {
			t.Errorf("node %s counts failures %v, want %d that vanished and a number for each cause", n.cfg.ID, got, want)
		}
	}
	c.end(first, ErrCrash)
	c.leader()
	for _, n := range c.nodes {
		if n != first {
			c.until("node "+n.cfg.ID+" has seen the change", func() bool { return n.Facts().LeaderChanges > 0 })
		}
	}
}

func TestALoopThatHangsIsNotAlive(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1, nil)
	n := c.leader()
	ask := func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		return n.Alive(ctx)
	}
	c.until("it is alive", func() bool { return ask() == nil })
	held, leave := make(chan struct{}), make(chan struct{})
	if err := n.reigns.Load().post(t.Context(), func() { close(held); <-leave }); err != nil {
		t.Fatal(err)
	}
	<-held
	if err := ask(); err == nil || !strings.Contains(err.Error(), "the loop that decides") {
		t.Errorf("the leader's loop hangs: got %v", err)
	}
	n.fsm.mu.Lock()
	if err := ask(); err == nil || !strings.Contains(err.Error(), "locked") {
		t.Errorf("the state is locked: got %v", err)
	}
	n.fsm.mu.Unlock()
	close(leave)
	c.until("it is alive again", func() bool { return ask() == nil })
}
