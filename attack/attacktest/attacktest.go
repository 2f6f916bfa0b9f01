// Package attacktest holds every attack to the same promises: it stays in its ball and in [0, 1], its result hangs on a
// sample's key and on nothing else in the batch, and the network is as it was.
//
// It is for tests only and imports attack and ops. Start reading at Run.
package attacktest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"testing"

	torch "github.com/wangkuiyi/gotorch"

	"mp/attack"
	"mp/ops"
)

// Case is an attack to be tested.
type Case struct {
	Name    string
	Options attack.Options
	Outside bool // its result may lie outside [0, 1] (course)
	Reach   float64
	// Reach is how far a value may move in l-infinity or an image in l2, in radii; 0 means 1.
}

// Legend: N samples, K classes, S side of an image.
const (
	samples = 6
	classes = 5
	side    = 12
)

// Run tests one attack.
func Run(t *testing.T, c Case) {
	for _, test := range []struct {
		name string
		f    func(*testing.T, Case)
	}{
		{"stays in the ball", staysInTheBall}, {"is a function of key and sample", isAFunction}, {"leaves the network alone", leavesTheNetwork},
		{"works in every precision and layout", everyPrecision}, {"obeys its context", obeys}, {"refuses what cannot be", refuses},
	} {
		t.Run(test.name, func(t *testing.T) { test.f(t, c) })
	}
}

// Device runs f on a CPU device of one thread.
func Device(t *testing.T, f func(s *ops.Scope) error) {
	t.Helper()
	d, err := ops.OpenDevice(ops.DeviceConfig{GPU: ops.CPU, Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if err := d.Do(context.Background(), f); err != nil {
		t.Fatal(err)
	}
}

// Network is a small network with everything that an attack could disturb: convolution, batch norm, ReLU, max-pool, linear.
type Network struct {
	Params, Buffers *ops.Flat
	params          [5]*ops.Param
	buffers         [2]*ops.Param
	dtype           ops.DType
}

// NewNetwork makes it. Free it.
func NewNetwork(s *ops.Scope, d ops.DType) (*Network, error) {
	n := &Network{dtype: d}
	n.params = [5]*ops.Param{
		{Name: "conv.weight", Shape: []int64{8, 3, 3, 3}}, {Name: "norm.weight", Shape: []int64{8}}, {Name: "norm.bias", Shape: []int64{8}},
		{Name: "fc.weight", Shape: []int64{classes, 8 * 6 * 6}}, {Name: "fc.bias", Shape: []int64{classes}},
	}
	n.buffers = [2]*ops.Param{{Name: "norm.mean", Shape: []int64{8}}, {Name: "norm.var", Shape: []int64{8}}}
	var err error
	if n.Params, err = ops.NewFlat(s, n.params[:], d, false, true); err != nil {
		return nil, err
	}
	if n.Buffers, err = ops.NewFlat(s, n.buffers[:], d, false, false); err != nil {
		n.Params.Free()
		return nil, err
	}
	for i, p := range n.params {
		scale, offset := .4, 0.0
		if p.Name == "norm.weight" {
			scale, offset = .2, 1
		}
		s.CopyInto(p.Tensor(), s.Offset(s.Scale(noise(s, p.Shape, i), scale), offset))
	}
	for i, p := range n.buffers {
		s.CopyInto(p.Tensor(), s.Offset(s.Scale(noise(s, p.Shape, 10+i), .2), float64(i)))
	}
	return n, s.Err()
}

// noise is a tensor of the shape in [-1, 1).
func noise(s *ops.Scope, shape []int64, which int) torch.Tensor {
	return s.Reshape(s.Uniform(s.Zeros(ops.Float64, 1, ops.Numel(shape)), []uint64{uint64(which) + 77}), shape...)
}

// Free releases the weights.
func (n *Network) Free() {
	n.Params.Free()
	n.Buffers.Free()
}

// Net is the network as attacks see it.
func (n *Network) Net(compute ops.DType) *attack.Net {
	return &attack.Net{
		Mean: []float64{.5, .4, .6}, Std: []float64{.25, .2, .3}, DType: compute,
		Forward: func(s *ops.Scope, z torch.Tensor) torch.Tensor {
			y := s.Conv2d(z, n.params[0].Tensor(), torch.Tensor{}, ops.ConvGeometry{Padding: 1})
			y = s.BatchNorm(y, ops.Norm{Weight: n.params[1].Tensor(), Bias: n.params[2].Tensor(), Mean: n.buffers[0].Tensor(), Var: n.buffers[1].Tensor()}, false)
			y = s.MaxPool2d(s.ReLU(y), 2, 2, 0)
			return s.Linear(s.Reshape(s.Contiguous(y), -1, 8*6*6), n.params[3].Tensor(), n.params[4].Tensor())
		},
	}
}

// Batch is samples of the images that every test attacks, labelled as the network sees them but for the last, with keys.
func (n *Network) Batch(s *ops.Scope) attack.Batch {
	x := s.Clamp(s.Offset(s.Scale(noise(s, []int64{samples, 3, side, side}, 5), .6), .5), 0, 1) // some values at the borders
	x = s.To(x, n.dtype)
	b := attack.Batch{X: x, Labels: make([]int64, samples), Targets: make([]int64, samples)}
	var ids []int32
	s.NoGrad(func() {
		_, at := s.TopK(n.Net(0).Logits(s, x), 1)
		copy(b.Labels, ops.Values[int64](s, at))
	})
	b.Labels[samples-1] = (b.Labels[samples-1] + 1) % classes
	for i, l := range b.Labels {
		b.Targets[i] = (l + 2) % classes
		ids = append(ids, int32(100+i))
	}
	b.Keys = attack.Keys(1, 2, ids)
	return b
}

// rows are some samples of a batch.
func rows(s *ops.Scope, b attack.Batch, at []int) attack.Batch {
	index := make([]int64, len(at))
	out := attack.Batch{}
	for i, r := range at {
		index[i] = int64(r)
		out.Labels, out.Targets, out.Keys = append(out.Labels, b.Labels[r]), append(out.Targets, b.Targets[r]), append(out.Keys, b.Keys[r])
	}
	out.X = s.Rows(b.X, ops.From(s, index, int64(len(index))))
	return out
}

// run attacks a batch with the case's attack.
func (c Case) run(t *testing.T, s *ops.Scope, v attack.Victim, b attack.Batch) (attack.Result, []float64) {
	t.Helper()
	a, err := attack.New(c.Name, c.Options)
	if err != nil {
		t.Fatal(err)
	}
	res, err := a.Perturb(context.Background(), s, v, b)
	if err != nil {
		t.Fatal(err)
	}
	return res, ops.Values[float64](s, res.X)
}

func on(t *testing.T, d ops.DType, f func(s *ops.Scope, n *Network)) {
	t.Helper()
	Device(t, func(s *ops.Scope) error {
		n, err := NewNetwork(s, d)
		if err != nil {
			return err
		}
		defer n.Free()
		f(s, n)
		return s.Err()
	})
}

func staysInTheBall(t *testing.T, c Case) {
	on(t, ops.Float64, func(s *ops.Scope, n *Network) {
		b := n.Batch(s)
		res, got := c.run(t, s, n.Net(0), b)
		clean := ops.Values[float64](s, b.X)
		moved := false
		for i := range samples {
			far, long := 0.0, 0.0
			for j := i * len(got) / samples; j < (i+1)*len(got)/samples; j++ {
				d := got[j] - clean[j]
				if c.Outside {
					d /= []float64{.25, .2, .3}[j/side/side%3]
				} else if !(got[j] >= 0 && got[j] <= 1) {
					t.Fatalf("sample %d has a value of %g", i, got[j])
				}
				far, long = max(far, math.Abs(d)), long+d*d
			}
			moved = moved || long > 0
			if c.Options.Norm == attack.L2 {
				far = math.Sqrt(long)
			}
			if reach := max(c.Reach, 1) * c.Options.Eps; !(far <= reach*(1+1e-9)) {
				t.Errorf("sample %d is %g away, want at most %g", i, far, reach)
			}
			if res.Queries[i] < 1 && !slices.Contains(ops.Values[int64](s, ops.From(s, b.Labels, samples)), b.Labels[i]) {
				t.Errorf("sample %d cost no query", i)
			}
		}
		if !moved {
			t.Error("no image was changed")
		}
	})
}

// rounding is what an image's values may differ by in another batch, in float64: the library chooses the order of sums, such
// as an image's length, by the shape of the whole tensor.
func (c Case) rounding() float64 {
	if c.Options.Norm == attack.L2 {
		return 1e-7
	}
	return 1e-14
}

// isAFunction attacks in other batches and orders, and with other keys.
func isAFunction(t *testing.T, c Case) {
	on(t, ops.Float64, func(s *ops.Scope, n *Network) {
		b := n.Batch(s)
		_, want := c.run(t, s, n.Net(0), b)
		_, again := c.run(t, s, n.Net(0), b)
		if !slices.Equal(want, again) {
			t.Error("a second run gives other images")
		}
		size := len(want) / samples
		for _, at := range [][]int{{4}, {3, 0}, {5, 2, 1, 0, 3, 4}} {
			_, got := c.run(t, s, n.Net(0), rows(s, b, at))
			for i, r := range at {
				far := 0.0
				for j := range size {
					far = max(far, math.Abs(got[i*size+j]-want[r*size+j]))
				}
				if far > c.rounding() {
					t.Errorf("sample %d in the batch %v differs by %g from itself in the whole batch", r, at, far)
				}
			}
		}
	})
}

// leavesTheNetwork compares weights, statistics and gradients before and after.
func leavesTheNetwork(t *testing.T, c Case) {
	on(t, ops.Float64, func(s *ops.Scope, n *Network) {
		b := n.Batch(s)
		read := func() [][]byte {
			var out [][]byte
			for _, f := range []*ops.Flat{n.Params, n.Buffers} {
				for _, p := range f.Params() {
					v, err := f.ReadParam(p)
					if err != nil {
						t.Fatal(err)
					}
					out = append(out, v)
				}
			}
			return append(out, fmt.Append(nil, ops.Values[float64](s, b.X), b.Labels, b.Targets, b.Keys))
		}
		before := read()
		c.run(t, s, n.Net(0), b)
		for i, v := range read() {
			if !bytes.Equal(v, before[i]) {
				t.Errorf("the attack changed part %d of network and batch", i)
			}
		}
		for _, p := range n.Params.Params() {
			// A tensor without a gradient has one of no type.
			if info, err := ops.Describe(p.Tensor().Grad()); err == nil && info.DType == n.dtype {
				t.Errorf("%s has a gradient", p.Name)
			}
		}
	})
}

// everyPrecision attacks in float32, bfloat16 and channels last.
func everyPrecision(t *testing.T, c Case) {
	on(t, ops.Float32, func(s *ops.Scope, n *Network) {
		b := n.Batch(s)
		for _, p := range []struct {
			name    string
			compute ops.DType
			last    bool
		}{{"float32", 0, false}, {"float32, channels last", 0, true}, {"bfloat16, channels last", ops.BFloat16, true}} {
			in := b
			if p.last {
				in.X = s.ChannelsLast(b.X)
			}
			res, got := c.run(t, s, n.Net(p.compute), in)
			info, err := ops.Describe(res.X)
			if err != nil {
				t.Fatal(err)
			}
			if info.DType != ops.Float32 {
				t.Errorf("%s: the result is of type %d, want float32", p.name, info.DType)
			}
			clean := ops.Values[float64](s, b.X)
			for i := range got {
				d := math.Abs(got[i] - clean[i])
				if c.Outside {
					d /= .3
				}
				if !(d <= max(c.Reach, 1)*c.Options.Eps*1.001+1e-6) || !c.Outside && !(got[i] >= 0 && got[i] <= 1) {
					t.Fatalf("%s: value %d went from %g to %g", p.name, i, clean[i], got[i])
				}
			}
		}
	})
}

// obeys ends the context before the attack, and at each of its first looks at the network: the error is the context's, and no
// index or tensor of a step that did not happen is used.
func obeys(t *testing.T, c Case) {
	on(t, ops.Float32, func(s *ops.Scope, n *Network) {
		a, err := attack.New(c.Name, c.Options)
		if err != nil {
			t.Fatal(err)
		}
		b := n.Batch(s)
		for last := range 40 {
			ctx, cancel := context.WithCancel(context.Background())
			net, looks := n.Net(0), 0
			forward := net.Forward
			net.Forward = func(s *ops.Scope, z torch.Tensor) torch.Tensor {
				if looks++; looks == last {
					cancel()
				}
				return forward(s, z)
			}
			if last == 0 {
				cancel()
			}
			d := s.Child() // its error must not end the test's scope, so it is not closed but tidied
			_, err := a.Perturb(ctx, d, net, b)
			d.Tidy()
			ended := ctx.Err() != nil
			cancel()
			if err != nil && !(ended && errors.Is(err, context.Canceled)) || last == 0 && err == nil {
				t.Fatalf("with a context that ends at look %d: %v", last, err)
			}
			if !ended {
				return
			}
		}
	})
}

func refuses(t *testing.T, c Case) {
	on(t, ops.Float32, func(s *ops.Scope, n *Network) {
		b := n.Batch(s)
		short := b
		short.Labels = b.Labels[:2]
		a, err := attack.New(c.Name, c.Options)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := a.Perturb(context.Background(), s, n.Net(0), short); !errors.Is(err, attack.ErrConfig) {
			t.Errorf("with 2 labels for %d images: %v", samples, err)
		}
		for _, bad := range []func(*attack.Options){
			func(o *attack.Options) { o.Eps = 0 }, func(o *attack.Options) { o.Eps = math.Inf(1) }, func(o *attack.Options) { o.Steps = 0 },
			func(o *attack.Options) { o.StepSize = -1 }, func(o *attack.Options) { o.Restarts = -1 },
		} {
			o := c.Options
			bad(&o)
			if _, err := attack.New(c.Name, o); !errors.Is(err, attack.ErrConfig) {
				t.Errorf("%+v: %v", o, err)
			}
		}
	})
}
