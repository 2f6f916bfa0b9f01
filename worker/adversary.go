package worker

import (
	"context"
	"errors"
	"fmt"

	torch "github.com/wangkuiyi/gotorch"

	"mp/attack"
	"mp/attack/training"
	"mp/data"
	"mp/job"
	"mp/model"
	"mp/ops"
	"mp/ops/pixel"
)

// Legend: N images of a shard, S side of the image, K classes, P elements of the parameters' flat buffer.

// adversary attacks the images of a shard before the network learns from them. What it does is a function of the job, the
// state and the shard's samples: see DESIGN.md.
type adversary struct {
	r    *replica
	ways [2]*training.Recipe // the job's; after a collapse, where the job asks for it, PGD
}

// Purposes of keys, so that two uses for the same sample share nothing.
const (
	keyAttack uint64 = iota + 1
	keyClean
)

// newAdversary returns what the replica's job asks for, nil for none.
func newAdversary(r *replica) (*adversary, error) {
	spec := r.spec
	if !spec.Attacked() {
		return nil, nil
	}
	c := training.Config{Strategy: spec.Adversarial, Steps: spec.AdvSteps, Beta: spec.AdvBeta, Smoothing: spec.LabelSmoothing}
	var err, stepErr error
	c.Eps, err = job.ParseAmount(spec.AdvEps)
	c.StepSize, stepErr = job.ParseAmount(spec.AdvStepSize)
	if err := errors.Join(err, stepErr); err != nil {
		return nil, fmt.Errorf("%w: --adv-eps and --adv-step-size: %w", job.ErrConfig, err)
	}
	a := &adversary{r: r}
	if a.ways[0], err = training.New(c); err != nil {
		return nil, fmt.Errorf("%w: %w", job.ErrConfig, err)
	}
	c.Strategy, c.Steps, c.StepSize, c.Beta = training.PGD, 7, c.Eps/4, 0 // as Madry et al. train
	if a.ways[1], err = training.New(c); err != nil {
		return nil, fmt.Errorf("%w: %w", job.ErrConfig, err)
	}
	return a, nil
}

// way is how the replica trains now.
func (a *adversary) way() *training.Recipe {
	if a.r.spec.AdvWatch == job.WatchPGD && everCollapsed(a.r.epochs) {
		return a.ways[1]
	}
	return a.ways[0]
}

// eps is the radius of the next update: it grows from 0 while the job says so.
func (a *adversary) eps() float64 {
	r := a.r
	eps := a.ways[0].Eps
	if warm := r.spec.AdvWarmup * float64(r.steps()*r.spec.Replays()); float64(r.updates(r.at)) < warm {
		eps *= float64(r.updates(r.at)) / warm
	}
	return eps
}

// net is the replica's network as attacks see it. mode is that of its layers.
func (r *replica) net(mode model.Mode) *attack.Net {
	n := &attack.Net{Mean: pixel.Mean(), Std: pixel.Std(), Forward: func(s *ops.Scope, z torch.Tensor) torch.Tensor {
		r.beat()
		return r.model.Forward(s, z, mode)
	}}
	if r.spec.Precision == job.BF16 {
		n.DType = ops.BFloat16
	}
	return n
}

// lesson attacks a shard's images and runs the network on them; before, where the job asks for it, the weights are moved
// against that loss (see settle).
func (a *adversary) lesson(ctx context.Context, s *ops.Scope, b *data.Batch) lesson {
	x := images(s, b) // [N 3 S S], normalised
	var seen lesson
	attacked := x
	if a.ways[0].Strategy == training.Free {
		seen, attacked = a.replayed(s, b, x)
	} else {
		attacked = a.attacked(ctx, s, b, x)
	}
	if a.r.spec.AdvAWP > 0 {
		a.moveWeights(s, b, x, attacked)
	}
	l := a.learn(s, b, x, attacked)
	seen.logits, seen.loss = l.logits, l.loss
	return seen
}

// learn runs the network in training mode on normalised images, and on the clean ones too where the loss compares both.
func (a *adversary) learn(s *ops.Scope, b *data.Batch, clean, attacked torch.Tensor) lesson {
	r, way := a.r, a.way()
	forward := func(x torch.Tensor) torch.Tensor {
		if r.spec.Precision == job.BF16 {
			x = s.To(x, ops.BFloat16)
		}
		return r.model.Forward(s, x, model.Mode{Train: true, Keys: b.Keys})
	}
	var z training.Logits
	if way.Weighs() {
		z.Clean = forward(clean)
	}
	z.Attacked = forward(attacked)
	return lesson{logits: z.Attacked, loss: way.Loss(s, z, b.Labels)}
}

// cleanRows are the images of a batch that stay as they are, chosen by their own keys.
func (a *adversary) cleanRows(b *data.Batch) (clean, attacked []int) {
	for i, key := range b.Keys {
		if share := a.r.spec.AdvClean; share > 0 && data.NewRand(key, keyClean).Float64() < share {
			clean = append(clean, i)
		} else {
			attacked = append(attacked, i)
		}
	}
	return clean, attacked
}

// attacked returns x [N 3 S S] with all but the clean images attacked. The network is in the mode that the job says, and its
// running statistics are left as they were.
func (a *adversary) attacked(ctx context.Context, s *ops.Scope, b *data.Batch, x torch.Tensor) torch.Tensor {
	r, eps := a.r, a.eps()
	clean, rows := a.cleanRows(b)
	if eps == 0 || len(rows) == 0 {
		return x
	}
	attackBy, err := a.way().Attack(eps)
	if err != nil {
		s.Fail(err)
		return torch.Tensor{}
	}
	batch := attack.Batch{}
	mode := model.Mode{Train: r.spec.AdvBatchNorm == job.NormTrain}
	seeds := attack.Keys(r.spec.Seed^keyAttack, uint64(r.updates(r.at)), b.IDs)
	for _, i := range rows {
		batch.Labels, batch.Keys = append(batch.Labels, b.Labels[i]), append(batch.Keys, seeds[i])
		mode.Keys = append(mode.Keys, b.Keys[i])
	}
	net := r.net(mode)
	if r.spec.AdvPrecision == job.BF16 {
		net.DType = ops.BFloat16
	}
	c := s.Child()
	defer c.Close()
	some := x
	if len(clean) > 0 {
		some = c.Rows(x, ops.From(c, wide(rows), int64(len(rows))))
	}
	batch.X = net.Pixels(c, some)
	found, err := attackBy.Perturb(ctx, c, net, batch)
	if err != nil {
		c.Fail(err)
		return torch.Tensor{}
	}
	if mode.Train {
		c.CopyInto(r.model.Buffers.Buffer(), r.before)
	}
	moved := net.Normalise(c, found.X)
	if len(clean) > 0 {
		all := c.Scale(x, 1)
		c.PutRows(all, ops.From(c, wide(rows), int64(len(rows))), moved)
		moved = all
	}
	if c.Err() != nil {
		return torch.Tensor{}
	}
	return s.Adopt(c.Release(moved))
}

func wide(rows []int) []int64 {
	out := make([]int64, len(rows))
	for i, r := range rows {
		out[i] = int64(r)
	}
	return out
}

// moveWeights moves the weights along the gradient of this shard's own loss, until settle.
func (a *adversary) moveWeights(s *ops.Scope, b *data.Batch, clean, attacked torch.Tensor) {
	r := a.r
	c := s.Child()
	defer c.Close()
	grads := c.Zeros(ops.Float32, r.model.Params.Len())
	c.GradInto(a.learn(c, b, clean, attacked).loss, r.model.Params, grads, nil)
	c.CopyInto(r.model.Buffers.Buffer(), r.before)
	if c.Err() != nil {
		return
	}
	r.unmoved = c.Release(c.Scale(r.model.Params.Buffer(), 1))
	training.MoveWeights(c, r.model.Params, grads, r.spec.AdvAWP)
	r.beat()
}

// settle puts the weights back where they were before a shard moved them.
func (r *replica) settle() error {
	if !ops.Defined(r.unmoved) {
		return nil
	}
	err := r.device.Do(context.Background(), func(s *ops.Scope) error {
		r.model.Params.CopyFrom(s, r.unmoved)
		ops.Free(r.unmoved)
		r.unmoved = torch.Tensor{}
		return s.Err()
	})
	if err != nil {
		r.whole = false
		return fmt.Errorf("put the weights back: %w", err)
	}
	return nil
}
