package training

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	torch "github.com/wangkuiyi/gotorch"

	"mp/attack"
	"mp/ops"
)

func on(t *testing.T, f func(s *ops.Scope) error) {
	t.Helper()
	d, err := ops.OpenDevice(ops.DeviceConfig{GPU: ops.CPU, Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if err := d.Do(context.Background(), func(s *ops.Scope) error {
		if err := f(s); err != nil {
			return err
		}
		return s.Err()
	}); err != nil {
		t.Fatal(err)
	}
}

func softmax(z []float64) []float64 {
	top, sum := slices.Max(z), 0.0
	out := make([]float64, len(z))
	for i, v := range z {
		out[i] = math.Exp(v - top)
		sum += out[i]
	}
	for i := range out {
		out[i] /= sum
	}
	return out
}

// The losses again, element by element, as the papers write them.
func plain(strategy string, clean, attacked [][]float64, labels []int64, beta, smoothing float64) float64 {
	var loss float64
	for i, y := range labels {
		p, q := softmax(clean[i]), softmax(attacked[i])
		entropy := func(p []float64) float64 {
			l := -(1 - smoothing) * math.Log(p[y])
			for _, v := range p {
				l -= smoothing / float64(len(p)) * math.Log(v)
			}
			return l
		}
		apart, rival := 0.0, 0.0
		for k := range p {
			apart += p[k] * math.Log(p[k]/q[k])
			if int64(k) != y {
				rival = max(rival, q[k])
			}
		}
		switch strategy {
		case TRADES:
			loss += entropy(p) + beta*apart
		case MART:
			loss += -math.Log(q[y]) - math.Log(1.0001-rival) + beta*apart*(1-p[y])
		default:
			loss += entropy(q)
		}
	}
	return loss / float64(len(labels))
}

func TestLossesAndGradientsEqualTheirPlainTwins(t *testing.T) {
	const n, k = 5, 6
	r := rand.New(rand.NewPCG(1, 2))
	draw := func() (flat []float64, rows [][]float64) {
		for range n {
			row := make([]float64, k)
			for j := range row {
				row[j] = 2 * r.NormFloat64()
			}
			flat, rows = append(flat, row...), append(rows, row)
		}
		return flat, rows
	}
	clean, cleanRows := draw()
	attacked, attackedRows := draw()
	labels := []int64{0, 5, 2, 2, 4}
	labels[0] = int64(slices.Index(attackedRows[0], slices.Max(attackedRows[0]))) // one that is right, so that the rival is the second
	for _, strategy := range []string{PGD, TRADES, MART} {
		recipe, err := New(Config{Strategy: strategy, Eps: .1, StepSize: .02, Steps: 3, Beta: 6})
		if err != nil {
			t.Fatal(err)
		}
		if strategy != MART {
			recipe.Smoothing = .1
		}
		on(t, func(s *ops.Scope) error {
			z := Logits{Clean: s.Leaf(ops.From(s, clean, n, k)), Attacked: s.Leaf(ops.From(s, attacked, n, k))}
			loss := recipe.Loss(s, z, labels)
			want := plain(strategy, cleanRows, attackedRows, labels, recipe.Beta, recipe.Smoothing)
			if got := s.Item(loss); math.Abs(got-want) > 1e-6*math.Abs(want) {
				t.Errorf("%s: loss %.9g, want %.9g", strategy, got, want)
			}
			inputs := []torch.Tensor{z.Attacked}
			rows := [][][]float64{attackedRows}
			if recipe.Weighs() {
				inputs, rows = append(inputs, z.Clean), append(rows, cleanRows)
			}
			for i, g := range s.Grad(loss, inputs...) {
				for at, got := range ops.Values[float64](s, g) {
					cell, h := &rows[i][at/k][at%k], 1e-5
					before := *cell
					*cell = before + h
					up := plain(strategy, cleanRows, attackedRows, labels, recipe.Beta, recipe.Smoothing)
					*cell = before - h
					down := plain(strategy, cleanRows, attackedRows, labels, recipe.Beta, recipe.Smoothing)
					*cell = before
					if want := (up - down) / (2 * h); math.Abs(got-want) > 1e-5*(1+math.Abs(want)) {
						t.Errorf("%s: gradient %d of input %d is %.8g, want %.8g", strategy, at, i, got, want)
					}
				}
			}
			return nil
		})
	}
}

func TestSignsSurvivePacking(t *testing.T) {
	for _, n := range []int{0, 1, 15, 16, 17, 1000} {
		r := rand.New(rand.NewPCG(3, uint64(n)))
		values, want := make([]float32, n), make([]float32, n)
		for i := range values {
			want[i] = float32(r.IntN(3) - 1)
			values[i] = want[i] * r.Float32()
		}
		for i, v := range values {
			if v == 0 {
				want[i] = 0
			}
		}
		words, got := make([]int32, Words(n)), make([]float32, n)
		PackSigns(words, values)
		UnpackSigns(got, words)
		if !slices.Equal(got, want) {
			t.Errorf("%d signs: got %v, want %v", n, got, want)
		}
	}
}

func TestWeightsMoveByAShareOfTheirLength(t *testing.T) {
	on(t, func(s *ops.Scope) error {
		f, err := ops.NewFlat(s, []*ops.Param{{Name: "bias", Shape: []int64{3}}, {Name: "weight", Shape: []int64{2, 3}}, {Name: "still", Shape: []int64{2, 2}}}, ops.Float32, false, true)
		if err != nil {
			return err
		}
		defer f.Free()
		w, g := make([]float32, f.Len()), make([]float32, f.Len())
		want := make([]float32, f.Len())
		for _, p := range f.Params() {
			at, n := f.Span(p)
			var ww, gg float64
			for i := at; i < at+n; i++ {
				w[i] = float32(i%5) - 1
				if p.Name != "still" {
					g[i] = float32(i%3) - .5
				}
				ww, gg = ww+float64(w[i]*w[i]), gg+float64(g[i]*g[i])
			}
			for i := at; i < at+n; i++ {
				want[i] = w[i]
				if p.Name == "weight" {
					want[i] += float32(.1 * math.Sqrt(ww/gg) * float64(g[i]))
				}
			}
		}
		f.CopyFrom(s, ops.From(s, w, f.Len()))
		MoveWeights(s, f, ops.From(s, g, f.Len()), .1)
		for i, got := range ops.Values[float32](s, f.Buffer()) {
			if math.Abs(float64(got-want[i])) > 1e-6 {
				t.Errorf("element %d is %g, want %g", i, got, want[i])
			}
		}
		return nil
	})
}

// flat is a victim whose logits are the first K pixels of an image.
type flat struct{}

func (flat) Logits(s *ops.Scope, x torch.Tensor) torch.Tensor {
	return s.Scale(s.Narrow(s.Reshape(x, x.Shape()[0], -1), 1, 0, 4), 9)
}

func TestAttacksGoAsFarAsTheyMay(t *testing.T) {
	const eps = 4. / 255
	for strategy, reach := range map[string]float64{PGD: eps, FGSMRS: eps, NFGSM: 3 * eps, TRADES: eps, MART: eps} {
		r, err := New(Config{Strategy: strategy, Eps: 2 * eps, StepSize: eps, Steps: 4, Beta: 1})
		if err != nil {
			t.Fatal(err)
		}
		a, err := r.Attack(eps)
		if err != nil {
			t.Fatal(err)
		}
		on(t, func(s *ops.Scope) error {
			x := s.Offset(s.Zeros(ops.Float32, 2, 3, 4, 4), .5)
			got, err := a.Perturb(context.Background(), s, flat{}, attack.Batch{X: x, Labels: []int64{0, 1}, Keys: []uint64{1, 2}})
			if err != nil {
				return err
			}
			far := 0.0
			for _, d := range ops.Values[float32](s, s.Sub(got.X, x)) {
				far = max(far, math.Abs(float64(d)))
			}
			if far > reach+1e-6 || far < eps/2 {
				t.Errorf("%s moves a value by %.5f, want up to %.5f", strategy, far, reach)
			}
			return nil
		})
	}
}

func TestWrongRecipesAreRefused(t *testing.T) {
	for _, c := range []Config{
		{Strategy: "fast", Eps: .1, StepSize: .1, Steps: 1}, {Strategy: PGD, StepSize: .1, Steps: 1}, {Strategy: PGD, Eps: .1, Steps: 0},
		{Strategy: TRADES, Eps: .1, StepSize: .1, Steps: 1, Beta: -1}, {Strategy: PGD, Eps: .1, Steps: 1, Smoothing: 1}, {Strategy: Free},
	} {
		if _, err := New(c); !errors.Is(err, attack.ErrConfig) {
			t.Errorf("%+v: got %v, want attack.ErrConfig", c, err)
		}
	}
}
