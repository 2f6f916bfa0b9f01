package explain

import (
	"fmt"
	"slices"
	"strings"

	torch "github.com/wangkuiyi/gotorch"

	"mp/ops"
)

// GradCAM is the sum of a layer's feature maps, each weighted with the mean gradient of the label's logit with respect to it,
// where it is positive (Selvaraju et al., 2016, section 3). The maps of a transformer are its tokens on their grid.
type GradCAM struct {
	Layer string // whose result; "" means the last one
}

// layer is the layer that is meant.
func (g GradCAM) layer(n Network) string {
	all := n.Layers()
	if g.Layer == "" && len(all) > 0 {
		return all[len(all)-1]
	}
	return g.Layer
}

// Check wants a layer that is there.
func (g GradCAM) Check(n Network) error {
	if layer := g.layer(n); !slices.Contains(n.Layers(), layer) {
		return fmt.Errorf("%w: gradcam: the network has no layer %q: choose one of %s", ErrConfig, layer, strings.Join(n.Layers(), ", "))
	}
	return nil
}

// Attribute returns [N 1 h w], as coarse as the layer is.
func (g GradCAM) Attribute(s *ops.Scope, n Network, b Batch) torch.Tensor {
	layer := g.layer(n)
	return s.Run(func(c *ops.Scope) torch.Tensor {
		var maps torch.Tensor // [N C h w], a leaf: nothing before the layer is differentiated
		logits := n.Logits(c, b.Images, &Probe{Layer: func(inner *ops.Scope, name string, y torch.Tensor) torch.Tensor {
			if name != layer {
				return y
			}
			maps = c.Leaf(y)
			return inner.Scale(maps, 1)
		}})
		if c.Err() == nil && !ops.Defined(maps) {
			c.Fail(fmt.Errorf("gradcam: the network did not pass layer %s", layer))
		}
		slopes := c.Pullback(logits, oneHot(c, logits, b.Labels), maps)[0]
		var cam torch.Tensor
		if c.Err() != nil {
			return cam
		}
		c.NoGrad(func() {
			shape := maps.Shape()
			weights := c.Reshape(c.Mean(slopes, 2, 3), shape[0], shape[1], 1, 1)
			cam = c.ReLU(c.SumKeep(c.Mul(maps, weights), 1))
		})
		return cam
	})
}
