package ops

// #include <stdlib.h>
// #include "csrc/ops.h"
import "C"

import (
	"errors"
	"fmt"
	"runtime"
	"strings"
	"unsafe"

	torch "github.com/wangkuiyi/gotorch"
)

// Scope owns the tensors that its operations make and frees them when it ends, without waiting for Go's collector.
//
// A Scope remembers the first error of its operations, as bufio.Writer does: an operation on a failed scope returns the
// zero Tensor and does nothing, so that a model reads as a formula, and whoever opened the scope asks Err once. The error
// names the operation, the shapes and what libtorch said.
//
// A Scope belongs to one goroutine, the one its Device lent it to.
type Scope struct {
	device *Device
	parent *Scope
	owned  []torch.Tensor
	err    error
}

// Device returns the device that this scope's tensors live on.
func (s *Scope) Device() *Device { return s.device }

// Err returns the first error of the scope, of its children that ended included.
func (s *Scope) Err() error { return s.err }

// Fail records err as the scope's error if it is the first.
func (s *Scope) Fail(err error) {
	if s.err == nil {
		s.err = err
	}
}

// Child opens a scope within s. Close it before s.
func (s *Scope) Child() *Scope { return &Scope{device: s.device, parent: s, err: s.err} }

// Close frees every tensor that the scope owns and hands its error to the parent. A second Close does nothing.
func (s *Scope) Close() {
	for _, t := range s.owned {
		Free(t)
	}
	s.owned = nil
	if s.parent != nil && s.err != nil {
		s.parent.Fail(s.err)
	}
}

// Run computes f in a child scope and keeps its result alone: the intermediates are freed before Run returns.
func (s *Scope) Run(f func(c *Scope) torch.Tensor) torch.Tensor {
	c := s.Child()
	defer c.Close()
	out := f(c)
	if c.err != nil {
		return torch.Tensor{}
	}
	return s.own(c.Release(out))
}

// Release takes t out of the scope: it lives until its new owner frees it. A tensor that the scope does not own (an
// input, a parameter) is shared: the result is a second handle on it.
func (s *Scope) Release(t torch.Tensor) torch.Tensor {
	if !Defined(t) {
		return torch.Tensor{}
	}
	for i := len(s.owned) - 1; i >= 0; i-- {
		if s.owned[i].T == t.T {
			s.owned[i] = s.owned[len(s.owned)-1]
			s.owned = s.owned[:len(s.owned)-1]
			return t
		}
	}
	return adopt(C.mp_tensor_share(handle(t)))
}

// Tidy frees everything that the scope owns but keep.
func (s *Scope) Tidy(keep ...torch.Tensor) {
	rest := s.owned[:0]
next:
	for _, t := range s.owned {
		for _, k := range keep {
			if k.T == t.T {
				rest = append(rest, t)
				continue next
			}
		}
		Free(t)
	}
	clear(s.owned[len(rest):])
	s.owned = rest
}

// NoGrad runs f without recording a graph.
func (s *Scope) NoGrad(f func()) {
	before := C.mp_set_grad_enabled(0)
	defer C.mp_set_grad_enabled(before)
	f()
}

// message is the buffer for what C says of an error; one a device, since a device does one thing at a time.
func (s *Scope) message() *[C.MP_ERR]C.char { return &s.device.message }

func (s *Scope) own(t torch.Tensor) torch.Tensor {
	if Defined(t) {
		s.owned = append(s.owned, t)
	}
	return t
}

// viaGotorch runs an operation that gotorch has. gotorch panics where libtorch throws, and hangs finalizers on results.
func (s *Scope) viaGotorch(op string, inputs []torch.Tensor, f func() torch.Tensor) (out torch.Tensor) {
	if s.err != nil {
		return torch.Tensor{}
	}
	for i, t := range inputs { // gotorch would dereference null in C++
		if !Defined(t) {
			s.Fail(fmt.Errorf("%s: argument %d: %w", op, i, errUndefined))
			return torch.Tensor{}
		}
	}
	defer func() {
		if p := recover(); p != nil {
			out = torch.Tensor{}
			s.Fail(fmt.Errorf("%s %s: %w", op, shapes(inputs), diagnose(fmt.Sprint(p))))
		}
	}()
	out = f()
	runtime.SetFinalizer(out.T, nil)
	runtime.KeepAlive(inputs)
	return s.own(out)
}

// Argument kinds of call: torch.Tensor, *torch.Tensor (nil is None), int, int64, DType, float64, bool, *Device,
// []int64, []bool, []torch.Tensor and nil (None).

// call runs the ATen operation name ("conv2d" or "sum.dim_IntList") and returns its first result.
func (s *Scope) call(name string, args ...any) torch.Tensor {
	out := s.calls(name, 1, args...)
	return out[0]
}

// calls runs an ATen operation and returns its first n results.
func (s *Scope) calls(name string, n int, args ...any) []torch.Tensor {
	out := make([]torch.Tensor, n)
	if s.err != nil {
		return out
	}
	op, overload, _ := strings.Cut(name, ".")
	cname, coverload := C.CString("aten::"+op), C.CString(overload)
	defer C.free(unsafe.Pointer(cname))
	defer C.free(unsafe.Pointer(coverload))
	var pin runtime.Pinner
	defer pin.Unpin()
	values := make([]C.mp_value, len(args)+1)
	var inputs []torch.Tensor
	for i, arg := range args {
		if err := setValue(&values[i], arg, &pin); err != nil {
			s.Fail(fmt.Errorf("%s: argument %d: %w", op, i, err))
			return out
		}
		if t, ok := arg.(torch.Tensor); ok {
			inputs = append(inputs, t)
		}
	}
	var results [8]C.mp_tensor
	var count C.int
	message := s.message()
	status := C.mp_call(cname, coverload, &values[0], C.int(len(args)), &results[0], C.int(len(results)), &count, &message[0])
	runtime.KeepAlive(args)
	if status != C.MP_OK {
		s.Fail(check(status, op+" "+shapes(inputs), message))
		return out
	}
	for i := 0; i < int(count); i++ {
		t := adopt(results[i])
		if i < n {
			out[i] = s.own(t)
		} else {
			Free(t)
		}
	}
	return out
}

var errUndefined = errors.New("undefined tensor")

func setValue(v *C.mp_value, arg any, pin *runtime.Pinner) error {
	switch a := arg.(type) {
	case nil:
		v.kind = C.MP_NONE
	case torch.Tensor:
		if !Defined(a) {
			return errUndefined
		}
		v.kind, v.t = C.MP_TENSOR, handle(a)
	case *torch.Tensor:
		v.kind = C.MP_NONE
		if a != nil && Defined(*a) {
			v.kind, v.t = C.MP_TENSOR, handle(*a)
		}
	case int:
		v.kind, v.i = C.MP_INT, C.int64_t(a)
	case int64:
		v.kind, v.i = C.MP_INT, C.int64_t(a)
	case DType:
		v.kind, v.i = C.MP_INT, C.int64_t(a)
	case float64:
		v.kind, v.f = C.MP_FLOAT, C.double(a)
	case *Device:
		v.kind, v.i = C.MP_DEVICE, C.int64_t(a.config.GPU)
	case bool:
		v.kind, v.i = C.MP_BOOL, truth(a)
	case []int64:
		v.kind, v.n = C.MP_INTS, C.int32_t(len(a))
		if len(a) > 0 {
			pin.Pin(&a[0])
			v.ints = (*C.int64_t)(unsafe.Pointer(&a[0]))
		}
	case []bool:
		ints := make([]int64, len(a)+1)
		for i, b := range a {
			ints[i] = int64(truth(b))
		}
		pin.Pin(&ints[0])
		v.kind, v.n, v.ints = C.MP_BOOLS, C.int32_t(len(a)), (*C.int64_t)(unsafe.Pointer(&ints[0]))
	case []torch.Tensor:
		handles := make([]C.mp_tensor, len(a)+1)
		for i, t := range a {
			if !Defined(t) {
				return fmt.Errorf("element %d: %w", i, errUndefined)
			}
			handles[i] = handle(t)
		}
		pin.Pin(&handles[0])
		v.kind, v.n, v.tensors = C.MP_TENSORS, C.int32_t(len(a)), &handles[0]
	default:
		return fmt.Errorf("type %T is not an operation's argument", arg)
	}
	return nil
}

func truth(b bool) C.int64_t {
	if b {
		return 1
	}
	return 0
}

// shapes renders the inputs' shapes for an error: "[2 3 8 8] x [4 3 3 3]".
func shapes(inputs []torch.Tensor) string {
	var b strings.Builder
	for _, t := range inputs {
		if b.Len() > 0 {
			b.WriteString(" x ")
		}
		if Defined(t) {
			fmt.Fprint(&b, t.Shape())
		} else {
			b.WriteString("undefined")
		}
	}
	return b.String()
}
