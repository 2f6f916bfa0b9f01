package attack

import (
	torch "github.com/wangkuiyi/gotorch"

	"mp/ops"
)

// slot holds a tensor that changes from step to step: it outlives the scope that made it, until set again or freed.
type slot struct{ t torch.Tensor }

// set takes t from s, or shares it where s does not own it, in the place of what was held. What s owned must not be used by
// its old name after the next set.
func (h *slot) set(s *ops.Scope, t torch.Tensor) {
	var next torch.Tensor
	if s.Err() == nil {
		next = s.Release(t)
	}
	ops.Free(h.t)
	h.t = next
}

// narrow keeps the rows alone.
func (h *slot) narrow(s *ops.Scope, rows []int) {
	if ops.Defined(h.t) {
		h.set(s, pick(s, h.t, rows))
	}
}

func (h *slot) free() {
	ops.Free(h.t)
	h.t = torch.Tensor{}
}

// outcome collects images as they are settled, in the order of a round.
type outcome struct{ slot }

// put settles the samples at of the round r. Those never settled are r's clean images.
func (o *outcome) put(s *ops.Scope, r *round, at []int, x torch.Tensor) {
	if len(at) == 0 || s.Err() != nil {
		return
	}
	if len(at) == len(r.labels) && !ops.Defined(o.t) {
		o.set(s, x) // at is in order
		return
	}
	if !ops.Defined(o.t) {
		o.set(s, copyOf(s, r.x))
	}
	s.PutRows(o.t, index(s, at), x)
}

// give hands the images to s.
func (o *outcome) give(s *ops.Scope, r *round) torch.Tensor {
	if s.Err() != nil {
		return torch.Tensor{}
	}
	if !ops.Defined(o.t) {
		return copyOf(s, r.x)
	}
	t := o.t
	o.t = torch.Tensor{}
	return s.Adopt(t)
}
