package ops

// #include "csrc/ops.h"
import "C"

import (
	"fmt"
	"runtime"

	torch "github.com/wangkuiyi/gotorch"
)

// Pullback returns the sum of dy * d y / d inputs[i] for dy of y's shape, in the inputs' order, and frees the graph: what
// Grad gives for the loss sum(y * dy), without computing that loss.
func (s *Scope) Pullback(y, dy torch.Tensor, inputs ...torch.Tensor) []torch.Tensor {
	out := make([]torch.Tensor, len(inputs))
	if s.err != nil || len(inputs) == 0 {
		return out
	}
	handles := make([]C.mp_tensor, len(inputs))
	for i, t := range inputs {
		handles[i] = handle(t)
	}
	for i, t := range append([]torch.Tensor{y, dy}, inputs...) {
		if !Defined(t) {
			s.Fail(fmt.Errorf("pullback: argument %d: %w", i, errUndefined))
			return out
		}
	}
	results := make([]C.mp_tensor, len(inputs))
	message := s.message()
	status := C.mp_pullback(handle(y), handle(dy), &handles[0], C.int(len(handles)), &results[0], &message[0])
	runtime.KeepAlive([]torch.Tensor{y, dy})
	runtime.KeepAlive(inputs)
	if status != C.MP_OK {
		s.Fail(check(status, "pullback", message))
		return out
	}
	for i, r := range results {
		out[i] = s.own(adopt(r))
	}
	return out
}
