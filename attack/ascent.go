package attack

import (
	"context"
	"slices"

	torch "github.com/wangkuiyi/gotorch"

	"mp/ops"
)

// ascent climbs a loss by its gradient within a ball: the loop of BIM, PGD and their relatives.
type ascent struct {
	ball     ball
	steps    int
	step     float64 // how far one step goes
	restarts int     // each begins elsewhere; the best of each sample is kept
	goal     Goal
	loss     Loss

	start     func(s *ops.Scope, r *round, restart int) torch.Tensor // where a climb begins; nil: at the image
	unbounded bool                                                   // steps do not return into the ball, only to [0, 1]
	momentum  bool                                                   // gradients accumulate, as unit vectors of l1
	decay     float64                                                // of the accumulated
	eot       int                                                    // gradients averaged for a step, at least 1
	diverse   *diversity                                             // what the victim sees of an image; nil: the image
	smooth    *kernel                                                // what blurs a gradient; nil: nothing

	// leave drops a sample as soon as it is fooled: whether it is cannot change any more, how well it is would.
	leave bool
}

// Perturb is Attack's.
func (a ascent) Perturb(ctx context.Context, s *ops.Scope, v Victim, b Batch) (Result, error) {
	return perturb(ctx, s, v, b, a.goal, a.climbs)
}

// perturb runs f on a batch.
func perturb(ctx context.Context, s *ops.Scope, v Victim, b Batch, g Goal, f func(s *ops.Scope, r *round) torch.Tensor) (Result, error) {
	c := s.Child()
	defer c.Close()
	r, err := begin(ctx, c, v, b, g)
	if err != nil {
		return Result{}, err
	}
	x := f(c, r)
	if err := c.Err(); err != nil {
		return Result{}, err
	}
	return Result{X: keep(s, c, x), Queries: r.queries}, nil
}

// climbs tries every restart and keeps the best image of each sample.
func (a ascent) climbs(s *ops.Scope, r *round) torch.Tensor {
	if a.restarts == 1 {
		return a.climb(s, r, 0)
	}
	var found outcome
	defer found.free()
	n := len(r.labels)
	standing, fooled, best := all(n), make([]bool, n), make([]float64, n)
	for restart := 0; restart < a.restarts && len(standing) > 0 && s.Err() == nil; restart++ {
		c := s.Child()
		sub := r.take(c, standing)
		x := a.climb(c, sub, restart)
		var better []int
		for i, m := range a.marks(c, sub, x) {
			at := standing[i]
			if restart == 0 || m.fooled && !fooled[at] || m.fooled == fooled[at] && m.score > best[at] {
				better, fooled[at], best[at] = append(better, i), m.fooled, m.score
			}
		}
		if len(better) > 0 && c.Err() == nil {
			found.put(c, r, choose(standing, better), pick(c, x, better))
		}
		if a.leave {
			standing = slices.DeleteFunc(standing, func(i int) bool { return fooled[i] })
		}
		sub.free()
		c.Close()
	}
	return found.give(s, r)
}

// mark is how well an image attacks.
type mark struct {
	fooled bool
	score  float64
}

func (a ascent) marks(s *ops.Scope, r *round, x torch.Tensor) []mark {
	if r.halted(s) != nil {
		return nil
	}
	r.count()
	c := s.Child()
	defer c.Close()
	var out []mark
	c.NoGrad(func() {
		logits := r.v.Logits(c, x)
		scores := ops.Values[float64](c, a.scorer(c, r)(c, logits))
		for i, row := range r.host(c, logits) {
			out = append(out, mark{r.fooled(i, row), scores[i]})
		}
	})
	return out
}

// scorer is the loss of the round's samples, to be made greater.
func (a ascent) scorer(s *ops.Scope, r *round) scorer {
	classes, seek := r.labels, r.targets != nil
	if seek {
		classes = r.targets
	}
	switch {
	case a.loss == DLR && seek:
		return targetedDLR(r.labels, classes)
	case a.loss == DLR:
		return dlr(classes)
	case a.loss == KL:
		var clean torch.Tensor
		r.count()
		s.NoGrad(func() { clean = wide(s, r.v.Logits(s, r.x)) })
		return divergence(clean)
	}
	return crossEntropy(classes, seek)
}

// climb is one restart on all of r's samples.
func (a ascent) climb(s *ops.Scope, r *round, restart int) torch.Tensor {
	c := s.Child()
	defer c.Close()
	k := &climb{ascent: a, all: r, r: r, at: all(len(r.labels)), restart: restart}
	defer k.free()
	if a.start == nil {
		k.x.set(c, r.x)
	} else {
		k.x.set(c, a.start(c, r, restart))
	}
	k.score = a.scorer(c, r)
	for step := 0; step < a.steps && len(k.at) > 0 && c.Err() == nil; step++ {
		k.advance(c, step)
	}
	k.done.put(c, r, k.at, k.x.t)
	return keep(s, c, k.done.give(c, r))
}

// climb is a restart under way.
type climb struct {
	ascent
	all, r  *round // the samples it began with, those still climbing
	at      []int  // where the latter are in the former
	restart int
	score   scorer
	x, sum  slot // images; gradients accumulated so far
	done    outcome
}

func (k *climb) free() {
	k.x.free()
	k.sum.free()
	k.done.free()
	if k.r != k.all {
		k.r.free()
	}
}

// advance goes one step. c is the climb's scope.
func (k *climb) advance(c *ops.Scope, step int) {
	d := c.Child()
	defer d.Close()
	grad, logits := k.gradient(d, step)
	if k.leave {
		if rows := k.standing(k.r.host(d, logits)); len(rows) < len(k.at) {
			k.drop(c, d, rows)
			if len(rows) == 0 {
				return
			}
			grad = pick(d, grad, rows)
		}
	}
	if k.smooth != nil {
		grad = k.smooth.blur(d, grad)
	}
	if k.momentum {
		grad = d.Div(grad, d.Offset(d.Scale(d.SumKeep(d.Abs(grad), images...), 1/pixels(grad)), tiny))
		if ops.Defined(k.sum.t) {
			grad = d.Add(grad, d.Scale(k.sum.t, k.decay))
		}
		k.sum.set(d, grad)
		grad = k.sum.t
	}
	if k.unbounded {
		k.x.set(d, d.Clamp(d.Add(k.x.t, d.Scale(d.Sign(grad), k.step)), 0, 1))
		return
	}
	k.x.set(d, k.ball.step(d, k.x.t, grad, k.r.x, k.step))
}

// standing are the positions of samples that are not fooled yet.
func (k *climb) standing(logits [][]float64) []int {
	var rows []int
	for i, row := range logits {
		if !k.r.fooled(i, row) {
			rows = append(rows, i)
		}
	}
	return rows
}

// drop settles all but rows as they are.
func (k *climb) drop(c, d *ops.Scope, rows []int) {
	var gone []int
	for i := range k.at {
		if !slices.Contains(rows, i) {
			gone = append(gone, i)
		}
	}
	if d.Err() != nil {
		return
	}
	k.done.put(d, k.all, choose(k.at, gone), pick(d, k.x.t, gone))
	k.at = choose(k.at, rows)
	if len(rows) == 0 {
		return
	}
	before := k.r
	k.r = before.take(d, rows)
	if before != k.all {
		before.free()
	}
	k.score = k.scorer(c, k.r)
	k.x.narrow(d, rows)
	k.sum.narrow(d, rows)
}

// gradient is that of one step, and the logits of what the victim saw last.
func (k *climb) gradient(s *ops.Scope, step int) (grad, logits torch.Tensor) {
	v := k.r.v
	if k.diverse != nil {
		k.r.v = k.diverse.seen(v, drawn(k.r.keys, drawDiverse, k.restart, step))
		defer func() { k.r.v = v }()
	}
	for i := range k.eot {
		at := k.r.look(s, k.x.t, k.score)
		if i == 0 {
			grad = at.grad
		} else {
			grad = s.Add(grad, at.grad)
		}
		logits = at.logits
	}
	return grad, logits
}

// pixels is the number of values of one image.
func pixels(x torch.Tensor) float64 {
	if !ops.Defined(x) {
		return 1
	}
	return float64(ops.Numel(x.Shape()[1:]))
}

// choose returns from at the positions at.
func choose(from, at []int) []int {
	out := make([]int, len(at))
	for i, p := range at {
		out[i] = from[p]
	}
	return out
}
