package optim

import (
	"bytes"
	"context"
	"errors"
	"math"
	"strings"
	"testing"

	torch "github.com/wangkuiyi/gotorch"

	"mp/ops"
)

// on runs f on a CPU device of two threads.
func on(t *testing.T, f func(s *ops.Scope) error) {
	t.Helper()
	d, err := ops.OpenDevice(ops.DeviceConfig{GPU: ops.CPU, Threads: 2})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if err := d.Do(context.Background(), f); err != nil {
		t.Fatal(err)
	}
}

// small makes a Flat of a convolution, laid out channels last, and its bias, with values from a formula.
func small(s *ops.Scope, t *testing.T, names ...string) *ops.Flat {
	t.Helper()
	if names == nil {
		names = []string{"conv.weight", "conv.bias"}
	}
	params := []*ops.Param{{Name: names[0], Shape: []int64{4, 3, 3, 3}}, {Name: names[1], Shape: []int64{4}}}
	f, err := ops.NewFlat(s, params, ops.Float32, true, true)
	if err != nil {
		t.Fatal(err)
	}
	f.CopyFrom(s, wave(s, f, 1))
	return f
}

// wave is a gradient, or weights, for f: zero in the gaps between parameters.
func wave(s *ops.Scope, f *ops.Flat, seed float64) torch.Tensor {
	v := make([]float32, f.Len())
	for _, p := range f.Params() {
		from, n := f.Span(p)
		for i := range n {
			v[from+i] = float32(math.Sin(seed * float64(7*(from+i)+3)))
		}
	}
	return ops.From(s, v, f.Len())
}

func read(t *testing.T, f *ops.Flat) []byte {
	t.Helper()
	var all []byte
	for _, p := range f.Params() {
		b, err := f.ReadParam(p)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, b...)
	}
	return all
}

func configs() []Config {
	sgd, adamw := DefaultConfig(SGD), DefaultConfig(AdamW)
	sgd.WeightDecay, sgd.Nesterov, adamw.WeightDecay = 1e-2, true, .05
	return []Config{sgd, adamw}
}

func TestRestoredOptimizerGoesOnBitForBit(t *testing.T) {
	for _, c := range configs() {
		on(t, func(s *ops.Scope) error {
			train := func(params *ops.Flat, o *Optimizer, a *Average, from, to int) {
				for i := from; i < to; i++ {
					g := wave(s, params, 2+float64(i))
					o.Step(s, g, Update{Rate: .1, Scale: .5, Norm: s.Norm(g), MaxNorm: 1, Average: a})
				}
			}
			make := func() (*ops.Flat, *Optimizer, *Average) {
				params := small(s, t)
				o, err := New(s, c, params, func(name string) bool { return strings.HasSuffix(name, "weight") })
				if err != nil {
					t.Fatal(err)
				}
				a, err := NewAverage(s, AverageConfig{Decay: .9, Warmup: true}, params, small(s, t, "bn.var", "bn.mean"))
				if err != nil {
					t.Fatal(err)
				}
				return params, o, a
			}
			whole, o, a := make()
			train(whole, o, a, 0, 7)
			first, o1, a1 := make()
			train(first, o1, a1, 0, 4)
			state, err := o1.State()
			if err != nil {
				return err
			}
			averages, err := a1.State()
			if err != nil {
				return err
			}
			second, o2, a2 := make()
			second.CopyFrom(s, first.Buffer())
			if err := o2.Restore(s, append(averages, state...)); err != nil {
				return err
			}
			if err := a2.Restore(s, append(state, averages...)); err != nil {
				return err
			}
			train(second, o2, a2, 4, 7)
			if !bytes.Equal(read(t, whole), read(t, second)) {
				t.Errorf("%s: weights after a stop differ from those without", c.Kind)
			}
			if !bytes.Equal(read(t, a.params), read(t, a2.params)) {
				t.Errorf("%s: average after a stop differs from that without", c.Kind)
			}
			if o2.Steps() != 7 {
				t.Errorf("%s: %d steps, want 7", c.Kind, o2.Steps())
			}
			return nil
		})
	}
}

func TestStateIsNamedAndShapedAsInPyTorch(t *testing.T) {
	want := map[string]string{
		SGD:   "momentum.conv.bias momentum.conv.weight step",
		AdamW: "exp_avg.conv.bias exp_avg.conv.weight exp_avg_sq.conv.bias exp_avg_sq.conv.weight step",
	}
	for _, c := range configs() {
		on(t, func(s *ops.Scope) error {
			params := small(s, t)
			o, err := New(s, c, params, nil)
			if err != nil {
				return err
			}
			o.Step(s, params.Buffer(), Update{Rate: .1, Scale: 1})
			state, err := o.State()
			if err != nil {
				return err
			}
			var names []string
			for _, x := range state {
				names = append(names, x.Name)
			}
			if got := strings.Join(names, " "); got != want[c.Kind] {
				t.Errorf("%s: state is %s, want %s", c.Kind, got, want[c.Kind])
			}
			return nil
		})
	}
}

func TestRestoreRefusesForeignState(t *testing.T) {
	on(t, func(s *ops.Scope) error {
		sgd, adamw := configs()[0], configs()[1]
		params := small(s, t)
		o, err := New(s, sgd, params, nil)
		if err != nil {
			return err
		}
		other, err := New(s, adamw, params, nil)
		if err != nil {
			return err
		}
		state, err := other.State()
		if err != nil {
			return err
		}
		if err := o.Restore(s, state); !errors.Is(err, ErrConfig) || !strings.Contains(err.Error(), "no momentum.conv.bias") {
			t.Errorf("SGD takes AdamW's state: error %v", err)
		}
		if err := other.Restore(s, nil); !errors.Is(err, ErrConfig) {
			t.Errorf("AdamW takes an empty state: error %v", err)
		}
		state[0].Shape = []int64{5}
		if err := other.Restore(s, state); !errors.Is(err, ErrConfig) || !strings.Contains(err.Error(), "want float32 [4]") {
			t.Errorf("AdamW takes a state of another shape: error %v", err)
		}
		average, err := NewAverage(s, AverageConfig{Decay: .5}, params, small(s, t, "m.weight", "m.bias"))
		if err != nil {
			return err
		}
		part, err := average.State()
		if err != nil {
			return err
		}
		if err := average.Restore(s, part[1:]); !errors.Is(err, ErrConfig) {
			t.Errorf("the average takes half a state: error %v", err)
		}
		return nil
	})
}

func TestWeightDecayLeavesOtherGroupsAlone(t *testing.T) {
	for _, c := range configs() {
		on(t, func(s *ops.Scope) error {
			params := small(s, t)
			before := read(t, params)
			o, err := New(s, c, params, func(name string) bool { return name == "conv.weight" })
			if err != nil {
				return err
			}
			o.Step(s, s.Zeros(ops.Float32, params.Len()), Update{Rate: .1, Scale: 1})
			after := read(t, params)
			if bias := 4 * 4; !bytes.Equal(before[:bias], after[:bias]) { // conv.bias comes first
				t.Errorf("%s: a bias without gradient and decay moved", c.Kind)
			}
			if bytes.Equal(before[16:], after[16:]) {
				t.Errorf("%s: weights without gradient did not decay", c.Kind)
			}
			return nil
		})
	}
}

func TestAverageFollowsAndSwaps(t *testing.T) {
	on(t, func(s *ops.Scope) error {
		params, buffers := small(s, t), small(s, t, "m.weight", "m.bias")
		a, err := NewAverage(s, AverageConfig{Decay: .75, Warmup: true}, params, buffers)
		if err != nil {
			return err
		}
		o, err := New(s, DefaultConfig(SGD), params, nil)
		if err != nil {
			return err
		}
		from, _ := params.Span(params.Params()[0])
		value := func(f *ops.Flat) float64 { return float64(ops.Values[float32](s, f.Buffer())[from]) }
		want, wantBuffer := value(params), value(buffers)
		for step := range 40 {
			buffers.CopyFrom(s, s.Scale(buffers.Buffer(), 1.1))
			o.Step(s, wave(s, params, float64(step)), Update{Rate: .1, Scale: 1, Average: a})
			keep := math.Min(.75, float64(1+step)/float64(10+step))
			want = keep*want + (1-keep)*value(params)
			wantBuffer = keep*wantBuffer + (1-keep)*value(buffers)
		}
		if got := value(a.params); math.Abs(got-want) > 1e-5 {
			t.Errorf("average of a weight is %g, want %g", got, want)
		}
		if got := value(a.buffers); math.Abs(got-wantBuffer) > 1e-5*math.Abs(wantBuffer) {
			t.Errorf("average of a statistic is %g, want %g", got, wantBuffer)
		}
		live, average := read(t, params), read(t, a.params)
		a.Swap(s)
		if !bytes.Equal(read(t, params), average) || !bytes.Equal(read(t, a.params), live) {
			t.Error("Swap does not exchange the weights and their average")
		}
		a.Swap(s)
		if !bytes.Equal(read(t, params), live) {
			t.Error("two Swaps change the weights")
		}
		return nil
	})
}

func TestConfigIsChecked(t *testing.T) {
	for _, c := range []Config{
		{Kind: "adam"},
		{Kind: SGD, Momentum: 1},
		{Kind: SGD, Nesterov: true},
		{Kind: SGD, WeightDecay: -1},
		{Kind: SGD, WeightDecay: math.NaN()},
		{Kind: AdamW, Beta1: .9, Beta2: 1, Eps: 1e-8},
		{Kind: AdamW, Beta1: .9, Beta2: .999},
	} {
		if err := c.Validate(); !errors.Is(err, ErrConfig) {
			t.Errorf("%+v is accepted: %v", c, err)
		}
	}
	for _, kind := range []string{SGD, AdamW} {
		if err := DefaultConfig(kind).Validate(); err != nil {
			t.Errorf("the default of %s is refused: %v", kind, err)
		}
	}
}
