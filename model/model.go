// Package model owns the networks: which layers they have, under which names, how they start and how they compute logits.
//
// It imports ops (and gotorch's tensor type) and nothing else of this program: a model knows no data set, no optimizer, no
// other workers. One architecture is one file, read top to bottom.
//
// Start reading at New, then simplenet.go; builder.go declares the layers, init.go draws their first values.
package model

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	torch "github.com/wangkuiyi/gotorch"

	"mp/ops"
)

// Legend: N samples, H height, W width, K classes.

// ErrConfig is wrapped by every error that another try does not cure: an architecture that is not there, impossible
// options, weights of another model.
var ErrConfig = errors.New("wrong model configuration")

// Options is what an architecture's name does not say.
type Options struct {
	Classes      int       // K, at least 1
	OwnConv      bool      // convolve by ops.OwnConv2d instead of the library's convolution
	ChannelsLast bool      // convolution weights lie N H W C; give Forward images that do so too
	DType        ops.DType // of parameters and buffers; 0 means Float32, tests use Float64
	Seed         uint64    // the first values are a function of it and of each parameter's name
}

// Mode is what a forward pass does besides computing.
type Mode struct {
	Train bool     // use the batch's statistics and move the running ones; drop paths
	Keys  []uint64 // when training: one a sample, random; each layer mixes its own position in
	Probe *Probe   // looks into the pass; nil for none
}

// layer maps a tensor to a tensor. Its result belongs to s; it may overwrite what it made itself, never x.
type layer interface {
	forward(s *ops.Scope, x torch.Tensor, m Mode) torch.Tensor
}

// architecture is a row of the table of networks.
type architecture struct {
	name  string
	build func(b *builder) layer
}

func architectures() []architecture {
	return []architecture{
		{"simplenet", newSimpleNet},
		{"simplevit", newSimpleViT},
		{"resnet18", newResNet18},
		{"scenenet", newSceneNet},
	}
}

// Names returns the architectures that New knows.
func Names() []string {
	var names []string
	for _, a := range architectures() {
		names = append(names, a.name)
	}
	return names
}

// Model is a network with its parameters. It belongs to the goroutine of its device.
type Model struct {
	Arch    string
	Params  *ops.Flat // learnable
	Buffers *ops.Flat // batch norm's running statistics; may be empty

	net     layer
	head    string // the name of the last linear layer
	layers  []string
	options Options
	decay   map[string]bool
	trace   *trace
}

// New makes the network called arch with its first values. Free it.
func New(s *ops.Scope, arch string, o Options) (*Model, error) {
	i := slices.IndexFunc(architectures(), func(a architecture) bool { return a.name == arch })
	if i < 0 {
		return nil, fmt.Errorf("make model %q: there is none of this name, choose one of %s: %w", arch, strings.Join(Names(), ", "), ErrConfig)
	}
	if o.Classes < 1 {
		return nil, fmt.Errorf("make model %s: %d classes, want at least 1: %w", arch, o.Classes, ErrConfig)
	}
	if o.DType == 0 {
		o.DType = ops.Float32
	}
	b := &builder{options: o, trace: &trace{}}
	m := &Model{Arch: arch, net: architectures()[i].build(b), head: b.headName, layers: b.maps, options: o, trace: b.trace, decay: map[string]bool{}}
	var err error
	if m.Params, err = ops.NewFlat(s, raw(b.params), o.DType, o.ChannelsLast, true); err != nil {
		return nil, fmt.Errorf("make model %s: %w", arch, err)
	}
	if m.Buffers, err = ops.NewFlat(s, raw(b.buffers), o.DType, false, false); err != nil {
		m.Params.Free()
		return nil, fmt.Errorf("make model %s: %w", arch, err)
	}
	for _, p := range b.params {
		m.decay[p.Name] = p.decay
		m.Params.WriteParam(s, p.Param, encode(p.first(o.Seed), o.DType))
	}
	for _, p := range b.buffers {
		m.Buffers.WriteParam(s, p.Param, encode(p.first(o.Seed), o.DType))
	}
	if err := s.Err(); err != nil {
		m.Free()
		return nil, fmt.Errorf("make model %s: %w", arch, err)
	}
	return m, nil
}

// Free releases the parameters and buffers.
func (m *Model) Free() {
	m.Params.Free()
	m.Buffers.Free()
}

// Forward returns the logits [N K] of images x [N 3 H W], computed and returned in x's dtype. Its intermediates are freed
// before it returns, except those that the graph (outside NoGrad) keeps for the backward pass.
func (m *Model) Forward(s *ops.Scope, x torch.Tensor, mode Mode) torch.Tensor {
	if s.Err() != nil {
		return torch.Tensor{}
	}
	if !ops.Defined(x) {
		s.Fail(fmt.Errorf("%s: no images", m.Arch))
		return torch.Tensor{}
	}
	if shape := x.Shape(); len(shape) != 4 || shape[1] != 3 {
		s.Fail(fmt.Errorf("%s: images of shape %v, want [N 3 H W]", m.Arch, shape))
		return torch.Tensor{}
	}
	return s.Run(func(c *ops.Scope) torch.Tensor { return m.net.forward(c, x, mode) })
}

// NoDecay reports whether weight decay leaves the parameter alone: biases, norms' weights and position tables.
func (m *Model) NoDecay(name string) bool { return !m.decay[name] }
