package ops

// #include "csrc/ops.h"
import "C"

import (
	"runtime"

	torch "github.com/wangkuiyi/gotorch"
)

// Leaf returns a tensor that shares x's memory and asks for a gradient: the start of a graph.
func (s *Scope) Leaf(x torch.Tensor) torch.Tensor {
	if s.err != nil {
		return torch.Tensor{}
	}
	if !Defined(x) {
		s.Fail(errUndefined)
		return torch.Tensor{}
	}
	message := s.message()
	var t C.mp_tensor
	if status := C.mp_leaf(handle(x), &t, &message[0]); status != C.MP_OK {
		s.Fail(check(status, "leaf", message))
		return torch.Tensor{}
	}
	runtime.KeepAlive(x)
	return s.own(adopt(t))
}

// Grad returns d loss / d inputs[i] for a scalar loss, in the inputs' order, and frees the graph. It computes what these
// inputs need and nothing else: the gradient of an image costs no weight gradient. Every input must be a leaf of the graph.
func (s *Scope) Grad(loss torch.Tensor, inputs ...torch.Tensor) []torch.Tensor {
	out := make([]torch.Tensor, len(inputs))
	if s.err != nil || len(inputs) == 0 {
		return out
	}
	handles := make([]C.mp_tensor, len(inputs))
	for i, t := range inputs {
		handles[i] = handle(t)
		if handles[i] == nil {
			s.Fail(errUndefined)
			return out
		}
	}
	if !Defined(loss) {
		s.Fail(errUndefined)
		return out
	}
	results := make([]C.mp_tensor, len(inputs))
	message := s.message()
	status := C.mp_grad(handle(loss), &handles[0], C.int(len(handles)), 0, &results[0], &message[0])
	runtime.KeepAlive(inputs)
	runtime.KeepAlive(loss)
	if status != C.MP_OK {
		s.Fail(check(status, "gradient", message))
		return out
	}
	for i, r := range results {
		out[i] = s.own(adopt(r))
	}
	return out
}
