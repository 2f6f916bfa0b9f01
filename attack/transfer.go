package attack

import (
	"math"

	torch "github.com/wangkuiyi/gotorch"

	"mp/ops"
)

// Attacks made to fool other networks than the one that they look at. None leaves a sample early.

// mifgsm accumulates gradients (Dong et al., "Boosting Adversarial Attacks with Momentum", 2018).
func mifgsm(o Options) Attack {
	a := ascentOf(o)
	a.momentum, a.leave = true, false
	return a
}

// difgsm shows the network a smaller image at another place (Xie et al., "Improving Transferability of Adversarial Examples
// with Input Diversity", 2019), of momentum o.Decay.
func difgsm(o Options) Attack {
	a := ascentOf(o)
	a.momentum, a.leave, a.diverse = true, false, &diversity{chance: .5, smallest: .9}
	return a
}

// tifgsm blurs gradients, as if the image were seen at many places (Dong et al., "Evading Defenses to Transferable
// Adversarial Examples by Translation-Invariant Attacks", 2019), and shows the network what difgsm does.
func tifgsm(o Options) Attack {
	a := ascentOf(o)
	a.momentum, a.leave, a.diverse, a.smooth = true, false, &diversity{chance: .5, smallest: .9}, gaussian(15, 3)
	return a
}

// diversity is a random resizing and padding of what the victim sees.
type diversity struct {
	chance   float64 // that an image is changed
	smallest float64 // its least size, as a share of its own
}

// seen is the victim that sees images so, each by its own key. The size of an image stays; outside lies black.
func (d *diversity) seen(v Victim, keys []uint64) Victim {
	return sees(func(s *ops.Scope, x torch.Tensor) torch.Tensor {
		theta := make([]float64, 0, 6*len(keys))
		for _, key := range keys {
			r := stream{key: key}
			size, dx, dy := 1.0, 0.0, 0.0
			if r.float() < d.chance {
				size = d.smallest + (1-d.smallest)*r.float()
				dx, dy = (1-size)*(2*r.float()-1), (1-size)*(2*r.float()-1)
			}
			theta = append(theta, 1/size, 0, -dx/size, 0, 1/size, -dy/size)
		}
		return v.Logits(s, s.Affine(x, s.To(ops.From(s, theta, int64(len(keys)), 2, 3), dtypeOf(x))))
	})
}

func dtypeOf(x torch.Tensor) ops.DType {
	if !ops.Defined(x) {
		return ops.Float32
	}
	return x.Dtype()
}

// sees makes a Victim of a function.
type sees func(s *ops.Scope, x torch.Tensor) torch.Tensor

func (f sees) Logits(s *ops.Scope, x torch.Tensor) torch.Tensor { return f(s, x) }

// kernel blurs each channel by itself.
type kernel struct {
	side    int64
	weights []float64
}

// gaussian is side x side values that reach deviations standard deviations to each side.
func gaussian(side int64, deviations float64) *kernel {
	line, sum := make([]float64, side), 0.0
	for i := range line {
		z := deviations * (2*float64(i)/float64(side-1) - 1)
		line[i] = math.Exp(-z * z / 2)
		sum += line[i]
	}
	k := &kernel{side: side}
	for _, a := range line {
		for _, b := range line {
			k.weights = append(k.weights, a*b/sum/sum)
		}
	}
	return k
}

func (k *kernel) blur(s *ops.Scope, grad torch.Tensor) torch.Tensor {
	if s.Err() != nil || !ops.Defined(grad) {
		return grad
	}
	channels := grad.Shape()[1]
	var weights []float64
	for range channels {
		weights = append(weights, k.weights...)
	}
	w := s.To(ops.From(s, weights, channels, 1, k.side, k.side), grad.Dtype())
	return s.Conv2d(grad, w, torch.Tensor{}, ops.ConvGeometry{Padding: k.side / 2, Groups: channels})
}
