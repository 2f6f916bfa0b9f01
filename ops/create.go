package ops

// #include "csrc/ops.h"
import "C"

import (
	"fmt"
	"runtime"
	"unsafe"

	torch "github.com/wangkuiyi/gotorch"
)

// Zeros returns a tensor of zeros on the scope's device.
func (s *Scope) Zeros(d DType, shape ...int64) torch.Tensor {
	return s.call("zeros", shape, d, nil, s.device)
}

// element is a Go type that lies in memory as a tensor's elements do.
type element interface {
	uint8 | int32 | int64 | float32 | float64
}

// From copies values into a new tensor of the given shape on the scope's device.
func From[T element](s *Scope, values []T, shape ...int64) torch.Tensor {
	if s.err != nil {
		return torch.Tensor{}
	}
	if int64(len(values)) != Numel(shape) {
		s.Fail(fmt.Errorf("from: %d values for shape %v", len(values), shape))
		return torch.Tensor{}
	}
	d := dtypeOf[T]()
	if len(values) == 0 || len(shape) == 0 {
		if len(values) == 0 {
			return s.Zeros(d, shape...)
		}
		return s.Reshape(From(s, values, 1))
	}
	t := s.viaGotorch("from", nil, func() torch.Tensor { return torch.FromBlob(unsafe.Pointer(&values[0]), d, shape) })
	runtime.KeepAlive(values)
	if s.device.IsCPU() {
		return t
	}
	return s.ToDevice(t)
}

func dtypeOf[T element]() DType {
	switch any(*new(T)).(type) {
	case uint8:
		return Uint8
	case int32:
		return Int32
	case int64:
		return Int64
	case float64:
		return Float64
	}
	return Float32
}

// Wrap returns a CPU tensor over memory that the caller keeps alive and unmoved (C memory, or a pinned slice) for as long
// as the tensor lives. An image batch [N C H W] may lie N H W C in memory: channelsLast.
func (s *Scope) Wrap(memory []byte, d DType, channelsLast bool, shape ...int64) torch.Tensor {
	if s.err != nil {
		return torch.Tensor{}
	}
	if want := Numel(shape) * int64(SizeOf(d)); want != int64(len(memory)) || want == 0 || len(shape) == 0 {
		s.Fail(fmt.Errorf("wrap: %d bytes for shape %v of dtype %d, want %d", len(memory), shape, d, want))
		return torch.Tensor{}
	}
	var strides *C.int64_t
	if channelsLast && len(shape) == 4 {
		c, h, w := shape[1], shape[2], shape[3]
		nhwc := [4]int64{h * w * c, 1, w * c, c}
		strides = (*C.int64_t)(&nhwc[0])
	}
	message := s.message()
	var t C.mp_tensor
	status := C.mp_wrap(unsafe.Pointer(&memory[0]), C.int(d), (*C.int64_t)(&shape[0]), strides, C.int(len(shape)), &t, &message[0])
	if status != C.MP_OK {
		s.Fail(check(status, "wrap", message))
		return torch.Tensor{}
	}
	return s.own(adopt(t))
}

// Values reads the elements of t in C order, converted to T's dtype.
func Values[T element](s *Scope, t torch.Tensor) []T {
	if s.err != nil {
		return nil
	}
	if !Defined(t) {
		s.Fail(fmt.Errorf("values: %w", errUndefined))
		return nil
	}
	var out []T
	s.NoGrad(func() {
		c := s.Child()
		defer c.Close()
		t = c.To(t, dtypeOf[T]())
		if c.err != nil {
			return
		}
		out = make([]T, Numel(t.Shape()))
		if len(out) == 0 {
			return
		}
		bytes := unsafe.Slice((*byte)(unsafe.Pointer(&out[0])), len(out)*int(unsafe.Sizeof(out[0])))
		if err := Read(t, bytes); err != nil {
			c.Fail(err)
		}
	})
	return out
}

// Item reads the only element of t.
func (s *Scope) Item(t torch.Tensor) float64 {
	v := Values[float64](s, t)
	if s.err != nil {
		return 0
	}
	if len(v) != 1 {
		s.Fail(fmt.Errorf("item: tensor %v has %d elements", t.Shape(), len(v)))
		return 0
	}
	return v[0]
}
