package explain

import (
	torch "github.com/wangkuiyi/gotorch"

	"mp/ops"
)

// Map turns an attribution into one number a pixel, [N 1 H W] of the images' size: of three channels the largest absolute value,
// as the reference takes it of gradients; what is coarser than the image is scaled up bilinearly.
func Map(s *ops.Scope, attribution torch.Tensor, size [2]int64) torch.Tensor {
	if s.Err() != nil || !ops.Defined(attribution) {
		return torch.Tensor{}
	}
	shape := attribution.Shape()
	if shape[1] != 1 {
		return s.Run(func(c *ops.Scope) torch.Tensor { return c.Largest(c.Abs(attribution), 1) })
	}
	return resized(s, attribution, size)
}

// resized scales an attribution [N C h w] to the images' size.
func resized(s *ops.Scope, attribution torch.Tensor, size [2]int64) torch.Tensor {
	if s.Err() != nil || !ops.Defined(attribution) {
		return torch.Tensor{}
	}
	if shape := attribution.Shape(); shape[2] == size[0] && shape[3] == size[1] {
		return attribution
	}
	return s.Interpolate(attribution, size)
}
