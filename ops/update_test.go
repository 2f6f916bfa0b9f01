package ops

import (
	"context"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	torch "github.com/wangkuiyi/gotorch"
)

// flats is what Update works on, in plain Go.
type flats struct{ w, g, decay, first, second, average []float32 }

func randomFlats(r *rand.Rand, blocks int) flats {
	draw := func(n int, f func() float64) []float32 {
		v := make([]float32, n)
		for i := range v {
			v[i] = float32(f())
		}
		return v
	}
	n := 16 * blocks
	positive := func() float64 { return r.Float64() / 100 }
	f := flats{draw(n, r.NormFloat64), draw(n, r.NormFloat64), draw(blocks, positive), draw(n, r.NormFloat64), draw(n, positive), draw(n, r.NormFloat64)}
	for i := range f.decay {
		if i%3 == 0 {
			f.decay[i] = 0
		}
	}
	return f
}

// step is the plain twin of csrc/update.h. The conversions keep Go from fusing a product with a sum.
func (f flats) step(r Rule, norm float64, clip bool) {
	factor := r.Scale
	if c := r.MaxNorm / (r.Scale*norm + 1e-6); clip && c < 1 {
		factor *= c
	}
	var (
		rate, decayRate  = float32(r.Rate), float32(r.DecayRate)
		beta1, beta2     = float32(r.Beta1), float32(r.Beta2)
		rest1, rest2     = float32(1 - r.Beta1), float32(1 - r.Beta2)
		root, eps, share = float32(r.Root), float32(r.Eps), float32(r.Follow)
	)
	for i := range f.w {
		g, w, decay := float32(f.g[i]*float32(factor)), f.w[i], f.decay[i/16]
		if r.Adam {
			w -= float32(float32(decayRate*decay) * w)
			f.first[i] += float32(rest1 * (g - f.first[i]))
			f.second[i] = float32(beta2*f.second[i]) + float32(float32(rest2*g)*g)
			w -= float32(rate*f.first[i]) / (float32(math.Sqrt(float64(f.second[i])))/root + eps)
		} else {
			g += float32(decay * w)
			f.first[i] = float32(beta1*f.first[i]) + g
			move := f.first[i]
			if r.Nesterov {
				move = g + float32(beta1*f.first[i])
			}
			w -= float32(rate * move)
		}
		f.w[i] = w
		f.average[i] += float32(share * (w - f.average[i]))
	}
}

// norm is the plain twin of mp_norm, in the same order.
func norm(g []float32) float64 {
	fold := func(lanes []float64) float64 {
		for half := len(lanes) / 2; half > 0; half /= 2 {
			for i := range half {
				lanes[i] += lanes[i+half]
			}
		}
		return lanes[0]
	}
	chunkLanes := make([]float64, 256)
	c := 0
	for chunk := range slices.Chunk(g, 1024) {
		lanes := make([]float64, 16)
		for i, v := range chunk {
			lanes[i%16] += float64(float64(v) * float64(v))
		}
		chunkLanes[c%256] += fold(lanes)
		c++
	}
	return math.Sqrt(fold(chunkLanes))
}

func rules() map[string]Rule {
	return map[string]Rule{
		"sgd":      {Rate: .1, Beta1: .9, Scale: 1, Follow: .01},
		"nesterov": {Nesterov: true, Rate: .1, Beta1: .9, Scale: .25, Follow: .5, MaxNorm: 1},
		"adamw":    {Adam: true, Rate: .01 / .1, DecayRate: .01, Beta1: .9, Beta2: .999, Root: math.Sqrt(.001), Eps: 1e-8, Scale: 1, Follow: .01},
		"clipped adamw": {Adam: true, Rate: .01 / .19, DecayRate: .01, Beta1: .9, Beta2: .95, Root: math.Sqrt(.0975), Eps: 1e-6,
			Scale: .5, Follow: 1, MaxNorm: 3},
		"adamw under its limit": {Adam: true, Rate: .01, DecayRate: .01, Beta1: .9, Beta2: .95, Root: 1, Eps: 1e-6, Scale: 1, MaxNorm: 1e9},
	}
}

// update runs one update of f by the kernel, or by ATen operations, with so many threads.
func update(t *testing.T, r Rule, f flats, threads int, composed bool) flats {
	t.Helper()
	d, err := OpenDevice(DeviceConfig{GPU: CPU, Threads: threads})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	var out flats
	if err := d.Do(context.Background(), func(s *Scope) error {
		tensor := func(v []float32) torch.Tensor { return From(s, v, int64(len(v))) }
		b := Flats{Weights: tensor(f.w), Grads: tensor(f.g), Decay: tensor(f.decay), First: tensor(f.first), Second: tensor(f.second), Average: tensor(f.average)}
		if r.MaxNorm > 0 {
			b.Norm = s.Norm(b.Grads)
		}
		if composed {
			s.composeUpdate(r, b)
		} else {
			s.Update(r, b)
		}
		read := func(t torch.Tensor) []float32 { return Values[float32](s, t) }
		out = flats{read(b.Weights), read(b.Grads), read(b.Decay), read(b.First), read(b.Second), read(b.Average)}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return out
}

// most returns the largest difference between two updates, over 1 + |value|.
func most(a, b flats) float64 {
	worst := 0.0
	for _, pair := range [][2][]float32{{a.w, b.w}, {a.g, b.g}, {a.first, b.first}, {a.second, b.second}, {a.average, b.average}} {
		for i := range pair[0] {
			x, y := float64(pair[0][i]), float64(pair[1][i])
			worst = math.Max(worst, math.Abs(x-y)/(1+math.Abs(x)))
		}
	}
	return worst
}

func TestUpdateEqualsItsTwinBitForBit(t *testing.T) {
	for name, r := range rules() {
		for _, blocks := range []int{0, 1, 7, 2500} { // the last on several threads
			f := randomFlats(rand.New(rand.NewPCG(1, uint64(blocks))), blocks)
			for _, threads := range []int{1, 3} {
				got := update(t, r, f, threads, false)
				want := flats{slices.Clone(f.w), f.g, f.decay, slices.Clone(f.first), slices.Clone(f.second), slices.Clone(f.average)}
				want.step(r, norm(f.g), r.MaxNorm > 0)
				if d := most(want, got); d != 0 {
					t.Errorf("%s, %d blocks, %d threads: differs from the plain twin by up to %.2g", name, blocks, threads, d)
				}
			}
		}
	}
}

func TestUpdateOfOperationsFollowsTheKernel(t *testing.T) {
	for name, r := range rules() {
		f := randomFlats(rand.New(rand.NewPCG(2, 3)), 50)
		if d := most(update(t, r, f, 1, false), update(t, r, f, 1, true)); d > 1e-6 {
			t.Errorf("%s: kernel and operations differ by up to %.2g", name, d)
		}
	}
}

func TestNormIsTheSameWithAnyThreads(t *testing.T) {
	g := randomFlats(rand.New(rand.NewPCG(4, 5)), 40_003).g
	want := norm(g)
	for _, threads := range []int{1, 2, 5} {
		d, err := OpenDevice(DeviceConfig{GPU: CPU, Threads: threads})
		if err != nil {
			t.Fatal(err)
		}
		if err := d.Do(context.Background(), func(s *Scope) error {
			if got := s.Item(s.Norm(From(s, g, int64(len(g))))); got != want {
				t.Errorf("%d threads: norm is %.17g, want the twin's %.17g", threads, got, want)
			}
			return nil
		}); err != nil {
			t.Error(err)
		}
		d.Close()
	}
}

func TestUpdateRefusesWrongBuffers(t *testing.T) {
	on(t, func(s *Scope) error {
		flat := func(n int64) torch.Tensor { return s.Zeros(Float32, n) }
		for what, f := range map[string]Flats{
			"a short gradient":     {Weights: flat(32), Grads: flat(16), Decay: flat(2), First: flat(32)},
			"a decay an element":   {Weights: flat(32), Grads: flat(32), Decay: flat(32), First: flat(32)},
			"half a block":         {Weights: flat(24), Grads: flat(24), Decay: flat(1), First: flat(24)},
			"no momentum":          {Weights: flat(32), Grads: flat(32), Decay: flat(2)},
			"a norm in float32":    {Weights: flat(32), Grads: flat(32), Decay: flat(2), First: flat(32), Norm: flat(1)},
			"a float64 gradient":   {Weights: flat(32), Grads: s.Zeros(Float64, 32), Decay: flat(2), First: flat(32)},
			"a short average":      {Weights: flat(32), Grads: flat(32), Decay: flat(2), First: flat(32), Average: flat(16)},
			"an undefined weights": {Grads: flat(32), Decay: flat(2), First: flat(32)},
		} {
			c := &Scope{device: s.device}
			if c.Update(Rule{Rate: 1, Scale: 1}, f); c.Err() == nil {
				t.Errorf("an update of %s is accepted", what)
			}
		}
		return nil
	})
}
