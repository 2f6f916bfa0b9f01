// Package training owns ways to train a network against attacks: which attack a batch meets, and which loss its images then
// have. A Recipe is a pure function of tensors: it knows no data set, optimizer or worker.
//
// It imports attack and ops (and gotorch's tensor type) and nothing else of this program. Start reading at Recipe; loss.go has
// the losses, weights.go the perturbation of weights, signs.go how free training's perturbation is kept.
package training

import (
	"fmt"
	"math"

	torch "github.com/wangkuiyi/gotorch"

	"mp/attack"
	"mp/ops"
)

// Legend: N images, K classes.

// Strategies that New knows.
const (
	PGD    = "pgd"     // Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks", 2018
	FGSMRS = "fgsm-rs" // Wong et al., "Fast is better than free", 2020
	NFGSM  = "nfgsm"   // de Jorge et al., "Make Some Noise", 2022
	Free   = "free"    // Shafahi et al., "Adversarial Training for Free!", 2019: its attack is the caller's loop
	TRADES = "trades"  // Zhang et al., "Theoretically Principled Trade-off between Robustness and Accuracy", 2019
	MART   = "mart"    // Wang et al., "Improving Adversarial Robustness Requires Revisiting Misclassified Examples", 2020
)

// Config is a way to train.
type Config struct {
	Strategy  string
	Eps       float64 // radius in l-infinity, of values in [0, 1]
	StepSize  float64 // of the attack at that radius
	Steps     int     // of the attack
	Beta      float64 // weight of the robust term of TRADES and MART
	Smoothing float64 // of labels, share
}

// Recipe is a checked Config. It holds no state.
type Recipe struct{ Config }

// New checks a configuration.
func New(c Config) (*Recipe, error) {
	r := &Recipe{c}
	switch {
	case !(c.Beta >= 0) || math.IsInf(c.Beta, 0) || !(c.Smoothing >= 0 && c.Smoothing < 1):
		return nil, fmt.Errorf("train by %s: a robust term of weight %g, labels smoothed by %g: %w", c.Strategy, c.Beta, c.Smoothing, attack.ErrConfig)
	case !(c.Eps > 0):
		return nil, fmt.Errorf("train by %s: eps %g: want a positive number: %w", c.Strategy, c.Eps, attack.ErrConfig)
	case c.Strategy == Free:
		return r, nil
	}
	_, err := r.Attack(c.Eps)
	return r, err
}

// Attack is what a batch meets while the radius is eps, above 0; steps shrink with it. Nothing leaves early: every image is
// moved as far as the strategy's authors move it. Free has none.
func (r *Recipe) Attack(eps float64) (attack.Attack, error) {
	o := attack.Options{Eps: eps, Steps: r.Steps, StepSize: r.StepSize * eps / r.Eps, Start: attack.StartUniform}
	name := "pgd"
	switch r.Strategy {
	case PGD:
	case FGSMRS, NFGSM:
		name = r.Strategy
	case TRADES:
		o.Loss, o.Start = attack.KL, attack.StartNormal
	case MART:
		o.Start = attack.StartNormal
	default:
		return nil, fmt.Errorf("train by %q: no such strategy, or one without an attack of its own: %w", r.Strategy, attack.ErrConfig)
	}
	a, err := attack.New(name, o)
	if err != nil {
		return nil, fmt.Errorf("train by %s: %w", r.Strategy, err)
	}
	return a, nil
}

// Weighs says whether the loss compares the attacked images with the clean ones.
func (r *Recipe) Weighs() bool { return r.Strategy == TRADES || r.Strategy == MART }

// Logits are a network's answers to a batch, [N K] each.
type Logits struct {
	Clean    torch.Tensor // where the recipe weighs; else it may be undefined
	Attacked torch.Tensor
}

// Loss returns the mean loss of a batch, a scalar in float32 at least. labels are its N classes.
func (r *Recipe) Loss(s *ops.Scope, z Logits, labels []int64) torch.Tensor {
	classes := ops.From(s, labels, int64(len(labels)))
	switch r.Strategy {
	case TRADES:
		return trades(s, z, classes, r.Beta, r.Smoothing)
	case MART:
		return mart(s, z, classes, r.Beta)
	}
	return s.CrossEntropy(z.Attacked, classes, r.Smoothing, ops.ReduceMean)
}
