package worker

import (
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"mp/allreduce"
	"mp/job"
	"mp/mppb"
)

// cheap is a short run of the smallest network, with everything in it that a fault could spoil.
func cheap(t *testing.T) job.Spec {
	s := short(t, job.ModelSimpleNet, 4)
	s.ImageSize, s.ClipGrad = "32", 1
	return s
}

// once returns a function that runs f for one hand at one moment, the first time it comes.
func once(who uint64, m moment, f func(*hand)) func(*hand, moment) {
	var done atomic.Bool
	return func(h *hand, now moment) {
		if h.id == who && now == m && done.CompareAndSwap(false, true) {
			f(h)
		}
	}
}

func TestADeathChangesNoBit(t *testing.T) {
	p := packs(t)
	s := cheap(t)
	w := want(t, s, p)
	for _, m := range []moment{
		{"agree", 0}, {"before", 2}, {"during", 2}, {"after", 3}, {"validate", 6}, {"validated", 6}, {"before", 7}, {"after", 11}, {"agree", 12},
	} {
		for who := range uint64(3) {
			if testing.Short() && who != uint64(m.update)%3 {
				continue
			}
			t.Run(fmt.Sprintf("worker %d %s update %d", who+1, m.phase, m.update), func(t *testing.T) {
				c := newCrew(t, s, p)
				for range 3 {
					c.hire(once(who+1, m, c.kill))
				}
				c.join()
				c.check(w)
				if len(c.views) < 2 {
					t.Errorf("nobody died; views: %v", c.views)
				}
			})
		}
	}
}

func TestSurvivorsKeepTheirShards(t *testing.T) {
	p := packs(t)
	s := cheap(t)
	c := newCrew(t, s, p)
	var died, looked atomic.Bool
	at := func(h *hand, m moment) {
		switch {
		case m == moment{"after", 2} && h.id == 3: // all three have computed theirs, nobody has the sum of update 3
		case m == moment{"before", 2} && h.id == 3 && died.CompareAndSwap(false, true):
			c.kill(h)
		case m == moment{"agree", 0} && died.Load() && !looked.Swap(true) && h.id != 3:
			for _, shard := range []int{int(h.id) - 1} { // by three workers: shard i belongs to worker i+1, the fourth to the first
				if !h.engine.replica.computed(shard) {
					t.Errorf("worker %d has lost shard %d when the next view begins", h.id, shard)
				}
			}
		}
	}
	for range 3 {
		c.hire(at)
	}
	c.join()
	c.check(want(t, s, p))
	if !looked.Load() {
		t.Error("no survivor was looked at")
	}
}

func TestABrokenRingIsFormedAgain(t *testing.T) {
	p := packs(t)
	s := cheap(t)
	w := want(t, s, p)
	for _, phase := range []string{"before", "during", "validate"} {
		t.Run(phase, func(t *testing.T) {
			c := newCrew(t, s, p)
			m := moment{phase, 4}
			if phase == "validate" {
				m.update = 6
			}
			for range 3 {
				c.hire(once(2, m, func(h *hand) { h.group.Close() }))
			}
			c.join()
			c.check(w)
			if len(c.views) != 2 || !strings.Contains(c.views[1], "reports") {
				t.Errorf("views are %v, want a second one because of a report", c.views)
			}
		})
	}
}

func TestJoinersCopyWhileOthersGoOn(t *testing.T) {
	p := packs(t)
	s := cheap(t)
	w := want(t, s, p)
	for _, join := range []moment{{"after", 1}, {"after", 5}, {"validate", 6}, {"validated", 6}, {"after", 10}} {
		t.Run(fmt.Sprintf("%s update %d", join.phase, join.update), func(t *testing.T) {
			c := newCrew(t, s, p)
			at := once(1, join, func(*hand) {
				c.hire(nil)
				c.join()
			})
			c.hire(at)
			c.hire(nil)
			c.join()
			c.check(w)
		})
	}
}

func TestADonorDiesDuringTheCopy(t *testing.T) {
	p := packs(t)
	s := cheap(t)
	c := newCrew(t, s, p)
	var given atomic.Int32
	die := func(h *hand, part *mppb.StatePart) error {
		if part.Parts < 3 {
			t.Errorf("the state has %d parts, too few to break off", part.Parts)
		}
		if given.Add(1) == 2 {
			go c.kill(h)
			return errors.New("killed")
		}
		return nil
	}
	at := once(1, moment{"after", 2}, func(*hand) {
		c.hire(nil)
		c.join()
	})
	for i := range 3 {
		h := c.hire(at)
		if i == 0 {
			h.part = die
		}
	}
	c.join()
	c.check(want(t, s, p))
	if given.Load() < 2 {
		t.Error("the donor did not die")
	}
}

func TestAFlippedBitIsRefusedAndNamed(t *testing.T) {
	p := packs(t)
	s := cheap(t)
	c := newCrew(t, s, p)
	at := once(1, moment{"after", 2}, func(*hand) {
		c.hire(nil)
		c.join()
	})
	var spoiled atomic.Int32
	spoil := func(_ *hand, part *mppb.StatePart) error {
		if part.Number == 0 && spoiled.Add(1) == 1 {
			part.Data[17] ^= 4
		}
		return nil
	}
	c.hire(at).part = spoil // the only donor: the view breaks, and the next one's copy is whole
	c.join()
	c.check(want(t, s, p))
	found := false
	for _, v := range c.views {
		found = found || strings.Contains(v, "rank 0: checksum: copy state from worker 1: part 0 has checksum")
	}
	if !found {
		t.Errorf("no view names the flipped bit: %v", c.views)
	}
}

func TestOneSurvivorIsEnough(t *testing.T) {
	p := packs(t)
	s := cheap(t)
	c := newCrew(t, s, p)
	at := func(h *hand, m moment) {
		if h.id < 4 && (m == moment{"before", int(h.id)}) {
			c.kill(h)
		}
	}
	for range 4 {
		c.hire(at)
	}
	c.join()
	c.check(want(t, s, p))
}

func TestAllDieAndTheCheckpointIsUsed(t *testing.T) {
	p := packs(t)
	s := cheap(t)
	s.CheckpointEvery = 4
	w := want(t, s, p)
	for _, m := range []moment{{"before", 2}, {"before", 5}, {"after", 8}, {"validate", 12}} {
		t.Run(fmt.Sprintf("%s update %d", m.phase, m.update), func(t *testing.T) {
			c := newCrew(t, s, p)
			all := once(2, m, func(*hand) {
				c.mu.Lock()
				c.strict = true
				hands := c.hands
				c.mu.Unlock()
				for _, h := range hands {
					c.kill(h)
				}
			})
			for range 2 {
				c.hire(all)
			}
			c.join()
			c.await("the death of all", func() bool { return c.hands[0].dead && c.hands[1].dead })
			c.mu.Lock()
			c.strict = false
			c.mu.Unlock()
			c.hire(nil)
			c.hire(nil)
			c.join()
			c.check(w)
			if m.update > 4 && c.update == 0 {
				t.Error("there was no checkpoint to go on from")
			}
		})
	}
}

func TestTheNextWriterSavesWhatADeadOneDidNot(t *testing.T) {
	p := packs(t)
	s := cheap(t)
	w := want(t, s, p)
	c := newCrew(t, s, p)
	at := once(1, moment{"validated", 6}, c.kill) // before it saves; the best of all may be this one
	for range 2 {
		c.hire(at)
	}
	c.join()
	c.check(w)
	o := c.outcome()
	if best, err := readBest(c.dir); err != nil || best.Meta.Epoch != int(o.BestEpoch) {
		t.Errorf("the best checkpoint is of epoch %d, %v; want epoch %d", best.Meta.Epoch, err, o.BestEpoch)
	}
}

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
