package coordinator

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"mp/mppb"
)

func TestAFullDiskUnderTheLog(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1, nil)
	n := c.leader()
	job := c.submit(testSpec)
	a, _ := c.twoWorkers()
	id, view := a.now()
	n.faults.full.Store(true)
	c.until("the node has noticed", func() bool { return n.logs.trouble() != "" && !n.Leads() })
	// Workers go on; nothing is lost when there is space again.
	step := func() uint64 { a.mu.Lock(); defer a.mu.Unlock(); return a.status.Update }
	before := step()
	n.faults.full.Store(false)
	c.until("it leads again", n.Leads)
	c.until("progress goes on", func() bool { return c.show(job.Id).Job.Update > before })
	if newID, newView := a.now(); (newID != id || newView.Number != view.Number) && !c.starved() {
		t.Errorf("worker %d in view %d was worker %d in view %d", newID, newView.Number, id, view.Number)
	}
	c.until("the story says so", func() bool {
		return strings.Contains(c.story(n), "coordinator a could not write its log")
	})
}

func TestAFullDiskUnderTheLeader(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3, nil)
	first := c.leader()
	job := c.submit(testSpec)
	a := c.worker("cpu:0")
	c.until("it computes", func() bool { return a.in(1) })
	first.faults.full.Store(true)
	began := time.Now()
	c.leader(first)
	t.Logf("disk of the leader full: another leads after %s", time.Since(began).Round(time.Millisecond))
	update := c.show(job.Id).Job.Update
	c.until("progress goes on", func() bool { return c.show(job.Id).Job.Update > update })
	first.faults.full.Store(false)
	c.until("it catches up", func() bool { j, err := first.Job(job.Id); return err == nil && j.Update > update })
}

func TestADiskThatHangsUnderTheLeader(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3, nil)
	first := c.leader()
	job := c.submit(testSpec)
	a := c.worker("cpu:0")
	c.until("it computes", func() bool { return a.in(1) })
	id, _ := a.now()
	gate := make(chan struct{})
	first.faults.block.Store(&gate)
	began := time.Now()
	c.leader(first)
	took := time.Since(began)
	t.Logf("disk of the leader hangs: another leads after %s", took.Round(time.Millisecond))
	if took > 4*failAfter && !c.starved() {
		t.Errorf("another leads after %s, want %s", took, 4*failAfter)
	}
	update := c.show(job.Id).Job.Update
	c.until("progress goes on", func() bool { return c.show(job.Id).Job.Update > update })
	if newID, _ := a.now(); newID != id && !c.starved() {
		t.Errorf("worker %d was worker %d", newID, id)
	}
	first.faults.block.Store(nil)
	close(gate)
	c.until("it catches up", func() bool { j, err := first.Job(job.Id); return err == nil && j.Update > update })
	if id, _ := first.Leader(); id == first.cfg.ID {
		t.Error("it takes itself for the leader")
	}
}

// A slow disk slows decisions and nothing else: nobody looks silent.
func TestASlowDisk(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1, nil)
	n := c.leader()
	job := c.submit(testSpec)
	a, _ := c.twoWorkers()
	_, view := a.now()
	for i := range 2 { // each write takes longer than anybody may be silent
		gate := make(chan struct{})
		n.faults.block.Store(&gate)
		submitted := make(chan error, 1)
		go func() {
			submitted <- c.ask(func(ctx context.Context, cluster mppb.ClusterClient) error {
				_, err := cluster.Submit(ctx, &mppb.SubmitRequest{Spec: []byte(testSpec), Directory: fmt.Sprint("other-", i)})
				return err
			})
		}()
		c.until("the disk hangs", func() bool { return n.logs.hanging() > failAfter*6/5 })
		n.faults.block.Store(nil)
		close(gate)
		if err := <-submitted; err != nil {
			t.Errorf("a job submitted meanwhile: %v", err)
		}
		update := c.show(job.Id).Job.Update
		c.until("progress goes on", func() bool { return c.show(job.Id).Job.Update > update })
	}
	if _, now := a.now(); now.Number != view.Number && !c.starved() {
		t.Errorf("view %d came after view %d: %s", now.Number, view.Number, now.Reason)
	}
	if s := c.show(job.Id); (s.Job.State != mppb.Job_RUNNING || len(s.Workers) != 2) && !c.starved() {
		t.Errorf("got %v", s)
	}
}

// With a real file system that is small: mount -t tmpfs -o size=1500k tmpfs DIR; MP_TEST_SMALL_DISK=DIR go test -run RealFullDisk
func TestARealFullDisk(t *testing.T) {
	dir := os.Getenv("MP_TEST_SMALL_DISK")
	if dir == "" {
		t.Skip("MP_TEST_SMALL_DISK names no small file system")
	}
	c := newCluster(t, 1, func(cfg *Config) { cfg.DataDir = filepath.Join(dir, "raft") })
	n := c.leader()
	job := c.submit(testSpec)
	a := c.worker("cpu:0")
	c.until("it computes", func() bool { return a.in(1) })
	for round := range 3 {
		filler, err := os.Create(filepath.Join(dir, "filler"))
		if err != nil {
			t.Fatal(err)
		}
		for err == nil {
			_, err = filler.Write(make([]byte, 512))
		}
		filler.Close()
		c.until("the node has noticed", func() bool { return n.logs.trouble() != "" })
		t.Logf("round %d: %s", round, n.logs.trouble())
		tick := time.NewTimer(time.Second) // of life on a full disk
		<-tick.C
		if err := os.Remove(filler.Name()); err != nil {
			t.Fatal(err)
		}
		c.until("it leads again", n.Leads)
		update := c.show(job.Id).Job.Update
		c.until("progress goes on", func() bool { return c.show(job.Id).Job.Update > update })
	}
	before := c.show(job.Id).Job.Update
	c.end(n, ErrCrash)
	c.start(n)
	c.leader()
	if after := c.show(job.Id).Job.Update; after < before {
		t.Errorf("after a restart the job is at update %d, before it was at %d", after, before)
	}
}

// A leader whose network fails does not know it, and must not hold anybody up.
func TestALeaderThatIsCutOff(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3, nil)
	first := c.leader()
	job := c.submit(testSpec)
	a := c.worker("cpu:0")
	c.until("it computes", func() bool { return a.in(1) })
	id, _ := a.now()
	first.core.Load().wire.mute(true)
	began := time.Now()
	c.until("it has noticed", func() bool { return !first.Leads() })
	second := c.leader(first)
	t.Logf("leader cut off: another leads after %s", time.Since(began).Round(time.Millisecond))
	update := c.show(job.Id).Job.Update
	c.until("progress goes on", func() bool { return c.show(job.Id).Job.Update > update })
	first.core.Load().wire.mute(false)
	c.until("it follows", func() bool {
		j, err := first.Job(job.Id)
		leader, _ := first.Leader()
		return err == nil && j.Update > update && leader != "" && leader != first.cfg.ID
	})
	if newID, _ := a.now(); newID != id && !c.starved() {
		t.Errorf("worker %d was worker %d; coordinator %s leads", newID, id, second.cfg.ID)
	}
}
