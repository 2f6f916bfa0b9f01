package ops

import torch "github.com/wangkuiyi/gotorch"

// Rows returns the rows (of the first dimension) that index, int64 [M], names: [M ...].
func (s *Scope) Rows(x, index torch.Tensor) torch.Tensor { return s.call("index_select", x, 0, index) }

// PutRows overwrites the rows of x that index, int64 [M], names with those of rows [M ...], outside any graph.
func (s *Scope) PutRows(x, index, rows torch.Tensor) {
	s.NoGrad(func() {
		c := s.Child()
		defer c.Close()
		c.call("index_copy_", x, 0, index, rows)
	})
}

// Pick returns x [N K] at the columns index, int64 [N M], of each row: [N M].
func (s *Scope) Pick(x, index torch.Tensor) torch.Tensor { return s.call("gather", x, 1, index) }

// Where returns a where the condition (Bool) holds and b elsewhere, broadcast.
func (s *Scope) Where(condition, a, b torch.Tensor) torch.Tensor {
	return s.call("where.self", condition, a, b)
}

// Less returns a < b as Bool, broadcast.
func (s *Scope) Less(a, b torch.Tensor) torch.Tensor { return s.call("lt.Tensor", a, b) }

// Minimum returns the smaller of a and b element by element, broadcast.
func (s *Scope) Minimum(a, b torch.Tensor) torch.Tensor { return s.call("minimum", a, b) }

// Clamp moves elements into [lo, hi].
func (s *Scope) Clamp(x torch.Tensor, lo, hi float64) torch.Tensor { return s.call("clamp", x, lo, hi) }

// Largest returns the maximum over the given dimensions, which stay with length 1.
func (s *Scope) Largest(x torch.Tensor, dims ...int64) torch.Tensor {
	return s.call("amax", x, dims, true)
}

// SumKeep returns the sum over the given dimensions, which stay with length 1.
func (s *Scope) SumKeep(x torch.Tensor, dims ...int64) torch.Tensor {
	return s.call("sum.dim_IntList", x, dims, true)
}
