package attack

import (
	"context"
	"fmt"
	"math"
	"slices"

	torch "github.com/wangkuiyi/gotorch"

	"mp/ops"
)

// autoattack is the standard ensemble of Croce & Hein (2020): APGD on the cross-entropy, targeted APGD on the DLR, targeted
// FAB and Square, each on the samples that the ones before left standing.
type autoattack struct {
	stages []stage
}

type stage struct {
	name   string
	attack Attack
}

func newAutoAttack(o Options) Attack {
	base := Options{Norm: o.Norm, Eps: o.Eps, Steps: o.Steps, Restarts: 1, Classes: o.Classes, EOT: 1, Leave: true}
	queries := base
	queries.Steps = 50 * o.Steps // 5000 for the standard 100
	return autoattack{[]stage{
		{"apgd-ce", apgdCE(base)},
		{"apgd-t", apgdT(base)},
		{"fab-t", fabT(base)},
		{"square", newSquare(queries)},
	}}
}

// Facts is what a run of autoattack saw, for Warnings. Facts of batches add up.
type Facts struct {
	Images        int
	Correct       int            // before any attack
	Broken        map[string]int // samples by the stage that broke them
	ZeroGradient  int            // samples whose loss has no slope at all
	Random        bool           // two looks at the same images gave different logits
	Probabilities bool           // the logits are in [0, 1] and add up to 1
}

// Add adds the facts of another batch.
func (f *Facts) Add(g Facts) {
	f.Images, f.Correct, f.ZeroGradient = f.Images+g.Images, f.Correct+g.Correct, f.ZeroGradient+g.ZeroGradient
	f.Random, f.Probabilities = f.Random || g.Random, f.Probabilities || g.Probabilities
	for name, n := range g.Broken {
		if f.Broken == nil {
			f.Broken = map[string]int{}
		}
		f.Broken[name] += n
	}
}

// masking is the share of samples that Square alone may break before gradients are suspected.
const masking = .002

// Warnings says why the accuracy measured may be greater than the true one.
func (f Facts) Warnings() []string {
	var out []string
	if f.Random {
		out = append(out, "randomised network: the same images got different logits; measure with eotpgd, whose gradients are averages")
	}
	if f.Probabilities {
		out = append(out, "the network gives probabilities, not logits: gradients vanish; attack it before its softmax")
	}
	if f.ZeroGradient > 0 {
		out = append(out, fmt.Sprintf("zero gradients: %d of %d samples have none; attacks by gradients are blind there", f.ZeroGradient, f.Images))
	}
	if n := f.Broken["square"]; float64(n) > masking*float64(f.Images) {
		out = append(out, fmt.Sprintf("gradient masking: square, which sees no gradient, broke %d samples that the attacks by gradients left", n))
	}
	return out
}

// Perturb is Attack's. The result's Facts are those of the batch.
func (a autoattack) Perturb(ctx context.Context, s *ops.Scope, v Victim, b Batch) (Result, error) {
	facts := Facts{Broken: map[string]int{}}
	out, err := perturb(ctx, s, v, b, Untargeted, func(s *ops.Scope, r *round) torch.Tensor {
		logits := a.inspect(s, r, &facts)
		if s.Err() != nil {
			return torch.Tensor{}
		}
		var found outcome
		defer found.free()
		standing := slices.DeleteFunc(all(len(r.labels)), func(i int) bool { return r.fooled(i, logits[i]) })
		facts.Images, facts.Correct = len(r.labels), len(standing)
		for _, g := range a.stages {
			if len(standing) == 0 || s.Err() != nil {
				break
			}
			standing = a.stage(s, r, g, standing, &found, &facts)
		}
		return found.give(s, r)
	})
	out.Facts = facts
	return out, err
}

// stage attacks the samples standing and returns those that still do.
func (a autoattack) stage(s *ops.Scope, r *round, g stage, standing []int, found *outcome, facts *Facts) []int {
	c := s.Child()
	defer c.Close()
	sub := r.take(c, standing)
	defer sub.free()
	res, err := g.attack.Perturb(r.ctx, c, r.v, Batch{X: sub.x, Labels: sub.labels, Keys: drawn(sub.keys, drawStage, 0, len(g.name))})
	if err != nil {
		c.Fail(fmt.Errorf("%s: %w", g.name, err))
		return nil
	}
	for i, n := range res.Queries {
		r.queries[standing[i]] += n
	}
	var broken, still []int
	for i, row := range sub.see(c, res.X) {
		if sub.fooled(i, row) {
			broken = append(broken, i)
		} else {
			still = append(still, i)
		}
	}
	if len(broken) > 0 && c.Err() == nil {
		found.put(c, r, choose(standing, broken), pick(c, res.X, broken))
	}
	facts.Broken[g.name] += len(broken)
	return choose(standing, still)
}

// inspect looks for what makes a measurement doubtful, and returns the clean logits.
func (a autoattack) inspect(s *ops.Scope, r *round, facts *Facts) [][]float64 {
	c := s.Child()
	defer c.Close()
	at := r.look(c, r.x, crossEntropy(r.labels, false))
	once := r.host(c, at.logits)
	steepest := ops.Values[float64](c, c.Largest(c.Abs(at.grad), images...))
	again := r.see(c, r.x)
	if c.Err() != nil {
		return nil
	}
	facts.Probabilities = true
	for i, row := range once {
		sum := 0.0
		for k, v := range row {
			sum += v
			if math.Abs(v-again[i][k]) > 1e-4*(1+math.Abs(v)) {
				facts.Random = true
			}
			if v < -1e-6 || v > 1+1e-6 {
				facts.Probabilities = false
			}
		}
		if math.Abs(sum-1) > 1e-4 {
			facts.Probabilities = false
		}
		if steepest[i] == 0 {
			facts.ZeroGradient++
		}
	}
	return once
}
