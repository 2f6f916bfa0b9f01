package explain

import (
	"math/bits"

	torch "github.com/wangkuiyi/gotorch"

	"mp/ops"
)

// always is embedded by methods that explain any network.
type always struct{}

// Check allows every network.
func (always) Check(Network) error { return nil }

// gradient returns d sum_n logits[n, label n] / d x, [N 3 H W]: each sample's is its own.
func gradient(s *ops.Scope, n Network, x torch.Tensor, labels []int64, p *Probe) torch.Tensor {
	return s.Run(func(c *ops.Scope) torch.Tensor {
		leaf := c.Leaf(x)
		logits := n.Logits(c, leaf, p)
		return c.Pullback(logits, oneHot(c, logits, labels), leaf)[0]
	})
}

// oneHot returns 1 at each row's label and 0 elsewhere, in the shape [N K] and dtype of logits.
func oneHot(s *ops.Scope, logits torch.Tensor, labels []int64) torch.Tensor {
	if s.Err() != nil || !ops.Defined(logits) {
		return torch.Tensor{}
	}
	k := logits.Shape()[1]
	v := make([]float32, int64(len(labels))*k)
	for i, label := range labels {
		v[int64(i)*k+label] = 1
	}
	return s.To(ops.From(s, v, int64(len(labels)), k), logits.Dtype())
}

// chosen returns the logits of the labels, [N], of images x, without a graph.
func chosen(s *ops.Scope, n Network, x torch.Tensor, labels []int64) torch.Tensor {
	var out torch.Tensor
	s.NoGrad(func() {
		out = s.Run(func(c *ops.Scope) torch.Tensor { return pick(c, n.Logits(c, x, nil), labels) })
	})
	return out
}

// confidence returns the probabilities of the labels, [N], of images x, without a graph.
func confidence(s *ops.Scope, n Network, x torch.Tensor, labels []int64) torch.Tensor {
	var out torch.Tensor
	s.NoGrad(func() {
		out = s.Run(func(c *ops.Scope) torch.Tensor { return pick(c, c.Softmax(n.Logits(c, x, nil), 1), labels) })
	})
	return out
}

// pick returns rows [N K] at their labels: [N].
func pick(s *ops.Scope, rows torch.Tensor, labels []int64) torch.Tensor {
	n := int64(len(labels))
	return s.Reshape(s.Pick(rows, ops.From(s, labels, n, 1)), n)
}

// Key returns what random methods need of a sample: a function of the run's seed and of which sample it is.
func Key(seed, sample uint64) uint64 { return mix(mix(seed+gamma) ^ bits.RotateLeft64(sample, 32)) }

const gamma = 0x9e3779b97f4a7c15

// mix is SplitMix64's finaliser (Steele, Lea & Flood, 2014).
func mix(z uint64) uint64 {
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// draw derives the keys of the samples' draw number i for one purpose, so that no two uses share numbers.
func draw(keys []uint64, purpose, i int) []uint64 {
	out := make([]uint64, len(keys))
	for j, k := range keys {
		out[j] = mix(k + uint64(purpose)<<32 + uint64(i) + 1)
	}
	return out
}

// Purposes of draws.
const (
	drawSmooth = iota
	drawRISE
	drawInfidelity
)

// unit returns numbers in [0, 1), a function of a key and their position.
type unit struct{ state uint64 }

func (u *unit) next() float64 {
	u.state += gamma
	return float64(mix(u.state)>>11) * 0x1p-53
}
