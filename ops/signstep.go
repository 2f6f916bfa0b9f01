package ops

// #include "csrc/attack.h"
import "C"

import (
	"fmt"
	"runtime"

	torch "github.com/wangkuiyi/gotorch"
)

// SignBall is the box that SignStep stays in: Eps around the start, and between Lo and Hi.
type SignBall struct {
	Eps, Lo, Hi float64
}

// SignStep returns x + alpha sign(grad), moved back to within b.Eps of start and then to [b.Lo, b.Hi]: one step of an
// l-infinity attack in one pass over memory. All have x's shape.
func (s *Scope) SignStep(x, grad, start torch.Tensor, alpha float64, b SignBall) torch.Tensor {
	if s.err != nil {
		return torch.Tensor{}
	}
	for i, t := range []torch.Tensor{x, grad, start} {
		if !Defined(t) {
			s.Fail(fmt.Errorf("sign step: argument %d: %w", i, errUndefined))
			return torch.Tensor{}
		}
	}
	message := s.message()
	var t C.mp_tensor
	status := C.mp_sign_step(handle(x), handle(grad), handle(start), C.double(alpha), C.double(b.Eps), C.double(b.Lo), C.double(b.Hi), &t, &message[0])
	runtime.KeepAlive([]torch.Tensor{x, grad, start})
	if status != C.MP_OK {
		s.Fail(check(status, "sign step", message))
		return torch.Tensor{}
	}
	return s.own(adopt(t))
}
