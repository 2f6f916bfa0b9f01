package attack

import (
	"math"

	torch "github.com/wangkuiyi/gotorch"

	"mp/ops"
)

// The Square attack in l2 (algorithm 3 of the paper) moves mass between windows of the change: what one window loses,
// another gains, in the shape of two pyramids of opposite signs.

// mound is that shape, side x side values of length 1; flat turns it by a quarter.
func mound(side int, turned bool) []float64 {
	v := make([]float64, side*side)
	half := side / 2
	for _, part := range []struct {
		from, rows int
		sign       float64
	}{{0, half, 1}, {half, side - half, -1}} {
		p := pyramid(part.rows, side)
		for i, x := range p {
			v[part.from*side+i] = part.sign * x
		}
	}
	normalise(v)
	if turned {
		t := make([]float64, len(v))
		for i := range side {
			for j := range side {
				t[j*side+i] = v[i*side+j]
			}
		}
		return t
	}
	return v
}

// pyramid is rows x columns values that fall from the middle as a sum of squares of reciprocals.
func pyramid(rows, columns int) []float64 {
	v := make([]float64, rows*columns)
	rc, cc := rows/2+1, columns/2+1
	top, left := rc-1, cc-1
	for k := range max(rc, cc) {
		for i := max(top, 0); i < min(top+2*k+1, rows); i++ {
			for j := max(left, 0); j < min(left+2*k+1, columns); j++ {
				v[i*columns+j] += 1 / float64((k+1)*(k+1))
			}
		}
		top, left = top-1, left-1
	}
	normalise(v)
	return v
}

func normalise(v []float64) {
	sum := 0.0
	for _, x := range v {
		sum += x * x
	}
	if sum == 0 {
		return
	}
	for i := range v {
		v[i] /= math.Sqrt(sum)
	}
}

// grid is the first query: five by five mounds of random signs, eps long.
func (k *search) grid(s *ops.Scope, keys []uint64) torch.Tensor {
	shape := k.r.x.Shape()
	n, c, h, w := int(shape[0]), int(shape[1]), int(shape[2]), int(shape[3])
	side := max(min(h, w)/5, 1)
	v := make([]float64, n*c*h*w)
	for i, key := range keys {
		r := stream{key: key}
		for top := (h - side*(h/side)) / 2; top+side <= h; top += side {
			for left := (w - side*(w/side)) / 2; left+side <= w; left += side {
				m := mound(side, r.sign() > 0)
				for channel := range c {
					put(v[(i*c+channel)*h*w:], w, window{top, left, side}, m, r.sign())
				}
			}
		}
	}
	d := s.To(ops.From(s, v, shape...), dtypeOf(k.r.x))
	return s.Clamp(s.Add(k.r.x, s.Scale(unit(s, d), k.ball.eps)), 0, 1)
}

type window struct{ top, left, side int }

// put writes a mound into a plane of width w.
func put(plane []float64, w int, at window, m []float64, sign float64) {
	for i := range at.side {
		for j := range at.side {
			plane[(at.top+i)*w+at.left+j] = sign * m[i*at.side+j]
		}
	}
}

// mounds is one query. The windows are of one size and each image's at its own places.
func (k *search) mounds(s *ops.Scope, query int) torch.Tensor {
	shape := k.r.x.Shape()
	n, c, h, w := int(shape[0]), int(shape[1]), int(shape[2]), int(shape[3])
	side := int(max(k.side(query, int64(min(h, w))), 3))
	side = min(side+1-side%2, h, w)
	delta := ops.Values[float64](s, s.Sub(k.x.t, k.r.x))
	if s.Err() != nil {
		return torch.Tensor{}
	}
	size := c * h * w
	for i, key := range drawn(k.r.keys, drawSquare, 0, query) {
		k.move(delta[i*size:(i+1)*size], [3]int{c, h, w}, side, &stream{key: key})
	}
	d := s.To(ops.From(s, delta, int64(n), int64(c), int64(h), int64(w)), dtypeOf(k.r.x))
	return s.Clamp(s.Add(k.r.x, s.Scale(unit(s, d), k.ball.eps)), 0, 1)
}

// move changes one image's delta [C H W].
func (k *search) move(delta []float64, shape [3]int, side int, r *stream) {
	c, h, w := shape[0], shape[1], shape[2]
	to := window{r.intn(h - side), r.intn(w - side), side}
	from := window{r.intn(h - side), r.intn(w - side), side}
	m := mound(side, r.sign() > 0)
	whole := squares(delta)
	var both float64 // of what lies in either window
	for channel := range c {
		plane := delta[channel*h*w:]
		for i := range h {
			for j := range w {
				if to.has(i, j) || from.has(i, j) {
					both += plane[i*w+j] * plane[i*w+j]
				}
			}
		}
	}
	room := math.Sqrt(max(k.ball.eps*k.ball.eps-whole, 0)/float64(c) + both)
	for channel := range c {
		plane := delta[channel*h*w : (channel+1)*h*w]
		old := to.cut(plane, w)
		long, sign := math.Sqrt(squares(old))+tiny, r.sign()
		fresh := make([]float64, len(old))
		for i := range fresh {
			fresh[i] = sign*m[i] + old[i]/long
		}
		put(plane, w, from, fresh, 0)
		put(plane, w, to, fresh, room/(tiny+math.Sqrt(squares(fresh))))
	}
}

func (at window) has(i, j int) bool {
	return i >= at.top && i < at.top+at.side && j >= at.left && j < at.left+at.side
}

// cut copies what lies in the window of a plane of width w.
func (at window) cut(plane []float64, w int) []float64 {
	out := make([]float64, 0, at.side*at.side)
	for i := range at.side {
		row := (at.top+i)*w + at.left
		out = append(out, plane[row:row+at.side]...)
	}
	return out
}

func squares(v []float64) float64 {
	sum := 0.0
	for _, x := range v {
		sum += x * x
	}
	return sum
}
