package explain

import (
	"fmt"
	"math"

	torch "github.com/wangkuiyi/gotorch"

	"mp/ops"
)

// Rollout follows attention from the classifier's mean over tokens down to the patches: the product over layers of half the
// attention, averaged over heads, and half the identity for the skip (Abnar & Zuidema, 2020, section 3). It knows of no label.
type Rollout struct{}

// Check wants attention.
func (Rollout) Check(n Network) error {
	if !n.Traits().Attention {
		return fmt.Errorf("%w: rollout: the network has no attention layers; use gradcam", ErrConfig)
	}
	return nil
}

// Attribute returns [N 1 h w], a place a patch; each map adds up to 1.
func (Rollout) Attribute(s *ops.Scope, n Network, b Batch) torch.Tensor {
	return s.Run(func(c *ops.Scope) torch.Tensor {
		samples := int64(len(b.Labels))
		var flow torch.Tensor // [N T T]: from every token after the layers so far to the patches
		side := int64(0)
		c.NoGrad(func() {
			n.Logits(c, b.Images, &Probe{Attention: func(_ *ops.Scope, name string, weights torch.Tensor) {
				flow = c.Run(func(c *ops.Scope) torch.Tensor {
					a := unwindow(c, c.Mean(weights, 1), samples)
					if c.Err() != nil {
						return a
					}
					t := a.Shape()[1]
					side = int64(math.Round(math.Sqrt(float64(t))))
					if side*side != t {
						c.Fail(fmt.Errorf("rollout: %s has %d tokens, which are no square grid", name, t))
						return a
					}
					a = c.Scale(c.Add(a, c.To(identity(c, t), a.Dtype())), .5)
					if !ops.Defined(flow) {
						return a
					}
					return c.MatMul(a, flow)
				})
			}})
		})
		if c.Err() == nil && !ops.Defined(flow) {
			c.Fail(fmt.Errorf("rollout: the network passed no attention layer"))
		}
		return c.Reshape(c.Mean(flow, 1), samples, 1, side, side)
	})
}

// unwindow spreads attention within windows, [B t t], over the whole square grid of tokens: [N T T], zero between windows.
func unwindow(s *ops.Scope, a torch.Tensor, samples int64) torch.Tensor {
	if s.Err() != nil {
		return torch.Tensor{}
	}
	windows, t := a.Shape()[0]/samples, a.Shape()[1]
	if windows == 1 {
		return a
	}
	r := int64(math.Round(math.Sqrt(float64(windows)))) // windows along a side
	w := int64(math.Round(math.Sqrt(float64(t))))       // tokens along a window's side
	a = s.Reshape(a, samples, r, r, 1, 1, w, w, w, w)   // rows and columns of windows, the same of those attended to, tokens
	apart := s.To(s.Reshape(identity(s, r*r), 1, r, r, r, r, 1, 1, 1, 1), a.Dtype())
	a = s.Permute(s.Mul(a, apart), 0, 1, 5, 2, 6, 3, 7, 4, 8)
	return s.Reshape(a, samples, windows*t, windows*t)
}

// identity is [T T].
func identity(s *ops.Scope, t int64) torch.Tensor {
	v := make([]float32, t*t)
	for i := range t {
		v[i*t+i] = 1
	}
	return ops.From(s, v, t, t)
}
