package explain

import (
	torch "github.com/wangkuiyi/gotorch"

	"mp/ops"
)

// InputXGradient is the gradient of the label's logit times the image (Shrikumar et al., 2016): to first order, what each
// element adds to the logit beyond the mean colour.
type InputXGradient struct{ always }

// Attribute returns [N 3 H W].
func (InputXGradient) Attribute(s *ops.Scope, n Network, b Batch) torch.Tensor {
	return s.Run(func(c *ops.Scope) torch.Tensor {
		return c.Mul(b.Images, gradient(c, n, b.Images, b.Labels, nil))
	})
}
