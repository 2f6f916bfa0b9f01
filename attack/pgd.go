package attack

import (
	torch "github.com/wangkuiyi/gotorch"

	"mp/ops"
)

// ascentOf is the climb that options describe.
func ascentOf(o Options) ascent {
	a := ascent{
		ball: ball{o.Norm, o.Eps}, steps: o.Steps, step: o.step(), restarts: max(o.Restarts, 1), goal: o.Goal, loss: o.Loss,
		decay: o.Decay, eot: max(o.EOT, 1), leave: o.Leave,
	}
	switch o.Start {
	case StartUniform:
		a.start = func(s *ops.Scope, r *round, restart int) torch.Tensor { return a.ball.start(s, r.x, r.keys, restart) }
	case StartNormal:
		a.start = func(s *ops.Scope, r *round, restart int) torch.Tensor {
			noise := s.Normal(r.x, drawn(r.keys, drawStart, restart, 0))
			return a.ball.project(s, s.Add(r.x, s.Scale(noise, nearby)), r.x)
		}
	}
	return a
}

// nearby is the deviation of TRADES's start.
const nearby = .001

// pgd is projected gradient descent (Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks", 2018), and
// without a random start BIM (Kurakin et al., "Adversarial examples in the physical world", 2017).
func pgd(o Options) Attack { return ascentOf(o) }

// eotPGD averages the gradient over several looks at a network that draws lots (Athalye et al., "Obfuscated Gradients Give a
// False Sense of Security", 2018).
func eotPGD(o Options) Attack {
	a := ascentOf(o)
	a.leave = false // one look does not say whether a sample is fooled
	return a
}
