package model

import (
	"slices"

	torch "github.com/wangkuiyi/gotorch"

	"mp/ops"
)

// Legend: N samples, C channels, H height, W width, A heads, T tokens that attend to one another, B groups of such tokens.

// Probe looks into a forward pass, and may change it. Any function may be nil. They are called on the device's goroutine, with
// a scope that ends before the pass does: what they keep they make in a scope of their own.
type Probe struct {
	// Layer is given the result y [N C H W] of each layer that Layers names, and returns what the layers after it see: y, or a
	// tensor of its shape that they may overwrite.
	Layer func(s *ops.Scope, name string, y torch.Tensor) torch.Tensor
	// ReLU takes the place of every rectifier. It may overwrite x.
	ReLU func(s *ops.Scope, x torch.Tensor) torch.Tensor
	// Attention is given what each attention layer averages values with, softmax(q kT / sqrt(D)) [B A T T]. B is N times the
	// number of windows; windows, and the tokens in each, lie row by row.
	Attention func(s *ops.Scope, name string, weights torch.Tensor)
}

// Layers names the layers whose results are maps [N C H W], in the order of the forward pass. The last is what the classifier
// averages.
func (m *Model) Layers() []string { return slices.Clone(m.layers) }

// watched says whether the probe sees or changes what lies between a layer and its rectifier.
func (m Mode) watched() bool { return m.Probe != nil && (m.Probe.Layer != nil || m.Probe.ReLU != nil) }

// layer hands a layer's result to the probe.
func (m Mode) layer(s *ops.Scope, name string, y torch.Tensor) torch.Tensor {
	if m.Probe == nil || m.Probe.Layer == nil || name == "" || s.Err() != nil {
		return y
	}
	return m.Probe.Layer(s, name, y)
}

// tokens is layer for a result [N H W C].
func (m Mode) tokens(s *ops.Scope, name string, y torch.Tensor) torch.Tensor {
	if m.Probe == nil || m.Probe.Layer == nil || s.Err() != nil {
		return y
	}
	return s.Permute(m.layer(s, name, s.Permute(y, 0, 3, 1, 2)), 0, 2, 3, 1)
}

// relu overwrites x with max(x, 0), or does what the probe does instead.
func (m Mode) relu(s *ops.Scope, x torch.Tensor) torch.Tensor {
	if m.Probe == nil || m.Probe.ReLU == nil || s.Err() != nil {
		return s.ReLUInPlace(x)
	}
	return m.Probe.ReLU(s, x)
}

// attention shows the weights that queries q give to keys k, both [B A T D], to the probe.
func (m Mode) attention(s *ops.Scope, name string, q, k torch.Tensor) {
	if m.Probe == nil || m.Probe.Attention == nil || s.Err() != nil {
		return
	}
	c := s.Child()
	defer c.Close()
	m.Probe.Attention(c, name, c.AttentionWeights(q, k))
}
