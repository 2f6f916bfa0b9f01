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

// A validation has as many parts as the job has shards: part p is shard p of each batch of parts * --val-batch images, and
// likewise of the images held out (watch.go). What a part's batches hold depends on nothing but the job, whoever computes them.

// scores are the batches of the validation that is due which this worker has scored. They survive a view, and are of no use
// once the replica has moved on.
type scores struct {
	at   position
	done map[batchID]scored
}

// scored is what a batch, or several, amount to.
type scored struct {
	tally   tally
	watched watched
}

type batchID struct {
	held       bool // of the images held out
	part, step int
}

// validationLimbs is what the tallies of a validation take: of the validation images, and of those held out twice.
const validationLimbs = 3 * tallyLimbs

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
	limbs := make([]int32, validationLimbs)
	for i, t := range []tally{mine.tally, mine.watched.clean, mine.watched.robust} {
		writeLimbs(t, limbs[i*tallyLimbs:])
	}
	if err := v.group.Sum(ctx, limbs); err != nil {
		return err
	}
	all := scored{readLimbs(limbs), watched{readLimbs(limbs[tallyLimbs:]), readLimbs(limbs[2*tallyLimbs:])}}
	if v.copying != nil {
		to := v.copying.reach
		to.Validated++
		v.copying.note(deed{tally: all.tally, watched: all.watched}, to)
		return nil
	}
	if err := v.replica.validated(all.tally, all.watched); err != nil {
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
		s := all.tally.score()
		e := s.validation(r.at.Validated, r.spec.Epochs, r.at.Done)
		e.Best, e.Seconds, e.ImagesPerSecond = isBest, took.Seconds(), float64(s.Images)/max(took.Seconds(), 1e-9)
		e.Robust = all.watched.robustness()
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

// pass is one of the things that a validation scores: the validation images, or those held out.
type pass struct {
	held   bool
	images *data.Pack
	config ImageConfig // without what of it is whose
	score  func(context.Context, *data.Batch) (scored, error)
}

// passes are what the validation that is due consists of.
func (r *replica) passes() []pass {
	c := ImageConfig{
		Batch: r.spec.ValBatch, Scale: r.spec.Scale, Interpolation: r.spec.Interpolation, Seed: r.spec.Seed, Epoch: r.at.Validated,
		BFloat16: r.spec.Precision == job.BF16, ChannelsLast: r.spec.ChannelsLast, Device: r.device, parts: r.spec.Shards,
	}
	all := []pass{{images: r.val, config: c, score: r.answer}}
	if r.held != nil {
		c.only, c.Batch, c.BFloat16 = r.held, r.watchBatch(), false
		all = append(all, pass{held: true, images: r.train, config: c, score: r.endure})
	}
	return all
}

// answer tallies how the network does on a batch of validation images.
func (r *replica) answer(ctx context.Context, b *data.Batch) (scored, error) {
	logits, err := Evaluation{Device: r.device, Models: []*model.Model{r.model}}.Logits(ctx, b)
	if err != nil {
		return scored{}, err
	}
	return scored{tally: graded(logits, b.Labels)}, nil
}

// graded tallies logits [N K] with their loss.
func graded(logits []float32, labels []int64) tally {
	t := count(logits, labels)
	t.lose(crossEntropy(logits, labels), len(labels))
	return t
}

// unscored are the parts of a pass of which a batch is missing, and the first step at which one is.
func (v *visit) unscored(p pass) (parts []int, first int, err error) {
	sequence, err := p.config.sequence(p.images.Len())
	if err != nil {
		return nil, 0, err
	}
	first = sequence.Steps()
	for _, part := range v.parts() {
		for step := range sequence.Steps() {
			if _, ok := v.scores.done[batchID{p.held, part, step}]; !ok && sequence.Size(step, part, v.replica.spec.Shards) > 0 {
				parts, first = append(parts, part), min(first, step)
				break
			}
		}
	}
	return parts, first, nil
}

// score computes the batches of this worker's parts that are missing, with the running averages where there are any.
func (v *visit) score(ctx context.Context) error {
	r := v.replica
	if err := r.swap(ctx); err != nil {
		return err
	}
	var err error
	for _, p := range r.passes() {
		if err = v.scorePass(ctx, p); err != nil {
			break
		}
	}
	return errors.Join(err, r.swap(context.Background()))
}

// scorePass is score for one of the things that are scored.
func (v *visit) scorePass(ctx context.Context, p pass) error {
	parts, first, err := v.unscored(p)
	if err != nil || len(parts) == 0 {
		return err
	}
	p.config.mine, p.config.step = parts, first
	loader, err := NewImages(p.images, p.config)
	if err != nil {
		return err
	}
	defer loader.Close()
	return each(ctx, loader, func(b *data.Batch) error {
		id := batchID{p.held, b.Shard, b.Step}
		if _, ok := v.scores.done[id]; ok || len(b.IDs) == 0 {
			return nil
		}
		s, err := p.score(ctx, b)
		if err != nil {
			return err
		}
		v.scores.done[id] = s
		v.control.beat()
		v.scored()
		return nil
	})
}

// scored shows how far a validation is.
func (v *visit) scored() {
	r := v.replica
	if mine := v.myScores(); v.writes {
		v.emit(metrics.Event{Kind: metrics.KindProgress, Progress: &metrics.Progressed{
			Title: "validate", Done: int64(mine.tally.images+mine.watched.robust.images) * int64(r.spec.Shards) / int64(len(v.parts())),
			Total: int64(r.val.Len() + len(r.held))}})
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
			sum.tally.add(t.tally)
			sum.watched.clean.add(t.watched.clean)
			sum.watched.robust.add(t.watched.robust)
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
func (r *replica) validated(t tally, g watched) error {
	s := t.score()
	isBest := r.better(s, g.robust)
	r.note(g)
	r.last, r.watched = t, g
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
