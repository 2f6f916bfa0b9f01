package ops

// #include "csrc/guided.h"
import "C"

import (
	"fmt"
	"runtime"

	torch "github.com/wangkuiyi/gotorch"
)

// GuidedReLU returns max(x, 0). Its gradient is that of guided backpropagation (Springenberg et al., 2014, section 3.4): where
// x > 0 the positive part of what comes back, else 0.
func (s *Scope) GuidedReLU(x torch.Tensor) torch.Tensor {
	if s.err != nil {
		return torch.Tensor{}
	}
	if !Defined(x) {
		s.Fail(fmt.Errorf("guided relu: %w", errUndefined))
		return torch.Tensor{}
	}
	message := s.message()
	var y C.mp_tensor
	status := C.mp_guided_relu(handle(x), &y, &message[0])
	runtime.KeepAlive(x)
	if status != C.MP_OK {
		s.Fail(check(status, "guided relu "+shapes([]torch.Tensor{x}), message))
		return torch.Tensor{}
	}
	return s.own(adopt(y))
}
