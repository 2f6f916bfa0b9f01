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

// vector is a float32 buffer in the replica's layout, in host memory, where groups sum it.
type vector struct {
	host  []float32
	whole torch.Tensor // on a CPU: the same memory as a tensor
	final bool         // computed
	signs []int32      // of the shard's perturbation after the update, in free adversarial training
}

// vector returns a spare vector or a new one; what it holds is left over.
func (r *replica) vector(ctx context.Context) (*vector, error) {
	if n := len(r.spare); n > 0 {
		v := r.spare[n-1]
		r.spare = r.spare[:n-1]
		v.final = false
		return v, nil
	}
	if !r.device.IsCPU() {
		return &vector{host: make([]float32, r.layout.length)}, nil
	}
	v := &vector{}
	err := r.device.Do(ctx, func(s *ops.Scope) error {
		whole := s.Zeros(ops.Float32, int64(r.layout.length))
		if err := s.Err(); err != nil {
			return err
		}
		bytes, err := ops.Bytes(whole)
		if err != nil {
			return err
		}
		v.host = unsafe.Slice((*float32)(unsafe.Pointer(&bytes[0])), r.layout.length)
		v.whole = s.Release(whole)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("allocate a vector of %d elements: %w", r.layout.length, advise(err))
	}
	return v, nil
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

// tensor is where a shard's vector is made: v itself on a CPU, else the device's one buffer.
func (r *replica) tensor(v *vector) torch.Tensor {
	if r.device.IsCPU() {
		return v.whole
	}
	return r.scratch
}

// toHost brings what tensor holds to v, but for the tally, which is there.
func (r *replica) toHost(v *vector) error {
	if r.device.IsCPU() {
		return nil
	}
	return r.device.Do(context.Background(), func(s *ops.Scope) error {
		made := s.Narrow(r.scratch, 0, 0, int64(r.layout.tally))
		if err := s.Err(); err != nil {
			return err
		}
		return ops.Read(made, bytesOf(v.host[:r.layout.tally]))
	})
}

// toDevice returns a sum as a tensor on the device.
func (r *replica) toDevice(s *ops.Scope, sum []float32) torch.Tensor {
	if !r.device.IsCPU() {
		s.CopyInto(r.scratch, ops.From(s, sum, int64(len(sum))))
		return r.scratch
	}
	if &sum[0] != &r.sum.host[0] {
		copy(r.sum.host, sum)
	}
	return r.sum.whole
}

func bytesOf(f []float32) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(f))), 4*len(f))
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
