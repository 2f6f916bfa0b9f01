package worker

import (
	"context"
	"encoding/binary"
	"fmt"

	torch "github.com/wangkuiyi/gotorch"

	"mp/attack"
	"mp/attack/training"
	"mp/checkpoint"
	"mp/data"
	"mp/job"
	"mp/ops"
	"mp/ops/pixel"
)

// Free adversarial training (Shafahi et al., 2019) makes several updates with a batch, and each one's gradient moves the
// images' perturbation too. Between them the perturbation is state: a sign a value, two bits, of all shards of the batch. A
// replay's signs travel in a sum of their own, in which each shard fills its own words.

// updates is the number of updates done at p, where Done counts batches.
func (r *replica) updates(p position) int { return p.Done*r.spec.Replays() + p.Replay }

// after is the position one update after p.
func (r *replica) after(p position) position {
	if p.Replay++; p.Replay >= r.spec.Replays() {
		p.Done, p.Replay = p.Done+1, 0
	}
	return p
}

// signSpan is where a shard's signs lie among those of the batch at p: words first.. of total.
func (r *replica) signSpan(p position, shard int) (first, end, total int) {
	side := r.sizes.At(p.Done / r.steps())
	for i := range r.spec.Shards {
		n := training.Words(r.sampler.Size(p.Done%r.steps(), i, r.spec.Shards) * 3 * side * side)
		if i < shard {
			first += n
		}
		if i == shard {
			end = first + n
		}
		total += n
	}
	return first, end, total
}

// sumSigns brings the signs of all shards together after an update at a position. nil: the batch has had its last update.
func (v *visit) sumSigns(ctx context.Context, at position) ([]int32, error) {
	r := v.replica
	if r.after(at).Replay == 0 {
		return nil, nil
	}
	_, _, total := r.signSpan(at, 0)
	words := make([]int32, total)
	if v.copying == nil {
		for _, shard := range v.mine() {
			if r.computed(shard) && r.size(shard) > 0 {
				first, end, _ := r.signSpan(at, shard)
				copy(words[first:end], r.shards[shard].signs)
			}
		}
	}
	err := v.exposed(func() error { return v.group.Sum(ctx, words) })
	return words, err
}

// replayed returns normalised images [N 3 S S] moved by the perturbation, as a leaf.
func (a *adversary) replayed(s *ops.Scope, b *data.Batch, x torch.Tensor) (lesson, torch.Tensor) {
	r, net := a.r, attack.Net{Mean: pixel.Mean(), Std: pixel.Std()}
	n, side := int64(len(b.IDs)), int64(b.Size)
	values := make([]float32, n*3*side*side)
	l := lesson{}
	l.clean, _ = a.cleanRows(b)
	if r.at.Replay > 0 {
		first, end, _ := r.signSpan(r.at, b.Shard)
		training.UnpackSigns(values, r.signs[first:end])
	} else {
		// The authors begin with the last batch's perturbation, which to this batch is noise; ours is each sample's own.
		keys := attack.Keys(r.spec.Seed^keyAttack, uint64(r.at.Done), b.IDs)
		for i, u := range ops.Values[float32](s, s.Uniform(s.Zeros(ops.Float32, n, 3, side, side), keys)) {
			switch {
			case u > 1./3:
				values[i] = 1
			case u < -1./3:
				values[i] = -1
			}
		}
		blank(values, l.clean, int(3*side*side))
	}
	l.signs = ops.From(s, values, n, 3, side, side)
	if b.ChannelsLast() {
		l.signs = s.ChannelsLast(l.signs)
	}
	moved := x
	if eps := a.eps(); eps > 0 {
		moved = net.Normalise(s, s.Clamp(s.Add(net.Pixels(s, x), s.Scale(l.signs, eps)), 0, 1))
	}
	l.images = s.Leaf(moved)
	return l, l.images
}

// blank sets the signs of images rows to 0.
func blank(values []float32, rows []int, size int) {
	for _, i := range rows {
		clear(values[i*size : (i+1)*size])
	}
}

// moved returns the signs of a shard's perturbation after its update, packed; nil without one. grad [N 3 S S] is the loss's
// with respect to the normalised images: its signs are those of the pixels'.
func (a *adversary) moved(s *ops.Scope, l lesson, grad torch.Tensor) []int32 {
	if !ops.Defined(l.images) || a.r.after(a.r.at).Replay == 0 {
		return nil
	}
	values := ops.Values[float32](s, s.Add(l.signs, s.Sign(grad))) // -2 to 2: the sign is the clipped sum
	if s.Err() != nil {
		return nil
	}
	blank(values, l.clean, len(values)/int(l.images.Shape()[0]))
	words := make([]int32, training.Words(len(values)))
	training.PackSigns(words, values)
	return words
}

// Names of what a checkpoint holds of adversarial training.
const (
	replayName = "adversarial.replay" // updates done with the batch under way
	signsName  = "adversarial.signs"  // of its perturbation: see package training
	bestPrefix = "best."              // the best weights, where the job may go back to them
)

// adversarialTensors are what adversarial training adds to a state.
func (r *replica) adversarialTensors() []checkpoint.Tensor {
	var out []checkpoint.Tensor
	if r.at.Replay > 0 {
		bytes := make([]byte, 0, 4*len(r.signs))
		for _, w := range r.signs {
			bytes = binary.LittleEndian.AppendUint32(bytes, uint32(w))
		}
		out = append(out,
			checkpoint.Tensor{Name: replayName, DType: checkpoint.I64, Data: binary.LittleEndian.AppendUint64(nil, uint64(r.at.Replay))},
			checkpoint.Tensor{Name: signsName, DType: checkpoint.I32, Shape: []int64{int64(len(r.signs))}, Data: bytes})
	}
	if r.spec.AdvWatch == job.WatchRollback {
		for _, t := range r.best.weights {
			t.Name = bestPrefix + t.Name
			out = append(out, t)
		}
	}
	return out
}

// resumeReplay goes on in the middle of a batch where the state says so. r.at is set but for the replay.
func (r *replica) resumeReplay(state *checkpoint.State) error {
	replay, ok := checkpoint.Find(state.Optimizer, replayName)
	if !ok || r.spec.Replays() == 1 {
		return nil // a state between two batches, or a job that trains otherwise from here on
	}
	signs, ok := checkpoint.Find(state.Optimizer, signsName)
	at := r.at
	if ok && len(replay.Data) == 8 {
		at.Replay = int(binary.LittleEndian.Uint64(replay.Data))
	}
	if _, _, total := r.signSpan(at, 0); !ok || at.Replay < 1 || at.Replay >= r.spec.Replays() || len(signs.Data) != 4*total {
		return fmt.Errorf("it stands in the middle of a batch of free adversarial training that this job does not have; give the --batch-size, --shards, --image-size and --adv-steps that it was trained with: %w", job.ErrConfig)
	}
	r.at = at
	r.signs = wordsOf(signs.Data)
	return nil
}

func wordsOf(bytes []byte) []int32 {
	words := make([]int32, len(bytes)/4)
	for i := range words {
		words[i] = int32(binary.LittleEndian.Uint32(bytes[4*i:]))
	}
	return words
}
