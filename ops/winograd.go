package ops

// #include "csrc/ops.h"
import "C"

import (
	"runtime"

	torch "github.com/wangkuiyi/gotorch"
)

// fastestTile leaves the choice of winogradConv2d's tile to the shapes.
const fastestTile = 0

// winogradConv2d is Conv2d by Winograd's algorithm with tiles of 2 x 2 or 4 x 4 pixels; see csrc/winograd.h. ok is false where
// it leaves the work to the library: where it does not cover what is asked, or the fastest tile takes longer.
func (s *Scope) winogradConv2d(x, w, b torch.Tensor, g ConvGeometry, tile int) (y torch.Tensor, ok bool) {
	if s.err != nil || !s.device.IsCPU() || !Defined(x) || !Defined(w) || x.Dtype() == Float64 || g.Stride > 1 || g.Padding != 1 || g.Groups > 1 {
		return torch.Tensor{}, false
	}
	if w = s.To(w, Float32); Defined(b) {
		b = s.To(b, Float32)
	}
	message := s.message()
	var made C.mp_tensor
	status := C.mp_winograd_conv2d(handle(x), handle(w), handle(b), C.int64_t(tile), &made, &message[0])
	runtime.KeepAlive([]torch.Tensor{x, w, b})
	if status != C.MP_OK {
		s.Fail(check(status, "winograd_conv2d "+shapes([]torch.Tensor{x, w}), message))
		return torch.Tensor{}, true
	}
	if made == nil {
		return torch.Tensor{}, false
	}
	return s.own(adopt(made)), true
}
