package model

import (
	torch "github.com/wangkuiyi/gotorch"

	"mp/ops"
)

// Legend: N samples, C channels (Ci in, Co out), G groups, H height, W width, D features, K classes.

// builder collects the parameters that a network's constructor declares, under their PyTorch state-dict names.
type builder struct {
	options         Options
	params, buffers []*declared
	headName        string
	maps            []string // layers whose results are maps [N C H W], as constructed
	trace           *trace
}

// declared is a parameter or a buffer with its first values.
type declared struct {
	*ops.Param
	init  initialiser
	decay bool
}

func (d *declared) first(seed uint64) []float32 {
	v := make([]float32, ops.Numel(d.Shape))
	d.init(newStream(seed, d.Name), v)
	return v
}

func raw(all []*declared) []*ops.Param {
	out := make([]*ops.Param, len(all))
	for i, d := range all {
		out[i] = d.Param
	}
	return out
}

// weight declares a parameter that weight decay shrinks.
func (b *builder) weight(name string, init initialiser, shape ...int64) *ops.Param {
	p := &ops.Param{Name: name, Shape: shape}
	b.params = append(b.params, &declared{p, init, true})
	return p
}

// vector declares a parameter that weight decay leaves alone: a bias, a norm's weight, a table of positions.
func (b *builder) vector(name string, init initialiser, shape ...int64) *ops.Param {
	p := &ops.Param{Name: name, Shape: shape}
	b.params = append(b.params, &declared{p, init, false})
	return p
}

func (b *builder) buffer(name string, init initialiser, shape ...int64) *ops.Param {
	p := &ops.Param{Name: name, Shape: shape}
	b.buffers = append(b.buffers, &declared{p, init, false})
	return p
}

// tensor returns a declared parameter's tensor, the zero Tensor (no bias) for nil.
func tensor(p *ops.Param) torch.Tensor {
	if p == nil {
		return torch.Tensor{}
	}
	return p.Tensor()
}

// conv2d describes a convolution with a square kernel. Zero Stride and Groups mean 1.
type conv2d struct {
	In, Out, Kernel, Stride, Padding, Groups int64
	NoBias                                   bool
	Init                                     initialiser // of the weight; nil means PyTorch's default
}

type conv struct {
	name     string
	weight   *ops.Param // [Co Ci/G Kernel Kernel]
	bias     *ops.Param // [Co] or nil
	geometry ops.ConvGeometry
	own      bool
	trace    *trace
}

// conv declares NAME.weight and NAME.bias.
func (b *builder) conv(name string, c conv2d) *conv {
	groups := max(c.Groups, 1)
	fanIn := c.In / groups * c.Kernel * c.Kernel
	if c.Init == nil {
		c.Init = kaimingUniform(fanIn)
	}
	b.maps = append(b.maps, name)
	l := &conv{name: name, own: b.options.OwnConv, trace: b.trace}
	l.geometry = ops.ConvGeometry{Stride: max(c.Stride, 1), Padding: c.Padding, Groups: groups}
	l.weight = b.weight(name+".weight", c.Init, c.Out, c.In/groups, c.Kernel, c.Kernel)
	if !c.NoBias {
		l.bias = b.vector(name+".bias", kaimingUniform(fanIn), c.Out)
	}
	return l
}

// forward maps x [N Ci H W] to [N Co H' W'].
func (l *conv) forward(s *ops.Scope, x torch.Tensor, m Mode) torch.Tensor {
	convolve := s.Conv2d
	if l.own {
		convolve = s.OwnConv2d
	}
	y := convolve(x, tensor(l.weight), tensor(l.bias), l.geometry)
	l.trace.layer(l.name, "convolution", y, func(shape []int64) int64 {
		return ops.Numel(shape) * ops.Numel(l.weight.Shape[1:])
	}, l.weight, l.bias)
	return m.layer(s, l.name, y)
}

type linear struct {
	name   string
	weight *ops.Param // [Dout D]
	bias   *ops.Param // [Dout]
	trace  *trace
}

// linear declares NAME.weight and NAME.bias with PyTorch's defaults.
func (b *builder) linear(name string, in, out int64) *linear {
	return b.linearFrom(name, [2]int64{in, out}, kaimingUniform(in), kaimingUniform(in))
}

// linearFrom declares a linear layer of {in, out} features with other first values.
func (b *builder) linearFrom(name string, features [2]int64, weight, bias initialiser) *linear {
	return &linear{
		name:   name,
		weight: b.weight(name+".weight", weight, features[1], features[0]),
		bias:   b.vector(name+".bias", bias, features[1]),
		trace:  b.trace,
	}
}

// head names the last linear layer, the one that a pre-trained start may replace.
func (b *builder) head(l *linear) *linear {
	b.headName = l.name
	return l
}

// forward maps x [... D] to [... Dout].
func (l *linear) forward(s *ops.Scope, x torch.Tensor, _ Mode) torch.Tensor {
	y := s.Linear(x, tensor(l.weight), tensor(l.bias))
	l.trace.layer(l.name, "linear", y, func(shape []int64) int64 {
		return ops.Numel(shape) * l.weight.Shape[1]
	}, l.weight, l.bias)
	return y
}

type batchNorm struct {
	name                     string
	weight, bias, mean, vari *ops.Param // [C]
	trace                    *trace
}

// batchNorm declares NAME.weight (from gamma; 0 starts a residual branch as nothing), NAME.bias and the buffers
// NAME.running_mean and NAME.running_var.
func (b *builder) batchNorm(name string, channels int64, gamma float32) *batchNorm {
	b.maps = append(b.maps, name)
	return &batchNorm{
		name:   name,
		weight: b.vector(name+".weight", constant(gamma), channels),
		bias:   b.vector(name+".bias", constant(0), channels),
		mean:   b.buffer(name+".running_mean", constant(0), channels),
		vari:   b.buffer(name+".running_var", constant(1), channels),
		trace:  b.trace,
	}
}

// forward normalises x [N C H W].
func (l *batchNorm) forward(s *ops.Scope, x torch.Tensor, m Mode) torch.Tensor {
	y := s.BatchNorm(x, l.state(), m.Train)
	l.trace.layer(l.name, "batch norm", y, nil, l.weight, l.bias)
	return m.layer(s, l.name, y)
}

// join is forward, plus residual [N C H W] where it is defined, through a rectifier: by one operation unless a probe looks in
// between.
func (l *batchNorm) join(s *ops.Scope, x, residual torch.Tensor, out relu, m Mode) torch.Tensor {
	if m.watched() {
		y := l.forward(s, x, m)
		if ops.Defined(residual) {
			y = s.AddInPlace(y, residual)
		}
		return out.forward(s, y, m)
	}
	y := s.BatchNormReLU(x, l.state(), residual, m.Train)
	l.trace.layer(l.name, "batch norm", y, nil, l.weight, l.bias)
	return y
}

func (l *batchNorm) state() ops.Norm {
	return ops.Norm{Weight: tensor(l.weight), Bias: tensor(l.bias), Mean: tensor(l.mean), Var: tensor(l.vari)}
}

// rectifiedNorm is a batch norm and the rectifier after it.
type rectifiedNorm struct{ norm *batchNorm }

// rectifiedNorm declares what batchNorm does, with weights that start as 1.
func (b *builder) rectifiedNorm(name string, channels int64) rectifiedNorm {
	return rectifiedNorm{b.batchNorm(name, channels, 1)}
}

// forward maps x [N C H W] to what has its shape.
func (l rectifiedNorm) forward(s *ops.Scope, x torch.Tensor, m Mode) torch.Tensor {
	return l.norm.join(s, x, torch.Tensor{}, relu{}, m)
}

type layerNorm struct {
	name         string
	weight, bias *ops.Param // [D]
	trace        *trace
}

// layerNormEps is the default of PyTorch's LayerNorm.
const layerNormEps = 1e-5

// layerNorm declares NAME.weight and NAME.bias.
func (b *builder) layerNorm(name string, features int64) *layerNorm {
	return &layerNorm{
		name:   name,
		weight: b.vector(name+".weight", constant(1), features),
		bias:   b.vector(name+".bias", constant(0), features),
		trace:  b.trace,
	}
}

// forward normalises the last dimension of x [... D].
func (l *layerNorm) forward(s *ops.Scope, x torch.Tensor, _ Mode) torch.Tensor {
	y := s.LayerNorm(x, tensor(l.weight), tensor(l.bias), layerNormEps)
	l.trace.layer(l.name, "layer norm", y, nil, l.weight, l.bias)
	return y
}

type maxPool struct {
	name                    string
	kernel, stride, padding int64
	trace                   *trace
}

// maxPool takes {kernel, stride, padding}; its name is for people only.
func (b *builder) maxPool(name string, window [3]int64) *maxPool {
	b.maps = append(b.maps, name)
	return &maxPool{name, window[0], window[1], window[2], b.trace}
}

// forward maps x [N C H W] to [N C H' W'].
func (l *maxPool) forward(s *ops.Scope, x torch.Tensor, m Mode) torch.Tensor {
	y := s.MaxPool2d(x, l.kernel, l.stride, l.padding)
	l.trace.layer(l.name, "max pool", y, nil)
	return m.layer(s, l.name, y)
}

// relu overwrites its input, which must be the result of a layer that does not need it for its own gradient: a
// convolution, a linear layer, a norm or a sum.
type relu struct{ name string } // "": no probe sees its result by itself

// relu names a rectifier for a probe.
func (b *builder) relu(name string) relu {
	b.maps = append(b.maps, name)
	return relu{name}
}

func (l relu) forward(s *ops.Scope, x torch.Tensor, m Mode) torch.Tensor {
	return m.layer(s, l.name, m.relu(s, x))
}

// rectifiedPool is a rectifier before a max pool.
type rectifiedPool struct {
	out  relu
	pool *maxPool
	swap bool
}

// rectifiedPool declares a named rectifier and a max pool.
func (b *builder) rectifiedPool(rectifier, pool string, window [3]int64) rectifiedPool {
	return rectifiedPool{b.relu(rectifier), b.maxPool(pool, window), b.options.ChannelsLast}
}

// forward maps x [N C H W] to [N C H' W']. The greatest of a window stays so through a rectifier: where nothing looks in between,
// the rectifier comes last and has a quarter of the elements to do, and no result or gradient changes by a bit. Pools of
// contiguous images branch, which costs more among numbers than among zeros.
func (l rectifiedPool) forward(s *ops.Scope, x torch.Tensor, m Mode) torch.Tensor {
	if !l.swap || m.watched() {
		return l.pool.forward(s, l.out.forward(s, x, m), m)
	}
	return l.out.forward(s, l.pool.forward(s, x, m), m)
}

// sequence applies layers one after the other and frees each result as soon as the next one is there.
type sequence []layer

func (q sequence) forward(s *ops.Scope, x torch.Tensor, m Mode) torch.Tensor {
	return s.Run(func(c *ops.Scope) torch.Tensor {
		for _, l := range q {
			x = l.forward(c, x, m)
			c.Tidy(x)
		}
		return x
	})
}
