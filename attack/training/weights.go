package training

import (
	torch "github.com/wangkuiyi/gotorch"

	"mp/ops"
)

// MoveWeights moves each parameter of two or more dimensions along its gradient by gamma times its own length: adversarial
// weight perturbation (Wu et al., "Adversarial Weight Perturbation Helps Robust Generalization", 2020, equation 10, in one
// step, as in the authors' program). grads [params.Len()] is laid out as params are. The caller puts the weights back.
func MoveWeights(s *ops.Scope, params *ops.Flat, grads torch.Tensor, gamma float64) {
	s.NoGrad(func() {
		c := s.Child()
		defer c.Close()
		length := func(x torch.Tensor) torch.Tensor { return c.Sqrt(c.Sum(c.Mul(x, x))) }
		for _, p := range params.Params() {
			if len(p.Shape) < 2 {
				continue
			}
			at, n := params.Span(p)
			w, g := c.Narrow(params.Buffer(), 0, at, n), c.Narrow(grads, 0, at, n)
			share := c.Scale(c.Div(length(w), c.Offset(length(g), smallest)), gamma)
			c.AddInPlace(w, c.Mul(g, share))
		}
	})
}

// smallest keeps a division by a gradient's length from being one by zero.
const smallest = 1e-20
