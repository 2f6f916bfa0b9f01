package cmd

import (
	"context"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/spf13/cobra"
	torch "github.com/wangkuiyi/gotorch"

	"mp/job"
	"mp/ops"
)

// Legend: N images, Ci and Co channels in and out, H height and width of the input, K of the kernel.

// convLayer is one convolution of SimpleNet.
type convLayer struct {
	name                             string
	in, out, kernel, stride, padding int64
	size                             int64 // H for images of 128 x 128
	first                            bool  // its input is the image, whose gradient training does not need
}

func simpleNetConvolutions() []convLayer {
	return []convLayer{
		{name: "features.0", in: 3, out: 64, kernel: 7, stride: 2, padding: 3, size: 128, first: true},
		{name: "features.3", in: 64, out: 64, kernel: 1, stride: 1, size: 32},
		{name: "features.5", in: 64, out: 64, kernel: 3, stride: 1, padding: 1, size: 32},
		{name: "features.7", in: 64, out: 256, kernel: 1, stride: 1, size: 32},
		{name: "features.10", in: 256, out: 128, kernel: 1, stride: 1, size: 16},
		{name: "features.12", in: 128, out: 128, kernel: 3, stride: 1, padding: 1, size: 16},
		{name: "features.14", in: 128, out: 512, kernel: 1, stride: 1, size: 16},
	}
}

func (l convLayer) outputSize() int64 { return (l.size+2*l.padding-l.kernel)/l.stride + 1 }

func (l convLayer) geometry() ops.ConvGeometry {
	return ops.ConvGeometry{Stride: l.stride, Padding: l.padding}
}

func (l convLayer) String() string {
	return fmt.Sprintf("%s %d->%d k%d s%d %dx%d", l.name, l.in, l.out, l.kernel, l.stride, l.size, l.size)
}

// The two sides of every comparison, and the index of each in its pair.
const (
	sideOwn = iota
	sideLibrary
)

// Layouts in memory.
const (
	layoutContiguous   = "contiguous"    // N C H W
	layoutChannelsLast = "channels_last" // N H W C
)

// benchConvOptions is what `mp bench conv` is asked for.
type benchConvOptions struct {
	batch, repetitions, threads int
	layout, precision           string
	measure                     string // the convStepSpec of a child process
}

// newBenchConvCommand returns `mp bench conv`.
func newBenchConvCommand(e *env) *cobra.Command {
	var o benchConvOptions
	c := &cobra.Command{
		Use:   "conv",
		Short: "Our own convolution beside the library's, layer by layer of SimpleNet",
		Long: "conv measures forward and backward passes of SimpleNet's convolutions at 128 x 128, by our own convolution and by the\n" +
			"library's in turn: the gradients of input, weight and bias, in the first layer without the input's, as in training.\n" +
			"Times are medians, ratios medians over the pairs of one run. Memory of a layer is the most that its tensors take\n" +
			"(inputs and results included; what the library allocates for itself is not seen). A whole training step is measured in\n" +
			"processes of its own: its time, the most resident memory, and that less what the process held before its tensors.",
		Example: "  mp bench conv\n  mp bench conv --layout contiguous --batch-size 16 --threads 1",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if o.measure != "" {
				return measureConvStep(c.Context(), e, o.measure)
			}
			return benchConv(c.Context(), e, o)
		},
	}
	f := c.Flags()
	f.IntVar(&o.batch, "batch-size", 64, "images a pass")
	f.IntVar(&o.repetitions, "repetitions", 7, "pairs of measurements")
	f.IntVar(&o.threads, "threads", 0, "CPU threads of both sides; 0: one a core")
	f.StringVar(&o.layout, "layout", layoutChannelsLast, layoutChannelsLast+" or "+layoutContiguous)
	f.StringVar(&o.precision, "precision", job.FP32, job.FP32+" or "+job.BF16)
	addMeasure(c, &o.measure)
	return c
}

func (o *benchConvOptions) check() error {
	if o.batch < 1 || o.repetitions < 1 || o.threads < 0 {
		return fmt.Errorf("%w: want --batch-size and --repetitions of at least 1 and --threads not negative", job.ErrConfig)
	}
	if !slices.Contains([]string{layoutContiguous, layoutChannelsLast}, o.layout) {
		return fmt.Errorf("%w: --layout %q: choose %s or %s", job.ErrConfig, o.layout, layoutChannelsLast, layoutContiguous)
	}
	if !slices.Contains([]string{job.FP32, job.BF16}, o.precision) {
		return fmt.Errorf("%w: --precision %q: choose %s or %s", job.ErrConfig, o.precision, job.FP32, job.BF16)
	}
	if o.precision == job.BF16 && o.layout == layoutContiguous {
		return fmt.Errorf("%w: --precision %s is measured channels last, as it trains", job.ErrConfig, job.BF16)
	}
	if o.threads == 0 {
		o.threads = cores()
	}
	return nil
}

// convMeasure is what one side took for one layer in one repetition.
type convMeasure struct {
	seconds float64
	bytes   int64
}

func benchConv(ctx context.Context, e *env, o benchConvOptions) error {
	if err := o.check(); err != nil {
		return err
	}
	program, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program, to measure in processes of its own: %w", err)
	}
	var rows []benchRow
	var totals [2][]float64 // seconds of all layers, by side and repetition
	var worst [2]int64      // bytes of the largest layer
	for _, l := range simpleNetConvolutions() {
		pairs, err := measureLayer(ctx, o, l)
		if err != nil {
			return fmt.Errorf("measure %v: %w", l, err)
		}
		var seconds [2][]float64
		for side := range totals {
			totals[side] = slices.Grow(totals[side], len(pairs))[:len(pairs)]
			for i, p := range pairs {
				seconds[side] = append(seconds[side], p[side].seconds)
				totals[side][i] += p[side].seconds
				worst[side] = max(worst[side], p[side].bytes)
			}
		}
		rows = append(rows, pairRow(l.String(), "ms", 1e3, seconds),
			pairRow(l.name+" tensors", "MB", 1e-6, [2][]float64{{float64(pairs[0][sideOwn].bytes)}, {float64(pairs[0][sideLibrary].bytes)}}))
		if !e.quiet {
			fmt.Fprintf(e.stderr, "%-36s %.2fx time, %.2fx memory\n", l, rows[len(rows)-2].Ratio, rows[len(rows)-1].Ratio)
		}
	}
	rows = append(rows, pairRow("all convolutions", "ms", 1e3, totals),
		pairRow("largest layer's tensors", "MB", 1e-6, [2][]float64{{float64(worst[sideOwn])}, {float64(worst[sideLibrary])}}))
	steps, err := compareConvSteps(ctx, program, o)
	if err != nil {
		return err
	}
	if err := printBench(e, append(rows, steps...)); err != nil {
		return err
	}
	fmt.Fprintf(e.human(), "%s, %s, batch %d, %d threads. The course's own convolution takes 4.2x the time and 2.1x the memory of its library's.\n",
		o.precision, o.layout, o.batch, o.threads)
	return nil
}

// pairRow is the row of a figure measured on both sides: medians, and the median of the pairs' ratios.
func pairRow(name, unit string, scale float64, v [2][]float64) benchRow {
	ratios := make([]float64, len(v[sideOwn]))
	for i := range ratios {
		ratios[i] = v[sideOwn][i] / v[sideLibrary][i]
	}
	return benchRow{Name: name, Value: median(v[sideOwn]) * scale, Unit: unit, Ratio: median(ratios),
		Peer: fmt.Sprintf("library %.4g", median(v[sideLibrary])*scale)}
}

// measureLayer measures pairs of passes; the side that goes first alternates. A pair before them warms up.
func measureLayer(ctx context.Context, o benchConvOptions, l convLayer) ([][2]convMeasure, error) {
	device, err := ops.OpenDevice(ops.DeviceConfig{GPU: ops.CPU, Threads: o.threads})
	if err != nil {
		return nil, err
	}
	defer device.Close()
	defer ops.TrimMemory()
	var pairs [][2]convMeasure
	err = device.Do(ctx, func(s *ops.Scope) error {
		b := newConvBench(s, o, l)
		sides := [2]func(c *ops.Scope, x, w, b torch.Tensor, g ops.ConvGeometry) torch.Tensor{
			sideOwn: (*ops.Scope).OwnConv2d, sideLibrary: (*ops.Scope).Conv2d,
		}
		for i := range o.repetitions + 1 {
			var pair [2]convMeasure
			for turn := range sides {
				side := (i + turn) % len(sides)
				pair[side] = b.pass(s, sides[side])
			}
			if err := context.Cause(ctx); err != nil || s.Err() != nil {
				return err
			}
			if i > 0 {
				pairs = append(pairs, pair)
			}
		}
		return nil
	})
	return pairs, err
}

// convBench holds a layer's inputs and the gradient of its output.
type convBench struct {
	layer       convLayer
	x, w, b, dy torch.Tensor
	bytes       int64
}

func newConvBench(s *ops.Scope, o benchConvOptions, l convLayer) *convBench {
	z := uint32(1)
	draw := func(shape ...int64) torch.Tensor { // uniform in -1..1
		values := make([]float32, ops.Numel(shape))
		for i := range values {
			z = z*1664525 + 1013904223
			values[i] = float32(z)/(1<<31) - 1
		}
		return ops.From(s, values, shape...)
	}
	layout := func(t torch.Tensor) torch.Tensor {
		if o.precision == job.BF16 {
			t = s.To(t, ops.BFloat16)
		}
		if o.layout == layoutChannelsLast {
			t = s.ChannelsLast(t)
		}
		return t
	}
	n := int64(o.batch)
	b := &convBench{layer: l}
	b.x = layout(draw(n, l.in, l.size, l.size))
	b.w = s.Leaf(layout(draw(l.out, l.in, l.kernel, l.kernel)))
	b.b = s.Leaf(s.To(draw(l.out), b.w.Dtype()))
	b.dy = layout(draw(n, l.out, l.outputSize(), l.outputSize()))
	if !l.first {
		b.x = s.Leaf(b.x)
	}
	s.Tidy(b.x, b.w, b.b, b.dy)
	for _, t := range []torch.Tensor{b.x, b.w, b.b, b.dy} {
		if s.Err() == nil {
			b.bytes += ops.Numel(t.Shape()) * int64(ops.SizeOf(t.Dtype()))
		}
	}
	return b
}

// pass runs the layer forward and backward.
func (b *convBench) pass(s *ops.Scope, conv func(c *ops.Scope, x, w, b torch.Tensor, g ops.ConvGeometry) torch.Tensor) convMeasure {
	c := s.Child()
	defer c.Close()
	inputs := []torch.Tensor{b.w, b.b}
	if !b.layer.first {
		inputs = append(inputs, b.x)
	}
	before := ops.HostMemory().Used
	ops.ResetPeak()
	start := time.Now()
	y := conv(c, b.x, b.w, b.b, b.layer.geometry())
	c.Pullback(y, b.dy, inputs...)
	return convMeasure{time.Since(start).Seconds(), ops.HostMemory().Peak - before + b.bytes}
}
