package ops

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	torch "github.com/wangkuiyi/gotorch"
)

// convCase is one convolution of the tests: n samples of ci channels, h by w; kernel kh by kw; threads to compute with.
type convCase struct {
	n, ci, co, h, w, kh, kw, stride, padding int64
	last                                     bool // channels last
	threads                                  int
}

func (c convCase) String() string {
	layout := "contiguous"
	if c.last {
		layout = "channels last"
	}
	return fmt.Sprintf("%dx%d->%d %dx%d k%dx%d s%d p%d %s %d threads", c.n, c.ci, c.co, c.h, c.w, c.kh, c.kw, c.stride, c.padding, layout, c.threads)
}

func (c convCase) out() (ho, wo int64) {
	return (c.h+2*c.padding-c.kh)/c.stride + 1, (c.w+2*c.padding-c.kw)/c.stride + 1
}

func (c convCase) geometry() ConvGeometry { return ConvGeometry{Stride: c.stride, Padding: c.padding} }

// numbers are the inputs of a case and the weights r of its loss, the sum of y*r.
type numbers struct{ x, w, b, r []float64 }

func (c convCase) draw(rng *rand.Rand) numbers {
	ho, wo := c.out()
	draw := func(n int64) []float64 {
		out := make([]float64, n)
		for i := range out {
			out[i] = rng.Float64()*2 - 1
		}
		return out
	}
	return numbers{draw(c.n * c.ci * c.h * c.w), draw(c.co * c.ci * c.kh * c.kw), draw(c.co), draw(c.n * c.co * ho * wo)}
}

// exact returns the numbers rounded to ones that bfloat16 has.
func (v numbers) exact() numbers {
	for _, f := range [][]float64{v.x, v.w, v.b, v.r} {
		for i := range f {
			f[i] = math.Round(f[i]*64) / 64
		}
	}
	return v
}

// result is what a convolution computes: y and the gradients of the loss.
type result struct{ y, dx, dw, db []float64 }

// plainConv is the convolution as its definition reads, and the twin of OwnConv2d.
func plainConv(c convCase, v numbers) result {
	ho, wo := c.out()
	out := result{make([]float64, len(v.r)), make([]float64, len(v.x)), make([]float64, len(v.w)), make([]float64, len(v.b))}
	for n := range c.n {
		for o := range c.co {
			for i := range ho {
				for j := range wo {
					at := ((n*c.co+o)*ho+i)*wo + j
					sum, d := v.b[o], v.r[at]
					out.db[o] += d
					for ci := range c.ci {
						for u := range c.kh {
							for k := range c.kw {
								y, x := i*c.stride-c.padding+u, j*c.stride-c.padding+k
								if y < 0 || y >= c.h || x < 0 || x >= c.w {
									continue
								}
								xi, wi := ((n*c.ci+ci)*c.h+y)*c.w+x, ((o*c.ci+ci)*c.kh+u)*c.kw+k
								sum += v.x[xi] * v.w[wi]
								out.dx[xi] += d * v.w[wi]
								out.dw[wi] += d * v.x[xi]
							}
						}
					}
					out.y[at] = sum
				}
			}
		}
	}
	return out
}

type convolution func(s *Scope, x, w, b torch.Tensor, g ConvGeometry) torch.Tensor

func library(s *Scope, x, w, b torch.Tensor, g ConvGeometry) torch.Tensor {
	return s.libraryConv2d(x, w, b, g)
}

func own(how ownConv) convolution {
	return func(s *Scope, x, w, b torch.Tensor, g ConvGeometry) torch.Tensor { return s.ownConv2d(x, w, b, g, how) }
}

// compute runs a convolution and its gradients on tensors of dtype d.
func (c convCase) compute(s *Scope, d DType, v numbers, conv convolution) result {
	ho, wo := c.out()
	layout := func(t torch.Tensor) torch.Tensor {
		if c.last {
			return s.ChannelsLast(s.To(t, d))
		}
		return s.To(t, d)
	}
	x := s.Leaf(layout(From(s, v.x, c.n, c.ci, c.h, c.w)))
	w := s.Leaf(layout(From(s, v.w, c.co, c.ci, c.kh, c.kw)))
	b := s.Leaf(s.To(From(s, v.b, c.co), d))
	y := conv(s, x, w, b, c.geometry())
	grads := s.Pullback(y, layout(From(s, v.r, c.n, c.co, ho, wo)), x, w, b)
	return result{Values[float64](s, y), Values[float64](s, grads[0]), Values[float64](s, grads[1]), Values[float64](s, grads[2])}
}

// run computes on a device with the case's threads.
func (c convCase) run(t *testing.T, d DType, v numbers, conv convolution) (out result) {
	t.Helper()
	device, err := OpenDevice(DeviceConfig{GPU: CPU, Threads: max(c.threads, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer device.Close()
	if err := device.Do(context.Background(), func(s *Scope) error { out = c.compute(s, d, v, conv); return nil }); err != nil {
		t.Fatalf("%v: %v", c, err)
	}
	return out
}

// far returns the largest difference between a and b, as a share of the largest of b (or of 1).
func far(a, b []float64) float64 {
	if len(a) != len(b) {
		return math.Inf(1)
	}
	worst, scale := 0.0, 1.0
	for i := range a {
		worst, scale = max(worst, math.Abs(a[i]-b[i])), max(scale, math.Abs(b[i]))
		if math.IsNaN(a[i]) {
			return math.Inf(1)
		}
	}
	return worst / scale
}

func (r result) compare(t *testing.T, name string, want result, tolerance float64) {
	t.Helper()
	for _, f := range []struct {
		name      string
		got, want []float64
	}{{"y", r.y, want.y}, {"dx", r.dx, want.dx}, {"dw", r.dw, want.dw}, {"db", r.db, want.db}} {
		if d := far(f.got, f.want); !(d <= tolerance) {
			t.Errorf("%s: %s differs by %.2g, want at most %.2g", name, f.name, d, tolerance)
		}
	}
}

// referenceCase is the case that the reference tests its own convolution with.
var referenceCase = convCase{n: 2, ci: 3, co: 64, h: 12, w: 12, kh: 7, kw: 7, stride: 2, padding: 3, threads: 1}

// Each names what a shape is there for.
var namedCases = []convCase{
	referenceCase,
	{n: 2, ci: 5, co: 7, h: 6, w: 9, kh: 1, kw: 1, stride: 1},                             // pointwise
	{n: 3, ci: 16, co: 4, h: 7, w: 5, kh: 1, kw: 1, stride: 2, threads: 2},                // pointwise that skips
	{n: 2, ci: 16, co: 8, h: 20, w: 24, kh: 1, kw: 1, stride: 1, padding: 2},              // negative padding of the flipped pass
	{n: 1, ci: 16, co: 5, h: 32, w: 17, kh: 3, kw: 3, stride: 1, padding: 1, threads: 2},  // a sample for two threads
	{n: 1, ci: 16, co: 5, h: 1, w: 600, kh: 1, kw: 3, stride: 1, threads: 2},              // a row for two threads
	{n: 1, ci: 8, co: 8, h: 30, w: 25, kh: 5, kw: 5, stride: 2, padding: 2, threads: 2},   // a sample for two threads, folded
	{n: 2, ci: 3, co: 4, h: 3, w: 2, kh: 5, kw: 7, stride: 1, padding: 3},                 // kernel larger than the input
	{n: 9, ci: 17, co: 19, h: 11, w: 6, kh: 2, kw: 3, stride: 1, threads: 2},              // valid, non-square
	{n: 4, ci: 2, co: 3, h: 13, w: 10, kh: 2, kw: 2, stride: 5, padding: 1, threads: 2},   // pixels that no patch sees
	{n: 5, ci: 1, co: 1, h: 8, w: 8, kh: 3, kw: 1, stride: 1, padding: 1, threads: 2},     // one channel
	{n: 3, ci: 190, co: 180, h: 3, w: 3, kh: 3, kw: 3, stride: 1, padding: 1, threads: 2}, // weights larger than a chunk
	{n: 3, ci: 180, co: 190, h: 5, w: 4, kh: 3, kw: 3, stride: 2, padding: 1, threads: 2}, // the same, folded
	{n: 2, ci: 64, co: 8, h: 40, w: 30, kh: 3, kw: 3, stride: 1, padding: 1},              // several chunks to a sample
	{n: 3, ci: 8, co: 32, h: 60, w: 50, kh: 5, kw: 5, stride: 2, padding: 2, threads: 2},  // several chunks, folded
	{n: 2, ci: 20, co: 48, h: 1, w: 1, kh: 1, kw: 1, stride: 1, threads: 2},               // one pixel
	{n: 130, ci: 16, co: 3, h: 2, w: 3, kh: 2, kw: 2, stride: 1, padding: 1, threads: 2},  // several samples to a chunk
}

func TestOwnConvolutionEqualsItsTwinAndTheLibrary(t *testing.T) {
	cases := namedCases
	rng := rand.New(rand.NewPCG(3, 14))
	for len(cases) < 60 {
		c := convCase{
			n: 1 + rng.Int64N(6), ci: 1 + rng.Int64N(20), co: 1 + rng.Int64N(17), h: 1 + rng.Int64N(16), w: 1 + rng.Int64N(16),
			kh: 1 + rng.Int64N(5), kw: 1 + rng.Int64N(5), stride: 1 + rng.Int64N(4), padding: rng.Int64N(4),
			threads: 1 + rng.IntN(2),
		}
		if c.h+2*c.padding >= c.kh && c.w+2*c.padding >= c.kw {
			cases = append(cases, c)
		}
	}
	for _, c := range cases {
		v := c.draw(rng)
		plain := plainConv(c, v)
		for _, last := range []bool{false, true} {
			c.last = last
			lib := c.run(t, Float64, v, library)
			for _, how := range []ownConv{ownConvAuto, ownConvComposed, ownConvImages} {
				got := c.run(t, Float64, v, own(how))
				name := fmt.Sprintf("implementation %d, %v", how, c)
				got.compare(t, name+", plain twin", plain, 1e-12)
				got.compare(t, name+", library", lib, 1e-5)
			}
			c.run(t, Float32, v, own(ownConvAuto)).compare(t, "float32, "+c.String(), plain, 1e-5)
		}
	}
}

// bfloat16 keeps 8 bits: each result is rounded once from float32 sums; the composition rounds the columns of dx as well.
func TestOwnConvolutionInBFloat16(t *testing.T) {
	const epsilon = 1.0 / 256
	rng := rand.New(rand.NewPCG(3, 14))
	for _, c := range namedCases {
		v := c.draw(rng).exact()
		plain := plainConv(c, v)
		for _, c.last = range []bool{false, true} {
			for _, how := range []ownConv{ownConvAuto, ownConvWide, ownConvNarrow, ownConvComposed, ownConvImages} {
				if how == ownConvNarrow && !hasNarrow(t) {
					continue
				}
				tolerance := epsilon
				if how == ownConvComposed {
					tolerance *= 2
				}
				c.run(t, BFloat16, v, own(how)).compare(t, fmt.Sprintf("implementation %d, %v", how, c), plain, tolerance)
			}
		}
	}
}

func hasNarrow(t *testing.T) bool {
	t.Helper()
	narrow := true
	on(t, func(s *Scope) error {
		c := s.Child()
		c.ownConv2d(c.Zeros(BFloat16, 1, 1, 1, 1), c.Zeros(BFloat16, 1, 1, 1, 1), torch.Tensor{}, ConvGeometry{}, ownConvNarrow)
		narrow = c.Err() == nil
		c.err = nil
		c.Close()
		return nil
	})
	return narrow
}

func TestOwnConvolutionNumericalGradient(t *testing.T) {
	const eps, atol = 1e-4, 1e-5
	rng := rand.New(rand.NewPCG(2, 7))
	for _, c := range []convCase{
		referenceCase,
		{n: 2, ci: 16, co: 3, h: 20, w: 14, kh: 3, kw: 2, stride: 1, padding: 1, last: true, threads: 2},
		{n: 2, ci: 4, co: 3, h: 5, w: 6, kh: 1, kw: 1, stride: 1, last: true, threads: 1},
	} {
		v := c.draw(rng)
		got := c.run(t, Float64, v, own(ownConvAuto))
		on(t, func(s *Scope) error {
			ho, wo := c.out()
			r := From(s, v.r, c.n, c.co, ho, wo)
			loss := func() (out float64) {
				child := s.Child()
				defer child.Close()
				y := child.OwnConv2d(From(child, v.x, c.n, c.ci, c.h, c.w), From(child, v.w, c.co, c.ci, c.kh, c.kw), From(child, v.b, c.co), c.geometry())
				return child.Item(child.Sum(child.Mul(y, r)))
			}
			for _, f := range []struct {
				name         string
				values, grad []float64
			}{{"x", v.x, got.dx}, {"w", v.w, got.dw}, {"b", v.b, got.db}} {
				for range 40 {
					i := rng.IntN(len(f.values))
					at := f.values[i]
					f.values[i] = at + eps
					up := loss()
					f.values[i] = at - eps
					down := loss()
					f.values[i] = at
					if want := (up - down) / (2 * eps); math.Abs(f.grad[i]-want) > atol {
						t.Errorf("%v: d loss / d %s[%d] is %.8g, numerically %.8g", c, f.name, i, f.grad[i], want)
					}
				}
			}
			return nil
		})
	}
}

func TestOwnConvolutionRepeatsItsBits(t *testing.T) {
	c := convCase{n: 8, ci: 16, co: 24, h: 20, w: 20, kh: 3, kw: 3, stride: 1, padding: 1, threads: 2}
	v := c.draw(rand.New(rand.NewPCG(1, 1)))
	first := c.run(t, Float32, v, own(ownConvAuto))
	for range 5 {
		c.run(t, Float32, v, own(ownConvAuto)).compare(t, "again", first, 0)
	}
}

func TestOwnConvolutionErrors(t *testing.T) {
	zeros := func(s *Scope, shape ...int64) torch.Tensor { return s.Zeros(Float32, shape...) }
	for _, c := range []struct {
		name string
		call func(s *Scope)
		want string
	}{
		{"channels", func(s *Scope) {
			s.OwnConv2d(zeros(s, 2, 3, 8, 8), zeros(s, 4, 5, 3, 3), torch.Tensor{}, ConvGeometry{})
		}, "own_conv2d [2 3 8 8] x [4 5 3 3]: input of shape [2, 3, 8, 8] has 3 channels"},
		{"empty output", func(s *Scope) {
			s.OwnConv2d(zeros(s, 2, 3, 4, 4), zeros(s, 4, 3, 7, 7), torch.Tensor{}, ConvGeometry{Padding: 1})
		}, "kernel 7 x 7 does not fit into the padded input 6 x 6"},
		{"groups", func(s *Scope) {
			s.OwnConv2d(zeros(s, 2, 4, 8, 8), zeros(s, 4, 2, 3, 3), torch.Tensor{}, ConvGeometry{Groups: 2})
		}, "no groups"},
		{"dimensions", func(s *Scope) {
			s.OwnConv2d(zeros(s, 3, 8, 8), zeros(s, 4, 3, 3, 3), torch.Tensor{}, ConvGeometry{})
		}, "want [N Ci H W]"},
		{"bias", func(s *Scope) {
			s.OwnConv2d(zeros(s, 1, 3, 8, 8), zeros(s, 4, 3, 3, 3), zeros(s, 5), ConvGeometry{})
		}, "bias has shape [5], want [4]"},
		{"padding", func(s *Scope) {
			s.OwnConv2d(zeros(s, 1, 3, 8, 8), zeros(s, 4, 3, 3, 3), torch.Tensor{}, ConvGeometry{Padding: -1})
		}, "not negative"},
		{"dtype", func(s *Scope) {
			s.OwnConv2d(s.Zeros(Int32, 1, 3, 8, 8), zeros(s, 4, 3, 3, 3), torch.Tensor{}, ConvGeometry{})
		}, "want float32, float64 or bfloat16"},
		{"undefined input", func(s *Scope) {
			s.OwnConv2d(torch.Tensor{}, zeros(s, 4, 3, 3, 3), torch.Tensor{}, ConvGeometry{})
		}, "undefined tensor"},
		{"undefined weight", func(s *Scope) {
			s.OwnConv2d(zeros(s, 1, 3, 8, 8), torch.Tensor{}, torch.Tensor{}, ConvGeometry{})
		}, "undefined tensor"},
		{"absurd output", func(s *Scope) {
			s.OwnConv2d(zeros(s, 1, 1, 1, 1), zeros(s, 1, 1, 1, 1), torch.Tensor{}, ConvGeometry{Padding: 1 << 21})
		}, "memory"},
		{"gradient of another shape", func(s *Scope) {
			x := s.Leaf(zeros(s, 1, 3, 8, 8))
			s.Pullback(s.OwnConv2d(x, zeros(s, 4, 3, 3, 3), torch.Tensor{}, ConvGeometry{}), zeros(s, 1, 4, 8, 8), x)
		}, "shape [1, 4, 6, 6], its gradient [1, 4, 8, 8]"},
		{"overwritten weight in the backward pass", func(s *Scope) {
			x, w := s.Leaf(zeros(s, 1, 3, 8, 8)), s.Scale(zeros(s, 4, 3, 3, 3), 1)
			y := s.OwnConv2d(x, w, torch.Tensor{}, ConvGeometry{})
			s.AddInPlace(w, w)
			s.Grad(s.Sum(y), x)
		}, "inplace operation"},
	} {
		t.Run(c.name, func(t *testing.T) {
			d, err := OpenDevice(DeviceConfig{GPU: CPU, Threads: 1})
			if err != nil {
				t.Fatal(err)
			}
			defer d.Close()
			err = d.Do(context.Background(), func(s *Scope) error { c.call(s); return nil })
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error is %v, want one that says %q", err, c.want)
			}
		})
	}
}

func TestOwnConvolutionOfNoSamples(t *testing.T) {
	on(t, func(s *Scope) error {
		x, w, b := s.Leaf(s.Zeros(Float32, 0, 3, 8, 8)), s.Leaf(s.Zeros(Float32, 4, 3, 3, 3)), s.Leaf(s.Zeros(Float32, 4))
		y := s.OwnConv2d(x, w, b, ConvGeometry{Padding: 1})
		grads := s.Grad(s.Sum(y), x, w, b)
		if s.Err() != nil {
			return nil
		}
		if got, want := fmt.Sprint(y.Shape()), "[0 4 8 8]"; got != want {
			t.Errorf("output has shape %s, want %s", got, want)
		}
		for i, g := range grads[1:] {
			if got := s.Item(s.Sum(s.Mul(g, g))); got != 0 {
				t.Errorf("gradient %d of no samples has square %g", i+1, got)
			}
		}
		return nil
	})
}

// gradPeak returns the most bytes that a backward pass of conv held beyond those held before it.
func gradPeak(t *testing.T, conv convolution, c convCase, inputAlone bool) (peak int64) {
	t.Helper()
	device, err := OpenDevice(DeviceConfig{GPU: CPU, Threads: c.threads})
	if err != nil {
		t.Fatal(err)
	}
	defer device.Close()
	if err := device.Do(context.Background(), func(s *Scope) error {
		x, w := s.Leaf(s.ChannelsLast(s.Zeros(Float32, c.n, c.ci, c.h, c.w))), s.Leaf(s.ChannelsLast(s.Zeros(Float32, c.co, c.ci, c.kh, c.kw)))
		b := s.Leaf(s.Zeros(Float32, c.co))
		y := conv(s, x, w, b, c.geometry())
		loss := s.Sum(s.Mul(y, y))
		if s.Err() != nil {
			return nil
		}
		before := HostMemory().Used
		ResetPeak()
		if inputAlone {
			s.Grad(loss, x)
		} else {
			s.Grad(loss, x, w, b)
		}
		peak = HostMemory().Peak - before
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return peak
}

func TestOwnConvolutionMemory(t *testing.T) {
	c := convCase{n: 16, ci: 64, co: 64, h: 32, w: 32, kh: 3, kw: 3, stride: 1, padding: 1, threads: 2}
	lib, got := gradPeak(t, library, c, false), gradPeak(t, own(ownConvAuto), c, false)
	if float64(got) > 1.3*float64(lib) {
		t.Errorf("a backward pass takes %d bytes, the library's %d: want at most 1.3x", got, lib)
	}
	t.Logf("backward pass: %d bytes, library %d", got, lib)
}

func TestOwnConvolutionInputGradientAloneMakesNoWeightGradient(t *testing.T) {
	// Weights of 67 MB beside images of 8 KiB: a weight gradient would show.
	c := convCase{n: 1, ci: 1024, co: 1024, h: 1, w: 1, kh: 4, kw: 4, stride: 1, padding: 2, threads: 1}
	weight := c.co * c.ci * c.kh * c.kw * 4
	alone, all := gradPeak(t, own(ownConvAuto), c, true), gradPeak(t, own(ownConvAuto), c, false)
	if all-alone < weight {
		t.Errorf("all gradients take %d bytes, the input's alone %d: want at least the weight gradient's %d less", all, alone, weight)
	}
}
