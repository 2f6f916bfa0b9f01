package explain

import (
	torch "github.com/wangkuiyi/gotorch"

	"mp/ops"
)

// SmoothGrad is the mean gradient of the label's logit over noisy copies of the image (Smilkov et al., 2017).
type SmoothGrad struct {
	always
	Samples int     // copies
	Noise   float64 // deviation of the Gaussian noise, as a part of the image's largest minus its smallest element
}

// Attribute returns [N 3 H W].
func (g SmoothGrad) Attribute(s *ops.Scope, n Network, b Batch) torch.Tensor {
	return s.Run(func(c *ops.Scope) torch.Tensor {
		span := c.Add(c.Largest(b.Images, 1, 2, 3), c.Largest(c.Scale(b.Images, -1), 1, 2, 3)) // [N 1 1 1]
		deviation := c.Scale(span, g.Noise)
		var sum torch.Tensor
		for i := range g.Samples {
			one := c.Run(func(c *ops.Scope) torch.Tensor {
				noise := c.Normal(b.Images, draw(b.Keys, drawSmooth, i))
				one := gradient(c, n, c.Add(b.Images, c.Mul(noise, deviation)), b.Labels, nil)
				if i == 0 {
					return one
				}
				return c.Add(sum, one)
			})
			sum = one
			c.Tidy(sum, deviation)
		}
		return c.Scale(sum, 1/float64(g.Samples))
	})
}
