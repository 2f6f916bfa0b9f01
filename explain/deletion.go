package explain

import (
	"cmp"
	"math"
	"slices"

	torch "github.com/wangkuiyi/gotorch"

	"mp/ops"
)

// Removal measures a map by what the network says when its pixels go, the most important first, and when they come
// (Petsiuk et al., 2018, section 3.3).
type Removal struct {
	Steps int // into which the pixels are cut, at least 1
}

// Areas are the areas under the curves of the label's probability over the part of pixels that went or came, 0 to 1. Of a good
// map deletion's is small and insertion's large.
type Areas struct{ Deletion, Insertion float64 }

// The blur of what insertion starts from, the authors' own.
const (
	blurSize  = 11
	blurSigma = 5
)

// Areas measures maps [N 1 H W]: deleted pixels get the mean colour, and insertion starts from a blurred image. It runs the
// network 2 (Steps+1) times.
func (r Removal) Areas(s *ops.Scope, n Network, b Batch, maps torch.Tensor) []Areas {
	c := s.Child()
	defer c.Close()
	rank := ranks(c, maps)
	blurred, blank := blur(c, b.Images), c.Scale(b.Images, 0)
	out := make([]Areas, len(b.Labels))
	for step := range r.Steps + 1 {
		gone := float64(step) / float64(r.Steps)
		share := 1 / float64(r.Steps) // trapezoids
		if step == 0 || step == r.Steps {
			share /= 2
		}
		for _, way := range []struct {
			from, to torch.Tensor
			area     func(i int) *float64
		}{
			{b.Images, blank, func(i int) *float64 { return &out[i].Deletion }},
			{blurred, b.Images, func(i int) *float64 { return &out[i].Insertion }},
		} {
			p := swapped(c, n, b, swap{rank, gone, way.from, way.to})
			if c.Err() != nil {
				return nil
			}
			for i := range out {
				*way.area(i) += share * p[i]
			}
		}
	}
	return out
}

// swap says which pixels come from another image: those of rank below gone, 0 to 1.
type swap struct {
	rank     torch.Tensor
	gone     float64
	from, to torch.Tensor
}

// swapped returns the labels' probabilities after a swap.
func swapped(s *ops.Scope, n Network, b Batch, w swap) []float64 {
	c := s.Child()
	defer c.Close()
	limit := ops.From(c, []float32{float32(w.gone)}, 1)
	return ops.Values[float64](c, confidence(c, n, c.Where(c.Less(w.rank, limit), w.to, w.from), b.Labels))
}

// ranks returns the place of each pixel, [N 1 H W], in the order from the largest to the smallest of its map, as a number in
// [0, 1); of equal pixels the first comes first.
func ranks(s *ops.Scope, maps torch.Tensor) torch.Tensor {
	values := ops.Values[float64](s, maps)
	if s.Err() != nil {
		return torch.Tensor{}
	}
	shape := maps.Shape()
	pixels := len(values) / int(shape[0])
	out := make([]float32, len(values))
	order := make([]int, pixels)
	for i := range int(shape[0]) {
		m := values[i*pixels : (i+1)*pixels]
		for place, at := range descending(order, m) {
			out[i*pixels+at] = (float32(place) + .5) / float32(pixels)
		}
	}
	return ops.From(s, out, shape...)
}

// descending fills order with the positions of m's elements, the largest first; of equal ones the first first.
func descending(order []int, m []float64) []int {
	for j := range order {
		order[j] = j
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(m[b], m[a]) })
	return order
}

// blur returns images [N 3 H W] behind a Gaussian.
func blur(s *ops.Scope, x torch.Tensor) torch.Tensor {
	if s.Err() != nil {
		return torch.Tensor{}
	}
	kernel := make([]float64, blurSize)
	var sum float64
	for i := range kernel {
		d := float64(i) - (blurSize-1)/2
		kernel[i] = math.Exp(-d * d / (2 * blurSigma * blurSigma))
		sum += kernel[i]
	}
	square := make([]float64, 0, 3*blurSize*blurSize)
	for range 3 {
		for _, a := range kernel {
			for _, b := range kernel {
				square = append(square, a*b/(sum*sum))
			}
		}
	}
	var out torch.Tensor
	s.NoGrad(func() {
		out = s.Run(func(c *ops.Scope) torch.Tensor {
			w := c.To(ops.From(c, square, 3, 1, blurSize, blurSize), x.Dtype())
			return c.Conv2d(x, w, torch.Tensor{}, ops.ConvGeometry{Padding: (blurSize - 1) / 2, Groups: 3})
		})
	})
	return out
}
