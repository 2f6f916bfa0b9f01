package explain

import (
	"math"

	torch "github.com/wangkuiyi/gotorch"

	"mp/ops"
)

// IntegratedGradients is the image, measured from the mean colour 0, times the mean gradient of the label's logit on the
// straight way from there (Sundararajan et al., 2017), by Gauss-Legendre quadrature.
type IntegratedGradients struct {
	always
	Steps int // points on the way
}

// Attribute returns [N 3 H W].
func (g IntegratedGradients) Attribute(s *ops.Scope, n Network, b Batch) torch.Tensor {
	points, weights := gaussLegendre(g.Steps)
	return s.Run(func(c *ops.Scope) torch.Tensor {
		var sum torch.Tensor
		for i, at := range points {
			sum = c.Run(func(c *ops.Scope) torch.Tensor {
				one := c.Scale(gradient(c, n, c.Scale(b.Images, at), b.Labels, nil), weights[i])
				if i == 0 {
					return one
				}
				return c.Add(sum, one)
			})
			c.Tidy(sum)
		}
		return c.Mul(b.Images, sum)
	})
}

// Gap is how far an attribution is from adding up: the completeness axiom of Sundararajan et al. (2017), section 3.
type Gap struct {
	Sum  float64 // of the attribution
	Want float64 // the label's logit of the image less that of the mean colour
}

// Relative is the gap as a part of what the attribution should add up to.
func (g Gap) Relative() float64 { return math.Abs(g.Sum-g.Want) / math.Abs(g.Want) }

// Completeness compares an attribution [N 3 H W] with what it should add up to, a Gap a sample.
func Completeness(s *ops.Scope, n Network, b Batch, attribution torch.Tensor) []Gap {
	c := s.Child()
	defer c.Close()
	sums := ops.Values[float64](c, c.Sum(attribution, 1, 2, 3))
	image := ops.Values[float64](c, chosen(c, n, b.Images, b.Labels))
	blank := ops.Values[float64](c, chosen(c, n, c.Scale(b.Images, 0), b.Labels))
	if c.Err() != nil {
		return nil
	}
	out := make([]Gap, len(sums))
	for i := range out {
		out[i] = Gap{Sum: sums[i], Want: image[i] - blank[i]}
	}
	return out
}

// gaussLegendre returns the n points in (0, 1) and weights whose weighted sum of a polynomial below degree 2n is its
// integral. The points are the roots of the Legendre polynomial, by Newton's method (Press et al., Numerical Recipes, 4.6).
func gaussLegendre(n int) (points, weights []float64) {
	points, weights = make([]float64, n), make([]float64, n)
	for i := range (n + 1) / 2 {
		z := math.Cos(math.Pi * (float64(i) + .75) / (float64(n) + .5))
		slope := 0.0
		for range 100 {
			p, before := 1.0, 0.0 // Legendre polynomials of z, of two following degrees
			for j := range n {
				p, before = (float64(2*j+1)*z*p-float64(j)*before)/float64(j+1), p
			}
			slope = float64(n) * (z*p - before) / (z*z - 1)
			step := p / slope
			z -= step
			if math.Abs(step) < 1e-15 {
				break
			}
		}
		w := 1 / ((1 - z*z) * slope * slope)
		points[i], points[n-1-i] = (1-z)/2, (1+z)/2
		weights[i], weights[n-1-i] = w, w
	}
	return points, weights
}
