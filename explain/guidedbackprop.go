package explain

import (
	"fmt"

	torch "github.com/wangkuiyi/gotorch"

	"mp/ops"
)

// GuidedBackprop is the gradient of the label's logit through rectifiers that also stop what is negative on the way back
// (Springenberg et al., 2014). It draws edges more than reasons: see Sanity.
type GuidedBackprop struct{}

// Check wants rectifiers.
func (GuidedBackprop) Check(n Network) error {
	if !n.Traits().Rectifiers {
		return fmt.Errorf("%w: guidedbackprop: the network has no rectifiers to guide; use saliency or integratedgradients", ErrConfig)
	}
	return nil
}

// Attribute returns [N 3 H W].
func (GuidedBackprop) Attribute(s *ops.Scope, n Network, b Batch) torch.Tensor {
	return gradient(s, n, b.Images, b.Labels, &Probe{
		ReLU: func(s *ops.Scope, x torch.Tensor) torch.Tensor { return s.GuidedReLU(x) },
	})
}
