package ops

import (
	"math"
	"slices"
	"testing"

	torch "github.com/wangkuiyi/gotorch"
)

// The operations of attacks, on values worked out by hand.
func TestAttackOperationsMeanWhatTheySay(t *testing.T) {
	index := func(s *Scope, v ...int64) torch.Tensor { return From(s, v, int64(len(v))) }
	for _, c := range []struct {
		name string
		call func(s *Scope) torch.Tensor
		want []float64
	}{
		{"rows", func(s *Scope) torch.Tensor { return s.Rows(From(s, []float64{1, 2, 3, 4, 5, 6}, 3, 2), index(s, 2, 0)) }, []float64{5, 6, 1, 2}},
		{"put rows", func(s *Scope) torch.Tensor {
			x := From(s, []float64{1, 2, 3}, 3, 1)
			s.PutRows(x, index(s, 2, 0), From(s, []float64{7, 8}, 2, 1))
			return x
		}, []float64{8, 2, 7}},
		{"pick", func(s *Scope) torch.Tensor {
			return s.Pick(From(s, []float64{1, 2, 3, 4}, 2, 2), From(s, []int64{1, 0}, 2, 1))
		}, []float64{2, 3}},
		{"where less", func(s *Scope) torch.Tensor {
			a, b := From(s, []float64{1, 5}, 2), From(s, []float64{2, 2}, 2)
			return s.Where(s.Less(a, b), a, s.Scale(b, 10))
		}, []float64{1, 20}},
		{"minimum", func(s *Scope) torch.Tensor {
			return s.Minimum(From(s, []float64{1, 5}, 2), From(s, []float64{2}, 1))
		}, []float64{1, 2}},
		{"clamp", func(s *Scope) torch.Tensor { return s.Clamp(From(s, []float64{-3, .5, 3}, 3), -1, 2) }, []float64{-1, .5, 2}},
		{"largest", func(s *Scope) torch.Tensor { return s.Largest(From(s, []float64{1, 9, 3, 4}, 2, 2), 1) }, []float64{9, 4}},
		{"sum that keeps", func(s *Scope) torch.Tensor {
			x := From(s, []float64{1, 9, 3, 4}, 2, 2)
			return s.Sub(x, s.SumKeep(x, 1))
		}, []float64{-9, -1, -4, -3}},
		{"functions", func(s *Scope) torch.Tensor {
			x := From(s, []float64{-.25}, 1)
			return s.Div(s.Add(s.Tanh(s.Atanh(x)), s.Sqrt(s.Abs(x))), s.Sign(x))
		}, []float64{-.25}},
		{"affine, the identity", func(s *Scope) torch.Tensor {
			return s.Affine(From(s, []float64{1, 2, 3, 4}, 1, 1, 2, 2), From(s, []float64{1, 0, 0, 0, 1, 0}, 1, 2, 3))
		}, []float64{1, 2, 3, 4}},
		{"affine, one pixel to the right", func(s *Scope) torch.Tensor {
			return s.Affine(From(s, []float64{1, 2, 3, 4}, 1, 1, 2, 2), From(s, []float64{1, 0, -1, 0, 1, 0}, 1, 2, 3))
		}, []float64{0, 1, 0, 3}},
		{"jacobian", func(s *Scope) torch.Tensor {
			x := s.Leaf(From(s, []float64{2, 3}, 1, 2))
			y := s.Mul(x, From(s, []float64{10, 100}, 1, 2))
			rows := s.Jacobian(y, x, []torch.Tensor{From(s, []float64{1, 0}, 1, 2), From(s, []float64{0, 1}, 1, 2)})
			return s.Sub(rows[1], rows[0])
		}, []float64{-10, 100}},
	} {
		on(t, func(s *Scope) error {
			got := Values[float64](s, c.call(s))
			if s.Err() == nil && !slices.EqualFunc(got, c.want, func(a, b float64) bool { return math.Abs(a-b) < 1e-12 }) {
				t.Errorf("%s: got %v, want %v", c.name, got, c.want)
			}
			return s.Err()
		})
	}
}

// Noise belongs to a sample: whatever batch, order and layout it lies in. Its moments are those of its distribution.
func TestNoiseBelongsToASample(t *testing.T) {
	on(t, func(s *Scope) error {
		like := s.Zeros(Float64, 3, 2, 40, 40)
		for _, c := range []struct {
			name           string
			draw           func(x torch.Tensor, keys []uint64) torch.Tensor
			second, fourth float64
		}{{"uniform", s.Uniform, 1. / 3, 1. / 5}, {"normal", s.Normal, 1, 3}} {
			all := Values[float64](s, c.draw(like, []uint64{5, 6, 7}))
			one := Values[float64](s, c.draw(s.ChannelsLast(s.Zeros(Float64, 1, 2, 40, 40)), []uint64{6}))
			if !slices.Equal(all[3200:6400], one) {
				t.Errorf("%s: a sample alone draws other numbers", c.name)
			}
			if slices.Equal(all[:3200], one) {
				t.Errorf("%s: another key draws the same numbers", c.name)
			}
			var mean, second, fourth float64
			for _, v := range all {
				mean, second, fourth = mean+v, second+v*v, fourth+v*v*v*v
			}
			n := float64(len(all))
			if math.Abs(mean/n) > .04 || math.Abs(second/n-c.second) > .06*c.second || math.Abs(fourth/n-c.fourth) > .12*c.fourth {
				t.Errorf("%s: moments %.3f, %.3f, %.3f, want 0, %.3f, %.3f", c.name, mean/n, second/n, fourth/n, c.second, c.fourth)
			}
		}
		return s.Err()
	})
}

// The step in one pass against the same step in plain Go.
func TestSignStepEqualsItsTwin(t *testing.T) {
	on(t, func(s *Scope) error {
		shape := []int64{2, 3, 5, 7}
		draw := func(key uint64) torch.Tensor {
			return s.Reshape(s.Uniform(s.Zeros(Float64, 1, Numel(shape)), []uint64{key}), shape...)
		}
		start := s.Scale(draw(1), .6)
		x := s.Add(start, s.Scale(draw(2), .2))
		g := Values[float64](s, draw(3))
		g[0], g[1], g[2] = 0, math.NaN(), math.Inf(-1)
		grad := From(s, g, shape...)
		b := SignBall{Eps: .1, Lo: -.4, Hi: .5}
		for _, last := range []bool{false, true} {
			from := x
			if last {
				from = s.ChannelsLast(x)
			}
			got := Values[float64](s, s.SignStep(from, grad, start, .05, b))
			a, o := Values[float64](s, x), Values[float64](s, start)
			for i := range got {
				v := a[i]
				switch {
				case g[i] > 0:
					v += .05
				case g[i] < 0:
					v -= .05
				}
				v = min(max(min(max(v, o[i]-b.Eps), o[i]+b.Eps), b.Lo), b.Hi)
				if got[i] != v {
					t.Fatalf("channels last %t, element %d: got %g, want %g", last, i, got[i], v)
				}
			}
		}
		return s.Err()
	})
}
