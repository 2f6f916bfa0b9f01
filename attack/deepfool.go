package attack

import (
	"context"
	"math"
	"slices"

	torch "github.com/wangkuiyi/gotorch"

	"mp/ops"
)

// deepfool steps to the nearest linearised boundary until it is crossed (Moosavi-Dezfooli et al., "DeepFool: a simple and
// accurate method to fool deep neural networks", 2016), among the classes that are likeliest at the image. A result beyond the
// ball is none: the image stays as it was.
type deepfool struct {
	ball    ball
	steps   int
	classes int
}

// How far beyond the boundary the paper goes.
const (
	overshoot = .02
	nudge     = 1e-4
)

func newDeepFool(o Options) Attack {
	return deepfool{ball: ball{o.Norm, o.Eps}, steps: o.Steps, classes: max(o.Classes, 1)}
}

// Perturb is Attack's.
func (a deepfool) Perturb(ctx context.Context, s *ops.Scope, v Victim, b Batch) (Result, error) {
	return perturb(ctx, s, v, b, Untargeted, a.run)
}

func (a deepfool) run(s *ops.Scope, r *round) torch.Tensor {
	var found outcome
	var x slot
	defer found.free()
	defer x.free()
	logits := r.see(s, r.x)
	if s.Err() != nil {
		return torch.Tensor{}
	}
	at := slices.DeleteFunc(all(len(r.labels)), func(i int) bool { return r.fooled(i, logits[i]) })
	if len(at) == 0 {
		return found.give(s, r)
	}
	rivals := make([][]int64, min(a.classes, len(logits[0])-1)) // one list a rank
	for rank := range rivals {
		rivals[rank] = chosen(ranked(logits, r.labels, rank+1), at)
	}
	here := r.take(s, at)
	defer func() { here.free() }()
	x.set(s, here.x)
	for step := 0; step < a.steps && len(at) > 0 && s.Err() == nil; step++ {
		d := s.Child()
		// x moves by the shortest steps; what the network is asked about, and what is kept, lies a little further.
		x.set(d, d.Clamp(d.Add(x.t, a.shortest(d, here, x.t, rivals)), 0, 1))
		shown := d.Clamp(d.Add(here.x, d.Scale(d.Sub(x.t, here.x), 1+overshoot)), 0, 1)
		distance := a.ball.distance(d, shown, here.x)
		var gone, keepers, stay []int
		for i, row := range here.see(d, shown) {
			if !here.fooled(i, row) {
				stay = append(stay, i)
				continue
			}
			if gone = append(gone, i); distance[i] <= a.ball.eps {
				keepers = append(keepers, i)
			}
		}
		if len(gone) > 0 && d.Err() == nil {
			found.put(d, r, choose(at, keepers), pickSome(d, shown, keepers))
			at = choose(at, stay)
			if len(stay) > 0 {
				before := here
				here = before.take(d, stay)
				before.free()
				x.narrow(d, stay)
				for rank := range rivals {
					rivals[rank] = chosen(rivals[rank], stay)
				}
			}
		}
		d.Close()
	}
	return found.give(s, r)
}

// pickSome is pick, nothing for no rows.
func pickSome(s *ops.Scope, x torch.Tensor, rows []int) torch.Tensor {
	if len(rows) == 0 {
		return torch.Tensor{}
	}
	return pick(s, x, rows)
}

// shortest returns the shortest change to the nearest of the linearised boundaries.
func (a deepfool) shortest(s *ops.Scope, r *round, x torch.Tensor, rivals [][]int64) torch.Tensor {
	if r.halted(s) != nil {
		return torch.Tensor{}
	}
	r.count()
	n := int64(len(r.labels))
	c := s.Child()
	defer c.Close()
	leaf := c.Leaf(x)
	logits := wide(c, r.v.Logits(c, leaf))
	rows := r.host(c, logits)
	if c.Err() != nil {
		return torch.Tensor{}
	}
	k := len(rows[0])
	dys, gaps := make([]torch.Tensor, len(rivals)), make([][]float64, len(rivals))
	for j, classes := range rivals {
		dy := make([]float64, int(n)*k)
		for i, class := range classes {
			dy[i*k+int(class)]++
			dy[i*k+int(r.labels[i])]--
			gaps[j] = append(gaps[j], math.Abs(rows[i][class]-rows[i][r.labels[i]])+nudge)
		}
		dys[j] = c.To(ops.From(c, dy, n, int64(k)), dtypeOf(logits))
	}
	var nearest, change slot
	defer nearest.free()
	defer change.free()
	for j, w := range c.Jacobian(logits, leaf, dys) {
		d := c.Child()
		gap := perImage(d, gaps[j], dtypeOf(x))
		var far, step torch.Tensor // how far the boundary is, and the way there
		if a.ball.norm == L2 {
			long := d.Offset(length(d, w), tiny)
			far, step = d.Div(gap, long), d.Mul(w, d.Div(gap, d.Mul(long, long)))
		} else {
			sum := d.Offset(d.SumKeep(d.Abs(w), images...), tiny)
			far, step = d.Div(gap, sum), d.Mul(d.Sign(w), d.Div(gap, sum))
		}
		if j == 0 {
			nearest.set(d, far)
			change.set(d, step)
		} else {
			less := d.Less(far, nearest.t)
			change.set(d, d.Where(less, step, change.t))
			nearest.set(d, d.Where(less, far, nearest.t))
		}
		d.Close()
	}
	if c.Err() != nil {
		return torch.Tensor{}
	}
	t := change.t
	change.t = torch.Tensor{}
	return s.Adopt(t)
}
