package ops

// #include "csrc/ops.h"
import "C"

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
	"unsafe"

	torch "github.com/wangkuiyi/gotorch"
)

// Param is one named tensor of a Flat.
type Param struct {
	Name   string
	Shape  []int64
	offset int64
	view   torch.Tensor
	leaf   torch.Tensor
}

// Tensor returns the parameter as a leaf that asks for a gradient (of a Flat with gradients), else the plain view.
func (p *Param) Tensor() torch.Tensor {
	if Defined(p.leaf) {
		return p.leaf
	}
	return p.view
}

// Flat holds named float32 tensors in one buffer: an optimizer and an all-reduce see one slice, a layer sees its own tensor.
// Convolution weights may lie N H W C in it (channels last).
//
// They lie in the order in which NewFlat was given them, for a network that of its layers: the backward pass then fills a
// gradients' buffer from its end, and their sum over workers can begin there (GradInto). Everything that lists tensors
// lists them in name order.
//
// Lengths: Len elements, every tensor starting at a multiple of 16 (64 bytes); the gaps are zero and stay so.
type Flat struct {
	params []*Param     // in name order
	laid   []*Param     // the same as they lie
	buffer torch.Tensor // [Len]
	length int64
	last   bool
}

const flatAlign = 16

// NewFlat lays the tensors out one after another. Params must have distinct names; their Tensor is valid until Free. The buffer is zero.
func NewFlat(s *Scope, params []*Param, d DType, channelsLast, gradients bool) (*Flat, error) {
	f := &Flat{params: slices.Clone(params), laid: slices.Clone(params), last: channelsLast}
	slices.SortFunc(f.params, func(a, b *Param) int { return strings.Compare(a.Name, b.Name) })
	for i, p := range f.params {
		if i > 0 && f.params[i-1].Name == p.Name {
			return nil, fmt.Errorf("lay out parameters: two are named %s", p.Name)
		}
	}
	for _, p := range f.laid {
		p.offset = f.length
		f.length += (Numel(p.Shape) + flatAlign - 1) / flatAlign * flatAlign
	}
	c := s.Child()
	defer c.Close()
	f.buffer = c.Release(c.Zeros(d, f.length))
	for _, p := range f.params {
		p.view = c.Release(f.viewOf(c, f.buffer, p))
		if gradients {
			p.leaf = c.Release(c.Leaf(p.view))
		}
	}
	if c.Err() != nil {
		f.Free()
		return nil, fmt.Errorf("lay out %d parameters: %w", len(params), c.Err())
	}
	return f, nil
}

func (f *Flat) viewOf(s *Scope, buffer torch.Tensor, p *Param) torch.Tensor {
	if s.err != nil {
		return torch.Tensor{}
	}
	shape := p.Shape
	if len(shape) == 0 {
		shape = []int64{1}
	}
	message := s.message()
	var t C.mp_tensor
	status := C.mp_view(handle(buffer), C.int64_t(p.offset), (*C.int64_t)(&shape[0]), C.int(len(p.Shape)), C.int(truth(f.last)), &t, &message[0])
	if status != C.MP_OK {
		s.Fail(check(status, "view "+p.Name, message))
		return torch.Tensor{}
	}
	return s.own(adopt(t))
}

// viewsOf returns the handles of the places of params in a buffer laid out as f is; nil ones after an error of s.
func (f *Flat) viewsOf(s *Scope, buffer torch.Tensor, params []*Param) []C.mp_tensor {
	views := make([]C.mp_tensor, len(params))
	for i, p := range params {
		views[i] = handle(f.viewOf(s, buffer, p))
	}
	return views
}

// Free releases the buffer and all views.
func (f *Flat) Free() {
	for _, p := range f.params {
		Free(p.leaf)
		Free(p.view)
		p.leaf, p.view = torch.Tensor{}, torch.Tensor{}
	}
	Free(f.buffer)
	f.buffer = torch.Tensor{}
}

// Params returns the tensors in name order.
func (f *Flat) Params() []*Param { return f.params }

// Len returns the elements of the buffer, gaps included.
func (f *Flat) Len() int64 { return f.length }

// Count returns the elements of all tensors, gaps not included.
func (f *Flat) Count() int64 {
	var n int64
	for _, p := range f.params {
		n += Numel(p.Shape)
	}
	return n
}

// Buffer returns the flat tensor [Len], owned by f.
func (f *Flat) Buffer() torch.Tensor { return f.buffer }

// Span returns where p lies in the buffer: its first element and the number of its elements.
func (f *Flat) Span(p *Param) (offset, length int64) { return p.offset, Numel(p.Shape) }

// Gather copies tensors, one for each of Params and of its shape, into buffer [Len], laid out as f is: gradients into a
// buffer that an all-reduce sums.
func (f *Flat) Gather(s *Scope, tensors []torch.Tensor, buffer torch.Tensor) {
	if s.err != nil {
		return
	}
	if len(tensors) != len(f.params) {
		s.Fail(fmt.Errorf("gather: %d tensors for %d parameters", len(tensors), len(f.params)))
		return
	}
	if len(tensors) == 0 {
		return
	}
	c := s.Child()
	defer c.Close()
	from, views := make([]C.mp_tensor, len(tensors)), f.viewsOf(c, buffer, f.params)
	for i, p := range f.params {
		from[i] = handle(tensors[i])
		if from[i] == nil || views[i] == nil {
			c.Fail(fmt.Errorf("gather %s: %w", p.Name, errUndefined))
			return
		}
	}
	message := s.message()
	if status := C.mp_copy_into(&from[0], &views[0], C.int(len(from)), &message[0]); status != C.MP_OK {
		c.Fail(check(status, "gather", message))
	}
	runtime.KeepAlive(tensors)
}

// Leaves returns the tensors whose gradients a step needs, in name order.
func (f *Flat) Leaves() []torch.Tensor {
	out := make([]torch.Tensor, len(f.params))
	for i, p := range f.params {
		out[i] = p.Tensor()
	}
	return out
}

// ReadParam returns p's elements in C order and the buffer's dtype, little-endian.
func (f *Flat) ReadParam(p *Param) ([]byte, error) {
	out := make([]byte, Numel(p.Shape)*int64(SizeOf(f.buffer.Dtype())))
	if len(out) == 0 {
		return out, nil
	}
	if err := Read(p.view, out); err != nil {
		return nil, fmt.Errorf("read parameter %s: %w", p.Name, err)
	}
	return out, nil
}

// WriteParam sets p from elements in C order and the buffer's dtype, little-endian.
func (f *Flat) WriteParam(s *Scope, p *Param, bytes []byte) {
	if s.err != nil {
		return
	}
	c := s.Child()
	defer c.Close()
	var pin runtime.Pinner
	defer pin.Unpin()
	if len(bytes) > 0 {
		pin.Pin(unsafe.SliceData(bytes))
	}
	from := c.Wrap(bytes, f.buffer.Dtype(), false, p.Shape...)
	c.CopyInto(p.view, from)
}

// CopyFrom sets f's buffer from another Flat of the same layout.
func (f *Flat) CopyFrom(s *Scope, other torch.Tensor) { s.CopyInto(f.buffer, other) }

// CopyInto overwrites to with from, converting dtype, layout and device, outside any graph.
func (s *Scope) CopyInto(to, from torch.Tensor) {
	s.NoGrad(func() {
		c := s.Child()
		defer c.Close()
		c.call("copy_", to, from)
	})
}
