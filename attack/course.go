package attack

import (
	"context"
	"fmt"
	"math"

	torch "github.com/wangkuiyi/gotorch"

	"mp/ops"
)

// course is the reference course's attack, to the letter: in normalised units and without a limit to the pixels' range, it
// steps along the sign of the gradient of the cross-entropy of a label that is the least confident one of the moment, and
// makes that loss smaller. The variants take the most confident label, keep the first label, or make the loss greater.
type course struct {
	eps, step float64 // in normalised units
	steps     int
	most      bool // the label is the most confident one, not the least
	fixed     bool // the label of the clean image stays
	ascend    bool // the loss is made greater
}

func newCourse(o Options) Attack {
	return course{eps: o.Eps, step: o.step(), steps: o.Steps, most: o.Most, fixed: o.Fixed, ascend: o.Ascend}
}

// Perturb is Attack's; the victim must be a *Net, whose units are meant. The result may lie outside [0, 1].
func (a course) Perturb(ctx context.Context, s *ops.Scope, v Victim, b Batch) (Result, error) {
	net, ok := v.(*Net)
	if !ok {
		return Result{}, fmt.Errorf("attack: course needs a network whose normalisation is known, not %T: %w", v, ErrConfig)
	}
	inside := sees(net.normalised)
	return perturb(ctx, s, inside, b, Untargeted, func(c *ops.Scope, r *round) torch.Tensor {
		start := net.Normalise(c, r.x)
		var z slot
		defer z.free()
		z.set(c, copyOf(c, start))
		var labels []int64
		var score scorer = func(s *ops.Scope, logits torch.Tensor) torch.Tensor {
			if labels == nil || !a.fixed {
				labels = a.labels(r.host(s, logits))
			}
			if len(labels) == 0 {
				return torch.Tensor{}
			}
			return crossEntropy(labels, !a.ascend)(s, logits)
		}
		box := ops.SignBall{Eps: a.eps, Lo: math.Inf(-1), Hi: math.Inf(1)}
		for range a.steps {
			d := c.Child()
			z.set(d, d.SignStep(z.t, r.look(d, z.t, score).grad, start, a.step, box))
			d.Close()
		}
		return net.Pixels(c, z.t)
	})
}

func (a course) labels(logits [][]float64) []int64 {
	out := make([]int64, len(logits))
	for i, row := range logits {
		if a.most {
			out[i] = int64(best(row))
		} else {
			out[i] = int64(least(row))
		}
	}
	return out
}
