package explain

import (
	torch "github.com/wangkuiyi/gotorch"

	"mp/ops"
)

// Occlusion is what the label's logit loses when a square of the mean colour hides a part of the image (Zeiler & Fergus,
// 2013, section 4.2): of each pixel the mean over the squares that hide it.
type Occlusion struct {
	always
	Window, Stride int64 // side of the square, and from one to the next, in pixels
}

// Attribute returns [N 1 H W]. It runs the network once for each square.
func (o Occlusion) Attribute(s *ops.Scope, n Network, b Batch) torch.Tensor {
	if s.Err() != nil {
		return torch.Tensor{}
	}
	shape := b.Images.Shape()
	samples, h, w := shape[0], shape[2], shape[3]
	sum, count := make([]float64, samples*h*w), make([]float64, h*w)
	whole := ops.Values[float64](s, chosen(s, n, b.Images, b.Labels))
	for _, top := range o.starts(h) {
		for _, left := range o.starts(w) {
			bottom, right := min(top+o.Window, h), min(left+o.Window, w)
			hidden := o.hide(s, n, b, [4]int64{top, left, bottom, right})
			if s.Err() != nil {
				return torch.Tensor{}
			}
			for y := top; y < bottom; y++ {
				for x := left; x < right; x++ {
					count[y*w+x]++
					for i := range samples {
						sum[(i*h+y)*w+x] += whole[i] - hidden[i]
					}
				}
			}
		}
	}
	for i := range sum {
		sum[i] /= count[int64(i)%(h*w)]
	}
	return s.Run(func(c *ops.Scope) torch.Tensor { return c.To(ops.From(c, sum, samples, 1, h, w), b.Images.Dtype()) })
}

// starts are the squares' first pixels along a side; the last square is cut off at the edge.
func (o Occlusion) starts(side int64) []int64 {
	out := []int64{0}
	for at := int64(0); at+o.Window < side; {
		at += o.Stride
		out = append(out, at)
	}
	return out
}

// hide returns the labels' logits with rows box[0] to box[2] and columns box[1] to box[3] hidden.
func (o Occlusion) hide(s *ops.Scope, n Network, b Batch, box [4]int64) []float64 {
	c := s.Child()
	defer c.Close()
	shape := b.Images.Shape()
	h, w := shape[2], shape[3]
	seen := make([]float32, h*w)
	for i := range seen {
		y, x := int64(i)/w, int64(i)%w
		if y < box[0] || y >= box[2] || x < box[1] || x >= box[3] {
			seen[i] = 1
		}
	}
	mask := c.To(ops.From(c, seen, 1, 1, h, w), b.Images.Dtype())
	return ops.Values[float64](c, chosen(c, n, c.Mul(b.Images, mask), b.Labels))
}
