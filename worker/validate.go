package worker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"mp/data"
	"mp/job"
	"mp/metrics"
	"mp/model"
	"mp/mppb"
	"mp/ops"
)

// A validation has as many parts as the job has shards: part p is shard p of each batch of parts * --val-batch images. What
// a part's batches hold depends on nothing but the job, whoever computes them.

// scores are the batches of the validation that is due which this worker has scored. They survive a view, and are of no use
// once the replica has moved on.
type scores struct {
	at   position
	done map[batchID]scored
}

// scored is what a batch, or several, amount to.
type scored struct {
	clean  tally
	robust tally // of the watched images, attacked
}

type batchID struct{ part, step int }

// validate scores this worker's parts, sums the tallies of all members, and ends the epoch with them.
func (v *visit) validate(ctx context.Context) error {
	v.phase(mppb.Phase_VALIDATING)
	began := time.Now()
	mine := scored{}
	if v.copying == nil {
		if v.scores.at != v.replica.at || v.scores.done == nil {
			v.scores = scores{at: v.replica.at, done: map[batchID]scored{}}
		}
		if err := v.score(ctx); err != nil {
			return err
		}
		mine = v.myScores()
	}
	limbs := make([]int32, 2*tallyLimbs)
	writeLimbs(mine.clean, limbs)
	writeLimbs(mine.robust, limbs[tallyLimbs:])
	if err := v.group.Sum(ctx, limbs); err != nil {
		return err
	}
	all := scored{clean: readLimbs(limbs), robust: readLimbs(limbs[tallyLimbs:])}
	if v.copying != nil {
		to := v.copying.reach
		to.Validated++
		v.copying.note(deed{tally: all.clean, robust: all.robust}, to)
		return nil
	}
	if err := v.replica.validated(all.clean, all.robust); err != nil {
		return err
	}
	return v.afterValidation(ctx, all, time.Since(began))
}

// afterValidation saves and tells.
func (v *visit) afterValidation(ctx context.Context, all scored, took time.Duration) error {
	r := v.replica
	isBest := r.best.epoch == r.at.Validated
	v.tellWhere()
	if v.writes {
		if isBest {
			v.saveBest()
		}
		if err := v.save(v.view); err != nil {
			return err
		}
		s := all.clean.score()
		e := s.validation(r.at.Validated, r.spec.Epochs, r.at.Done)
		e.Best, e.Seconds, e.ImagesPerSecond = isBest, took.Seconds(), float64(s.Images)/max(took.Seconds(), 1e-9)
		if under := all.robust.score(); under.Images > 0 {
			e.Robust = &metrics.Robust{Images: under.Images, Top1: under.Top1, Top5: under.Top5, Loss: metrics.Value(under.Loss)}
		}
		v.emit(metrics.Event{Kind: metrics.KindValidation, Validation: &e})
		v.tellCollapse()
		v.histograms(ctx)
		if err := v.picture(ctx); err != nil {
			return err
		}
	}
	v.trim()
	v.pace.start(time.Now())
	return nil
}

// parts are this worker's parts of a validation.
func (v *visit) parts() []int {
	var out []int
	for _, p := range v.me().ValShards {
		if int(p) < v.replica.spec.Shards {
			out = append(out, int(p))
		}
	}
	return out
}

// valSequence is how validation images are cut into batches of all parts.
func (r *replica) valSequence() (*data.Sampler, error) {
	return data.NewSequence(r.val.Len(), r.spec.ValBatch*r.spec.Shards)
}

// unscored are the parts of which a batch is missing, and the first step at which one is.
func (v *visit) unscored(sequence *data.Sampler) (parts []int, first int) {
	first = sequence.Steps()
	for _, p := range v.parts() {
		for step := range sequence.Steps() {
			if _, ok := v.scores.done[batchID{p, step}]; !ok && sequence.Size(step, p, v.replica.spec.Shards) > 0 {
				parts, first = append(parts, p), min(first, step)
				break
			}
		}
	}
	return parts, first
}

// score computes the batches of this worker's parts that are missing, with the running averages where there are any.
func (v *visit) score(ctx context.Context) error {
	r := v.replica
	sequence, err := r.valSequence()
	if err != nil {
		return err
	}
	parts, first := v.unscored(sequence)
	if len(parts) == 0 {
		return nil
	}
	loader, err := NewImages(r.val, ImageConfig{
		Batch: r.spec.ValBatch, Scale: r.spec.Scale, Interpolation: r.spec.Interpolation, Seed: r.spec.Seed, Epoch: r.at.Validated,
		BFloat16: r.spec.Precision == job.BF16, ChannelsLast: r.spec.ChannelsLast, parts: r.spec.Shards, mine: parts, step: first,
	})
	if err != nil {
		return err
	}
	defer loader.Close()
	if err := r.swap(ctx); err != nil {
		return err
	}
	e := Evaluation{Device: r.device, Models: []*model.Model{r.model}}
	err = each(ctx, loader, func(b *data.Batch) error {
		id := batchID{b.Shard, b.Step}
		if _, ok := v.scores.done[id]; ok || len(b.IDs) == 0 {
			return nil
		}
		logits, err := e.Logits(ctx, b)
		if err != nil {
			return err
		}
		t := count(logits, b.Labels)
		t.lose(crossEntropy(logits, b.Labels), len(b.Labels))
		under, err := r.endure(ctx, b)
		if err != nil {
			return err
		}
		v.scores.done[id] = scored{clean: t, robust: under}
		v.control.beat()
		v.scored(len(parts))
		return nil
	})
	return errors.Join(err, r.swap(context.Background()))
}

// scored shows how far a validation is.
func (v *visit) scored(parts int) {
	if v.writes && parts > 0 {
		v.emit(metrics.Event{Kind: metrics.KindProgress, Progress: &metrics.Progressed{
			Title: "validate", Done: int64(v.myScores().clean.images) * int64(v.replica.spec.Shards) / int64(len(v.parts())), Total: int64(v.replica.val.Len())}})
	}
}

// myScores sums the batches of this worker's parts.
func (v *visit) myScores() scored {
	var sum scored
	mine := map[int]bool{}
	for _, p := range v.parts() {
		mine[p] = true
	}
	for id, t := range v.scores.done {
		if mine[id.part] {
			sum.clean.add(t.clean)
			sum.robust.add(t.robust)
		}
	}
	return sum
}

// swap exchanges the weights with their running averages, if there are any; a second swap puts every bit back.
func (r *replica) swap(ctx context.Context) error {
	if r.average == nil {
		return nil
	}
	err := r.device.Do(ctx, func(s *ops.Scope) error {
		r.average.Swap(s)
		return s.Err()
	})
	if err != nil {
		return fmt.Errorf("put the average of the weights in their place: %w", err)
	}
	return nil
}

// validated ends an epoch with its validation's tallies: the only thing that chooses the best.
func (r *replica) validated(t, robust tally) error {
	s := t.score()
	isBest := r.better(s, robust)
	r.note(robust)
	r.last, r.robust = t, robust
	r.at.Validated++
	r.moved = true
	if !isBest {
		return r.goBack()
	}
	r.best = best{Score: s, epoch: r.at.Validated, update: r.at.Done}
	now, err := r.snapshot()
	if err != nil {
		return err
	}
	r.best.weights = validated(now.state)
	return nil
}
