package worker

import (
	"context"
	"fmt"
	"unsafe"

	torch "github.com/wangkuiyi/gotorch"

	"mp/allreduce"
	"mp/model"
	"mp/ops"
)

// layout says where the parts of a shard's vector lie, in elements: gradients as the model's parameters, running statistics
// as its buffers, and a tally that shares its block with nothing else.
type layout struct{ grads, stats, tally, length int }

func newLayout(m *model.Model) layout {
	l := layout{grads: int(m.Params.Len()), stats: int(m.Buffers.Len())}
	l.tally = (l.grads + l.stats + allreduce.Block - 1) / allreduce.Block * allreduce.Block
	l.length = l.tally + tallyLimbs
	return l
}

// vector is a float32 buffer in the replica's layout, on the device. Groups sum it where it is.
type vector struct {
	whole torch.Tensor
	host  []float32 // the same memory; of vectors that are the device's alone only the sum has this, and then it is another
	final bool      // computed
	signs []int32   // of the shard's perturbation after the update, in free adversarial training
}

// vector returns a spare vector or a new one; what it holds is left over.
func (r *replica) vector(ctx context.Context) (*vector, error) {
	if n := len(r.spare); n > 0 {
		v := r.spare[n-1]
		r.spare = r.spare[:n-1]
		v.final = false
		return v, nil
	}
	v := &vector{}
	err := r.device.Do(ctx, func(s *ops.Scope) error {
		whole := s.Zeros(ops.Float32, int64(r.layout.length))
		if err := s.Err(); err != nil {
			return err
		}
		if !r.onDevice {
			bytes, err := ops.Bytes(whole)
			if err != nil {
				return err
			}
			v.host = floatsOf(bytes)
		}
		v.whole = s.Release(whole)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("allocate a vector of %d elements: %w", r.layout.length, advise(err))
	}
	return v, nil
}

// newSum makes the vector that sums come to, in host memory.
func (r *replica) newSum(ctx context.Context) (err error) {
	if r.sum, err = r.vector(ctx); err == nil && r.onDevice {
		r.sum.host = make([]float32, r.layout.length)
	}
	return err
}

// slot is the vector of one shard of the next update.
func (r *replica) slot(ctx context.Context, shard int) (*vector, error) {
	if v, ok := r.shards[shard]; ok {
		return v, nil
	}
	v, err := r.vector(ctx)
	if err == nil {
		r.shards[shard] = v
	}
	return v, err
}

// computed says whether a shard of the next update has its vector.
func (r *replica) computed(shard int) bool {
	v, ok := r.shards[shard]
	return ok && v.final
}

// forget gives up the shards of an update.
func (r *replica) forget() {
	for _, v := range r.shards {
		r.spare = append(r.spare, v)
	}
	clear(r.shards)
}

// shrink gives back the spare vectors beyond n.
func (r *replica) shrink(n int) error {
	if len(r.spare) <= n {
		return nil
	}
	return r.device.Do(context.Background(), func(*ops.Scope) error {
		for _, v := range r.spare[n:] {
			ops.Free(v.whole)
		}
		clear(r.spare[n:])
		r.spare = r.spare[:n]
		return nil
	})
}

// writeTally writes a shard's tally into its vector.
func (r *replica) writeTally(s *ops.Scope, v *vector, t tally) {
	if !r.onDevice {
		writeLimbs(t, v.host[r.layout.tally:])
		return
	}
	limbs := make([]float32, tallyLimbs)
	writeLimbs(t, limbs)
	s.CopyInto(s.Narrow(v.whole, 0, int64(r.layout.tally), tallyLimbs), ops.From(s, limbs, tallyLimbs))
}

// toDevice returns a sum as a tensor on the device.
func (r *replica) toDevice(s *ops.Scope, sum []float32) torch.Tensor {
	if r.onDevice {
		s.CopyInto(r.sum.whole, ops.From(s, sum, int64(len(sum))))
	} else if &sum[0] != &r.sum.host[0] {
		copy(r.sum.host, sum)
	}
	return r.sum.whole
}

// vectors is the allreduce.Source of vectors that are the device's alone.
type vectors struct {
	device  *ops.Device
	tensors []torch.Tensor
	working func(by int) // hears of work of the sum that begins, 1, or ends, -1
}

func (v *vectors) do(f func(s *ops.Scope)) error {
	v.working(1)
	defer v.working(-1)
	return v.device.Do(context.Background(), func(s *ops.Scope) error { f(s); return s.Err() })
}

func (v *vectors) Exponents(exponents []byte, lo, hi int) error {
	return v.do(func(s *ops.Scope) { s.FixedVectorsExponents(exponents, v.tensors, lo, hi) })
}

func (v *vectors) Quantize(q []int32, exponents []byte, lo, bits int) error {
	return v.do(func(s *ops.Scope) { s.FixedVectorsQuantize(q, exponents, v.tensors, lo, bits) })
}

func (v *vectors) Vector(i int) (values []float32, err error) {
	err = v.do(func(s *ops.Scope) { values = ops.Values[float32](s, v.tensors[i]) })
	return values, err
}

func floatsOf(b []byte) []float32 {
	return unsafe.Slice((*float32)(unsafe.Pointer(unsafe.SliceData(b))), len(b)/4)
}

// ready tells a sum what is final of the vector of a shard that is being computed.
type ready struct {
	layout   layout
	forward  chan struct{} // closed when statistics and tally are there
	progress *ops.Progress // of the gradients
}

func newReady(l layout) *ready {
	return &ready{layout: l, forward: make(chan struct{}), progress: ops.NewProgress()}
}

// begin says that the forward pass is over and returns what the backward pass tells; nil for nobody.
func (r *ready) begin() *ops.Progress {
	if r == nil {
		return nil
	}
	close(r.forward)
	return r.progress
}

// wait blocks until the elements from lo on are final.
func (r *ready) wait(ctx context.Context, lo int) error {
	if lo < r.layout.grads {
		return r.progress.Wait(ctx, int64(lo))
	}
	select {
	case <-r.forward:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
