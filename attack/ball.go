package attack

import (
	torch "github.com/wangkuiyi/gotorch"

	"mp/ops"
)

// ball is how far an image may be moved; the result is an image, so it is also in [0, 1].
type ball struct {
	norm Norm
	eps  float64
}

// tiny keeps a division by a length from being one by zero.
const tiny = 1e-12

// images are the dimensions of one image in a batch.
var images = []int64{1, 2, 3}

// start returns a random point of the ball around x0, in l2 of uniform distance.
func (b ball) start(s *ops.Scope, x0 torch.Tensor, keys []uint64, restart int) torch.Tensor {
	k := drawn(keys, drawStart, restart, 0)
	if b.norm == Linf {
		return s.Clamp(s.Add(x0, s.Scale(s.Uniform(x0, k), b.eps)), 0, 1)
	}
	far := make([]float64, len(keys))
	for i, key := range drawn(keys, drawLength, restart, 0) {
		far[i] = b.eps * (&stream{key: key}).float()
	}
	d := s.Mul(unit(s, s.Normal(x0, k)), perImage(s, far, x0.Dtype()))
	return s.Clamp(s.Add(x0, d), 0, 1)
}

// step goes alpha along the gradient from x and returns into the ball around x0.
func (b ball) step(s *ops.Scope, x, grad, x0 torch.Tensor, alpha float64) torch.Tensor {
	if b.norm == Linf {
		return s.SignStep(x, grad, x0, alpha, ops.SignBall{Eps: b.eps, Lo: 0, Hi: 1})
	}
	return b.project(s, s.Add(x, s.Scale(unit(s, grad), alpha)), x0)
}

// project returns the point of the ball around x0 that x is moved to.
func (b ball) project(s *ops.Scope, x, x0 torch.Tensor) torch.Tensor {
	d := s.Sub(x, x0)
	if b.norm == Linf {
		d = s.Clamp(d, -b.eps, b.eps)
	} else {
		over := s.Scale(length(s, d), 1/b.eps)
		d = s.Div(d, s.Clamp(over, 1, 1e30))
	}
	return s.Clamp(s.Add(x0, d), 0, 1)
}

// distance returns how far each image of x lies from x0: N numbers.
func (b ball) distance(s *ops.Scope, x, x0 torch.Tensor) []float64 {
	d := s.Sub(x, x0)
	if b.norm == Linf {
		return ops.Values[float64](s, s.Largest(s.Abs(d), images...))
	}
	return ops.Values[float64](s, length(s, d))
}

// length returns the Euclidean length of each image [N 1 1 1].
func length(s *ops.Scope, d torch.Tensor) torch.Tensor {
	return s.Sqrt(s.SumKeep(s.Mul(d, d), images...))
}

// unit returns d with each image at length 1, an image of zeros as it is.
func unit(s *ops.Scope, d torch.Tensor) torch.Tensor {
	return s.Div(d, s.Offset(length(s, d), tiny))
}

// perImage returns one number an image as [N 1 1 1].
func perImage(s *ops.Scope, v []float64, d ops.DType) torch.Tensor {
	return s.To(ops.From(s, v, int64(len(v)), 1, 1, 1), d)
}
