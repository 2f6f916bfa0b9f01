package worker

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

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

// undisturbed is a run and what a lone worker makes of it.
type undisturbed struct {
	packs  packPair
	spec   job.Spec
	result Result
}

func TestNoFaultChangesABit(t *testing.T) {
	t.Parallel()
	o := undisturbed{packs: packs(t), spec: cheap(t)}
	o.result = want(t, o.spec, o.packs)
	for _, c := range []struct {
		name string
		run  func(*testing.T, undisturbed)
	}{
		{"deaths", aDeath},
		{"survivors keep their shards", survivorsKeep},
		{"a broken ring is formed again", aBrokenRing},
		{"joiners copy while others go on", joiners},
		{"a donor dies during the copy", aDonorDies},
		{"a flipped bit is refused and named", aFlippedBit},
		{"over gRPC", theNetwork},
		{"one survivor is enough", oneSurvivor},
		{"the next writer saves what a dead one did not", theNextWriter},
		{"all die and the checkpoint is used", allDie},
		{"who was away comes back", backAgain},
		{"several resume what one began", resumed},
	} {
		t.Run(c.name, func(t *testing.T) { c.run(t, o) })
	}
}

func aDeath(t *testing.T, o undisturbed) {
	for _, m := range []moment{
		{"agree", 0}, {"before", 2}, {"during", 2}, {"after", 3}, {"validate", 6}, {"validated", 6}, {"before", 7}, {"after", 11}, {"agree", 12},
	} {
		for who := range uint64(3) {
			if !everything && who != uint64(m.update)%3 {
				continue
			}
			t.Run(fmt.Sprintf("worker %d %s update %d", who+1, m.phase, m.update), func(t *testing.T) {
				c := newCrew(t, o.spec, o.packs)
				for range 3 {
					c.hire(once(who+1, m, c.kill))
				}
				c.join()
				c.check(o.result)
				if len(c.views) < 2 {
					t.Errorf("nobody died; views: %v", c.views)
				}
			})
		}
	}
}

func survivorsKeep(t *testing.T, o undisturbed) {
	c := newCrew(t, o.spec, o.packs)
	var died, looked atomic.Bool
	var begun sync.WaitGroup // of the others' sums: they compute their last shard, and nothing stops them in it
	begun.Add(2)
	at := func(h *hand, m moment) {
		switch {
		case m == moment{"before", 2} && h.id != 3 && !died.Load():
			begun.Done()
		case m == moment{"before", 2} && h.id == 3:
			begun.Wait()
			died.Store(true)
			c.kill(h)
		case m == moment{"agree", 0} && h.id != 3 && died.Load() && !looked.Swap(true):
			if shard := int(h.id) - 1; !h.engine.replica.computed(shard) {
				t.Errorf("worker %d has lost shard %d when the next view begins", h.id, shard)
			}
		}
	}
	for range 3 {
		c.hire(at)
	}
	c.join()
	c.check(o.result)
	if !looked.Load() {
		t.Error("no survivor was looked at")
	}
}

func aBrokenRing(t *testing.T, o undisturbed) {
	for _, phase := range []string{"before", "during", "validate"} {
		t.Run(phase, func(t *testing.T) {
			c := newCrew(t, o.spec, o.packs)
			m := moment{phase, 4}
			if phase == "validate" {
				m.update = 6
			}
			for range 3 {
				c.hire(once(2, m, func(h *hand) { h.group.Close() }))
			}
			c.join()
			c.check(o.result)
			if len(c.views) != 2 || !strings.Contains(c.views[1], "reports") {
				t.Errorf("views are %v, want a second one because of a report", c.views)
			}
		})
	}
}

func joiners(t *testing.T, o undisturbed) {
	for _, join := range []moment{{"after", 1}, {"after", 5}, {"validate", 6}, {"validated", 6}, {"after", 10}} {
		t.Run(fmt.Sprintf("%s update %d", join.phase, join.update), func(t *testing.T) {
			c := newCrew(t, o.spec, o.packs)
			at := once(1, join, func(*hand) {
				c.hire(nil)
				c.join()
			})
			c.hire(at)
			c.hire(nil)
			c.join()
			c.check(o.result)
			if n := len(c.views); n < 2 || !strings.HasSuffix(c.views[1], "join (3 members)") {
				t.Errorf("nobody joined; views: %v", c.views)
			}
		})
	}
}

func aDonorDies(t *testing.T, o undisturbed) {
	c := newCrew(t, o.spec, o.packs)
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
	for range 3 {
		c.hire(at).part = die // whoever gives the second part of all
	}
	c.join()
	c.check(o.result)
	if given.Load() < 2 {
		t.Error("the donor did not die")
	}
}

func aFlippedBit(t *testing.T, o undisturbed) {
	c := newCrew(t, o.spec, o.packs)
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
	c.check(o.result)
	found := false
	for _, v := range c.views {
		found = found || strings.Contains(v, "rank 0: checksum: copy state from worker 1: part 0 has checksum")
	}
	if !found {
		t.Errorf("no view names the flipped bit: %v", c.views)
	}
}

func theNetwork(t *testing.T, o undisturbed) {
	for _, c := range []struct {
		name string
		at   func(*crew) func(*hand, moment)
		want string
	}{
		{"nothing happens", func(*crew) func(*hand, moment) { return nil }, "join"},
		{"one dies in a sum", func(c *crew) func(*hand, moment) { return once(3, moment{"during", 2}, c.kill) }, "worker 3 died"},
		{"one dies after a sum", func(c *crew) func(*hand, moment) { return once(1, moment{"after", 3}, c.kill) }, "worker 1 died"},
		{"one dies and another joins", func(c *crew) func(*hand, moment) {
			return once(2, moment{"before", 4}, func(h *hand) {
				c.hire(nil)
				c.kill(h)
			})
		}, "worker 2 died (3 members)"},
	} {
		t.Run(c.name, func(t *testing.T) {
			k := newCrew(t, o.spec, o.packs)
			k.network = true
			at := c.at(k)
			for range 3 {
				k.hire(at)
			}
			k.join()
			k.check(o.result)
			if story := strings.Join(k.views, "; "); !strings.Contains(story, c.want) {
				t.Errorf("views are %s; want %q", story, c.want)
			}
		})
	}
}

func oneSurvivor(t *testing.T, o undisturbed) {
	c := newCrew(t, o.spec, o.packs)
	at := func(h *hand, m moment) {
		if h.id < 4 && (m == moment{"before", int(h.id)}) {
			c.kill(h)
		}
	}
	for range 4 {
		c.hire(at)
	}
	c.join()
	c.check(o.result)
}

func allDie(t *testing.T, o undisturbed) {
	o.spec.CheckpointEvery = 4
	for _, m := range []moment{{"before", 2}, {"before", 5}, {"after", 8}, {"validate", 12}} {
		t.Run(fmt.Sprintf("%s update %d", m.phase, m.update), func(t *testing.T) {
			c := newCrew(t, o.spec, o.packs)
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
			c.check(o.result)
			if m.update > 4 && c.update == 0 {
				t.Error("there was no checkpoint to go on from")
			}
		})
	}
}

func theNextWriter(t *testing.T, o undisturbed) {
	c := newCrew(t, o.spec, o.packs)
	at := once(1, moment{"validated", 6}, c.kill) // before it saves; the best of all may be this one
	for range 2 {
		c.hire(at)
	}
	c.join()
	c.check(o.result)
	best, err := readBest(c.dir)
	if err != nil {
		t.Fatal(err)
	}
	if want := o.result.BestEpoch; best.Meta.Epoch != want {
		t.Errorf("the best checkpoint is of epoch %d, want epoch %d", best.Meta.Epoch, want)
	}
}

func backAgain(t *testing.T, o undisturbed) {
	c := newCrew(t, o.spec, o.packs)
	out := once(1, moment{"after", 2}, func(*hand) { // worker 3 is thought dead and keeps its state; a view later it is back
		c.mu.Lock()
		defer c.mu.Unlock()
		c.hands[2].away = true
		c.arrange("worker 3 is away")
	})
	in := once(1, moment{"after", 5}, func(*hand) {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.hands[2].away = false
		c.hands[2].status.CaughtUp = false // as the coordinator sees it: its update is behind
		c.arrange("worker 3 is back")
	})
	for range 3 {
		c.hire(func(h *hand, m moment) {
			out(h, m)
			in(h, m)
		})
	}
	c.join()
	c.check(o.result)
	if story := strings.Join(c.views, "; "); !strings.Contains(story, "worker 3 is back (3 members)") {
		t.Errorf("views are %s", story)
	}
}

// Each network has something of its own that a fault could spoil: running statistics, the steps of AdamW, what is dropped.
func TestNoFaultChangesABitOfOtherNetworks(t *testing.T) {
	t.Parallel()
	p := packs(t)
	for _, model := range []string{job.ModelSceneNet, job.ModelSimpleViT} {
		t.Run(model, func(t *testing.T) {
			s := short(t, model, 4)
			s.Epochs = 1
			if model != job.ModelSimpleViT {
				s.ImageSize = "48"
			}
			o := undisturbed{packs: p, spec: s, result: want(t, s, p)}
			t.Run("a death and a joiner", func(t *testing.T) { deathAndJoiner(t, o) })
			t.Run("resumed by three", func(t *testing.T) { resumed(t, o) })
		})
	}
}

// deathAndJoiner lets one of three die in its second sum, and another join who copies its state two updates later.
func deathAndJoiner(t *testing.T, o undisturbed) {
	c := newCrew(t, o.spec, o.packs)
	dies, joins := once(3, moment{"during", 1}, c.kill), once(1, moment{"after", 2}, func(*hand) {
		c.hire(nil)
		c.join()
	})
	for range 3 {
		c.hire(func(h *hand, m moment) {
			dies(h, m)
			joins(h, m)
		})
	}
	c.join()
	c.check(o.result)
	if story := strings.Join(c.views, "; "); !strings.Contains(story, "worker 3 died (2 members)") || !strings.Contains(story, "join (3 members)") {
		t.Errorf("views are %s; want a death and then a joiner", story)
	}
}

func resumed(t *testing.T, o undisturbed) {
	dir := t.TempDir()
	if _, err := train(t, o.spec, dir, o.packs, 4); !errors.Is(err, ErrStopped) {
		t.Fatal(err)
	}
	o.spec.Resume = dir
	c := newCrew(t, o.spec, o.packs)
	for range 3 {
		c.hire(nil)
	}
	c.join()
	c.check(o.result)
}

func TestAJoinerGetsShards(t *testing.T) {
	p := packs(t)
	s := cheap(t)
	s.Epochs = 8 // long enough for a copy on a busy machine
	c := newCrew(t, s, p)
	c.hire(once(1, moment{"after", 1}, func(*hand) {
		c.hire(nil)
		c.join()
	}))
	c.join()
	c.check(want(t, s, p))
	if story := strings.Join(c.views, "; "); !strings.Contains(story, "worker 2 caught up") || len(c.hands[1].shards) != 2 {
		t.Errorf("worker 2 has shards %v at the end; views are %s", c.hands[1].shards, story)
	}
}
