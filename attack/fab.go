package attack

import (
	"context"
	"math"
	"slices"

	torch "github.com/wangkuiyi/gotorch"

	"mp/ops"
)

// fab is the targeted Fast Adaptive Boundary attack (Croce & Hein, "Minimally distorted Adversarial Examples with a Fast
// Adaptive Boundary Attack", 2020): steps to the linearised boundary to each rival class, pulled towards the image. A sample
// is settled when a point beyond the boundary lies in the ball; how near the nearest is, is not pursued.
type fab struct {
	ball     ball
	steps    int
	restarts int
	rivals   int
}

// Constants of the paper, section 3.
const (
	fabAlpha = .1   // most pull towards the image
	fabEta   = 1.05 // how far beyond the boundary
	fabBeta  = .9   // how much of the way remains after a success
)

func fabT(o Options) Attack {
	return fab{ball: ball{o.Norm, o.Eps}, steps: o.Steps, restarts: max(o.Restarts, 1), rivals: max(o.Classes, 1)}
}

// Perturb is Attack's.
func (a fab) Perturb(ctx context.Context, s *ops.Scope, v Victim, b Batch) (Result, error) {
	return perturb(ctx, s, v, b, Untargeted, a.run)
}

func (a fab) run(s *ops.Scope, r *round) torch.Tensor {
	var found outcome
	defer found.free()
	logits := r.see(s, r.x)
	standing := slices.DeleteFunc(all(len(r.labels)), func(i int) bool { return s.Err() == nil && r.fooled(i, logits[i]) })
	for rival := 1; rival <= a.rivals && s.Err() == nil; rival++ {
		r.rivals = ranked(logits, r.labels, rival)
		for restart := 0; restart < a.restarts && len(standing) > 0 && s.Err() == nil; restart++ {
			c := s.Child()
			f := &fabClimb{fab: a, all: r, at: standing, r: r.take(c, standing), found: &found}
			f.climb(c, restart, rival)
			standing = f.at
			f.free()
			c.Close()
		}
	}
	return found.give(s, r)
}

// fabClimb is a run under way, on samples at of all.
type fabClimb struct {
	fab
	all, r *round
	at     []int
	x      slot
	found  *outcome
}

func (f *fabClimb) free() {
	f.x.free()
	f.r.free()
}

func (f *fabClimb) climb(c *ops.Scope, restart, rival int) {
	if restart == 0 {
		f.x.set(c, f.r.x)
	} else {
		t := f.ball
		t.eps /= 2
		f.x.set(c, t.start(c, f.r.x, f.r.keys, rival*1000+restart))
	}
	for step := 0; step < f.steps && len(f.at) > 0 && c.Err() == nil; step++ {
		d := c.Child()
		f.advance(d)
		d.Close()
	}
}

// advance goes one step, and settles samples that it takes beyond the boundary within the ball.
func (f *fabClimb) advance(s *ops.Scope) {
	x, x0 := f.x.t, f.r.x
	at := f.r.look(s, x, gap(f.r.labels, f.r.rivals))
	far := s.Reshape(at.score, int64(len(f.at)), 1, 1, 1)
	d1 := f.toBoundary(s, x, at.grad, far)
	// The same plane seen from the image: the gap there, were the network linear.
	atImage := s.Add(far, s.SumKeep(s.Mul(at.grad, s.Sub(x0, x)), images...))
	d2 := f.toBoundary(s, x0, at.grad, atImage)
	a1, a2 := s.Clamp(f.size(s, d1), 1e-8, math.Inf(1)), s.Clamp(f.size(s, d2), 1e-8, math.Inf(1))
	alpha := s.Clamp(s.Div(a1, s.Add(a1, a2)), 0, fabAlpha)
	from := s.Mul(s.Add(x, s.Scale(d1, fabEta)), s.Offset(s.Scale(alpha, -1), 1))
	pull := s.Mul(s.Add(x0, s.Scale(d2, fabEta)), alpha)
	x = s.Clamp(s.Add(from, pull), 0, 1)
	f.x.set(s, x)
	logits := f.r.see(s, x)
	if s.Err() != nil {
		return
	}
	distance := f.ball.distance(s, x, x0)
	var gone, stay []int
	back := make([]float64, 0, len(f.at))
	moved := false
	for i, row := range logits {
		beyond := f.r.fooled(i, row)
		if beyond && distance[i] <= f.ball.eps {
			gone = append(gone, i)
			continue
		}
		stay = append(stay, i)
		if beyond {
			back, moved = append(back, fabBeta), true
		} else {
			back = append(back, 1)
		}
	}
	f.drop(s, gone, stay)
	if moved && len(stay) > 0 {
		x, x0 = f.x.t, f.r.x
		f.x.set(s, s.Add(x0, s.Mul(s.Sub(x, x0), perImage(s, back, dtypeOf(x)))))
	}
}

func (f *fabClimb) drop(s *ops.Scope, gone, stay []int) {
	if len(gone) == 0 || s.Err() != nil {
		return
	}
	f.found.put(s, f.all, choose(f.at, gone), pick(s, f.x.t, gone))
	f.at = choose(f.at, stay)
	if len(stay) == 0 {
		return
	}
	before := f.r
	f.r = before.take(s, stay)
	before.free()
	f.x.narrow(s, stay)
}

// gap is how far the rivals' logits are above the labels'.
func gap(labels, rivals []int64) scorer {
	return func(s *ops.Scope, logits torch.Tensor) torch.Tensor {
		z, n := wide(s, logits), int64(len(labels))
		return s.Reshape(s.Sub(s.Pick(z, ops.From(s, rivals, n, 1)), s.Pick(z, ops.From(s, labels, n, 1))), n)
	}
}

// size is the norm of each image [N 1 1 1].
func (a fab) size(s *ops.Scope, d torch.Tensor) torch.Tensor {
	if a.ball.norm == Linf {
		return s.Largest(s.Abs(d), images...)
	}
	return length(s, d)
}

// Newton's iterations of toBoundary: the function is concave and made of straight pieces, so they end at its root; few suffice.
const fabNewton = 30

// toBoundary returns the shortest change d of x to far + w d = 0 with x + d in [0, 1], for w [N C H W] and far [N 1 1 1];
// where the box holds no such point, the change that comes nearest.
//
// Each value moves against the sign of w far by min(lambda, its room) in l-infinity and min(lambda |w|, its room) in l2, with
// the one lambda for which sum |w| |d| = |far|. The left side grows with lambda, concave and in straight pieces.
func (a fab) toBoundary(s *ops.Scope, x, w, far torch.Tensor) torch.Tensor {
	return s.Run(func(s *ops.Scope) torch.Tensor {
		way := s.Mul(s.Sign(w), s.Scale(s.Sign(far), -1))
		zero := s.Scale(x, 0)
		room := s.Where(s.Less(zero, way), s.Offset(s.Scale(x, -1), 1), s.Where(s.Less(way, zero), x, zero))
		need, weight := s.Abs(far), s.Abs(w)
		pace := weight
		if a.ball.norm == Linf {
			pace = s.Offset(zero, 1)
		}
		rate := s.Mul(weight, pace) // by which one value's share of the sum grows
		var lambda slot
		defer lambda.free()
		lambda.set(s, s.Scale(need, 0))
		for range fabNewton {
			c := s.Child()
			under := c.Less(c.Mul(pace, lambda.t), room)
			rest := c.Sub(need, c.SumKeep(c.Mul(weight, c.Minimum(c.Mul(pace, lambda.t), room)), images...))
			slope := c.SumKeep(c.Where(under, rate, zero), images...)
			step := c.Clamp(c.Div(rest, c.Offset(slope, 1e-30)), 0, math.Inf(1))
			none := c.Scale(slope, 0)
			step = c.Where(c.Less(none, slope), step, none) // where no room is left there is nothing to gain
			lambda.set(c, c.Add(lambda.t, step))
			most := c.Item(c.Largest(c.Sub(step, c.Scale(lambda.t, 1e-6)), 0, 1, 2, 3))
			c.Close()
			if most <= 0 || s.Err() != nil {
				break
			}
		}
		return s.Mul(way, s.Minimum(s.Mul(pace, lambda.t), room))
	})
}
