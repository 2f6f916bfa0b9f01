package worker

import (
	"context"
	"fmt"

	torch "github.com/wangkuiyi/gotorch"

	"mp/allreduce"
	"mp/data"
	"mp/model"
	"mp/ops"
	"mp/optim"
)

// Legend: N images of a shard, S side of the image, K classes, P elements of the parameters' flat buffer.

// step computes one update of the run: the gradient of every shard, their sum over the group, one change of the weights.
// Its result is the whole batch's, on every worker the same.
func (w *Worker) step(ctx context.Context, shards []*data.Batch, rate float64) (tally, error) {
	var got tally
	err := w.Device.Do(ctx, func(s *ops.Scope) error {
		s.CopyInto(w.before, w.model.Buffers.Buffer())
		for i, shard := range shards {
			w.shard(s, shard, i == 0)
		}
		if err := w.reduce(ctx, s); err != nil {
			return err
		}
		update := optim.Update{Rate: rate, Scale: 1 / float64(w.Spec.Shards), MaxNorm: w.Spec.ClipGrad, Average: w.average}
		if w.Spec.ClipGrad > 0 {
			update.Norm = s.Norm(w.sum.grads)
		}
		w.model.Buffers.CopyFrom(s, s.Scale(w.sum.stats, update.Scale))
		w.optimizer.Step(s, w.sum.grads, update)
		if ops.Defined(update.Norm) {
			w.norm = s.Item(update.Norm) * update.Scale
		}
		got = tallyOf(ops.Values[float32](s, w.sum.tally))
		return s.Err()
	})
	if err != nil {
		return tally{}, err
	}
	w.done++
	return got, nil
}

// shard adds one shard's gradients, running statistics and tally to w.sum; the first one overwrites it. What it adds
// depends on the shard alone: every shard starts from the statistics before the step.
func (w *Worker) shard(s *ops.Scope, b *data.Batch, first bool) {
	c := s.Child()
	defer c.Close()
	w.model.Buffers.CopyFrom(c, w.before)
	logits := w.model.Forward(c, images(c, b), model.Mode{Train: true, Keys: b.Keys}) // [N K]
	loss := c.CrossEntropy(logits, targets(c, b), w.Spec.LabelSmoothing, ops.ReduceMean)
	grads := c.Grad(loss, w.model.Params.Leaves()...)

	into := w.sum
	if !first {
		into = w.part
	}
	w.model.Params.Gather(c, grads, into.grads)
	c.CopyInto(into.stats, w.model.Buffers.Buffer())
	t := count(ops.Values[float32](c, logits), b.Labels)
	t.loss = c.Item(loss) * t.images
	c.CopyInto(into.tally, ops.From(c, t.floats(), tallySize))
	if !first {
		c.CopyInto(w.sum.whole, c.Add(w.sum.whole, w.part.whole))
	}
}

// reduce sums w.sum over the group.
func (w *Worker) reduce(ctx context.Context, s *ops.Scope) error {
	if err := s.Err(); err != nil || w.Group.Size() == 1 {
		return err
	}
	mine := ops.Values[float32](s, w.sum.whole)
	host := make([]float32, len(mine))
	terms := allreduce.Terms{Total: w.Group.Size(), Shards: []int{w.Group.Rank()}, Vectors: [][]float32{mine}}
	if err := allreduce.SumShards(ctx, w.Group, terms, host); err != nil {
		return fmt.Errorf("sum gradients: %w", err)
	}
	s.CopyInto(w.sum.whole, ops.From(s, host, int64(len(host))))
	return s.Err()
}

// images returns the batch's images [N 3 S S] on the device, in the precision and layout in which the loader wrote them.
func images(s *ops.Scope, b *data.Batch) torch.Tensor {
	d := ops.Float32
	if b.BFloat16() {
		d = ops.BFloat16
	}
	side := int64(b.Size)
	x := s.Wrap(b.X, d, b.ChannelsLast(), int64(len(b.IDs)), 3, side, side)
	if s.Device().IsCPU() {
		return x
	}
	return s.ToDevice(x)
}

// targets returns labels [N] or, for mixed images, a distribution [N K].
func targets(s *ops.Scope, b *data.Batch) torch.Tensor {
	n := int64(len(b.Labels))
	if b.Soft != nil {
		return ops.From(s, b.Soft, n, int64(len(b.Soft))/n)
	}
	return ops.From(s, b.Labels, n)
}
