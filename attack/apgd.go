package attack

import (
	"context"
	"slices"

	torch "github.com/wangkuiyi/gotorch"

	"mp/ops"
)

// apgd is Auto-PGD (Croce & Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free
// attacks", 2020, algorithm 1): PGD with momentum whose step halves when the loss stops growing, from the best point so far.
type apgd struct {
	ball     ball
	steps    int
	restarts int
	eot      int
	rho      float64 // share of steps that must improve the loss for the step size to stay
	goal     Goal
	loss     Loss
	rivals   int // how many classes to try as targets of the untargeted attack; 0 goes away from the label
	leave    bool
}

// Constants of algorithm 1.
const (
	apgdMomentum = .75 // share of the new step
	apgdFirst    = 2.  // first step, in radii
)

func apgdOf(o Options) apgd {
	return apgd{ball: ball{o.Norm, o.Eps}, steps: o.Steps, restarts: max(o.Restarts, 1), eot: max(o.EOT, 1), rho: .75, goal: o.Goal, loss: o.Loss, leave: o.Leave}
}

// apgdCE climbs the cross-entropy, or with o.Loss the DLR.
func apgdCE(o Options) Attack { return apgdOf(o) }

// apgdT climbs the targeted DLR towards each of the o.Classes likeliest wrong classes.
func apgdT(o Options) Attack {
	a := apgdOf(o)
	a.loss, a.rivals, a.leave = DLR, max(o.Classes, 1), true
	return a
}

// Perturb is Attack's.
func (a apgd) Perturb(ctx context.Context, s *ops.Scope, v Victim, b Batch) (Result, error) {
	return perturb(ctx, s, v, b, a.goal, a.run)
}

// run tries restarts, and rivals, on the samples that still stand.
func (a apgd) run(s *ops.Scope, r *round) torch.Tensor {
	var found outcome
	defer found.free()
	logits := r.see(s, r.x)
	standing := all(len(r.labels))
	if a.leave {
		standing = slices.DeleteFunc(standing, func(i int) bool { return s.Err() == nil && r.fooled(i, logits[i]) })
	}
	best := make([]float64, len(r.labels))
	first := true
	for _, rival := range ranks(a.rivals) {
		if rival > 0 && s.Err() == nil {
			r.rivals = ranked(logits, r.labels, rival)
		}
		for restart := 0; restart < a.restarts && len(standing) > 0 && s.Err() == nil; restart++ {
			c := s.Child()
			sub := r.take(c, standing)
			x, fooled, score := a.climb(c, sub, rival*1000+restart)
			var take, still []int
			for i, at := range standing {
				switch {
				case a.leave && fooled[i]:
					take = append(take, i)
				case a.leave:
					still = append(still, at)
				default:
					still = append(still, at)
					if first || score[i] > best[at] {
						take, best[at] = append(take, i), score[i]
					}
				}
			}
			if len(take) > 0 && c.Err() == nil {
				found.put(c, r, choose(standing, take), pick(c, x, take))
			}
			standing, first = still, false
			sub.free()
			c.Close()
		}
	}
	return found.give(s, r)
}

// ranks are 1 to n, or 0 alone for n = 0.
func ranks(n int) []int {
	if n == 0 {
		return []int{0}
	}
	out := make([]int, n)
	for i := range out {
		out[i] = i + 1
	}
	return out
}

// ranked returns the wrong class of the given rank (1 is the likeliest) of each row; the last where there are fewer.
func ranked(logits [][]float64, labels []int64, rank int) []int64 {
	out := make([]int64, len(logits))
	for i, row := range logits {
		order := all(len(row))
		slices.SortStableFunc(order, func(a, b int) int {
			if row[a] != row[b] {
				if row[a] > row[b] {
					return -1
				}
				return 1
			}
			return 0
		})
		order = slices.DeleteFunc(order, func(k int) bool { return int64(k) == labels[i] })
		if len(order) == 0 {
			out[i] = labels[i]
			continue
		}
		out[i] = int64(order[min(rank, len(order))-1])
	}
	return out
}

// score is the loss of a round's samples.
func (a apgd) score(r *round) scorer {
	switch {
	case r.rivals != nil:
		return targetedDLR(r.labels, r.rivals)
	case r.targets != nil && a.loss == DLR:
		return targetedDLR(r.labels, r.targets)
	case r.targets != nil:
		return crossEntropy(r.targets, true)
	case a.loss == DLR:
		return dlr(r.labels)
	}
	return crossEntropy(r.labels, false)
}

// climb is one run on all of r's samples: their images, which are fooled, and the loss reached. Fooled samples come as they
// were when they were fooled, others at their best loss.
func (a apgd) climb(s *ops.Scope, r *round, restart int) (torch.Tensor, []bool, []float64) {
	c := s.Child()
	defer c.Close()
	n := len(r.labels)
	k := &apgdClimb{apgd: a, all: r, r: r, at: all(n), fooled: make([]bool, n), final: make([]float64, n)}
	defer k.free()
	k.begin(c, restart)
	period, least, fewer := max(22*a.steps/100, 1), max(6*a.steps/100, 1), max(3*a.steps/100, 1)
	since := 0
	for i := 0; i < a.steps && len(k.at) > 0 && c.Err() == nil; i++ {
		k.advance(c, i)
		if since++; since == period && len(k.at) > 0 && c.Err() == nil {
			k.review(c, i, period)
			period, since = max(period-fewer, least), 0
		}
	}
	for i, at := range k.at {
		k.final[at] = k.best[i]
	}
	k.done.put(c, r, k.at, k.bestX.t)
	return keep(s, c, k.done.give(c, r)), k.fooled, k.final
}

// apgdClimb is a run under way. Tensors and lists are those of the samples still climbing, but for fooled and final.
type apgdClimb struct {
	apgd
	all, r *round
	at     []int
	done   outcome
	fooled []bool
	final  []float64

	x, old, bestX  slot
	grad, bestGrad slot
	best, step     []float64   // loss; step size
	history        [][]float64 // losses of each step, a list a sample
	checked        []float64   // best loss at the last review
	reduced        []bool      // the step was halved at the last review
}

func (k *apgdClimb) free() {
	for _, h := range []*slot{&k.x, &k.old, &k.bestX, &k.grad, &k.bestGrad, &k.done.slot} {
		h.free()
	}
	if k.r != k.all {
		k.r.free()
	}
}

// begin goes to a random start on the border and looks around.
func (k *apgdClimb) begin(c *ops.Scope, restart int) {
	d := c.Child()
	defer d.Close()
	n := len(k.at)
	keys := drawn(k.r.keys, drawStart, restart, 0)
	var t torch.Tensor
	if k.ball.norm == Linf {
		t = d.Uniform(k.r.x, keys)
		t = d.Div(t, d.Largest(d.Abs(t), images...))
	} else {
		t = unit(d, d.Normal(k.r.x, keys))
	}
	k.x.set(d, d.Clamp(d.Add(k.r.x, d.Scale(t, k.ball.eps)), 0, 1))
	k.old.set(d, k.x.t)
	k.bestX.set(d, k.x.t)
	k.step, k.history, k.reduced = make([]float64, n), make([][]float64, n), make([]bool, n)
	for i := range k.step {
		k.step[i], k.reduced[i] = apgdFirst*k.ball.eps, true
	}
	loss := k.look(d)
	k.best, k.checked = slices.Clone(loss), slices.Clone(loss)
	k.bestGrad.set(d, k.grad.t)
}

// look updates the gradient at x, settles samples that are fooled, and returns the loss of the others.
func (k *apgdClimb) look(d *ops.Scope) []float64 {
	score := k.score(k.r)
	var grad torch.Tensor
	var at sight
	for i := range k.eot {
		at = k.r.look(d, k.x.t, score)
		if i == 0 {
			grad = at.grad
		} else {
			grad = d.Add(grad, at.grad)
		}
	}
	k.grad.set(d, grad)
	loss := ops.Values[float64](d, at.score)
	logits := k.r.host(d, at.logits)
	if d.Err() != nil {
		return make([]float64, len(k.at))
	}
	var gone, stay []int
	for i, row := range logits {
		if k.r.fooled(i, row) {
			k.fooled[k.at[i]] = true
			gone = append(gone, i)
			continue
		}
		stay = append(stay, i)
	}
	if !k.leave || len(gone) == 0 {
		return loss
	}
	return k.drop(d, gone, stay, loss)
}

// drop settles the samples gone and keeps the others.
func (k *apgdClimb) drop(d *ops.Scope, gone, stay []int, loss []float64) []float64 {
	k.done.put(d, k.all, choose(k.at, gone), pick(d, k.x.t, gone))
	for _, i := range gone {
		k.final[k.at[i]] = loss[i]
	}
	k.at = choose(k.at, stay)
	if len(stay) == 0 {
		return nil
	}
	before := k.r
	k.r = before.take(d, stay)
	if before != k.all {
		before.free()
	}
	for _, h := range []*slot{&k.x, &k.old, &k.bestX, &k.grad, &k.bestGrad} {
		h.narrow(d, stay)
	}
	k.step, k.reduced, k.history = chosen(k.step, stay), chosen(k.reduced, stay), chosen(k.history, stay)
	k.best, k.checked = chosen(k.best, stay), chosen(k.checked, stay)
	return chosen(loss, stay)
}

func chosen[T any](v []T, at []int) []T {
	if v == nil {
		return nil
	}
	out := make([]T, len(at))
	for i, p := range at {
		out[i] = v[p]
	}
	return out
}

// advance goes step i.
func (k *apgdClimb) advance(c *ops.Scope, i int) {
	d := c.Child()
	defer d.Close()
	x, x0 := k.x.t, k.r.x
	share := apgdMomentum
	if i == 0 {
		share = 1
	}
	step := perImage(d, k.step, dtypeOf(x))
	var way torch.Tensor
	if k.ball.norm == Linf {
		way = d.Sign(k.grad.t)
	} else {
		way = unit(d, k.grad.t)
	}
	next := k.ball.project(d, d.Add(x, d.Mul(way, step)), x0)
	moved := d.Add(d.Scale(d.Sub(next, x), share), d.Scale(d.Sub(x, k.old.t), 1-share))
	next = k.ball.project(d, d.Add(x, moved), x0)
	k.old.set(d, x)
	k.x.set(d, next)
	loss := k.look(d)
	if len(k.at) == 0 || d.Err() != nil {
		return
	}
	var better []int
	for j, l := range loss {
		k.history[j] = append(k.history[j], l)
		if l > k.best[j] {
			better, k.best[j] = append(better, j), l
		}
	}
	k.adopt(d, &k.bestX, k.x.t, better)
	k.adopt(d, &k.bestGrad, k.grad.t, better)
}

// adopt overwrites rows of a slot with those of t.
func (k *apgdClimb) adopt(d *ops.Scope, h *slot, t torch.Tensor, rows []int) {
	switch {
	case len(rows) == 0:
	case len(rows) == len(k.at):
		h.set(d, t)
	default:
		next := copyOf(d, h.t) // the slot may share its tensor with another
		d.PutRows(next, index(d, rows), pick(d, t, rows))
		h.set(d, next)
	}
}

// review halves the steps of samples whose loss has not grown enough in the last period steps, and sends them back to their
// best point.
func (k *apgdClimb) review(c *ops.Scope, i, period int) {
	d := c.Child()
	defer d.Close()
	var back []int
	for j := range k.at {
		halve := !grows(k.history[j], i, period, k.rho) || !k.reduced[j] && k.checked[j] >= k.best[j]
		k.reduced[j], k.checked[j] = halve, k.best[j]
		if halve {
			k.step[j] /= 2
			back = append(back, j)
		}
	}
	k.adopt(d, &k.x, k.bestX.t, back)
	k.adopt(d, &k.grad, k.bestGrad.t, back)
}

// grows says whether more than a share rho of the last period losses are greater than the one before; before the first lies
// 0, as in the authors' program.
func grows(history []float64, i, period int, rho float64) bool {
	rises := 0
	for j := i; j > i-period; j-- {
		before := 0.0
		if j > 0 {
			before = history[j-1]
		}
		if history[j] > before {
			rises++
		}
	}
	return float64(rises) > rho*float64(period)
}
