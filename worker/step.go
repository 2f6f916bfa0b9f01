package worker

import (
	"context"
	"errors"
	"fmt"
	"time"

	torch "github.com/wangkuiyi/gotorch"

	"mp/allreduce"
	"mp/data"
	"mp/model"
	"mp/mppb"
	"mp/ops"
	"mp/optim"
)

// Legend: N images of a shard, S side of the image, K classes, P elements of the parameters' flat buffer.

// step computes one update of the run: the vectors of this member's shards, their sum over the group, one change of the
// weights. What it changes is the whole batch's, on every member the same; a step that fails changes nothing, and the
// shards that it had finished are kept for the next try.
func (v *visit) step(ctx context.Context) (tally, error) {
	r := v.replica
	if err := v.supply(); err != nil {
		return tally{}, err
	}
	if err := v.injected.strike(r.device, r.at.Done); err != nil {
		return tally{}, advise(err)
	}
	var last *data.Batch // its backward pass overlaps with the sum
	for missing := v.feed.missing(); len(missing) > 0; missing = missing[1:] {
		b, err := v.next(ctx)
		if err != nil {
			return tally{}, err
		}
		if len(missing) == 1 {
			last = b
			break
		}
		err = v.compute(ctx, b, nil)
		v.feed.done(b)
		if err != nil {
			return tally{}, err
		}
	}
	if err := v.reduce(ctx, last); err != nil {
		return tally{}, err
	}
	signs, err := v.sumSigns(ctx, r.at)
	if err != nil {
		return tally{}, err
	}
	return r.commit(r.sum.host, signs)
}

// compute makes one shard's vector.
func (v *visit) compute(ctx context.Context, b *data.Batch, ready *ready) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	v.phase(mppb.Phase_COMPUTING)
	began := time.Now()
	if err := v.replica.shard(ctx, b, ready); err != nil {
		return fmt.Errorf("shard %d: %w", b.Shard, advise(err))
	}
	v.pace.shard.add(time.Since(began))
	v.replica.beat()
	return nil
}

// reduce sums the vectors of all members' shards into the replica's sum. last is a shard still to be computed, nil for
// none: of vectors in this memory, what its backward pass has finished is summed while the pass goes on.
func (v *visit) reduce(ctx context.Context, last *data.Batch) error {
	r := v.replica
	if last == nil {
		return v.exposed(func() error { return v.sum(ctx, v.terms(), r.sum.host) })
	}
	defer v.feed.done(last)
	if r.onDevice {
		if err := v.compute(ctx, last, nil); err != nil {
			return err
		}
		return v.exposed(func() error { return v.sum(ctx, v.terms(), r.sum.host) })
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ready := newReady(r.layout)
	terms := v.terms()
	into, err := r.slot(ctx, last.Shard)
	if err != nil {
		return err
	}
	terms.Shards, terms.Vectors, terms.Ready = append(terms.Shards, last.Shard), append(terms.Vectors, into.host), ready.wait
	summed := make(chan error, 1)
	go func() { summed <- v.sum(ctx, terms, r.sum.host) }()
	if err = v.compute(ctx, last, ready); err != nil {
		cancel() // nobody will be ready
	}
	broken := v.exposed(func() error { return <-summed })
	if err == nil {
		err = broken
	}
	return err
}

// exposed runs the part of a sum during which nothing is computed here.
func (v *visit) exposed(f func() error) error {
	v.phase(mppb.Phase_REDUCING)
	began := time.Now()
	err := f()
	v.pace.exposed.add(time.Since(began))
	return err
}

// sum adds up the vectors of all members' shards. A loss that is no number is an error, on all members the same.
func (v *visit) sum(ctx context.Context, t allreduce.Terms, out []float32) error {
	if err := allreduce.SumShards(ctx, v.group.forSums(), t, out); err != nil {
		return err
	}
	if readLimbs(out[v.replica.layout.tally:]).unknown > 0 {
		return &allreduce.NotFiniteError{Rank: -1, Element: v.replica.layout.tally}
	}
	return nil
}

// terms are the vectors that this worker has computed for the next update.
func (v *visit) terms() allreduce.Terms {
	r := v.replica
	t := allreduce.Terms{Total: r.spec.Shards, Kernels: v.group.metered(v.kernels), Bucket: v.bucket}
	var there []torch.Tensor
	for _, shard := range v.mine() {
		if v.copying == nil && r.computed(shard) && r.size(shard) > 0 {
			t.Shards = append(t.Shards, shard)
			if r.onDevice {
				there = append(there, r.shards[shard].whole)
			} else {
				t.Vectors = append(t.Vectors, r.shards[shard].host)
			}
		}
	}
	if r.onDevice {
		t.Source = &vectors{device: r.device, tensors: there, working: v.group.change}
	}
	return t
}

// shard computes one shard's gradients, running statistics and tally, weighted by its share of the step's images. They
// depend on the shard alone: every shard starts from the statistics before the step, and leaves them so. ready, which may
// be nil, hears what is final. ctx ends an attack between two of its steps, and nothing else.
func (r *replica) shard(ctx context.Context, b *data.Batch, ready *ready) error {
	into, err := r.slot(context.Background(), b.Shard)
	if err != nil {
		return err
	}
	weight := float64(len(b.IDs)) / float64(r.images(b.Step))
	err = r.device.Do(context.Background(), func(s *ops.Scope) error {
		whole, statistics := into.whole, r.model.Buffers.Buffer()
		s.CopyInto(r.before, statistics)
		l := r.lesson(ctx, s, b)
		scores, mean := ops.Values[float32](s, l.logits), s.Item(l.loss)
		if err := s.Err(); err != nil {
			return err
		}
		t := count(scores, b.Labels)
		t.lose(mean*float64(t.images), int(t.images))
		t.hash = fingerprints(b.IDs)
		if r.layout.stats > 0 {
			s.CopyInto(s.Narrow(whole, 0, int64(r.layout.grads), int64(r.layout.stats)), s.Scale(statistics, weight))
		}
		r.writeTally(s, into, t)
		moves := s.GradIntoBeside(s.Scale(l.loss, weight), r.model.Params, whole, ready.begin(), l.images)
		s.CopyInto(statistics, r.before) // not earlier: the backward pass wants them as the forward pass left them
		into.signs = r.adversary.moved(s, l, moves)
		return s.Err()
	})
	err = errors.Join(err, r.settle())
	if err != nil {
		return err
	}
	into.final = true
	return nil
}

// lesson is the loss of a shard, and what is counted of it.
type lesson struct {
	logits torch.Tensor // [N K], of the images that the loss is of
	loss   torch.Tensor // their mean loss

	// In free adversarial training:
	images torch.Tensor // the leaf whose gradient moves the perturbation,
	signs  torch.Tensor // which was eps times this [N 3 S S]
	clean  []int        // images that have none
}

// lesson runs the network on a shard's images, attacked where the job says so.
func (r *replica) lesson(ctx context.Context, s *ops.Scope, b *data.Batch) lesson {
	if r.adversary != nil {
		return r.adversary.lesson(ctx, s, b)
	}
	logits := r.model.Forward(s, images(s, b), model.Mode{Train: true, Keys: b.Keys})
	return lesson{logits: logits, loss: s.CrossEntropy(logits, targets(s, b), r.spec.LabelSmoothing, ops.ReduceMean)}
}

// commit applies a sum over all shards, and what free adversarial training keeps beside: the only thing that moves a run on.
// It is the same wherever the sum came from.
func (r *replica) commit(sum []float32, signs []int32) (tally, error) {
	t := readLimbs(sum[r.layout.tally:])
	err := r.device.Do(context.Background(), func(s *ops.Scope) error {
		whole := r.toDevice(s, sum)
		grads := s.Narrow(whole, 0, 0, int64(r.layout.grads))
		update := optim.Update{Rate: r.schedule.Rate(r.updates(r.at)), Scale: 1, MaxNorm: r.spec.ClipGrad, Average: r.average}
		if r.spec.ClipGrad > 0 {
			update.Norm = s.Norm(grads)
		}
		if r.layout.stats > 0 {
			r.model.Buffers.CopyFrom(s, s.Narrow(whole, 0, int64(r.layout.grads), int64(r.layout.stats)))
		}
		r.optimizer.Step(s, grads, update)
		if ops.Defined(update.Norm) {
			r.norm = s.Item(update.Norm)
		}
		return s.Err()
	})
	r.touched = true
	if err != nil {
		r.whole = false // it may have changed in part
		return tally{}, fmt.Errorf("update the weights: %w", advise(err))
	}
	next := r.after(r.at)
	if next.Replay == 0 { // of several updates with a batch the last one counts its images
		r.epochs = book(r.epochs, r.at.Done/r.steps(), r.at.Done, t)
	}
	r.at, r.signs = next, signs
	r.moved = true
	r.forget()
	return t, nil
}

// images returns the batch's images [N 3 S S] on the device, in the precision and layout that the loader was asked for.
func images(s *ops.Scope, b *data.Batch) torch.Tensor {
	if b.X == nil {
		return s.Gather(b.Records, b.Index, b.Warps, b.Spec)
	}
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
