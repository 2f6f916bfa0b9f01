package ops

// #include "csrc/ops.h"
import "C"

import (
	"fmt"
	"runtime"

	torch "github.com/wangkuiyi/gotorch"
)

// Rule says how an optimizer moves one element. csrc/update.h has the formulas; package optim computes the factors that
// depend on the number of the step.
type Rule struct {
	Adam      bool    // AdamW, else SGD with momentum
	Nesterov  bool    // SGD
	Rate      float64 // SGD: learning rate; AdamW: learning rate / (1 - Beta1^t)
	DecayRate float64 // AdamW: learning rate
	Beta1     float64 // SGD: momentum
	Beta2     float64 // AdamW
	Root      float64 // AdamW: sqrt(1 - Beta2^t)
	Eps       float64 // AdamW
	Follow    float64 // share by which the average moves towards the new weights
	Scale     float64 // factor of the gradient
	MaxNorm   float64 // limit of the scaled gradient's norm; only where Flats has a Norm
}

// Flats are the flat float32 buffers [Len] of one step, all laid out as one Flat is.
type Flats struct {
	Weights, Grads torch.Tensor
	Decay          torch.Tensor // [Len/16], from Spread: the weight decay of each parameter
	First, Second  torch.Tensor // SGD: momentum and nothing; AdamW: first and second moment
	Average        torch.Tensor // of the weights, or undefined
	Norm           torch.Tensor // float64 [1], from Norm: the gradient's norm before scaling, or undefined: no clipping
}

// Update makes one step in place: Weights, First, Second and Average change, in one pass over memory on the CPU and on a GPU
// for which our CUDA library is loaded; by ATen operations on another.
func (s *Scope) Update(r Rule, f Flats) {
	if s.err != nil {
		return
	}
	for _, t := range []torch.Tensor{f.Weights, f.Grads, f.Decay, f.First} {
		if !Defined(t) {
			s.Fail(fmt.Errorf("update: %w", errUndefined))
			return
		}
	}
	if r.Adam && !Defined(f.Second) {
		s.Fail(fmt.Errorf("update: second moment: %w", errUndefined))
		return
	}
	if C.mp_update_kernel(handle(f.Weights)) == 0 {
		s.composeUpdate(r, f)
		return
	}
	rule := C.mp_rule{
		kind: C.MP_SGD, nesterov: C.int32_t(truth(r.Nesterov)), rate: C.float(r.Rate), decay_rate: C.float(r.DecayRate),
		beta1: C.float(r.Beta1), beta2: C.float(r.Beta2), root: C.float(r.Root), eps: C.float(r.Eps),
		rest1: C.float(1 - r.Beta1), rest2: C.float(1 - r.Beta2),
		follow: C.float(r.Follow), scale: C.double(r.Scale), max_norm: C.double(r.MaxNorm),
	}
	if r.Adam {
		rule.kind = C.MP_ADAMW
	}
	flats := C.mp_flats{
		weights: handle(f.Weights), grads: handle(f.Grads), decay: handle(f.Decay), first: handle(f.First),
		second: handle(f.Second), average: handle(f.Average), norm: handle(f.Norm),
	}
	message := s.message()
	if status := C.mp_update(&rule, &flats, &message[0]); status != C.MP_OK {
		s.Fail(check(status, "update", message))
	}
	runtime.KeepAlive(f)
}

// composeUpdate is Update from ATen operations: the form for devices without a kernel.
func (s *Scope) composeUpdate(r Rule, f Flats) {
	s.NoGrad(func() {
		c := s.Child()
		defer c.Close()
		blocks := func(t torch.Tensor) torch.Tensor { return c.Reshape(t, -1, C.MP_BLOCK) }
		w, first, decay := blocks(f.Weights), blocks(f.First), c.Reshape(f.Decay, -1, 1)
		g := c.Mul(blocks(f.Grads), c.gradientFactor(r, f))
		if r.Adam {
			second := blocks(f.Second)
			c.call("addcmul_", w, w, decay, -r.DecayRate)
			c.call("lerp_.Scalar", first, g, 1-r.Beta1)
			c.call("addcmul_", c.call("mul_.Scalar", second, r.Beta2), g, g, 1-r.Beta2)
			spread := c.call("add_.Scalar", c.call("div_.Scalar", c.call("sqrt", second), r.Root), r.Eps)
			c.call("addcdiv_", w, first, spread, -r.Rate)
		} else {
			c.call("addcmul_", g, w, decay)
			c.call("add_.Tensor", c.call("mul_.Scalar", first, r.Beta1), g)
			step := first
			if r.Nesterov {
				step = c.call("add.Tensor", g, first, r.Beta1)
			}
			c.call("add_.Tensor", w, step, -r.Rate)
		}
		if Defined(f.Average) {
			c.call("lerp_.Scalar", f.Average, f.Weights, r.Follow)
		}
	})
}

// gradientFactor is update.h's function of that name, a float32 [1] on the device: the host does not wait for the norm.
func (s *Scope) gradientFactor(r Rule, f Flats) torch.Tensor {
	if !Defined(f.Norm) {
		return s.call("full", []int64{1}, r.Scale, Float32, nil, s.device)
	}
	scaled := s.Offset(s.Scale(f.Norm, r.Scale), 1e-6)
	clip := s.call("clamp", s.Scale(s.call("reciprocal", scaled), r.MaxNorm), nil, 1.0)
	return s.To(s.Scale(clip, r.Scale), Float32)
}

// Norm returns the Euclidean norm of a flat gradient [Len], float64 [1] on the gradient's device. On the CPU and with our
// CUDA library the order of summation is fixed: neither threads nor the device change a bit of it.
func (s *Scope) Norm(grads torch.Tensor) torch.Tensor {
	if s.err != nil {
		return torch.Tensor{}
	}
	if !Defined(grads) {
		s.Fail(fmt.Errorf("norm: %w", errUndefined))
		return torch.Tensor{}
	}
	if C.mp_update_kernel(handle(grads)) == 0 {
		return s.Run(func(c *Scope) torch.Tensor {
			return c.Reshape(c.call("linalg_vector_norm", grads, 2.0, nil, false, Float64), 1)
		})
	}
	message := s.message()
	var t C.mp_tensor
	if status := C.mp_norm(handle(grads), &t, &message[0]); status != C.MP_OK {
		s.Fail(check(status, "norm", message))
		return torch.Tensor{}
	}
	runtime.KeepAlive(grads)
	return s.own(adopt(t))
}

// Lerp moves x in place by share of the way to y, of the same shape: x + share (y - x).
func (s *Scope) Lerp(x, y torch.Tensor, share float64) {
	s.NoGrad(func() { s.call("lerp_.Scalar", x, y, share) })
}

// Spread returns a value a parameter as Update wants it: [Len/16] float32, an element for every block of 16.
func (f *Flat) Spread(s *Scope, value func(name string) float64) torch.Tensor {
	out := make([]float32, f.length/C.MP_BLOCK)
	for _, p := range f.params {
		v := float32(value(p.Name))
		for i := p.offset; i < p.offset+Numel(p.Shape); i += C.MP_BLOCK {
			out[i/C.MP_BLOCK] = v
		}
	}
	return From(s, out, int64(len(out)))
}

// Like makes a Flat of zeros laid out as f is, without gradients: an optimizer's state, an average.
func (f *Flat) Like(s *Scope) (*Flat, error) {
	params := make([]*Param, len(f.laid))
	for i, p := range f.laid {
		params[i] = &Param{Name: p.Name, Shape: p.Shape}
	}
	return NewFlat(s, params, f.buffer.Dtype(), f.last, false)
}
