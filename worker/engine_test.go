package worker

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"mp/allreduce"
	"mp/job"
	"mp/mppb"
)

func TestAGradientThatIsNoNumberEndsTheJob(t *testing.T) {
	p := packs(t)
	s := cheap(t)
	s.LR, s.ClipGrad, s.Warmup = 1000, 0, 0
	if _, err := train(t, s, t.TempDir(), p, 0); !errors.Is(err, ErrDiverged) {
		t.Errorf("alone: got %v, want ErrDiverged", err)
	}
	c := newCrew(t, s, p)
	c.hire(nil)
	c.hire(nil)
	c.join()
	c.await("the failure of the job", func() bool { return c.hands[0].status.Failure != "" && c.hands[1].status.Failure != "" })
	c.mu.Lock()
	defer c.mu.Unlock()
	text := c.hands[0].status.Failure
	if text != c.hands[1].status.Failure || !strings.Contains(text, "computed by worker") || !strings.Contains(text, "lower --lr") {
		t.Errorf("workers say %q and %q, want one sentence that names shard and worker and says what to do", text, c.hands[1].status.Failure)
	}
}

func TestLocalErrorsAreTheWorkersOwn(t *testing.T) {
	e := &engine{}
	mine := errors.New("the device is broken")
	if err := e.settle(t.Context(), order{}, mine); err != mine {
		t.Errorf("got %v, want it to end the engine", err)
	}
	c := newCrew(t, cheap(t), packs(t))
	h := c.hire(nil)
	peer := &allreduce.PeerError{Rank: 0, Kind: allreduce.KindSilence, Err: errors.New("nothing for 1 s")}
	err := h.engine.settle(t.Context(), order{view: &mppb.View{Number: 7, Members: []*mppb.Member{{Worker: 42}}}}, fmt.Errorf("%w: %w", allreduce.ErrBroken, peer))
	if f := h.status.Fault; err != nil || f.GetSuspect() != 42 || f.GetKind() != "silence" || f.GetView() != 7 {
		t.Errorf("got fault %v and error %v, want worker 42 named for its silence in view 7", f, err)
	}
}

func TestAWorkerServesOneJobAfterAnother(t *testing.T) {
	p := packs(t)
	first, second := cheap(t), short(t, job.ModelSceneNet, 2)
	first.Epochs, first.ImageSize = 1, "32"
	second.Epochs, second.BatchSize, second.ImageSize, second.Seed = 1, 22, "48", 3
	c := newCrew(t, first, p)
	c.hire(nil)
	c.hire(nil)
	c.join()
	c.check(want(t, first, p))
	text, err := json.Marshal(second)
	if err != nil {
		t.Fatal(err)
	}
	c.mu.Lock()
	c.job, c.spec, c.newest, c.update, c.dir = "k", text, "", 0, t.TempDir()
	for _, h := range c.hands {
		h.status.CaughtUp = false
	}
	c.arrange("the next job")
	c.mu.Unlock()
	c.await("the next job's begin", func() bool { return c.hands[0].status.Job == "k" && c.hands[1].status.Job == "k" })
	c.check(want(t, second, p))
}

func TestASavingViewSavesAndWaits(t *testing.T) {
	s := cheap(t)
	p := packs(t)
	c := newCrew(t, s, p)
	at := once(1, moment{"after", 2}, func(*hand) {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.saves = true
		c.arrange("drained")
	})
	c.hire(at)
	c.hire(at)
	c.join()
	c.await("the checkpoint", func() bool { return c.update > 0 })
	c.mu.Lock()
	if c.update != 2 && c.update != 3 || c.hands[0].status.Finished {
		t.Errorf("saved after update %d, want where the view came", c.update)
	}
	c.saves = false
	c.arrange("resumed")
	c.mu.Unlock()
	c.check(want(t, s, p))
}

// A path of the job may lead to another file on one machine, or to none.
func TestWorkersBeginWithTheSameFileOrNotAtAll(t *testing.T) {
	p := packs(t)
	one, other := t.TempDir(), t.TempDir()
	s := cheap(t)
	if _, err := train(t, s, one, p, 2); !errors.Is(err, ErrStopped) {
		t.Fatal(err)
	}
	later := s
	if _, err := train(t, later, other, p, 3); !errors.Is(err, ErrStopped) {
		t.Fatal(err)
	}
	with := func(first, second string) *crew {
		s := s
		s.Resume = first
		c := newCrew(t, s, p)
		c.hire(nil)
		c.hire(nil).other = func(s *job.Spec) { s.Resume = second }
		c.join()
		return c
	}
	c := with(one, other)
	c.await("the failure of the job", func() bool { return c.hands[0].status.Failure != "" && c.hands[1].status.Failure != "" })
	c.mu.Lock()
	if text := c.hands[0].status.Failure; !strings.Contains(text, "worker 1 and worker 2 begin with different states (after update 2") || !strings.Contains(text, "--resume") {
		t.Errorf("another file: worker 1 says %q, want both workers named and what to do", text)
	}
	c.mu.Unlock()

	s.Resume = one
	alone := want(t, s, p)
	s.Resume = ""
	with(one, filepath.Join(one, "nowhere")).check(alone) // who cannot read it copies
}

// A worker that is slow must not pass for one that hangs: each shard and each batch of a validation is a sign of life.
func TestEveryPieceOfWorkIsASignOfLife(t *testing.T) {
	s := cheap(t)
	s.Epochs, s.ValBatch = 1, 1
	c := newCrew(t, s, packs(t))
	var beats, before, after, validated atomic.Int64
	c.hire(func(h *hand, m moment) {
		switch m {
		case moment{"before", 0}: // three of four shards, and no sum yet
			before.Store(beats.Load())
		case moment{"after", 6}:
			after.Store(beats.Load())
		case moment{"validate", 6}:
			validated.Store(beats.Load())
		}
	}).beats = func(*hand) { beats.Add(1) }
	c.join()
	c.outcome()
	if shards, batches := before.Load(), validated.Load()-after.Load(); shards < 3 || batches < 12 {
		t.Errorf("%d beats before the first sum, %d in a validation of 12 batches; want at least 3 and 12", shards, batches)
	}
}
