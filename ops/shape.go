package ops

import torch "github.com/wangkuiyi/gotorch"

// Reshape returns x in another shape; one dimension may be -1.
func (s *Scope) Reshape(x torch.Tensor, shape ...int64) torch.Tensor {
	return s.call("reshape", x, shape)
}

// Permute reorders the dimensions of x.
func (s *Scope) Permute(x torch.Tensor, dims ...int64) torch.Tensor {
	return s.call("permute", x, dims)
}

// Narrow returns length elements of dimension dim from start on.
func (s *Scope) Narrow(x torch.Tensor, dim, start, length int64) torch.Tensor {
	return s.call("narrow", x, dim, start, length)
}

// Flip mirrors x along the dimensions dims.
func (s *Scope) Flip(x torch.Tensor, dims ...int64) torch.Tensor { return s.call("flip", x, dims) }

// Pad surrounds the last dimensions of x with zeros: widths are (left, right) of the last dimension, then of the one before.
func (s *Scope) Pad(x torch.Tensor, widths ...int64) torch.Tensor {
	return s.call("constant_pad_nd", x, widths)
}

// Unbind splits x along its first dimension into n tensors.
func (s *Scope) Unbind(x torch.Tensor, n int) []torch.Tensor {
	out := make([]torch.Tensor, n)
	for i := range out {
		out[i] = s.call("select.int", x, 0, i)
	}
	return out
}

// Concat lays tensors one after another along dimension dim.
func (s *Scope) Concat(dim int64, xs ...torch.Tensor) torch.Tensor { return s.call("cat", xs, dim) }

// MatMul is the matrix product of the last two dimensions, broadcast over the others.
func (s *Scope) MatMul(a, b torch.Tensor) torch.Tensor { return s.call("matmul", a, b) }

// Sum over the given dimensions, all of them when none is given.
func (s *Scope) Sum(x torch.Tensor, dims ...int64) torch.Tensor {
	if len(dims) == 0 {
		return s.viaGotorch("sum", []torch.Tensor{x}, func() torch.Tensor { return torch.Sum(x) })
	}
	return s.call("sum.dim_IntList", x, dims)
}

// Mean over the given dimensions, all of them when none is given.
func (s *Scope) Mean(x torch.Tensor, dims ...int64) torch.Tensor {
	if len(dims) == 0 {
		return s.viaGotorch("mean", []torch.Tensor{x}, func() torch.Tensor { return x.Mean() })
	}
	return s.call("mean.dim", x, dims)
}

// TopK returns the k largest elements of the last dimension, largest first, and their positions (int64).
func (s *Scope) TopK(x torch.Tensor, k int64) (values, indices torch.Tensor) {
	out := s.calls("topk", 2, x, k)
	return out[0], out[1]
}
