package ops

import torch "github.com/wangkuiyi/gotorch"

// libtorch's codes of grid_sampler's modes.
const (
	sampleBilinear = 0
	padZeros       = 0
)

// Affine resamples x [N C H W] bilinearly, each sample by its own map theta [N 2 3] from positions in the result to positions
// in x, both in [-1, 1] from edge to edge (Jaderberg et al., "Spatial Transformer Networks", 2015). Outside x lies zero.
func (s *Scope) Affine(x, theta torch.Tensor) torch.Tensor {
	if s.err != nil || !Defined(x) {
		return s.call("affine_grid_generator", x)
	}
	grid := s.call("affine_grid_generator", theta, x.Shape(), false)
	return s.call("grid_sampler", x, grid, sampleBilinear, padZeros, false)
}
