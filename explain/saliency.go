package explain

import (
	torch "github.com/wangkuiyi/gotorch"

	"mp/ops"
)

// Saliency is the reference's map: the absolute gradient of the cross-entropy of the label with respect to the image, the
// largest of the three channels, [N 1 H W] (Simonyan et al., 2013, section 3.1, of the loss instead of the logit). The loss
// is summed over the batch, so that no map depends on the others; the reference's mean divides every map by N.
type Saliency struct{ always }

// Attribute returns the maps [N 1 H W].
func (Saliency) Attribute(s *ops.Scope, n Network, b Batch) torch.Tensor {
	return s.Run(func(c *ops.Scope) torch.Tensor {
		leaf := c.Leaf(b.Images)
		labels := ops.From(c, b.Labels, int64(len(b.Labels)))
		loss := c.CrossEntropy(n.Logits(c, leaf, nil), labels, 0, ops.ReduceSum)
		return c.Largest(c.Abs(c.Grad(loss, leaf)[0]), 1)
	})
}
