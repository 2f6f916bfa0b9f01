package ops

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	torch "github.com/wangkuiyi/gotorch"
)

// normCase is one batch norm of the tests, with what follows it.
type normCase struct {
	n, c, h, w         int64
	rectified          bool
	residual, training bool
	offset             float64 // of x, in standard deviations
	still              []int   // elements, in C order, at which nothing comes back
}

func (c normCase) String() string {
	return fmt.Sprintf("%dx%dx%dx%d rectified=%v residual=%v training=%v offset=%g", c.n, c.c, c.h, c.w, c.rectified, c.residual, c.training, c.offset)
}

// normWay computes what a case says.
type normWay func(s *Scope, x torch.Tensor, n Norm, residual torch.Tensor, training bool) torch.Tensor

// composedNorm is the plain reference: the library's operations, one after another.
func (c normCase) composedNorm(s *Scope, x torch.Tensor, n Norm, residual torch.Tensor, training bool) torch.Tensor {
	y := s.libraryBatchNorm(x, n, training)
	return c.follow(s, y, residual)
}

// steps is BatchNorm and what follows it, one after another.
func (c normCase) steps(s *Scope, x torch.Tensor, n Norm, residual torch.Tensor, training bool) torch.Tensor {
	return c.follow(s, s.BatchNorm(x, n, training), residual)
}

func (c normCase) follow(s *Scope, y, residual torch.Tensor) torch.Tensor {
	if c.residual {
		y = s.AddInPlace(y, residual)
	}
	if c.rectified {
		y = s.ReLUInPlace(y)
	}
	return y
}

func (c normCase) fused(s *Scope, x torch.Tensor, n Norm, residual torch.Tensor, training bool) torch.Tensor {
	if !c.rectified {
		return s.BatchNorm(x, n, training)
	}
	return s.BatchNormReLU(x, n, residual, training)
}

// normResult is what a case computes, by name.
type normResult map[string][]float64

// compute runs a case in dtype d on numbers that depend on the case alone. Of tensors called frozen no gradient is asked.
func (c normCase) compute(s *Scope, d DType, way normWay, frozen ...string) normResult {
	rng := rand.New(rand.NewPCG(1, uint64(c.n*c.c*c.h*c.w)))
	draw := func(scale, offset float64, shape ...int64) torch.Tensor {
		v := make([]float64, Numel(shape))
		for i := range v {
			v[i] = float64(float32(rng.NormFloat64()*scale + offset))
		}
		t := s.To(From(s, v, shape...), d)
		if len(shape) == 4 {
			t = s.ChannelsLast(t)
		}
		return t
	}
	var asked []torch.Tensor
	var names []string
	leaf := func(name string, t torch.Tensor) torch.Tensor {
		if slices.Contains(frozen, name) {
			return t
		}
		t = s.Leaf(t)
		asked, names = append(asked, t), append(names, name)
		return t
	}
	shape := []int64{c.n, c.c, c.h, c.w}
	x := leaf("dx", draw(2, 2*c.offset, shape...))
	n := Norm{Weight: leaf("dweight", draw(1, 0, c.c)), Bias: leaf("dbias", draw(1, 0, c.c)), Mean: draw(1, 2*c.offset, c.c), Var: s.Offset(s.ReLU(draw(1, 2, c.c)), .5)}
	var residual torch.Tensor
	if c.residual {
		residual = leaf("dresidual", draw(1, 0, shape...))
	}
	weights := Values[float64](s, draw(1, .25, shape...))
	for _, i := range c.still {
		weights[i] = 0
	}
	dy := s.ChannelsLast(s.To(From(s, weights, shape...), d))
	y := way(s, x, n, residual, c.training)
	out := normResult{"y": Values[float64](s, y), "mean": Values[float64](s, n.Mean), "var": Values[float64](s, n.Var)}
	for i, g := range s.Pullback(y, dy, asked...) {
		out[names[i]] = Values[float64](s, g)
	}
	return out
}

// run computes on a device with so many threads.
func (c normCase) run(t *testing.T, threads int, d DType, way normWay, frozen ...string) (out normResult) {
	t.Helper()
	device, err := OpenDevice(DeviceConfig{GPU: CPU, Threads: threads})
	if err != nil {
		t.Fatal(err)
	}
	defer device.Close()
	if err := device.Do(context.Background(), func(s *Scope) error { out = c.compute(s, d, way, frozen...); return nil }); err != nil {
		t.Fatalf("%v: %v", c, err)
	}
	return out
}

// normCases are all tails on shapes that are no multiple of anything, and those of one pixel.
func normCases() []normCase {
	var all []normCase
	for _, shape := range [][4]int64{{2, 3, 1, 1}, {1, 1, 3, 3}, {3, 5, 7, 3}, {2, 8, 5, 5}, {5, 17, 3, 9}, {1, 32, 13, 11}, {4, 41, 17, 19}, {3, 64, 33, 31}, {7, 384, 4, 4}, {2, 1030, 3, 3}} {
		for kind := range 3 {
			for _, training := range []bool{true, false} {
				all = append(all, normCase{n: shape[0], c: shape[1], h: shape[2], w: shape[3], rectified: kind > 0, residual: kind > 1, training: training})
			}
		}
	}
	return append(all, normCase{n: 4, c: 24, h: 9, w: 9, rectified: true, training: true, offset: 30}, normCase{n: 1, c: 5, h: 1, w: 1, rectified: true, residual: true})
}

// edges are the elements before the rectifier that are so near zero that float32 may see their signs otherwise.
func (c normCase) edges(t *testing.T) (all []int) {
	if !c.rectified {
		return nil
	}
	c.rectified = false
	for i, v := range c.run(t, 1, Float64, c.composedNorm)["y"] {
		if math.Abs(v) < 1e-5*(1+c.offset) {
			all = append(all, i)
		}
	}
	return all
}

func TestFusedNormIsTheComposition(t *testing.T) {
	worst := map[string]float64{}
	for _, c := range normCases() {
		c.still = c.edges(t)
		want, got := c.run(t, 1, Float64, c.composedNorm), c.run(t, 2, Float32, c.fused)
		tolerance := 4e-6 * (1 + c.offset)
		if len(got) != len(want) {
			t.Errorf("%v: results are %d, want %d", c, len(got), len(want))
		}
		for name := range want {
			off := far(got[name], want[name])
			worst[name] = max(worst[name], off/(1+c.offset))
			if off > tolerance {
				library := far(c.run(t, 1, Float32, c.composedNorm)[name], want[name])
				t.Errorf("%v: %s is off by %.3g, want at most %.3g (the library's by %.3g)", c, name, off, tolerance, library)
			}
		}
	}
	t.Logf("largest differences from float64: %v", worst)
}

func TestFusedNormIsItsStepsBitForBit(t *testing.T) {
	for _, c := range normCases() {
		want := c.run(t, 1, Float32, c.steps)
		for _, threads := range []int{1, 2, 3} {
			got := c.run(t, threads, Float32, c.fused)
			for name := range want {
				if !slices.Equal(got[name], want[name]) {
					t.Errorf("%v, %d threads: %s differs by %.3g from that of one step after another on one thread", c, threads, name, far(got[name], want[name]))
				}
			}
		}
	}
}

func TestFusedNormComputesWhatIsAskedFor(t *testing.T) {
	all := []string{"dx", "dweight", "dbias", "dresidual"}
	for _, training := range []bool{true, false} {
		c := normCase{n: 3, c: 19, h: 5, w: 7, rectified: true, residual: true, training: training}
		whole := c.run(t, 1, Float32, c.fused)
		for mask := range 1<<len(all) - 1 {
			var frozen []string
			for i, name := range all {
				if mask&(1<<i) != 0 {
					frozen = append(frozen, name)
				}
			}
			for name, v := range c.run(t, 1, Float32, c.fused, frozen...) {
				if !slices.Equal(v, whole[name]) {
					t.Errorf("training=%v without %v: %s is not what it is with all gradients", training, frozen, name)
				}
			}
		}
	}
}

func TestFusedNormLeavesTheRestToTheLibrary(t *testing.T) {
	on(t, func(s *Scope) error {
		c := normCase{n: 2, c: 8, h: 3, w: 3, rectified: true, residual: true, training: true}
		for _, d := range []DType{Float64, Float32} {
			layout := func(way normWay) normWay {
				return func(s *Scope, x torch.Tensor, n Norm, residual torch.Tensor, training bool) torch.Tensor {
					if d == Float32 {
						x = s.Contiguous(x)
					}
					return way(s, x, n, residual, training)
				}
			}
			want, got := c.compute(s, d, layout(c.composedNorm)), c.compute(s, d, layout(c.fused))
			for name := range want {
				if !slices.Equal(got[name], want[name]) {
					t.Errorf("%v: %s is not the library's", d, name)
				}
			}
		}
		return nil
	})
}

func TestFusedNormPassesOnWhatIsNoNumber(t *testing.T) {
	on(t, func(s *Scope) error {
		for _, residual := range []bool{false, true} {
			c := normCase{n: 2, c: 9, h: 2, w: 2, rectified: true, residual: residual}
			spoil := func(way normWay) normWay {
				return func(s *Scope, x torch.Tensor, n Norm, residual torch.Tensor, training bool) torch.Tensor {
					return way(s, s.Scale(x, math.NaN()), n, residual, training)
				}
			}
			for name, v := range c.compute(s, Float32, spoil(c.fused)) {
				if want := c.compute(s, Float32, spoil(c.composedNorm))[name]; fmt.Sprint(v) != fmt.Sprint(want) && far(v, want) > 1e-6 {
					t.Errorf("residual=%v: %s is %.4g, the library's %.4g", residual, name, v, want)
				}
			}
		}
		return nil
	})
}

func TestFusedNormOfOnePixelIsRefusedAsTheLibraryDoes(t *testing.T) {
	d, err := OpenDevice(DeviceConfig{GPU: CPU, Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	c := normCase{n: 1, c: 8, h: 1, w: 1, rectified: true, training: true}
	err = d.Do(context.Background(), func(s *Scope) error { c.compute(s, Float32, c.fused); return nil })
	if err == nil || !strings.Contains(err.Error(), "more than 1 value per channel") {
		t.Errorf("error is %v, want the library's", err)
	}
}
