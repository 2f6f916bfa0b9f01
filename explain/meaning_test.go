package explain_test

import (
	"errors"
	"math"
	"slices"
	"strings"
	"testing"

	torch "github.com/wangkuiyi/gotorch"

	"mp/explain"
	"mp/ops"
)

// ramp is a network whose answers are known: logit k is the sum of k+1 times the pixels of the upper left quarter.
type ramp struct{ side int64 }

func (r ramp) Logits(s *ops.Scope, x torch.Tensor, p *explain.Probe) torch.Tensor {
	quarter := s.Sum(s.Narrow(s.Narrow(x, 2, 0, r.side/2), 3, 0, r.side/2), 1, 2, 3) // [N]
	weights := s.To(ops.From(s, []float64{1, 2, 3}, 1, 3), x.Dtype())
	return s.Mul(s.Reshape(quarter, x.Shape()[0], 1), weights)
}
func (ramp) Layers() []string       { return nil }
func (ramp) Traits() explain.Traits { return explain.Traits{} }

// inside says whether element i of [N C side side] lies in the upper left quarter.
func inside(i int, side int64) bool {
	x, y := int64(i)%side, int64(i)/side%side
	return x < side/2 && y < side/2
}

func rampBatch(s *ops.Scope, side int64) explain.Batch {
	b := explain.Batch{Labels: []int64{2, 0}, Keys: []uint64{explain.Key(5, 0), explain.Key(5, 1)}}
	b.Images = s.Scale(s.Abs(s.Normal(s.Zeros(ops.Float64, 2, 3, side, side), b.Keys)), 0.01)
	return b
}

func TestGradientMethodsFindALinearNetwork(t *testing.T) {
	const side = 16
	on(t, func(s *ops.Scope) error {
		b, n := rampBatch(s, side), ramp{side}
		x := ops.Values[float64](s, b.Images)
		for _, c := range []struct {
			name   string
			method explain.Method
			times  bool // the image
		}{
			{"smoothgrad", explain.SmoothGrad{Samples: 3, Noise: .2}, false},
			{"inputxgradient", explain.InputXGradient{}, true},
			{"integratedgradients", explain.IntegratedGradients{Steps: 5}, true},
		} {
			a := c.method.Attribute(s, n, b)
			for i, got := range ops.Values[float64](s, a) {
				want := 0.0
				if inside(i, side) {
					want = float64(b.Labels[i/(3*side*side)] + 1)
					if c.times {
						want *= x[i]
					}
				}
				if math.Abs(got-want) > 1e-9 {
					t.Fatalf("%s: element %d is %g, want %g", c.name, i, got, want)
				}
			}
			if c.times {
				for i, g := range explain.Completeness(s, n, b, a) {
					if !(g.Relative() < 1e-9) || g.Want == 0 {
						t.Errorf("%s: sample %d adds up to %g, want %g", c.name, i, g.Sum, g.Want)
					}
				}
			}
		}
		if gaps := explain.Completeness(s, n, b, s.Scale(b.Images, 1)); gaps[0].Relative() < .1 {
			t.Errorf("the image itself passes for complete: %+v", gaps)
		}
		return s.Err()
	})
}

func TestMaskingMethodsFindTheQuarter(t *testing.T) {
	const side = 32
	on(t, func(s *ops.Scope) error {
		b, n := rampBatch(s, side), ramp{side}
		for name, m := range map[string]explain.Method{
			"occlusion": explain.Occlusion{Window: 8, Stride: 4},
			"rise":      explain.RISE{Masks: 400, Grid: 4, Keep: .5},
		} {
			v := ops.Values[float64](s, m.Attribute(s, n, b))
			var in, out float64
			for i, a := range v[:side*side] { // label 2, whose logit the quarter raises most
				if inside(i, side) {
					in += a / (side * side / 4)
				} else {
					out += a / (side * side * 3 / 4)
				}
			}
			if !(in > 1.05*out) {
				t.Errorf("%s: mean %g in the quarter that counts, %g outside", name, in, out)
			}
		}
		// A pixel far from the quarter loses nothing.
		v := ops.Values[float64](s, explain.Occlusion{Window: 5, Stride: 4}.Attribute(s, n, b))
		if far := v[side*side-1]; far != 0 {
			t.Errorf("occlusion: the last pixel, which does not count, gets %g", far)
		}
		return s.Err()
	})
}

func TestScoresTellGoodMapsFromBadOnes(t *testing.T) {
	const side = 16
	on(t, func(s *ops.Scope) error {
		b, n := rampBatch(s, side), ramp{side}
		v, w := make([]float64, 2*side*side), make([]float64, 2*side*side)
		for i := range v {
			if inside(i, side) {
				v[i] = 1
			} else {
				w[i] = 1
			}
		}
		good, bad := ops.From(s, v, 2, 1, side, side), ops.From(s, w, 2, 1, side, side)
		removal := explain.Removal{Steps: 8}
		g, w2 := removal.Areas(s, n, b, good), removal.Areas(s, n, b, bad)
		if !(g[0].Deletion < w2[0].Deletion && g[0].Insertion > w2[0].Insertion) {
			t.Errorf("areas of the right map %+v, of the wrong one %+v", g[0], w2[0])
		}
		// A linear network is foretold exactly by its gradient.
		exact := explain.Infidelity{Samples: 4, Noise: .1}
		weights := make([]float64, 2*side*side)
		for i := range weights {
			if inside(i, side) {
				weights[i] = float64(b.Labels[i/(side*side)] + 1)
			}
		}
		right := ops.From(s, weights, 2, 1, side, side)
		if e := exact.Measure(s, n, b, right); !(e[0] < 1e-18 && e[1] < 1e-18) {
			t.Errorf("infidelity of the gradient %v, want 0", e)
		}
		half := s.Scale(right, .5)
		plain, scaled := exact.Measure(s, n, b, half), explain.Infidelity{Samples: 4, Noise: .1, Scaled: true}.Measure(s, n, b, half)
		if !(plain[0] > 1e-3 && scaled[0] < 1e-18) {
			t.Errorf("infidelity of half the gradient %v, at the best scale %v", plain, scaled)
		}
		return s.Err()
	})
}

func TestRankCorrelation(t *testing.T) {
	for _, c := range []struct {
		a, b []float64
		want float64
	}{
		{[]float64{1, 2, 3, 4}, []float64{10, 20, 30, 400}, 1},
		{[]float64{1, 2, 3, 4}, []float64{4, 3, 2, 1}, -1},
		{[]float64{1, 2, 2, 3}, []float64{1, 3, 2, 4}, 0.9486832980505138}, // scipy.stats.spearmanr
		{[]float64{1, 1, 1}, []float64{1, 2, 3}, math.NaN()},
	} {
		got := explain.RankCorrelation(c.a, c.b)
		if math.IsNaN(c.want) != math.IsNaN(got) || math.Abs(got-c.want) > 1e-12 {
			t.Errorf("%v and %v: got %v, want %v", c.a, c.b, got, c.want)
		}
	}
}

func TestPictures(t *testing.T) {
	grey := []byte{100, 100, 100, 100, 100, 100, 100, 100, 100, 100, 100, 100}
	m := []float32{0, 0, 0, 1}
	red := explain.Red(grey, m)
	if red[9] != 255 || red[10] != 33 || red[0] != 100 || grey[9] != 100 {
		t.Errorf("red where the map exceeds twice its mean: got %v", red)
	}
	flat, nan := []float32{2, 2, 2, 2}, []float32{0, float32(math.NaN()), 0, 0}
	for _, m := range [][]float32{m, flat, nan} {
		if h, b := explain.Heat(m), explain.Blend(grey, m); len(h) != 12 || len(b) != 12 {
			t.Errorf("pictures of %d and %d bytes, want 12", len(h), len(b))
		}
	}
	before := -1.0
	values := make([]float32, 201)
	for i := range values {
		values[i] = float32(min(i, 199))
	}
	h := explain.Heat(values)
	for i := 0; i < 200; i++ {
		l := .299*float64(h[3*i]) + .587*float64(h[3*i+1]) + .114*float64(h[3*i+2])
		if l < before-1 { // bytes are rounded
			t.Fatalf("colour %d is darker than the one before: %g after %g", i, l, before)
		}
		before = l
	}
}

// What is random is a function of the sample's key, and nothing else is random.
func TestOnlyRandomMethodsAskForKeys(t *testing.T) {
	on(t, func(s *ops.Scope) error {
		n, b := small(t, s, "scenenet", 1)
		defer n.Free()
		other := b
		other.Keys = []uint64{explain.Key(2, 0)}
		all, err := explain.Find([]string{"all"}, n, quick())
		if err != nil {
			return err
		}
		for _, e := range all {
			m := e.New(quick())
			same := slices.Equal(ops.Values[float64](s, m.Attribute(s, n, b)), ops.Values[float64](s, m.Attribute(s, n, other)))
			if random := e.Name == "smoothgrad" || e.Name == "rise"; random == same {
				t.Errorf("%s: equal with another key: %t", e.Name, same)
			}
		}
		return s.Err()
	})
}

// Guided backpropagation lets only what is positive through: behind one rectifier no gradient is negative for positive weights.
func TestGuidedReLULetsThePositiveThrough(t *testing.T) {
	on(t, func(s *ops.Scope) error {
		x := s.Leaf(ops.From(s, []float64{-1, 2, 3, 0}, 4))
		dy := ops.From(s, []float64{5, 7, -9, 4}, 4)
		y := s.GuidedReLU(x)
		got := ops.Values[float64](s, s.Pullback(y, dy, x)[0])
		if want := []float64{0, 7, 0, 0}; !slices.Equal(got, want) {
			t.Errorf("gradient %v, want %v", got, want)
		}
		if v := ops.Values[float64](s, y); !slices.Equal(v, []float64{0, 2, 3, 0}) {
			t.Errorf("got %v", v)
		}
		return s.Err()
	})
}

// A failing forward pass is the scope's error, not a crash.
func TestErrorsComeBack(t *testing.T) {
	for _, e := range explain.Methods() {
		on(t, func(s *ops.Scope) error {
			c := s.Child()
			e.New(quick()).Attribute(c, broken{}, rampBatch(s, 16))
			if err := c.Err(); err == nil || !strings.Contains(err.Error(), "broken") {
				t.Errorf("%s: got %v", e.Name, err)
			}
			return nil
		})
	}
}

// broken fails as a network does that runs out of memory.
type broken struct{}

func (broken) Logits(s *ops.Scope, _ torch.Tensor, _ *explain.Probe) torch.Tensor {
	s.Fail(errors.New("broken"))
	return torch.Tensor{}
}
func (broken) Layers() []string       { return []string{"one"} }
func (broken) Traits() explain.Traits { return explain.Traits{Rectifiers: true, Attention: true} }
