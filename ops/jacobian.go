package ops

// #include "csrc/attack.h"
import "C"

import (
	"fmt"
	"runtime"

	torch "github.com/wangkuiyi/gotorch"
)

// Jacobian returns Pullback of every dy for one input, from one graph, and frees it: each is the sum of dy * dy/dinput.
func (s *Scope) Jacobian(y, input torch.Tensor, dys []torch.Tensor) []torch.Tensor {
	out := make([]torch.Tensor, len(dys))
	if s.err != nil {
		return out
	}
	for i, t := range append([]torch.Tensor{y, input}, dys...) {
		if !Defined(t) {
			s.Fail(fmt.Errorf("jacobian: argument %d: %w", i, errUndefined))
			return out
		}
	}
	message := s.message()
	for i, dy := range dys {
		keep := i < len(dys)-1
		var t C.mp_tensor
		status := C.mp_pullback_keep(handle(y), handle(dy), handle(input), C.int(truth(keep)), &t, &message[0])
		if status != C.MP_OK {
			s.Fail(check(status, "jacobian", message))
			return out
		}
		out[i] = s.own(adopt(t))
	}
	runtime.KeepAlive([]torch.Tensor{y, input})
	runtime.KeepAlive(dys)
	return out
}
