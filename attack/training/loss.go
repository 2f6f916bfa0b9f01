package training

import (
	torch "github.com/wangkuiyi/gotorch"

	"mp/ops"
)

// wide returns logits in float32 where they are in less.
func wide(s *ops.Scope, x torch.Tensor) torch.Tensor {
	if s.Err() == nil && ops.Defined(x) && x.Dtype() == ops.BFloat16 {
		return s.To(x, ops.Float32)
	}
	return x
}

// trades is the mean of CE(clean, y) + beta KL(p(clean) || p(attacked)) (Zhang et al., 2019, equation 5, as in the authors'
// program). The gradient goes through both answers.
func trades(s *ops.Scope, z Logits, classes torch.Tensor, beta, smoothing float64) torch.Tensor {
	clean, attacked := wide(s, z.Clean), wide(s, z.Attacked)
	natural := s.CrossEntropy(clean, classes, smoothing, ops.ReduceMean)
	moved := s.Sub(s.LogSoftmax(clean, 1), s.LogSoftmax(attacked, 1))
	apart := s.Sum(s.Mul(s.Softmax(clean, 1), moved), 1) // [N]
	return s.Add(natural, s.Scale(s.Mean(apart), beta))
}

// What the authors of MART add so that no logarithm is of zero.
const (
	martRoom  = 1.0001
	martTiny  = 1e-12
	martDoubt = 1.0000001
)

// mart is the mean of BCE(p(attacked), y) + lambda KL(p(clean) || p(attacked)) (1 - p_y(clean)), where BCE is
// -log p_y - log(1 - max_{k != y} p_k) (Wang et al., 2020, equations 8 and 12, as in the authors' program).
func mart(s *ops.Scope, z Logits, classes torch.Tensor, lambda float64) torch.Tensor {
	clean, attacked := wide(s, z.Clean), wide(s, z.Attacked)
	column := s.Reshape(classes, -1, 1)
	p := s.Softmax(attacked, 1)
	most, _ := s.TopK(p, 2)
	first, second := s.Narrow(most, 1, 0, 1), s.Narrow(most, 1, 1, 1)
	rival := s.Where(s.Less(s.Pick(p, column), first), first, second) // [N 1]
	margin := s.Log(s.Offset(s.Scale(rival, -1), martRoom+martTiny))
	boosted := s.Sub(s.CrossEntropy(attacked, classes, 0, ops.ReduceMean), s.Mean(margin))
	q := s.Softmax(clean, 1)
	moved := s.Sub(s.LogSoftmax(clean, 1), s.Log(s.Offset(p, martTiny)))
	apart := s.Sum(s.Mul(q, moved), 1)                                          // [N]
	doubt := s.Offset(s.Scale(s.Reshape(s.Pick(q, column), -1), -1), martDoubt) // [N]
	return s.Add(boosted, s.Scale(s.Mean(s.Mul(apart, doubt)), lambda))
}
