package explain

import (
	torch "github.com/wangkuiyi/gotorch"

	"mp/ops"
)

// Infidelity measures an attribution by how well it foretells what small changes of the image do to the label's logit: the mean
// over perturbations I of (I . attribution - (f(x) - f(x - I)))^2 (Yeh et al., 2019, definition 2.1). Small is good.
type Infidelity struct {
	Samples int     // perturbations of an image
	Noise   float64 // deviation of the Gaussian perturbations, in the network's units
	// Scaled multiplies the attribution with the factor that foretells best, so that methods of different units compare.
	Scaled bool
}

// Measure returns a number a sample, for an attribution [N 3 H W] or [N 1 h w]. It runs the network Samples + 1 times.
func (f Infidelity) Measure(s *ops.Scope, n Network, b Batch, attribution torch.Tensor) []float64 {
	c := s.Child()
	defer c.Close()
	if c.Err() != nil {
		return nil
	}
	shape := b.Images.Shape()
	attribution = resized(c, attribution, [2]int64{shape[2], shape[3]})
	whole := ops.Values[float64](c, chosen(c, n, b.Images, b.Labels))
	out := make([]float64, len(b.Labels))
	said, came := make([][]float64, f.Samples), make([][]float64, f.Samples)
	for i := range f.Samples {
		said[i], came[i] = f.one(c, n, b, attribution, i)
		if c.Err() != nil {
			return nil
		}
		for j := range came[i] {
			came[i][j] = whole[j] - came[i][j]
		}
	}
	for j := range out {
		factor := 1.0
		if f.Scaled {
			var cross, square float64
			for i := range f.Samples {
				cross += said[i][j] * came[i][j]
				square += said[i][j] * said[i][j]
			}
			factor = 0
			if square > 0 {
				factor = cross / square
			}
		}
		for i := range f.Samples {
			d := factor*said[i][j] - came[i][j]
			out[j] += d * d / float64(f.Samples)
		}
	}
	return out
}

// one returns what the attribution foretells of perturbation i, and the labels' logits behind it.
func (f Infidelity) one(s *ops.Scope, n Network, b Batch, attribution torch.Tensor, i int) (said, logits []float64) {
	c := s.Child()
	defer c.Close()
	noise := c.Scale(c.Normal(b.Images, draw(b.Keys, drawInfidelity, i)), f.Noise)
	said = ops.Values[float64](c, c.Sum(c.Mul(noise, attribution), 1, 2, 3))
	logits = ops.Values[float64](c, chosen(c, n, c.Sub(b.Images, noise), b.Labels))
	return said, logits
}
