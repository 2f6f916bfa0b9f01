package worker

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"mp/job"
	"mp/metrics"
)

func TestWatchedImages(t *testing.T) {
	for _, c := range []struct{ n, size, want int }{{0, 9, 0}, {4, 9, 4}, {9, 9, 9}, {12, 9, 9}} {
		marks := watched(c.n, c.size)
		got := 0
		for _, m := range marks {
			if m {
				got++
			}
		}
		if got != c.want || !slices.Equal(marks, watched(c.n, c.size)) {
			t.Errorf("%d of %d: %d are watched, want %d, the same each time", c.n, c.size, got, c.want)
		}
	}
}

func TestCollapse(t *testing.T) {
	epoch := func(robust, top1 uint64) ledgerEntry {
		return ledgerEntry{Images: 1000, Top1: top1, Watched: 500, Robust: robust}
	}
	for _, c := range []struct {
		name   string
		epochs []ledgerEntry
		want   bool
	}{
		{"nothing yet", nil, false},
		{"the first", []ledgerEntry{epoch(0, 500)}, false},
		{"it grows", []ledgerEntry{epoch(50, 100), epoch(100, 200)}, false},
		{"gone, while training rises", []ledgerEntry{epoch(50, 100), epoch(100, 200), epoch(3, 500)}, true},
		{"gone since long", []ledgerEntry{epoch(100, 200), epoch(3, 500), epoch(2, 600)}, true},
		{"more than half is left", []ledgerEntry{epoch(100, 200), epoch(51, 500)}, false},
		{"training falls too", []ledgerEntry{epoch(100, 200), epoch(3, 100)}, false},
		{"within chance", []ledgerEntry{epoch(5, 10), epoch(2, 20)}, false},
		{"not watched", []ledgerEntry{epoch(100, 200), {Images: 1000, Top1: 500}}, false},
	} {
		if got := collapsed(c.epochs); got != c.want {
			t.Errorf("%s: got %v", c.name, got)
		}
	}
	if !everCollapsed([]ledgerEntry{epoch(100, 200), epoch(3, 500), epoch(90, 600)}) || everCollapsed([]ledgerEntry{epoch(100, 200), epoch(90, 600)}) {
		t.Error("a collapse is forgotten, or invented")
	}
}

// dazzled lets the watchdog believe that the first epoch was perfectly robust, so that the second one collapses.
func dazzled(r *replica) {
	if e := &r.epochs[0]; e.Watched > 0 {
		e.Robust, e.Top1 = e.Watched, 0
	}
}

// dazzler does so as soon as the first validation is told.
type dazzler struct {
	worker  *Worker
	stories []metrics.Story
	robust  []metrics.Robust
}

func (d *dazzler) Emit(e metrics.Event) {
	if e.Story != nil {
		d.stories = append(d.stories, *e.Story)
	}
	if v := e.Validation; v != nil {
		if v.Robust != nil {
			d.robust = append(d.robust, *v.Robust)
		}
		if v.Epoch == 1 {
			dazzled(d.worker.engine.replica)
		}
	}
}

func watchSpec(t *testing.T, watch string) job.Spec {
	s := adversarial(t, cheap(t), job.AdversarialFGSMRS)
	s.Epochs, s.AdvWatch, s.AdvWatchImages = 3, watch, 6
	s.LR, s.EMA = 1e-4, 0 // it learns nothing, and so is robust by chance only
	return s
}

func TestACollapseIsToldAndActedOn(t *testing.T) {
	t.Parallel()
	p := packs(t)
	ends := map[string]string{}
	for _, watch := range []string{job.WatchTell, job.WatchStop, job.WatchRollback, job.WatchPGD} {
		t.Run(watch, func(t *testing.T) {
			s := watchSpec(t, watch)
			d := &dazzler{}
			d.worker = lonely(t, s, t.TempDir(), p, d)
			got, err := d.worker.Run(t.Context())
			r := d.worker.engine.replica
			told := slices.IndexFunc(d.stories, func(s metrics.Story) bool { return s.Topic == "overfitting" })
			if told < 0 || !strings.Contains(d.stories[told].Text, "epoch 2 overfitted catastrophically: PGD-10 leaves") || d.stories[told].Advice == "" {
				t.Errorf("stories are %+v, want one of epoch 2 with what follows", d.stories)
			}
			if len(d.robust) < 2 || d.robust[0].Images != 6 {
				t.Errorf("validations tell %+v of robustness, want it of 6 images in each", d.robust)
			}
			if watch == job.WatchStop {
				if err == nil || !strings.Contains(err.Error(), "epoch 2 overfitted catastrophically") || r.at.Validated != 2 || d.worker.engine.saved != r.at {
					t.Errorf("got %v at %+v, saved at %+v; want the end after epoch 2, saved", err, r.at, d.worker.engine.saved)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			ends[watch] = got.SHA256
			if watch == job.WatchTell {
				return
			}
			c := newCrew(t, s, p)
			at := func(h *hand, m moment) {
				if m == (moment{"before", 6}) {
					dazzled(h.engine.replica)
				}
			}
			c.hire(at)
			c.hire(at)
			c.join()
			c.check(got)
		})
	}
	if ends[job.WatchTell] == ends[job.WatchRollback] || ends[job.WatchTell] == ends[job.WatchPGD] {
		t.Errorf("what is done about a collapse changes nothing: %v", ends)
	}
}

func TestRollbackTakesTheBestWeights(t *testing.T) {
	p := packs(t)
	w := lonely(t, watchSpec(t, job.WatchRollback), t.TempDir(), p, nowhereSink{})
	r := w.engine.replica
	r.at.Done = r.steps()
	r.epochs = []ledgerEntry{{Epoch: 0, To: 6, Images: 45}}
	if err := r.validated(tally{images: 12, top1: 1}, tally{images: 12, top1: 10}); err != nil {
		t.Fatal(err)
	}
	best := stateOf(t, r)
	sum := make([]float32, r.layout.length)
	for i := range r.layout.grads {
		sum[i] = 1
	}
	for range r.steps() {
		if _, err := r.commit(sum, nil); err != nil {
			t.Fatal(err)
		}
	}
	if stateOf(t, r) == best {
		t.Fatal("the weights did not move")
	}
	r.epochs[1].Images = 45
	if err := r.validated(tally{images: 12, top1: 11}, tally{images: 12}); err != nil {
		t.Fatal(err)
	}
	s, err := r.snapshot()
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range s.state.Model {
		for _, y := range r.best.weights {
			if x.Name == y.Name && !strings.HasSuffix(x.Name, batchesSuffix) && string(x.Data) != string(y.Data) {
				t.Errorf("%s is not the best one's", x.Name)
			}
		}
	}
	for _, x := range s.state.Optimizer {
		if strings.HasPrefix(x.Name, "momentum.") && strings.Trim(string(x.Data), "\x00") != "" {
			t.Errorf("%s is left from before", x.Name)
		}
	}
	if r.best.epoch != 1 || fmt.Sprint(r.at) != fmt.Sprint(position{12, 2, 0}) {
		t.Errorf("the best is of epoch %d, the run at %+v; want robust accuracy to choose 1, and the run to go on", r.best.epoch, r.at)
	}
}
