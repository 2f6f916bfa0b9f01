package worker

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"
	"strings"

	torch "github.com/wangkuiyi/gotorch"

	"mp/attack"
	"mp/checkpoint"
	"mp/data"
	"mp/job"
	"mp/metrics"
	"mp/model"
	"mp/ops"
)

// The watchdog attacks the training images that are held out after every epoch, with more steps than training may have. A
// network trained against one step can learn to fool that step alone, within an epoch, while the training accuracy rises: catastrophic
// overfitting (Wong et al., "Fast is better than free", 2020, section 5). What is done about it is a function of the ledger.

// watchSteps is the attack of the watchdog, PGD-10, and watchStride how far its steps reach together, in radii.
const (
	watchSteps  = 10
	watchStride = 2.5
)

// watched is how the network does on the images held out.
type watched struct{ clean, robust tally }

// robustness is what people hear of it; nil: no image is held out.
func (g watched) robustness() *metrics.Robust {
	clean, under := g.clean.score(), g.robust.score()
	if under.Images == 0 {
		return nil
	}
	return &metrics.Robust{Images: under.Images, Top1: under.Top1, Top5: under.Top5, Loss: metrics.Value(under.Loss), CleanTop1: &clean.Top1}
}

// watchBatch is how many images are attacked at a time: no more than training holds the activations of.
func (r *replica) watchBatch() int {
	return min(r.spec.ValBatch, max(r.spec.BatchSize/r.spec.Shards, 1))
}

// watchdog is the attack of the watchdog.
func (r *replica) watchdog() (attack.Attack, error) {
	eps := r.adversary.ways[0].Eps
	return attack.New("pgd", attack.Options{Eps: eps, Steps: watchSteps, StepSize: watchStride * eps / watchSteps, Start: attack.StartUniform, Leave: true})
}

// endure tallies how the network does on a batch of images held out, as they are and attacked.
func (r *replica) endure(ctx context.Context, b *data.Batch) (scored, error) {
	pgd, err := r.watchdog()
	if err != nil {
		return scored{}, err
	}
	net := r.net(model.Mode{})
	batch := attack.Batch{Labels: b.Labels, Keys: attack.Keys(r.spec.Seed, 0, b.IDs)} // the same starts in every epoch
	var g watched
	err = r.device.Do(ctx, func(s *ops.Scope) error {
		batch.X = net.Pixels(s, images(s, b))
		found, err := pgd.Perturb(ctx, s, net, batch)
		if err != nil {
			return err
		}
		s.NoGrad(func() {
			answer := func(x torch.Tensor) tally {
				logits := ops.Values[float32](s, s.To(net.Logits(s, x), ops.Float32))
				if s.Err() != nil {
					return tally{}
				}
				return graded(logits, b.Labels)
			}
			g = watched{clean: answer(batch.X), robust: answer(found.X)}
		})
		return s.Err()
	})
	return scored{watched: g}, err
}

// heldOutBefore says whether a state whose ledger is at hand was trained without the images that the job holds out.
func (r *replica) heldOutBefore() error {
	if r.held == nil {
		return nil
	}
	n, whole := uint64(r.sampler.Images()), r.sampler.Hash()
	for _, e := range r.epochs {
		if e.Images > n || e.Images == n && e.Hash != whole {
			return fmt.Errorf("in epoch %d it was trained on images that --adv-watch-images %d holds out; give what it was trained with (--adv-watch-images 0: nothing was held out), or start from its weights with --init: %w",
				e.Epoch+1, r.spec.AdvWatchImages, job.ErrConfig)
		}
	}
	return nil
}

// share is the part of a count, 0 where nothing is counted.
func share(part, whole uint64) float64 { return float64(part) / math.Max(float64(whole), 1) }

// robustness is the share of the images held out that stayed right.
func (e ledgerEntry) robustness() float64 { return share(e.Robust, e.Watched) }

// collapsed says whether the last epoch of a ledger overfitted catastrophically: of the robust accuracy at its best less than
// half is left, the loss is beyond chance (three standard deviations of the best), and training, under its own attack, does not
// do worse than then.
func collapsed(epochs []ledgerEntry) bool {
	n := len(epochs)
	if n < 2 || epochs[n-1].Watched == 0 {
		return false
	}
	now, before := epochs[n-1], slices.MaxFunc(epochs[:n-1], func(a, b ledgerEntry) int { return cmp.Compare(a.robustness(), b.robustness()) })
	p, q := before.robustness(), now.robustness()
	chance := 3 * math.Sqrt(p*(1-p)/math.Max(float64(before.Watched), 1))
	return 2*q < p && p-q > chance && share(now.Top1, now.Images) >= share(before.Top1, before.Images)
}

// everCollapsed says whether any epoch of a ledger did.
func everCollapsed(epochs []ledgerEntry) bool {
	for n := range epochs {
		if collapsed(epochs[:n+1]) {
			return true
		}
	}
	return false
}

// note writes what the watchdog found into the ledger of the epoch that ends.
func (r *replica) note(g watched) {
	if n := len(r.epochs); n > 0 && r.epochs[n-1].Epoch == r.at.Validated {
		r.epochs[n-1].Watched, r.epochs[n-1].Clean, r.epochs[n-1].Robust = g.robust.images, g.clean.top1, g.robust.top1
	}
}

// better says whether a validation beats the best so far: by robust accuracy where that is watched, then by top-1.
func (r *replica) better(s Score, robust tally) bool {
	if r.best.epoch == 0 && r.best.Top1 == 0 {
		return true
	}
	if robust.images > 0 {
		for _, e := range r.epochs {
			if e.Epoch+1 == r.best.epoch && e.Watched > 0 && e.robustness() != share(robust.top1, robust.images) {
				return share(robust.top1, robust.images) > e.robustness()
			}
		}
	}
	return s.Top1 > r.best.Top1
}

// atCollapse says whether the replica stands right after the validation of an epoch that collapsed.
func (r *replica) atCollapse() bool {
	n := len(r.epochs)
	return n > 0 && r.at.Replay == 0 && r.at.Done == r.at.Validated*r.steps() && r.epochs[n-1].Epoch+1 == r.at.Validated && collapsed(r.epochs)
}

// goBack takes the best weights again after a collapse, where the job says so. The run's position does not change: its next
// batches are new ones.
func (r *replica) goBack() error {
	if r.spec.AdvWatch != job.WatchRollback || !r.atCollapse() || r.best.weights == nil {
		return nil
	}
	err := r.device.Do(context.Background(), func(s *ops.Scope) error {
		if _, err := r.model.Load(s, arrays(r.best.weights), model.Exact); err != nil {
			return err
		}
		r.optimizer.Reset(s)
		if r.average != nil {
			r.average.Reset(s)
		}
		return s.Err()
	})
	if err != nil {
		r.whole = false
		return fmt.Errorf("go back to the weights of epoch %d: %w", r.best.epoch, err)
	}
	return nil
}

// tellCollapse tells of an epoch that collapsed, and what follows.
func (v *visit) tellCollapse() {
	r := v.replica
	if !v.writes || !r.atCollapse() {
		return
	}
	n := len(r.epochs)
	now := r.epochs[n-1]
	story := &metrics.Story{Topic: "overfitting", Warning: true, Text: fmt.Sprintf(
		"epoch %d overfitted catastrophically: PGD-%d leaves %.1f %% of %d images held out right, which were %.1f %% before it, while in training %.1f %% are right under its own attack",
		r.at.Validated, watchSteps, 100*now.robustness(), now.Watched, 100*share(now.Clean, now.Watched), 100*share(now.Top1, now.Images))}
	switch best := fmt.Sprintf("the best weights, of epoch %d", r.best.epoch); {
	case r.spec.AdvWatch == job.WatchRollback && r.best.weights == nil:
		story.Advice = best + ", are not here to go back to: training goes on"
	case r.spec.AdvWatch == job.WatchRollback:
		story.Advice = "training goes on from " + best
	case r.spec.AdvWatch == job.WatchPGD:
		story.Advice = "training goes on with pgd"
	case r.spec.AdvWatch == job.WatchStop:
		story.Advice = "the run stops; kept are " + best
	default:
		story.Advice = "train with nfgsm or pgd, a smaller --adv-eps or a longer --adv-warmup; --adv-watch pgd changes over by itself"
	}
	v.emit(metrics.Event{Kind: metrics.KindStory, Story: story})
}

// collapsed ends the job where it is to stop at a collapse, with everything saved.
func (v *visit) collapsed(ctx context.Context) error {
	r := v.replica
	if r.spec.AdvWatch != job.WatchStop || v.copying != nil || !r.atCollapse() {
		return nil
	}
	if v.writes {
		if err := v.store(ctx); err != nil {
			return err
		}
	}
	if _, err := v.group.Exchange(ctx, nil); err != nil { // nobody leaves before that
		return err
	}
	return fmt.Errorf("epoch %d overfitted catastrophically; go on with --resume and another --adv-watch, or keep the best checkpoint, of epoch %d: %w",
		r.at.Validated, r.best.epoch, errJob)
}

// keptBest returns the best weights that a state carries, nil where it carries none.
func (r *replica) keptBest(state *checkpoint.State) []checkpoint.Tensor {
	var out []checkpoint.Tensor
	for _, t := range state.Optimizer {
		if name, ok := strings.CutPrefix(t.Name, bestPrefix); ok && r.spec.AdvWatch == job.WatchRollback {
			t.Name = name
			out = append(out, t)
		}
	}
	return out
}
