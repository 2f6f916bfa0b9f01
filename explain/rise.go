package explain

import (
	"math"

	torch "github.com/wangkuiyi/gotorch"

	"mp/ops"
)

// RISE is the mean of random masks, each weighted with the label's probability behind it (Petsiuk et al., 2018): what must be
// seen for the network to say so. A mask is a coarse grid of cells, each seen or not, shifted and blurred.
type RISE struct {
	always
	Masks int     // of an image
	Grid  int64   // cells of a mask along a side
	Keep  float64 // probability that a cell is seen
}

// riseChunk is how many masked copies of an image pass the network together.
const riseChunk = 50

// Attribute returns [N 1 H W]. It runs the network Masks times for each image.
func (r RISE) Attribute(s *ops.Scope, n Network, b Batch) torch.Tensor {
	if s.Err() != nil {
		return torch.Tensor{}
	}
	shape := b.Images.Shape()
	h, w := shape[2], shape[3]
	return s.Run(func(c *ops.Scope) torch.Tensor {
		maps := make([]torch.Tensor, len(b.Labels))
		for i := range maps {
			image := c.Narrow(b.Images, 0, int64(i), 1)
			stream := &unit{draw(b.Keys[i:i+1], drawRISE, 0)[0]}
			for done := 0; done < r.Masks; done += riseChunk {
				m := min(riseChunk, r.Masks-done)
				next := c.Run(func(c *ops.Scope) torch.Tensor {
					masks := r.masks(c, stream, int64(m), [2]int64{h, w}, b.Images.Dtype())
					labels := make([]int64, m)
					for j := range labels {
						labels[j] = b.Labels[i]
					}
					p := confidence(c, n, c.Mul(image, masks), labels) // [M]
					sum := c.MatMul(c.Reshape(p, 1, int64(m)), c.Reshape(masks, int64(m), h*w))
					if done == 0 {
						return sum
					}
					return c.Add(maps[i], sum)
				})
				maps[i] = next
				c.Tidy(append(maps[:i+1:i+1], image)...)
			}
		}
		all := c.Scale(c.Concat(0, maps...), 1/(float64(r.Masks)*r.Keep)) // [N H*W]
		return c.Reshape(all, int64(len(maps)), 1, h, w)
	})
}

// masks draws m masks [M 1 H W]. A mask is rows * cells * columns: rows [H Grid] and columns [Grid W] blend neighbouring
// cells linearly, so that nothing but cells and shifts crosses to the device.
func (r RISE) masks(s *ops.Scope, stream *unit, m int64, size [2]int64, d ops.DType) torch.Tensor {
	g := r.Grid
	cells := make([]float32, m*g*g)
	rows, columns := make([]float32, m*size[0]*g), make([]float32, m*size[1]*g)
	for i := range m {
		for j := range g * g {
			if stream.next() < r.Keep {
				cells[i*g*g+j] = 1
			}
		}
		r.blend(rows[i*size[0]*g:(i+1)*size[0]*g], size[0], stream.next())
		r.blend(columns[i*size[1]*g:(i+1)*size[1]*g], size[1], stream.next())
	}
	across := s.Permute(ops.From(s, columns, m, size[1], g), 0, 2, 1)
	out := s.MatMul(s.MatMul(ops.From(s, rows, m, size[0], g), ops.From(s, cells, m, g, g)), across)
	return s.To(s.Reshape(out, m, 1, size[0], size[1]), d)
}

// blend writes into out [side Grid] how much each pixel sees of each cell: the grid is stretched over side and one cell more,
// and cut at a random pixel of the first cell, where shift in [0, 1) says.
func (r RISE) blend(out []float32, side int64, shift float64) {
	cell := (side + r.Grid - 1) / r.Grid
	start := math.Floor(shift * float64(cell))
	scale := float64(r.Grid) / float64((r.Grid+1)*cell)
	for i := range side {
		at := (start+float64(i)+.5)*scale - .5
		low := math.Floor(at)
		for k, weight := range [2]float64{1 - (at - low), at - low} {
			to := min(max(int64(low)+int64(k), 0), r.Grid-1)
			out[i*r.Grid+to] += float32(weight)
		}
	}
}
