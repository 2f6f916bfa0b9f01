package ops

// #include "csrc/ops.h"
import "C"

import (
	"errors"
	"fmt"
	"runtime"

	torch "github.com/wangkuiyi/gotorch"
)

// errGroups is what a grouped convolution gets from our own.
var errGroups = errors.New("our own convolution has no groups: use the library's")

// ownConv names an implementation of our own convolution; see csrc/ownconv.h.
type ownConv int

const (
	ownConvAuto     ownConv = C.MP_CONV_AUTO
	ownConvComposed ownConv = C.MP_CONV_COMPOSED
	ownConvWide     ownConv = C.MP_CONV_WIDE
	ownConvNarrow   ownConv = C.MP_CONV_NARROW
	ownConvImages   ownConv = C.MP_CONV_IMAGES
)

// OwnConv2d is Conv2d from patch extraction and matrix products, without a convolution of any library: the same shapes,
// dtypes and layouts, forward and for the gradients of x, w and b; groups are an error. It keeps x and w for the
// backward pass and nothing else: patches live in chunks, and a pointwise convolution (1x1, stride 1, no padding) has none.
// Sums depend on the device's thread count, as the library's do.
func (s *Scope) OwnConv2d(x, w, b torch.Tensor, g ConvGeometry) torch.Tensor {
	return s.ownConv2d(x, w, b, g, ownConvAuto)
}

func (s *Scope) ownConv2d(x, w, b torch.Tensor, g ConvGeometry, how ownConv) torch.Tensor {
	const name = "own_conv2d"
	if s.err != nil {
		return torch.Tensor{}
	}
	for i, t := range []torch.Tensor{x, w} {
		if !Defined(t) {
			s.Fail(fmt.Errorf("%s: argument %d: %w", name, i, errUndefined))
			return torch.Tensor{}
		}
	}
	what := name + " " + shapes([]torch.Tensor{x, w})
	if g.Groups > 1 {
		s.Fail(fmt.Errorf("%s: groups %d: %w", what, g.Groups, errGroups))
		return torch.Tensor{}
	}
	c := s.Child()
	defer c.Close()
	w, b = c.like(w, x), c.like(b, x)
	if c.err != nil {
		return torch.Tensor{}
	}
	message := c.message()
	var y C.mp_tensor
	status := C.mp_own_conv2d(handle(x), handle(w), handle(b), C.int64_t(max(g.Stride, 1)), C.int64_t(g.Padding), C.int(how), &y, &message[0])
	runtime.KeepAlive([]torch.Tensor{x, w, b})
	if status != C.MP_OK {
		c.Fail(check(status, what, message))
		return torch.Tensor{}
	}
	return s.own(adopt(y))
}
