package ops

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/klauspost/cpuid/v2"
	torch "github.com/wangkuiyi/gotorch"
)

var tiles = []int{2, 4}

// winograd convolves with tiles of tile x tile pixels and fails where it cannot.
func winograd(tile int) convolution {
	return func(s *Scope, x, w, b torch.Tensor, g ConvGeometry) torch.Tensor {
		y, ok := s.winogradConv2d(x, w, b, g, tile)
		if !ok {
			s.Fail(fmt.Errorf("no Winograd for %s", shapes([]torch.Tensor{x, w})))
		}
		return y
	}
}

// winogradCases are of kernels of 3 x 3, stride 1 and padding 1, channels last.
func winogradCases(rng *rand.Rand) []convCase {
	cases := []convCase{
		{n: 1, ci: 1, co: 1, h: 1, w: 1},
		{n: 1, ci: 3, co: 33, h: 2, w: 2},
		{n: 2, ci: 17, co: 19, h: 1, w: 5},
		{n: 3, ci: 16, co: 8, h: 5, w: 4},
		{n: 2, ci: 64, co: 64, h: 3, w: 3},
		{n: 1, ci: 190, co: 64, h: 9, w: 6},
		{n: 9, ci: 100, co: 120, h: 13, w: 12, threads: 2},
		{n: 20, ci: 7, co: 24, h: 17, w: 15, threads: 2}, // several blocks, the last not full
		{n: 9, ci: 24, co: 16, h: 32, w: 29, threads: 3}, // several parts of the sum over tiles
	}
	for len(cases) < 40 {
		cases = append(cases, convCase{
			n: 1 + rng.Int64N(6), ci: 1 + rng.Int64N(40), co: 1 + rng.Int64N(40), h: 1 + rng.Int64N(12), w: 1 + rng.Int64N(12), threads: 1 + rng.IntN(3),
		})
	}
	for i := range cases {
		cases[i].kh, cases[i].kw, cases[i].stride, cases[i].padding, cases[i].last = 3, 3, 1, 1, true
	}
	return cases
}

func TestWinogradEqualsItsTwinAndTheLibrary(t *testing.T) {
	rng := rand.New(rand.NewPCG(8, 15))
	for _, c := range winogradCases(rng) {
		v := c.draw(rng)
		plain, lib := plainConv(c, v), c.run(t, Float32, v, library)
		for _, tile := range tiles {
			got, name := c.run(t, Float32, v, winograd(tile)), fmt.Sprintf("tiles of %d, %v", tile, c)
			got.compare(t, name+", plain twin", plain, 1e-5)
			got.compare(t, name+", library", lib, 1e-5)
		}
	}
}

// narrow says whether this processor has the instructions for bfloat16 that Winograd's loops take.
func narrow() bool { return cpuid.CPU.Supports(cpuid.AVX512BF16) && !cpuid.CPU.Supports(cpuid.AMXBF16) }

// narrowCases have channels as bfloat16 wants them.
var narrowCases = []convCase{
	{n: 1, ci: 32, co: 16, h: 5, w: 7, threads: 1},
	{n: 5, ci: 48, co: 64, h: 13, w: 11, threads: 2}, // an odd number of tiles in the last block
	{n: 20, ci: 16, co: 32, h: 31, w: 30, threads: 3},
	{n: 2, ci: 160, co: 208, h: 9, w: 9, threads: 2},
}

// The points of tiles are rounded to bfloat16, which 2 x 2 hardly widens and 4 x 4 fourfold; sums are of float32, as the library's.
func TestWinogradInBFloat16(t *testing.T) {
	if !narrow() {
		t.Skip("this processor multiplies no bfloat16 by AVX-512")
	}
	rng := rand.New(rand.NewPCG(16, 8))
	for _, c := range narrowCases {
		c.kh, c.kw, c.stride, c.padding, c.last = 3, 3, 1, 1, true
		v := c.draw(rng).exact()
		plain := plainConv(c, v)
		for tile, tolerance := range map[int]float64{2: 1. / 128, 4: 1. / 40} {
			c.run(t, BFloat16, v, winograd(tile)).compare(t, fmt.Sprintf("tiles of %d, %v", tile, c), plain, tolerance)
		}
		// As exact as the library's in the forward pass, where Conv2d chooses.
		got, lib := c.run(t, BFloat16, v, (*Scope).Conv2d), c.run(t, BFloat16, v, library)
		if ours, theirs := far(got.y, plain.y), far(lib.y, plain.y); ours > 2*theirs {
			t.Errorf("%v: y is off by %.2g, the library's by %.2g", c, ours, theirs)
		}
	}
}

// No bit depends on the number of threads, or changes from run to run.
func TestWinogradRepeatsItsBits(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	for _, c := range []convCase{
		{n: 1, ci: 48, co: 40, h: 8, w: 8},
		{n: 2, ci: 64, co: 64, h: 9, w: 7},
		{n: 10, ci: 20, co: 24, h: 33, w: 29},
		{n: 11, ci: 32, co: 16, h: 33, w: 29},
	} {
		c.kh, c.kw, c.stride, c.padding, c.last = 3, 3, 1, 1, true
		v := c.draw(rng)
		for _, d := range []DType{Float32, BFloat16} {
			for _, tile := range tiles {
				if d == BFloat16 && (!narrow() || c.ci%16 > 0 || c.co%16 > 0) {
					continue
				}
				c.threads = 1
				first := c.run(t, d, v, winograd(tile))
				for _, c.threads = range []int{1, 2, 2, 3, 3} {
					c.run(t, d, v, winograd(tile)).compare(t, fmt.Sprintf("%v, tiles of %d, %v, again", d, tile, c), first, 0)
				}
			}
		}
	}
}

// chosen says whether Conv2d goes by Winograd's algorithm for x and co output channels.
func chosen(t *testing.T, x func(s *Scope) torch.Tensor, co int64, g ConvGeometry) (winograd bool) {
	t.Helper()
	on(t, func(s *Scope) error {
		in := x(s)
		if s.Err() != nil {
			return nil
		}
		w := s.ChannelsLast(s.Zeros(in.Dtype(), co, in.Shape()[1]/max(g.Groups, 1), 3, 3))
		_, winograd = s.winogradConv2d(in, w, torch.Tensor{}, g, fastestTile)
		return nil
	})
	return winograd
}

func TestWinogradIsTakenWhereItPays(t *testing.T) {
	images := func(d DType, n, c, side int64, last bool) func(s *Scope) torch.Tensor {
		return func(s *Scope) torch.Tensor {
			if last {
				return s.ChannelsLast(s.Zeros(d, n, c, side, side))
			}
			return s.Zeros(d, n, c, side, side)
		}
	}
	padded := ConvGeometry{Padding: 1}
	for _, c := range []struct {
		name string
		x    func(s *Scope) torch.Tensor
		co   int64
		g    ConvGeometry
		want bool
	}{
		{"a layer of scenenet", images(Float32, 2, 64, 32, true), 64, padded, true},
		{"stride 1 by name", images(Float32, 2, 64, 32, true), 64, ConvGeometry{Stride: 1, Padding: 1, Groups: 1}, true},
		{"contiguous", images(Float32, 2, 64, 32, false), 64, padded, false},
		{"float64", images(Float64, 2, 64, 32, true), 64, padded, false},
		{"bfloat16", images(BFloat16, 2, 64, 32, true), 64, padded, narrow()},
		{"bfloat16, half a register of channels", images(BFloat16, 2, 64, 32, true), 72, padded, false},
		{"strided", images(Float32, 2, 64, 32, true), 64, ConvGeometry{Stride: 2, Padding: 1}, false},
		{"no padding", images(Float32, 2, 64, 32, true), 64, ConvGeometry{}, false},
		{"groups", images(Float32, 2, 64, 32, true), 64, ConvGeometry{Padding: 1, Groups: 2}, false},
		{"few channels", images(Float32, 2, 3, 32, true), 64, padded, false},
		{"few tiles", images(Float32, 1, 64, 4, true), 64, padded, false},
		{"no samples", images(Float32, 0, 64, 32, true), 64, padded, false},
	} {
		if got := chosen(t, c.x, c.co, c.g); got != c.want {
			t.Errorf("%s: Winograd is %t, want %t", c.name, got, c.want)
		}
	}
}

// Frozen weights cost no memory, and no gradient that nobody asks for is computed.
func TestWinogradFrozen(t *testing.T) {
	c := convCase{n: 4, ci: 40, co: 48, h: 20, w: 20, kh: 3, kw: 3, stride: 1, padding: 1, last: true, threads: 1}
	v := c.draw(rand.New(rand.NewPCG(4, 4)))
	all := c.run(t, Float32, v, winograd(2))
	on(t, func(s *Scope) error {
		last := func(values []float64, shape ...int64) torch.Tensor {
			return s.ChannelsLast(s.To(From(s, values, shape...), Float32))
		}
		x, w, r := last(v.x, c.n, c.ci, c.h, c.w), last(v.w, c.co, c.ci, 3, 3), last(v.r, c.n, c.co, c.h, c.w)
		leaf := s.Leaf(x)
		before := HostMemory().Used
		y := winograd(2)(s, leaf, w, torch.Tensor{}, c.geometry())
		if got, want := HostMemory().Used-before, 4*c.n*c.co*c.h*c.w; got > want+want/8 {
			t.Errorf("a convolution of frozen weights keeps %d bytes, its result has %d", got, want)
		}
		dx := s.Pullback(y, r, leaf)
		weights := s.Leaf(w)
		dw := s.Pullback(winograd(2)(s, x, weights, torch.Tensor{}, c.geometry()), r, weights)
		if s.Err() != nil {
			return nil
		}
		if d := far(Values[float64](s, dx[0]), all.dx); d != 0 {
			t.Errorf("frozen weights: dx differs by %.2g", d)
		}
		if d := far(Values[float64](s, dw[0]), all.dw); d != 0 {
			t.Errorf("x without a gradient: dw differs by %.2g", d)
		}
		return nil
	})
}

func TestWinogradErrors(t *testing.T) {
	for _, c := range []struct {
		name string
		call func(s *Scope)
		want string
	}{
		{"channels", func(s *Scope) {
			s.Conv2d(s.ChannelsLast(s.Zeros(Float32, 2, 64, 8, 8)), s.Zeros(Float32, 64, 32, 3, 3), torch.Tensor{}, ConvGeometry{Padding: 1})
		}, "conv2d [2 64 8 8] x [64 32 3 3]"},
		{"overwritten weight", func(s *Scope) {
			x, w := s.Leaf(s.ChannelsLast(s.Zeros(Float32, 2, 64, 8, 8))), s.Scale(s.Zeros(Float32, 64, 64, 3, 3), 1)
			y := s.Conv2d(x, w, torch.Tensor{}, ConvGeometry{Padding: 1})
			s.AddInPlace(w, w)
			s.Grad(s.Sum(y), x)
		}, "inplace operation"},
		{"tile", func(s *Scope) {
			s.winogradConv2d(s.Zeros(Float32, 2, 64, 8, 8), s.Zeros(Float32, 64, 64, 3, 3), torch.Tensor{}, ConvGeometry{Padding: 1}, 3)
		}, "tiles of 2 x 2 and of 4 x 4, not of 3"},
	} {
		d, err := OpenDevice(DeviceConfig{GPU: CPU, Threads: 1})
		if err != nil {
			t.Fatal(err)
		}
		err = d.Do(context.Background(), func(s *Scope) error { c.call(s); return nil })
		d.Close()
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error is %v, want one that says %q", c.name, err, c.want)
		}
	}
}
