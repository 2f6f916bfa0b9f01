package ops

import (
	"math"
	"testing"

	torch "github.com/wangkuiyi/gotorch"
)

// Operations called by name are checked for the right name, argument order and defaults, on values worked out by hand.
func TestOperationsMeanWhatTheySay(t *testing.T) {
	gelu := func(x float64) float64 { return x * 0.5 * (1 + math.Erf(x/math.Sqrt2)) }
	e := math.E
	cases := []struct {
		name string
		call func(s *Scope) torch.Tensor
		want []float64
	}{
		{"gelu", func(s *Scope) torch.Tensor { return s.GELU(From(s, []float64{-1, 0, 2}, 3)) }, []float64{gelu(-1), 0, gelu(2)}},
		{"sigmoid", func(s *Scope) torch.Tensor { return s.Sigmoid(From(s, []float64{0, 1}, 2)) }, []float64{.5, e / (1 + e)}},
		{"softmax", func(s *Scope) torch.Tensor { return s.Softmax(From(s, []float64{0, 1}, 1, 2), 1) }, []float64{1 / (1 + e), e / (1 + e)}},
		{"log softmax", func(s *Scope) torch.Tensor { return s.LogSoftmax(From(s, []float64{0, 0}, 1, 2), 1) }, []float64{-math.Ln2, -math.Ln2}},
		{"layer norm", func(s *Scope) torch.Tensor {
			return s.LayerNorm(From(s, []float64{1, 3}, 1, 2), From(s, []float64{2, 2}, 2), From(s, []float64{1, 1}, 2), 0)
		}, []float64{-1, 3}},
		{"batch norm, running statistics", func(s *Scope) torch.Tensor {
			one := func(v float64) torch.Tensor { return From(s, []float64{v}, 1) }
			return s.BatchNorm(From(s, []float64{3, 5}, 2, 1, 1, 1), Norm{Weight: one(2), Bias: one(1), Mean: one(3), Var: one(4 - normEps)}, false)
		}, []float64{1, 3}},
		{"cross-entropy, smoothed", func(s *Scope) torch.Tensor {
			return s.CrossEntropy(From(s, []float64{0, 1}, 1, 2), From(s, []int64{1}, 1), .2, ReduceMean)
		}, []float64{math.Log(1+e) - .9}},
		{"cross-entropy, soft targets, sum", func(s *Scope) torch.Tensor {
			return s.CrossEntropy(From(s, []float64{0, 1, 0, 1}, 2, 2), From(s, []float64{.25, .75, 1, 0}, 2, 2), 0, ReduceSum)
		}, []float64{2*math.Log(1+e) - .75}},
		{"unfold", func(s *Scope) torch.Tensor {
			return s.Unfold(From(s, []float64{1, 2, 3, 4, 5, 6}, 1, 1, 2, 3), [2]int64{2, 1}, [2]int64{1, 2}, [2]int64{0, 0})
		}, []float64{1, 3, 4, 6}},
		{"fold adds what overlaps", func(s *Scope) torch.Tensor {
			return s.Fold(From(s, []float64{1, 2, 3, 4}, 1, 2, 2), [2]int64{1, 3}, [2]int64{1, 2}, [2]int64{1, 1}, [2]int64{0, 0})
		}, []float64{1, 2 + 3, 4}},
		{"attention", func(s *Scope) torch.Tensor {
			one := From(s, []float64{1}, 1, 1, 1)
			return s.Attention(one, From(s, []float64{0, 1}, 1, 2, 1), From(s, []float64{1, 2}, 1, 2, 1))
		}, []float64{(1 + 2*e) / (1 + e)}},
		{"interpolate", func(s *Scope) torch.Tensor {
			return s.Interpolate(From(s, []float64{0, 4}, 1, 1, 1, 2), [2]int64{1, 4})
		}, []float64{0, 1, 3, 4}},
		{"top-k", func(s *Scope) torch.Tensor {
			values, indices := s.TopK(From(s, []float64{5, 9, 7}, 1, 3), 2)
			return s.Add(values, s.Scale(s.To(indices, Float64), 100))
		}, []float64{109, 207}},
		{"average pool at an odd edge", func(s *Scope) torch.Tensor {
			return s.AvgPool2d(From(s, []float64{1, 3, 8}, 1, 1, 1, 3), 2, 2)
		}, []float64{2, 8}},
		{"flip", func(s *Scope) torch.Tensor { return s.Flip(From(s, []float64{1, 2, 3}, 1, 3), 1) }, []float64{3, 2, 1}},
		{"pad", func(s *Scope) torch.Tensor { return s.Pad(From(s, []float64{7}, 1, 1), 1, 2) }, []float64{0, 7, 0, 0}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			on(t, func(s *Scope) error {
				got := Values[float64](s, c.call(s))
				if err := s.Err(); err != nil {
					return err
				}
				if len(got) != len(c.want) {
					t.Fatalf("got %v, want %v", got, c.want)
				}
				for i := range got {
					if !(math.Abs(got[i]-c.want[i]) < 1e-9) {
						t.Errorf("element %d is %.12g, want %.12g", i, got[i], c.want[i])
					}
				}
				return nil
			})
		})
	}
}
