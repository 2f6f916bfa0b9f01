package attack

import (
	"context"
	"math"
	"slices"

	torch "github.com/wangkuiyi/gotorch"

	"mp/ops"
)

// square is the Square attack (Andriushchenko et al., "Square Attack: a query-efficient black-box adversarial attack via
// random search", 2020): squares of colour at random places, kept when the margin shrinks. It sees logits and no gradient.
type square struct {
	ball    ball
	queries int
	first   float64 // share of the image that the first squares cover
	goal    Goal
}

func newSquare(o Options) Attack {
	return square{ball: ball{o.Norm, o.Eps}, queries: o.Steps, first: .8, goal: o.Goal}
}

// Perturb is Attack's.
func (a square) Perturb(ctx context.Context, s *ops.Scope, v Victim, b Batch) (Result, error) {
	return perturb(ctx, s, v, b, a.goal, a.run)
}

// side is that of the squares of one query, on an image of the given side: the paper's schedule for 10,000 queries.
func (a square) side(query int, image int64) int64 {
	share := a.first
	for _, from := range []int{10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000} {
		if query > from {
			share /= 2
		}
	}
	return max(int64(math.RoundToEven(math.Sqrt(share)*float64(image))), 1)
}

// margins are how far each sample is from being a success, in logits; 0 or less is one.
func (r *round) margins(logits [][]float64) []float64 {
	out := make([]float64, len(logits))
	for i, row := range logits {
		own := r.labels[i]
		if r.targets != nil {
			own = r.targets[i]
		}
		other := math.Inf(-1)
		for k, v := range row {
			if int64(k) != own && v > other {
				other = v
			}
		}
		out[i] = row[own] - other
		if r.targets != nil {
			out[i] = -out[i]
		}
		if out[i] == 0 && !r.fooled(i, row) {
			out[i] = math.SmallestNonzeroFloat64 // a tie is no success yet
		}
	}
	return out
}

// search is a run under way on samples at of all.
type search struct {
	square
	all, r *round
	at     []int
	x      slot // the best so far
	margin []float64
	found  *outcome
}

func (a square) run(s *ops.Scope, r *round) torch.Tensor {
	var found outcome
	defer found.free()
	logits := r.see(s, r.x)
	standing := slices.DeleteFunc(all(len(r.labels)), func(i int) bool { return s.Err() == nil && r.fooled(i, logits[i]) })
	if len(standing) > 0 && s.Err() == nil {
		k := &search{square: a, all: r, at: standing, r: r.take(s, standing), found: &found}
		defer func() {
			k.x.free()
			k.r.free()
		}()
		k.begin(s)
		for query := 0; query+1 < a.queries && len(k.at) > 0 && s.Err() == nil; query++ {
			d := s.Child()
			if a.ball.norm == Linf {
				k.try(d, k.squares(d, query))
			} else {
				k.try(d, k.mounds(d, query))
			}
			d.Close()
		}
		found.put(s, r, k.at, k.x.t)
	}
	return found.give(s, r)
}

// begin takes the first query: vertical stripes in l-infinity, a grid of mounds in l2.
func (k *search) begin(s *ops.Scope) {
	d := s.Child()
	defer d.Close()
	keys := drawn(k.r.keys, drawStart, 0, 0)
	shape := k.r.x.Shape()
	k.margin = make([]float64, len(k.at))
	for i := range k.margin {
		k.margin[i] = math.Inf(1)
	}
	k.x.set(d, k.r.x)
	if k.ball.norm == L2 {
		k.try(d, k.grid(d, keys))
		return
	}
	n, c, w := shape[0], shape[1], shape[3]
	signs := make([]float64, 0, n*c*w)
	for _, key := range keys {
		r := stream{key: key}
		for range c * w {
			signs = append(signs, r.sign()*k.ball.eps)
		}
	}
	stripes := d.To(ops.From(d, signs, n, c, 1, w), dtypeOf(k.r.x))
	k.try(d, d.Clamp(d.Add(k.r.x, stripes), 0, 1))
}

// squares changes one square of each image by twice eps, the sign drawn for each channel, and returns into the ball.
func (k *search) squares(s *ops.Scope, query int) torch.Tensor {
	shape := k.r.x.Shape()
	n, c, h, w := shape[0], shape[1], shape[2], shape[3]
	side := min(k.side(query, min(h, w)), h, w)
	var top, left, signs []float64
	for _, key := range drawn(k.r.keys, drawSquare, 0, query) {
		r := stream{key: key}
		top, left = append(top, float64(r.intn(int(h-side)))), append(left, float64(r.intn(int(w-side))))
		for range c {
			signs = append(signs, 2*k.ball.eps*r.sign())
		}
	}
	rows, columns := k.span(s, top, h, side, 2), k.span(s, left, w, side, 3)
	change := s.Mul(s.To(ops.From(s, signs, n, c, 1, 1), dtypeOf(k.r.x)), s.Mul(rows, columns))
	return k.ball.project(s, s.Add(k.x.t, change), k.r.x)
}

// span is 1 at the positions from..from+length-1 of each image and 0 elsewhere, along dimension dim of [N 1 H W].
func (k *search) span(s *ops.Scope, from []float64, size, length int64, dim int) torch.Tensor {
	v := make([]float64, 0, int64(len(from))*size)
	for _, f := range from {
		for i := range size {
			if i >= int64(f) && i < int64(f)+length {
				v = append(v, 1)
			} else {
				v = append(v, 0)
			}
		}
	}
	shape := []int64{int64(len(from)), 1, 1, 1}
	shape[dim] = size
	return s.To(ops.From(s, v, shape...), dtypeOf(k.r.x))
}

// try keeps x where it is better than what was, and settles successes.
func (k *search) try(s *ops.Scope, x torch.Tensor) {
	logits := k.r.see(s, x)
	if s.Err() != nil {
		return
	}
	var better, gone, stay []int
	for i, m := range k.r.margins(logits) {
		if m < k.margin[i] {
			better, k.margin[i] = append(better, i), m
		}
		if m <= 0 {
			gone = append(gone, i)
		} else {
			stay = append(stay, i)
		}
	}
	if len(better) == len(k.at) {
		k.x.set(s, x)
	} else if len(better) > 0 {
		next := copyOf(s, k.x.t)
		s.PutRows(next, index(s, better), pick(s, x, better))
		k.x.set(s, next)
	}
	if len(gone) == 0 {
		return
	}
	k.found.put(s, k.all, choose(k.at, gone), pick(s, k.x.t, gone))
	k.at = choose(k.at, stay)
	if len(stay) == 0 {
		return
	}
	before := k.r
	k.r = before.take(s, stay)
	before.free()
	k.x.narrow(s, stay)
	k.margin = chosen(k.margin, stay)
}
