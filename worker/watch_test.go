package worker

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"mp/data"
	"mp/job"
	"mp/metrics"
	"mp/ops"
)

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

// watchSpec holds 6 of the 45 images out: an epoch has 5 updates instead of 6, the last one with 7 images.
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
				if m == (moment{"before", 5}) {
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

// What the images held out tell is the same whoever computes it, and the network never learns from them.
func TestHeldOutImagesAreNeverLearnedFromWhoeverComputes(t *testing.T) {
	t.Parallel()
	p := packs(t)
	var whole uint64
	for id := range int32(45) {
		whole += data.Fingerprint(id)
	}
	held, err := data.HoldOut(p[0], 6)
	if err != nil {
		t.Fatal(err)
	}
	kept := whole - fingerprints(held)
	s := adversarial(t, cheap(t), job.AdversarialFree)
	s.Epochs, s.AdvWatchImages, s.ValBatch, s.Interpolation, s.Scale = 2, 6, 1, "random", "144"
	d := &dazzler{}
	w := lonely(t, s, t.TempDir(), p, teller{d})
	got, err := w.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := w.engine.replica.epochs
	for _, e := range want {
		if e.Images != 39 || e.To-e.From != 5 || e.Hash != kept || e.Watched != 6 {
			t.Errorf("epoch %d: %d images in %d updates with hash %#x, %d watched; want 39 in 5 with %#x, 6 watched", e.Epoch+1, e.Images, e.To-e.From, e.Hash, e.Watched, kept)
		}
		r := d.robust[e.Epoch]
		if r.Images != 6 || r.Top1 != 100*float64(e.Robust)/6 || *r.CleanTop1 != 100*float64(e.Clean)/6 {
			t.Errorf("epoch %d: told is %+v, the ledger says %+v", e.Epoch+1, r, e)
		}
	}

	c := newCrew(t, s, p)
	var died atomic.Bool
	join := once(1, moment{"after", 4}, func(*hand) {
		c.hire(nil)
		c.join()
	})
	at := func(h *hand, m moment) {
		join(h, m)
		if h.id == 2 && m.phase == "validate" && !died.Swap(true) {
			c.kill(h)
		}
	}
	for range 3 {
		c.hire(at)
	}
	c.join()
	c.check(got)
	for _, h := range c.hands {
		if r := h.engine.replica; !h.dead && !slices.Equal(r.epochs, want) {
			t.Errorf("worker %d has the ledger %+v, want %+v", h.id, r.epochs, want)
		}
	}
	if all := strings.Join(c.views, "; "); !strings.Contains(all, "worker 2 died") || !strings.Contains(all, "join (4 members)") {
		t.Errorf("nobody died or joined; views: %s", all)
	}

	dir := t.TempDir()
	if _, err := train(t, s, dir, p, whileValidating); !errors.Is(err, ErrStopped) {
		t.Fatal(err)
	}
	s.Resume = dir
	again := lonely(t, s, dir, p, nowhereSink{})
	if _, err := again.Run(t.Context()); err != nil || !slices.Equal(again.engine.replica.epochs, want) {
		t.Errorf("resumed: %v, ledger %+v, want %+v", err, again.engine.replica.epochs, want)
	}
}

// teller is a dazzler that only listens.
type teller struct{ *dazzler }

func (d teller) Emit(e metrics.Event) {
	if v := e.Validation; v != nil && v.Robust != nil {
		d.robust = append(d.robust, *v.Robust)
	}
}

// A network that was trained on the images cannot be judged by them.
func TestAStateThatSawWhatIsHeldOutIsRefused(t *testing.T) {
	p := packs(t)
	s := watchSpec(t, job.WatchTell)
	r := lonely(t, s, t.TempDir(), p, nowhereSink{}).engine.replica
	n, hash := uint64(r.sampler.Images()), r.sampler.Hash()
	for _, c := range []struct {
		name string
		e    ledgerEntry
		ok   bool
	}{
		{"without them", ledgerEntry{To: 5, Images: n, Hash: hash}, true},
		{"an epoch under way", ledgerEntry{To: 3, Images: 24, Hash: 7}, true},
		{"on all", ledgerEntry{To: 6, Images: 45, Hash: 9}, false},
		{"without others", ledgerEntry{To: 5, Images: n, Hash: hash + 1}, false},
	} {
		r.epochs = []ledgerEntry{c.e}
		if err := r.heldOutBefore(); (err == nil) != c.ok || err != nil && !errors.Is(err, job.ErrConfig) {
			t.Errorf("trained %s: got %v", c.name, err)
		}
	}
	natural := cheap(t)
	natural.Epochs = 1
	dir := t.TempDir()
	if _, err := train(t, natural, dir, p, 0); err != nil {
		t.Fatal(err)
	}
	s.Resume = dir
	if err := whyNot(t, s, p); !errors.Is(err, job.ErrConfig) || !strings.Contains(err.Error(), "--adv-watch-images 6") {
		t.Errorf("resumed from a run on all images: got %v, want ErrConfig that names --adv-watch-images", err)
	}
}

// whyNot is why a lone worker does not begin a job.
func whyNot(t *testing.T, s job.Spec, p packPair) error {
	t.Helper()
	device, err := ops.OpenDevice(ops.DeviceConfig{GPU: ops.CPU, Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer device.Close()
	w, err := New(t.Context(), Config{Spec: s, Train: p[0], Val: p[1], Directory: t.TempDir(), Device: device, Sink: nowhereSink{}})
	if err == nil {
		w.Close()
	}
	return err
}

func TestTooManyHeldOutAreRefused(t *testing.T) {
	p := packs(t)
	s := watchSpec(t, job.WatchTell)
	s.AdvWatchImages = 23
	if err := whyNot(t, s, p); !errors.Is(err, data.ErrData) || !strings.Contains(err.Error(), "choose at most 22") {
		t.Errorf("got %v, want what is the most", err)
	}
}

func TestRollbackTakesTheBestWeights(t *testing.T) {
	p := packs(t)
	w := lonely(t, watchSpec(t, job.WatchRollback), t.TempDir(), p, nowhereSink{})
	r := w.engine.replica
	r.at.Done = r.steps()
	r.epochs = []ledgerEntry{{Epoch: 0, To: 5, Images: 39}}
	if err := r.validated(tally{images: 12, top1: 1}, watched{robust: tally{images: 6, top1: 5}}); err != nil {
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
	r.epochs[1].Images = 39
	if err := r.validated(tally{images: 12, top1: 11}, watched{robust: tally{images: 6}}); err != nil {
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
	if r.best.epoch != 1 || fmt.Sprint(r.at) != fmt.Sprint(position{10, 2, 0}) {
		t.Errorf("the best is of epoch %d, the run at %+v; want robust accuracy to choose 1, and the run to go on", r.best.epoch, r.at)
	}
}
