package ops

import (
	"context"
	"fmt"
	"syscall"
	"testing"
	"time"

	torch "github.com/wangkuiyi/gotorch"
)

// processorTime is what this process has used of its processors.
func processorTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// What batch norms with what follows them cost beside the library's operations, forward and backward, in turn: one thread,
// batches of 32, channels last. "ratio" is by processor time, below 1 where ours is faster.
func BenchmarkBatchNormReLU(b *testing.B) {
	d, err := OpenDevice(DeviceConfig{GPU: CPU, Threads: 1})
	if err != nil {
		b.Fatal(err)
	}
	defer d.Close()
	for _, v := range []struct{ c, side int64 }{{32, 64}, {64, 32}, {128, 16}, {256, 8}, {384, 4}} {
		for kind, what := range []string{"alone", "rectified", "residual"} {
			for _, training := range []bool{true, false} {
				c := normCase{n: 32, c: v.c, h: v.side, w: v.side, rectified: kind > 0, residual: kind > 1, training: training}
				b.Run(fmt.Sprintf("%dx%d/%s/training=%v", v.c, v.side, what, training), func(b *testing.B) {
					if err := d.Do(context.Background(), func(s *Scope) error { c.beside(b, s); return nil }); err != nil {
						b.Fatal(err)
					}
				})
			}
		}
	}
}

// beside measures ours and the library's in turn.
func (c normCase) beside(b *testing.B, s *Scope) {
	vector := func(v float64) torch.Tensor { return s.Offset(s.Zeros(Float32, c.c), v) }
	n := Norm{Weight: s.Leaf(vector(1)), Bias: s.Leaf(vector(.1)), Mean: vector(0), Var: vector(1)}
	values := make([]float32, c.n*c.c*c.h*c.w)
	for i := range values {
		values[i] = float32(i*7919%1000)/500 - 1
	}
	x := s.Leaf(s.ChannelsLast(From(s, values, c.n, c.c, c.h, c.w)))
	dy, asked := s.Scale(x, .5), []torch.Tensor{x, n.Weight, n.Bias}
	var residual torch.Tensor
	if c.residual {
		residual = s.Leaf(s.Scale(x, -.3))
		asked = append(asked, residual)
	}
	if !c.training {
		asked = []torch.Tensor{x}
	}
	dy = s.Leaf(dy)
	var spent [2]time.Duration
	for b.Loop() {
		for i, way := range []normWay{c.fused, c.composedNorm} {
			start := processorTime(b)
			t := s.Child()
			t.Pullback(way(t, x, n, residual, c.training), dy, asked...)
			t.Close()
			spent[i] += processorTime(b) - start
		}
	}
	b.ReportMetric(float64(spent[0])/float64(spent[1]), "ratio")
	b.ReportMetric(float64(spent[0].Microseconds())/float64(b.N), "own-us")
}
