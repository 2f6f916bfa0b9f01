package ops

import torch "github.com/wangkuiyi/gotorch"

// Add returns a + b, broadcast.
func (s *Scope) Add(a, b torch.Tensor) torch.Tensor {
	return s.viaGotorch("add", []torch.Tensor{a, b}, func() torch.Tensor { return torch.Add(a, b, 1) })
}

// AddInPlace adds b to a and returns a. Not allowed on a leaf that asks for a gradient.
func (s *Scope) AddInPlace(a, b torch.Tensor) torch.Tensor { return s.call("add_.Tensor", a, b) }

// Sub returns a - b, broadcast.
func (s *Scope) Sub(a, b torch.Tensor) torch.Tensor {
	return s.viaGotorch("sub", []torch.Tensor{a, b}, func() torch.Tensor { return torch.Sub(a, b, 1) })
}

// Mul returns a * b element by element, broadcast.
func (s *Scope) Mul(a, b torch.Tensor) torch.Tensor {
	return s.viaGotorch("mul", []torch.Tensor{a, b}, func() torch.Tensor { return torch.Mul(a, b) })
}

// Scale returns a * c.
func (s *Scope) Scale(a torch.Tensor, c float64) torch.Tensor { return s.call("mul.Scalar", a, c) }

// Offset returns a + c.
func (s *Scope) Offset(a torch.Tensor, c float64) torch.Tensor { return s.call("add.Scalar", a, c) }

// Log returns the natural logarithm.
func (s *Scope) Log(a torch.Tensor) torch.Tensor { return s.call("log", a) }

// ReLU returns max(x, 0).
func (s *Scope) ReLU(x torch.Tensor) torch.Tensor {
	return s.viaGotorch("relu", []torch.Tensor{x}, func() torch.Tensor { return torch.Relu(x) })
}

// ReLUInPlace overwrites x with max(x, 0) and returns it: one activation less to keep for the backward pass, wherever
// the operation before does not need its own result (convolution, linear, batch norm, addition).
func (s *Scope) ReLUInPlace(x torch.Tensor) torch.Tensor { return s.call("relu_", x) }

// GELU returns x * Phi(x), the exact form (Hendrycks & Gimpel, 2016).
func (s *Scope) GELU(x torch.Tensor) torch.Tensor { return s.call("gelu", x) }

// Sigmoid returns 1 / (1 + exp(-x)).
func (s *Scope) Sigmoid(x torch.Tensor) torch.Tensor {
	return s.viaGotorch("sigmoid", []torch.Tensor{x}, func() torch.Tensor { return torch.Sigmoid(x) })
}

// To returns x in another dtype, x itself where it has it already.
func (s *Scope) To(x torch.Tensor, d DType) torch.Tensor {
	if s.err != nil {
		return torch.Tensor{}
	}
	if Defined(x) && x.Dtype() == d {
		return x
	}
	return s.call("to.dtype", x, d)
}

// ToDevice returns x on the scope's device.
func (s *Scope) ToDevice(x torch.Tensor) torch.Tensor {
	if s.err != nil || !Defined(x) {
		return s.call("to.dtype_layout", x)
	}
	return s.call("to.dtype_layout", x, nil, nil, s.device)
}

// libtorch's memory formats (c10/core/MemoryFormat.h).
const (
	formatContiguous   = 0
	formatChannelsLast = 2
)

// ChannelsLast returns x [N C H W] laid out N H W C in memory; its shape and meaning stay.
func (s *Scope) ChannelsLast(x torch.Tensor) torch.Tensor {
	return s.call("contiguous", x, formatChannelsLast)
}

// Contiguous returns x laid out in C order.
func (s *Scope) Contiguous(x torch.Tensor) torch.Tensor {
	return s.call("contiguous", x, formatContiguous)
}
