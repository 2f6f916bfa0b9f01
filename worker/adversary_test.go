package worker

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"mp/attack"
	"mp/checkpoint"
	"mp/job"
	"mp/metrics"
	"mp/model"
	"mp/ops"
)

// strategies are all ways to train against attacks.
func strategies() []string {
	return []string{job.AdversarialPGD, job.AdversarialFGSMRS, job.AdversarialNFGSM, job.AdversarialFree, job.AdversarialTRADES, job.AdversarialMART}
}

// adversarial is s, trained against attacks of few steps.
func adversarial(t testing.TB, s job.Spec, strategy string) job.Spec {
	t.Helper()
	d, err := job.Default(job.Spec{Model: s.Model, Adversarial: strategy})
	if err != nil {
		t.Fatal(err)
	}
	s.Adversarial, s.AdvEps, s.AdvStepSize, s.AdvSteps, s.AdvBeta = strategy, d.AdvEps, d.AdvStepSize, min(d.AdvSteps, 3), d.AdvBeta
	s.AdvBatchNorm, s.AdvPrecision, s.AdvWatch, s.AdvWatchImages, s.LabelSmoothing = d.AdvBatchNorm, d.AdvPrecision, d.AdvWatch, 2, d.LabelSmoothing
	return s
}

func TestAdversarialTrainingHasTheSameBitsOnAnyWorkers(t *testing.T) {
	t.Parallel()
	p := packs(t)
	for _, strategy := range strategies() {
		s := adversarial(t, cheap(t), strategy)
		s.Epochs, s.AdvWarmup, s.AdvClean = 1, .5, .2
		if strategy == job.AdversarialTRADES || strategy == job.AdversarialFree {
			s.AdvAWP = .005
		}
		w := want(t, s, p)
		t.Run(strategy, func(t *testing.T) {
			c := newCrew(t, s, p)
			for range 3 {
				c.hire(nil)
			}
			c.join()
			c.check(w)
		})
	}
}

// A worker dies between two steps of the attack on its shard; so do its peers' attacks end, to begin again in the next view.
func TestADeathInsideTheInnerLoopChangesNoBit(t *testing.T) {
	t.Parallel()
	p := packs(t)
	s := adversarial(t, cheap(t), job.AdversarialPGD)
	s.Epochs = 1
	w := want(t, s, p)
	for _, looks := range []int32{1, 2, 3} {
		c := newCrew(t, s, p)
		var died atomic.Bool
		at := func(h *hand, m moment) {
			if h.id != 2 || m.phase != "agree" || died.Load() {
				return
			}
			r := h.engine.replica
			seen := int32(0)
			r.beat = func() { // on the device's thread: each look of the attack is one, before the shard is done
				if r.at.Done != 2 || died.Load() {
					return
				}
				if seen++; seen == looks {
					for _, shard := range h.shards {
						if r.computed(int(shard)) {
							t.Error("the shard was computed before its attack ended")
						}
					}
					died.Store(true)
					c.kill(h)
				}
			}
		}
		for range 3 {
			c.hire(at)
		}
		c.join()
		c.check(w)
		if !died.Load() || len(c.views) < 2 {
			t.Errorf("nobody died in look %d; views: %v", looks, c.views)
		}
	}
}

func TestADeathBetweenReplaysChangesNoBit(t *testing.T) {
	t.Parallel()
	p := packs(t)
	s := adversarial(t, cheap(t), job.AdversarialFree)
	s.Epochs = 1
	w := want(t, s, p)
	for _, m := range []moment{{"during", 4}, {"signs", 4}, {"signs", 5}, {"after", 7}} {
		t.Run(fmt.Sprintf("%s update %d", m.phase, m.update), func(t *testing.T) {
			c := newCrew(t, s, p)
			for range 3 {
				c.hire(once(uint64(m.update)%3+1, m, c.kill))
			}
			c.join()
			c.check(w)
			if len(c.views) < 2 {
				t.Errorf("nobody died; views: %v", c.views)
			}
		})
	}
	for _, m := range []moment{{"signs", 8}, {"after", 9}} {
		t.Run(fmt.Sprintf("joined %s update %d", m.phase, m.update), func(t *testing.T) {
			c := newCrew(t, s, p)
			join := once(1, m, func(*hand) {
				c.hire(nil)
				c.join()
			})
			c.hire(join)
			c.hire(nil)
			c.join()
			c.check(w)
			if n := len(c.views); n < 2 || !strings.HasSuffix(c.views[1], "join (3 members)") {
				t.Errorf("nobody joined; views: %v", c.views)
			}
		})
	}
}

// lonely makes a lone worker of a job in dir.
func lonely(t *testing.T, s job.Spec, dir string, p packPair, sink metrics.Sink) *Worker {
	t.Helper()
	device, err := ops.OpenDevice(ops.DeviceConfig{GPU: ops.CPU, Threads: s.Threads})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(device.Close)
	w, err := New(t.Context(), Config{Spec: s, Train: p[0], Val: p[1], Directory: dir, Device: device, Sink: sink})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Close)
	return w
}

func TestResumedAdversarialRunEndsWithTheSameBits(t *testing.T) {
	t.Parallel()
	p := packs(t)
	for strategy, stops := range map[string][]int{job.AdversarialPGD: {30}, job.AdversarialFree: {6, 21}} {
		s := adversarial(t, cheap(t), strategy)
		whole := want(t, s, p)
		for _, stop := range stops { // signs of life: free has one a shard, pgd one a look too
			dir := t.TempDir()
			w := lonely(t, s, dir, p, nowhereSink{})
			ctx, cancel := context.WithCancel(t.Context())
			seen := 0
			w.engine.replica.beat = func() {
				if seen++; seen == stop {
					cancel()
				}
			}
			if _, err := w.Run(ctx); !errors.Is(err, ErrStopped) {
				t.Fatalf("%s, stopped at sign %d: %v", strategy, stop, err)
			}
			at := w.engine.replica.at
			cancel()
			if strategy == job.AdversarialFree && at.Replay == 0 && stop == 6 {
				t.Errorf("stopped at %+v, want the middle of a batch", at)
			}
			again := s
			again.Resume = dir
			if other := again; at.Replay > 0 {
				other.ImageSize = "48"
				if _, err := New(t.Context(), Config{Spec: other, Train: p[0], Val: p[1], Directory: dir, Device: w.Device, Sink: nowhereSink{}}); !errors.Is(err, job.ErrConfig) {
					t.Errorf("other images in the middle of a batch: got %v, want job.ErrConfig", err)
				}
			}
			got, err := train(t, again, dir, p, 0)
			if err != nil {
				t.Fatalf("%s, resumed at %+v: %v", strategy, at, err)
			}
			if got.SHA256 != whole.SHA256 || got.OptimizerSHA256 != whole.OptimizerSHA256 || got.BestEpoch != whole.BestEpoch {
				t.Errorf("%s, resumed at %+v: weights %.8s, optimizer %.8s, best in %d; want %.8s, %.8s, %d", strategy, at,
					got.SHA256, got.OptimizerSHA256, got.BestEpoch, whole.SHA256, whole.OptimizerSHA256, whole.BestEpoch)
			}
		}
	}
}

// shardOf computes shard 0 of an update and returns its gradients and statistics.
func shardOf(t *testing.T, s job.Spec, p packPair, update int) []float32 {
	t.Helper()
	w := lonely(t, s, t.TempDir(), p, nowhereSink{})
	r := w.engine.replica
	r.at.Done = update
	before := stateOf(t, r)
	f, err := newFeed(r, []int{0})
	if err != nil {
		t.Fatal(err)
	}
	defer f.close()
	b, err := f.next(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer f.done(b)
	if err := r.shard(t.Context(), b, nil); err != nil {
		t.Fatal(err)
	}
	if after := stateOf(t, r); after != before {
		t.Errorf("%s: weights or running statistics change while a shard is computed", s.Adversarial)
	}
	return slices.Clone(r.shards[0].host[:r.layout.grads+r.layout.stats])
}

// stateOf is the SHA-256 of weights and running statistics.
func stateOf(t *testing.T, r *replica) string {
	t.Helper()
	s, err := r.snapshot()
	if err != nil {
		t.Fatal(err)
	}
	return checkpoint.Digest(s.state.Model)
}

func TestWithoutARadiusAttacksChangeNothing(t *testing.T) {
	p := packs(t)
	natural := short(t, job.ModelSceneNet, 2)
	natural.ImageSize = "48"
	want := shardOf(t, natural, p, 0)
	for _, strategy := range []string{job.AdversarialPGD, job.AdversarialFGSMRS, job.AdversarialNFGSM, job.AdversarialFree} {
		s := adversarial(t, natural, strategy)
		s.AdvWarmup, s.AdvWatchImages = 1, 0 // the first update's radius is 0
		if got := shardOf(t, s, p, 0); !slices.Equal(got, want) {
			t.Errorf("%s: the vector of a shard differs from natural training's", strategy)
		}
		if got := shardOf(t, s, p, 3); slices.Equal(got, shardOf(t, natural, p, 3)) {
			t.Errorf("%s: with a radius nothing changes either", strategy)
		}
	}
}

// The attack looks at the network in either mode; the statistics of the step are those of the attacked images alone.
func TestAttacksLeaveStatisticsAndWeightsAlone(t *testing.T) {
	p := packs(t)
	s := short(t, job.ModelSceneNet, 2)
	s.ImageSize = "48"
	s = adversarial(t, s, job.AdversarialPGD)
	eval := shardOf(t, s, p, 1)
	s.AdvBatchNorm = job.NormTrain
	if slices.Equal(eval, shardOf(t, s, p, 1)) {
		t.Error("--adv-batch-norm train is as eval")
	}
	s.AdvBatchNorm, s.AdvPrecision = job.NormEval, job.BF16
	if slices.Equal(eval, shardOf(t, s, p, 1)) {
		t.Error("--adv-precision bf16 is as same")
	}
	s.AdvPrecision, s.AdvAWP = job.AdvSame, .01
	moved := shardOf(t, s, p, 1)
	if slices.Equal(eval, moved) {
		t.Error("--adv-awp changes nothing")
	}
	s.AdvAWP = 1e-7
	near := shardOf(t, s, p, 1)
	var apart, length float64
	for i := range eval {
		apart += math.Pow(float64(near[i]-eval[i]), 2)
		length += math.Pow(float64(eval[i]), 2)
	}
	if apart > 1e-6*length {
		t.Errorf("weights moved by 1e-7 of their length change the gradient by %g of its length", math.Sqrt(apart/length))
	}
}

func TestCleanImagesStayAsTheyAre(t *testing.T) {
	p := packs(t)
	s := adversarial(t, cheap(t), job.AdversarialPGD)
	s.Shards, s.BatchSize, s.AdvClean, s.AdvWatchImages = 1, 45, .4, 0
	w := lonely(t, s, t.TempDir(), p, nowhereSink{})
	r := w.engine.replica
	f, err := newFeed(r, []int{0})
	if err != nil {
		t.Fatal(err)
	}
	defer f.close()
	b, err := f.next(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer f.done(b)
	clean, rows := r.adversary.cleanRows(b)
	if len(clean) < 9 || len(clean) > 27 || len(clean)+len(rows) != 45 {
		t.Errorf("%d of 45 images stay clean, want about 18", len(clean))
	}
	err = r.device.Do(t.Context(), func(s *ops.Scope) error {
		s.CopyInto(r.before, r.model.Buffers.Buffer())
		x := images(s, b)
		before, after := ops.Values[float32](s, x), ops.Values[float32](s, r.adversary.attacked(t.Context(), s, b, x))
		if err := s.Err(); err != nil {
			return err
		}
		size := len(before) / 45
		for i := range 45 {
			same := slices.Equal(before[i*size:(i+1)*size], after[i*size:(i+1)*size])
			if same != slices.Contains(clean, i) {
				t.Errorf("image %d: unchanged is %v, chosen to be clean %v", i, same, slices.Contains(clean, i))
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// underAttack is the mean loss of two batches of training images under PGD-10.
func underAttack(t *testing.T, r *replica, eps float64) float64 {
	t.Helper()
	pgd, err := attack.New("pgd", attack.Options{Eps: eps, Steps: 10, Start: attack.StartUniform})
	if err != nil {
		t.Fatal(err)
	}
	r.at = position{}
	f, err := newFeed(r, []int{0})
	if err != nil {
		t.Fatal(err)
	}
	defer f.close()
	var sum, n float64
	for ; r.at.Done < 2; r.at.Done++ {
		b, err := f.next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		err = r.device.Do(t.Context(), func(s *ops.Scope) error {
			net := r.net(model.Mode{})
			found, err := pgd.Perturb(t.Context(), s, net, attack.Batch{X: net.Pixels(s, images(s, b)), Labels: b.Labels, Keys: b.Keys})
			if err != nil {
				return err
			}
			s.NoGrad(func() { sum += crossEntropy(ops.Values[float32](s, net.Logits(s, found.X)), b.Labels) })
			n += float64(len(b.Labels))
			return s.Err()
		})
		f.done(b)
		if err != nil {
			t.Fatal(err)
		}
	}
	return sum / n
}

func TestEveryStrategyLowersTheLossUnderAttack(t *testing.T) {
	t.Parallel()
	p := packs(t)
	s := short(t, job.ModelSceneNet, 1)
	s.ImageSize, s.Augment, s.EMA, s.LR, s.Warmup, s.LabelSmoothing, s.Epochs = "32", job.AugmentNone, 0, .02, 0, 0, 6
	s.BatchSize = 15
	dir := t.TempDir()
	if _, err := train(t, s, dir, p, 0); err != nil {
		t.Fatal(err)
	}
	start, _, err := checkpoint.Latest(dir)
	if err != nil {
		t.Fatal(err)
	}
	s.Init, s.Epochs = start, 3
	const eps = 16. / 255
	loss := func(s job.Spec) float64 {
		w := lonely(t, s, t.TempDir(), p, nowhereSink{})
		if _, err := w.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		return underAttack(t, w.engine.replica, eps)
	}
	natural := loss(s)
	for i, strategy := range strategies() {
		if testing.Short() && i%3 != 0 { // pgd and free
			continue
		}
		s := adversarial(t, s, strategy)
		s.AdvEps, s.AdvWatchImages = "16/255", 0
		switch strategy {
		case job.AdversarialFGSMRS:
			s.AdvStepSize = "20/255"
		case job.AdversarialFree, job.AdversarialNFGSM:
			s.AdvStepSize = "16/255"
		default:
			s.AdvStepSize = "8/255"
		}
		got := loss(s)
		t.Logf("%s: loss under attack %.3f, natural training's %.3f", strategy, got, natural)
		if !(got < .8*natural) {
			t.Errorf("%s: the loss under attack is %.3f, natural training's %.3f", strategy, got, natural)
		}
	}
}

func TestBFloat16AttacksInFloat32(t *testing.T) {
	p := packs(t)
	s := adversarial(t, cheap(t), job.AdversarialPGD)
	s.Precision, s.Epochs = job.BF16, 1
	w := want(t, s, p)
	c := newCrew(t, s, p)
	c.hire(nil)
	c.hire(nil)
	c.join()
	c.check(w)
}
