// Package ops is the safe boundary to libtorch: tensors in, tensors out, an error instead of an abort, and memory that is
// freed when its scope ends.
//
// It owns everything that gotorch lacks or gets wrong and (with ops/pixel) is the only package that imports "C". Tensors
// are gotorch's torch.Tensor; operations that gotorch has are called through it, all others through libtorch's dispatcher
// by their ATen name. It must never import a model, data or a worker.
//
// Start reading at Scope (scope.go), then Device (device.go), then nn.go for the layers.
package ops

// #cgo LDFLAGS: -lmpops
// #include <stdlib.h>
// #include "csrc/ops.h"
import "C"

import (
	"errors"
	"fmt"
	"runtime"
	"unsafe"

	torch "github.com/wangkuiyi/gotorch"
)

// DType names an element type; the values are libtorch's (and gotorch's).
type DType = int8

// The element types that mp uses.
const (
	Uint8    DType = torch.Byte
	Int32    DType = torch.Int
	Int64    DType = torch.Long
	Float32  DType = torch.Float
	Float64  DType = torch.Double
	Bool     DType = torch.Bool
	BFloat16 DType = torch.BFloat16
)

// SizeOf returns the bytes of one element, 0 for a type that mp does not use.
func SizeOf(d DType) int {
	switch d {
	case Uint8, Bool:
		return 1
	case BFloat16:
		return 2
	case Int32, Float32:
		return 4
	case Int64, Float64:
		return 8
	}
	return 0
}

// check turns a status and its message into an error; what names the operation.
func check(status C.int, what string, message *[C.MP_ERR]C.char) error {
	if status == C.MP_OK {
		return nil
	}
	return fmt.Errorf("%s: %w", what, diagnose(C.GoString(&message[0])))
}

// handle is the C handle of a tensor, nil for the zero Tensor.
func handle(t torch.Tensor) C.mp_tensor {
	if t.T == nil {
		return nil
	}
	return C.mp_tensor(*t.T)
}

// adopt makes a Tensor of a new C handle. Unlike gotorch's own, it has no finalizer: a Scope or its owner frees it.
func adopt(h C.mp_tensor) torch.Tensor {
	if h == nil {
		return torch.Tensor{}
	}
	p := unsafe.Pointer(h)
	return torch.Tensor{T: &p}
}

// Free releases a tensor that no scope owns. The zero Tensor is allowed; a tensor must be freed once.
func Free(t torch.Tensor) {
	if t.T != nil && *t.T != nil {
		C.mp_tensor_free(C.mp_tensor(*t.T))
		*t.T = nil
	}
}

// Defined reports whether t is a tensor rather than the zero value.
func Defined(t torch.Tensor) bool { return t.T != nil && *t.T != nil }

// Numel returns the number of elements of a shape.
func Numel(shape []int64) int64 {
	n := int64(1)
	for _, d := range shape {
		n *= d
	}
	return n
}

// Info describes a tensor.
type Info struct {
	Shape        []int64
	DType        DType
	GPU          int // index of the GPU that holds it, -1 on the CPU
	ChannelsLast bool
	RequiresGrad bool
}

// Describe returns what is known of t without reading its elements.
func Describe(t torch.Tensor) (Info, error) {
	if !Defined(t) {
		return Info{}, errors.New("describe: undefined tensor")
	}
	var message [C.MP_ERR]C.char
	var dtype, device, last, grad C.int
	status := C.mp_describe(handle(t), &dtype, &device, &last, &grad, &message[0])
	info := Info{DType: DType(dtype), GPU: int(device), ChannelsLast: last != 0, RequiresGrad: grad != 0}
	if err := check(status, "describe", &message); err != nil {
		return info, err
	}
	info.Shape = t.Shape()
	runtime.KeepAlive(t)
	return info, nil
}

// Read copies the elements of t, C-contiguous and in its own dtype, into bytes, whose length must be exact.
func Read(t torch.Tensor, bytes []byte) error {
	if !Defined(t) {
		return errors.New("read: undefined tensor")
	}
	var message [C.MP_ERR]C.char
	status := C.mp_read(handle(t), unsafe.Pointer(unsafe.SliceData(bytes)), C.int64_t(len(bytes)), &message[0])
	runtime.KeepAlive(t)
	return check(status, "read", &message)
}

// Bytes returns the memory of a dense CPU tensor, in the order in which it lies there. The slice is valid only while t lives.
func Bytes(t torch.Tensor) ([]byte, error) {
	if !Defined(t) {
		return nil, errors.New("bytes: undefined tensor")
	}
	info, err := Describe(t)
	if err != nil {
		return nil, err
	}
	if info.GPU >= 0 {
		return nil, fmt.Errorf("bytes: tensor is on GPU %d; copy it to the CPU first", info.GPU)
	}
	var message [C.MP_ERR]C.char
	var data unsafe.Pointer
	var size C.int64_t
	if err := check(C.mp_data(handle(t), &data, &size, &message[0]), "bytes", &message); err != nil {
		return nil, err
	}
	return unsafe.Slice((*byte)(data), int(size)), nil
}
