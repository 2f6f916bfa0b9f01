package attack

import (
	torch "github.com/wangkuiyi/gotorch"

	"mp/ops"
)

// fgsm is one step of the gradient's sign (Goodfellow et al., "Explaining and Harnessing Adversarial Examples", 2015); in l2
// one of its direction.
func fgsm(o Options) Attack {
	a := ascentOf(o)
	a.steps, a.step, a.leave = 1, o.Eps, false
	return a
}

// rfgsm is a random step before that one (Tramèr et al., "Ensemble Adversarial Training", 2018): x + alpha sign(noise), then
// eps - alpha along the sign. o.StepSize is eps - alpha.
func rfgsm(o Options) Attack {
	a := ascentOf(o)
	a.leave = false
	alpha := o.Eps - a.step
	a.start = func(s *ops.Scope, r *round, restart int) torch.Tensor {
		noise := s.Sign(s.Normal(r.x, drawn(r.keys, drawStart, restart, 0)))
		return s.Clamp(s.Add(r.x, s.Scale(noise, alpha)), 0, 1)
	}
	return a
}

// fgsmRS is the step of "Fast is better than free" (Wong et al., 2020): from a uniform start in the ball, 1.25 eps far.
func fgsmRS(o Options) Attack {
	a := ascentOf(o)
	a.steps, a.leave = 1, false
	return a
}

// nfgsm is the step of N-FGSM (de Jorge et al., "Make Some Noise", 2022): from noise of twice eps, without return into the
// ball. Its result lies within 3 eps.
func nfgsm(o Options) Attack {
	a := ascentOf(o)
	a.steps, a.leave, a.unbounded = 1, false, true
	wide := ball{Linf, 2 * o.Eps}
	a.start = func(s *ops.Scope, r *round, restart int) torch.Tensor { return wide.start(s, r.x, r.keys, restart) }
	return a
}
