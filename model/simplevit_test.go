package model

import (
	"context"
	"math"
	"testing"

	torch "github.com/wangkuiyi/gotorch"

	"mp/ops"
)

// on runs f on a fresh CPU device.
func on(t *testing.T, f func(s *ops.Scope) error) {
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

// smallAttention is an attention layer with parameters of its own.
func smallAttention(s *ops.Scope) (*attention, *ops.Flat, error) {
	b := &builder{options: Options{DType: ops.Float64}, trace: &trace{}}
	a := newAttention(b, "attn")
	flat, err := ops.NewFlat(s, raw(b.params), ops.Float64, false, true)
	if err != nil {
		return nil, nil, err
	}
	for _, p := range b.params {
		v := make([]float32, ops.Numel(p.Shape))
		uniform(0.3)(newStream(1, p.Name), v) // far from the first values, so that the weights of attention differ
		flat.WriteParam(s, p.Param, encode(v, ops.Float64))
	}
	return a, flat, s.Err()
}

func TestWindowAttentionEqualsItsTwin(t *testing.T) {
	on(t, func(s *ops.Scope) error {
		a, flat, err := smallAttention(s)
		if err != nil {
			return err
		}
		defer flat.Free()
		for _, c := range []struct{ h, w, side int64 }{{8, 8, 4}, {6, 6, 4}, {3, 5, 4}, {4, 4, 4}, {6, 5, 0}} {
			n := int64(2)
			v := make([]float32, n*c.h*c.w*vitWidth)
			uniform(1)(newStream(2, "x"), v)
			x := s.To(ops.From(s, v, n, c.h, c.w, vitWidth), ops.Float64)
			y := windowed(s, x, c.side, func(t torch.Tensor) torch.Tensor { return a.forward(s, t, Mode{}) })
			if s.Err() != nil {
				return s.Err()
			}
			got := ops.Values[float64](s, y)
			twin := attentionTwin{
				h: int(c.h), w: int(c.w), side: int(c.side),
				qkvW: ops.Values[float64](s, tensor(a.qkv.weight)), qkvB: ops.Values[float64](s, tensor(a.qkv.bias)),
				projW: ops.Values[float64](s, tensor(a.proj.weight)), projB: ops.Values[float64](s, tensor(a.proj.bias)),
			}
			want := twin.batch(ops.Values[float64](s, x))
			worst := 0.0
			for i := range want {
				worst = max(worst, math.Abs(got[i]-want[i]))
			}
			t.Logf("%d x %d tokens, window %d: largest difference %.1e", c.h, c.w, c.side, worst)
			if !(worst <= 1e-12) {
				t.Errorf("%d x %d tokens, window %d: differs from the twin by %g", c.h, c.w, c.side, worst)
			}
		}
		return nil
	})
}

// attentionTwin is window attention in plain loops, a token at a time.
type attentionTwin struct {
	h, w, side               int
	qkvW, qkvB, projW, projB []float64
}

// batch computes x [N H W D].
func (a attentionTwin) batch(x []float64) []float64 {
	var out []float64
	for image := a.h * a.w * vitWidth; len(x) > 0; x = x[image:] {
		qkv := make([][]float64, a.h*a.w+1) // the last one is the padding's
		for i := range a.h * a.w {
			qkv[i] = affine(a.qkvW, a.qkvB, x[i*vitWidth:][:vitWidth])
		}
		qkv[a.h*a.w] = affine(a.qkvW, a.qkvB, make([]float64, vitWidth))
		for row := range a.h {
			for column := range a.w {
				out = append(out, a.token(qkv, row, column)...)
			}
		}
	}
	return out
}

// token is the result at one position of an image, given queries, keys and values [H W] of 3 x D.
func (a attentionTwin) token(qkv [][]float64, row, column int) []float64 {
	top, left, height, width := 0, 0, a.h, a.w
	if a.side > 0 {
		top, left, height, width = row/a.side*a.side, column/a.side*a.side, a.side, a.side
	}
	at := func(r, c int) []float64 {
		if r >= a.h || c >= a.w {
			return qkv[a.h*a.w]
		}
		return qkv[r*a.w+c]
	}
	const per = vitWidth / vitHeads
	query := at(row, column)
	mixed := make([]float64, vitWidth)
	for head := range vitHeads {
		var scores []float64
		var values [][]float64
		total := 0.0
		for r := top; r < top+height; r++ {
			for c := left; c < left+width; c++ {
				other := at(r, c)
				dot := 0.0
				for i := range per {
					dot += query[head*per+i] * other[vitWidth+head*per+i]
				}
				e := math.Exp(dot / math.Sqrt(per))
				scores, values, total = append(scores, e), append(values, other[2*vitWidth+head*per:][:per]), total+e
			}
		}
		for k, e := range scores {
			for i := range per {
				mixed[head*per+i] += e / total * values[k][i]
			}
		}
	}
	return affine(a.projW, a.projB, mixed)
}

// affine returns w x + b for w [len(b) len(x)].
func affine(w, b, x []float64) []float64 {
	out := make([]float64, len(b))
	for i := range out {
		out[i] = b[i]
		for j := range x {
			out[i] += w[i*len(x)+j] * x[j]
		}
	}
	return out
}

// Drop-path leaves a sample's result to its own key: the same beside other samples.
func TestDropPathDependsOnTheSampleAlone(t *testing.T) {
	on(t, func(s *ops.Scope) error {
		m, err := New(s, "simplevit", Options{Classes: 5})
		if err != nil {
			return err
		}
		defer m.Free()
		v := make([]float32, 6*3*128*128)
		uniform(1)(newStream(3, "images"), v)
		x := ops.From(s, v, 6, 3, 128, 128)
		keys := []uint64{11, 22, 33, 44, 55, 66}
		s.NoGrad(func() {
			plain := ops.Values[float64](s, m.Forward(s, x, Mode{}))
			all := ops.Values[float64](s, m.Forward(s, x, Mode{Train: true, Keys: keys}))
			again := ops.Values[float64](s, m.Forward(s, x, Mode{Train: true, Keys: keys}))
			two := ops.Values[float64](s, m.Forward(s, s.Narrow(x, 0, 2, 2), Mode{Train: true, Keys: keys[2:4]}))
			differs := false
			for i := range all {
				differs = differs || math.Abs(all[i]-plain[i]) > 1e-3
				if all[i] != again[i] {
					t.Fatalf("logit %d is %g, then %g with the same keys", i, all[i], again[i])
				}
			}
			if !differs {
				t.Error("drop-path drops nothing of six samples")
			}
			for i := range two {
				if math.Abs(two[i]-all[10+i]) > 1e-4 {
					t.Errorf("logit %d of samples 2 and 3 is %g beside the others, %g alone", i, all[10+i], two[i])
				}
			}
		})
		return nil
	})
}

func TestSimpleViTRefusesOtherSizes(t *testing.T) {
	d, err := ops.OpenDevice(ops.DeviceConfig{GPU: ops.CPU, Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	err = d.Do(context.Background(), func(s *ops.Scope) error {
		m, err := New(s, "simplevit", Options{Classes: 5})
		if err != nil {
			return err
		}
		defer m.Free()
		m.Forward(s, s.Zeros(ops.Float32, 1, 3, 96, 96), Mode{})
		return nil
	})
	if err == nil {
		t.Error("no error for images of 96 x 96")
	} else {
		t.Log(err)
	}
}
