package attack

import (
	"context"
	"math"

	torch "github.com/wangkuiyi/gotorch"

	"mp/ops"
)

// cw is the l2 attack of Carlini & Wagner ("Towards Evaluating the Robustness of Neural Networks", 2017): Adam in the space
// of tanh on length² + c margin, with a search for the c of each sample. The nearest success is kept; one beyond the ball is
// none: the image stays as it was.
type cw struct {
	ball     ball
	steps    int
	rate     float64 // of Adam
	searches int     // for c
	goal     Goal
}

func newCW(o Options) Attack {
	rate := .01
	if o.StepSize > 0 {
		rate = o.StepSize
	}
	return cw{ball: ball{L2, o.Eps}, steps: o.Steps, rate: rate, searches: max(o.Restarts, 1), goal: o.Goal}
}

// Perturb is Attack's.
func (a cw) Perturb(ctx context.Context, s *ops.Scope, v Victim, b Batch) (Result, error) {
	return perturb(ctx, s, v, b, a.goal, a.run)
}

// cwSearch is the state of one sample's search for c.
type cwSearch struct {
	c, lo, hi float64 // hi is 0 while no success is known
	hit       bool    // a success with this c
	cost      float64 // at the last review
	stalled   bool    // no longer falling: nothing more is noted of this c
	distance  float64 // of the nearest success
}

func (a cw) run(s *ops.Scope, r *round) torch.Tensor {
	var found outcome
	defer found.free()
	n := len(r.labels)
	logits := r.see(s, r.x)
	if s.Err() != nil {
		return torch.Tensor{}
	}
	state := make([]cwSearch, n)
	var at []int
	for i := range state {
		state[i] = cwSearch{c: 1, distance: math.Inf(1), cost: math.Inf(1)}
		if !r.fooled(i, logits[i]) {
			at = append(at, i)
		}
	}
	if len(at) == 0 {
		return found.give(s, r)
	}
	here := r.take(s, at)
	defer here.free()
	sub := chosen(state, at)
	var nearest outcome // of here
	defer nearest.free()
	for range a.searches {
		if s.Err() != nil {
			break
		}
		d := s.Child()
		a.descend(d, here, sub, &nearest)
		d.Close()
		for i := range sub {
			q := &sub[i]
			if q.hit {
				q.hi = q.c
			} else {
				q.lo = q.c
			}
			if q.hi > 0 {
				q.c = (q.lo + q.hi) / 2
			} else {
				q.c *= 10
			}
			q.hit, q.stalled, q.cost = false, false, math.Inf(1)
		}
	}
	var kept []int
	for i, q := range sub {
		if q.distance <= a.ball.eps {
			kept = append(kept, i)
		}
	}
	if len(kept) > 0 && s.Err() == nil {
		found.put(s, r, choose(at, kept), pick(s, nearest.t, kept))
	}
	return found.give(s, r)
}

// Adam's constants, and how close to the border of [0, 1] the space of tanh reaches.
const (
	adam1, adam2, adamEps = .9, .999, 1e-8
	inside                = 1 - 1e-6
)

// descend runs Adam with each sample's c and notes successes nearer than those known.
func (a cw) descend(s *ops.Scope, r *round, state []cwSearch, nearest *outcome) {
	weights := make([]float64, len(state))
	for i, q := range state {
		weights[i] = q.c
	}
	d := dtypeOf(r.x)
	c := s.To(ops.From(s, weights, int64(len(weights))), d)
	var w, m, v slot
	defer func() {
		w.free()
		m.free()
		v.free()
	}()
	w.set(s, s.Atanh(s.Scale(s.Offset(s.Scale(r.x, 2), -1), inside)))
	m.set(s, s.Scale(r.x, 0))
	v.set(s, s.Scale(r.x, 0))
	for step := range a.steps {
		if r.halted(s) != nil {
			return
		}
		r.count()
		b := s.Child()
		leaf := b.Leaf(w.t)
		x := b.Scale(b.Offset(b.Tanh(leaf), 1), .5)
		logits := wide(b, r.v.Logits(b, x))
		long := b.Sum(b.Mul(b.Sub(x, r.x), b.Sub(x, r.x)), images...)
		costs := b.Add(long, b.Mul(c, a.margin(b, r, logits)))
		rows, distance, cost := r.host(b, logits), ops.Values[float64](b, long), ops.Values[float64](b, costs)
		grad := b.Grad(b.Sum(costs), leaf)[0]
		if b.Err() == nil {
			b.NoGrad(func() { a.note(b, r, state, nearest, point{x, rows, distance}) })
		}
		m.set(b, b.Add(b.Scale(m.t, adam1), b.Scale(grad, 1-adam1)))
		v.set(b, b.Add(b.Scale(v.t, adam2), b.Scale(b.Mul(grad, grad), 1-adam2)))
		t := float64(step + 1)
		root := b.Offset(b.Sqrt(b.Scale(v.t, 1/(1-math.Pow(adam2, t)))), adamEps)
		w.set(b, b.Sub(w.t, b.Scale(b.Div(m.t, root), a.rate/(1-math.Pow(adam1, t)))))
		b.Close()
		if (step+1)%max(a.steps/10, 1) == 0 && s.Err() == nil && review(state, cost) {
			return
		}
	}
}

// review stops samples whose cost has not fallen since the last one, as the authors' program does, and says whether all are.
func review(state []cwSearch, cost []float64) bool {
	all := true
	for i := range state {
		q := &state[i]
		q.stalled = q.stalled || cost[i] > .9999*q.cost
		q.cost = cost[i]
		all = all && q.stalled
	}
	return all
}

// margin is how far each sample is from a success [N], at least 0.
func (a cw) margin(s *ops.Scope, r *round, logits torch.Tensor) torch.Tensor {
	own := r.labels
	if r.targets != nil {
		own = r.targets
	}
	n := int64(len(own))
	most, _ := s.TopK(logits, 2)
	mine := s.Pick(logits, ops.From(s, own, n, 1))
	first, second := s.Narrow(most, 1, 0, 1), s.Narrow(most, 1, 1, 1)
	other := s.Where(s.Less(mine, first), first, second)
	gap := s.Sub(mine, other)
	if r.targets != nil {
		gap = s.Sub(other, mine)
	}
	return s.Reshape(s.ReLU(gap), n)
}

// point is where the search is: images, logits and squared distances.
type point struct {
	x        torch.Tensor
	logits   [][]float64
	distance []float64
}

func (a cw) note(s *ops.Scope, r *round, state []cwSearch, nearest *outcome, p point) {
	var rows []int
	for i, row := range p.logits {
		if state[i].stalled || !r.fooled(i, row) {
			continue
		}
		state[i].hit = true
		if d := math.Sqrt(p.distance[i]); d < state[i].distance {
			rows, state[i].distance = append(rows, i), d
		}
	}
	if len(rows) > 0 {
		nearest.put(s, r, rows, pick(s, p.x, rows))
	}
}
