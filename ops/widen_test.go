package ops

import (
	"math"
	"testing"

	torch "github.com/wangkuiyi/gotorch"
)

// Layers in bfloat16 mean the same, forward and backward, with the library's own products and with float32's.
func TestWidenedLayersMeanTheSame(t *testing.T) {
	on(t, func(s *Scope) error {
		defer func(before bool) { s.device.widen = before }(s.device.widen)
		wave := func(frequency float64, shape ...int64) torch.Tensor {
			v := make([]float32, Numel(shape))
			for i := range v {
				v[i] = float32(math.Sin(frequency * float64(i+1)))
			}
			return From(s, v, shape...)
		}
		x, w, b := wave(.7, 2, 3, 9, 8), wave(1.3, 4, 3, 3, 3), wave(2.1, 4)
		tokens, matrix := wave(.3, 2, 5, 6), wave(1.9, 4, 6)
		for name, c := range map[string]struct {
			inputs []torch.Tensor
			f      func(in []torch.Tensor) torch.Tensor
		}{
			"convolution": {[]torch.Tensor{x, w, b}, func(in []torch.Tensor) torch.Tensor {
				return s.Conv2d(s.To(in[0], BFloat16), in[1], in[2], ConvGeometry{Stride: 2, Padding: 1})
			}},
			"linear": {[]torch.Tensor{tokens, matrix, b}, func(in []torch.Tensor) torch.Tensor {
				return s.Linear(s.To(in[0], BFloat16), in[1], in[2])
			}},
			"attention": {[]torch.Tensor{tokens, wave(.9, 2, 5, 6), wave(1.1, 2, 5, 6)}, func(in []torch.Tensor) torch.Tensor {
				return s.Attention(s.To(in[0], BFloat16), s.To(in[1], BFloat16), s.To(in[2], BFloat16))
			}},
		} {
			var results [2][][]float64
			for i, widen := range []bool{false, true} {
				s.device.widen = widen
				leaves := make([]torch.Tensor, len(c.inputs))
				for j, t := range c.inputs {
					leaves[j] = s.Leaf(t)
				}
				y := c.f(leaves)
				if s.Err() == nil && y.Dtype() != BFloat16 {
					t.Errorf("%s, widened %t: the result has dtype %d, want bfloat16", name, widen, y.Dtype())
				}
				results[i] = append(results[i], Values[float64](s, y))
				for _, g := range s.Grad(s.Sum(s.Mul(s.To(y, Float32), s.To(y, Float32))), leaves...) {
					results[i] = append(results[i], Values[float64](s, g))
				}
			}
			if s.Err() != nil {
				return s.Err()
			}
			for part := range results[0] {
				size, worst := 0.0, 0.0
				for i, v := range results[0][part] {
					size = math.Max(size, math.Abs(v))
					worst = math.Max(worst, math.Abs(v-results[1][part][i]))
				}
				if worst > size/32 { // a few roundings to 8 bits
					t.Errorf("%s: result or gradient %d differs by up to %.3g of at most %.3g", name, part, worst, size)
				}
			}
		}
		return nil
	})
}
