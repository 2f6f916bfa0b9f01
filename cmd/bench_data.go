package cmd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"image/jpeg"
	"math"
	"os"
	"runtime"
	"slices"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"mp/data"
	"mp/ops/pixel"
)

// cpuSeconds is the processor time that f takes: of this thread or, with all, of the process. What other processes do to a
// busy machine counts less in it than in time by the clock, and one thread's is time of one core.
func cpuSeconds(all bool, f func() error) (float64, error) {
	clock := int32(unix.CLOCK_THREAD_CPUTIME_ID)
	if all {
		clock = unix.CLOCK_PROCESS_CPUTIME_ID
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var from, to unix.Timespec
	if err := unix.ClockGettime(clock, &from); err != nil {
		return 0, fmt.Errorf("read the processor's clock: %w", err)
	}
	if err := f(); err != nil {
		return 0, err
	}
	if err := unix.ClockGettime(clock, &to); err != nil {
		return 0, fmt.Errorf("read the processor's clock: %w", err)
	}
	return float64(to.Nano()-from.Nano()) / 1e9, nil
}

// contest measures functions in turns, so that a machine that slows down slows all of them, and returns each one's median
// rate: things a second of one core.
func contest(ctx context.Context, repetitions int, things float64, all bool, fs ...func() error) ([]float64, error) {
	rates := make([][]float64, len(fs))
	for round := range repetitions + 1 {
		for i, f := range fs {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			seconds, err := cpuSeconds(all, f)
			if err != nil {
				return nil, err
			}
			if round > 0 { // the first warms up
				rates[i] = append(rates[i], things/seconds)
			}
		}
	}
	medians := make([]float64, len(fs))
	for i, r := range rates {
		slices.Sort(r)
		medians[i] = r[len(r)/2]
	}
	return medians, nil
}

// benchDataOptions is what `mp bench decode` and `mp bench loader` are asked for.
type benchDataOptions struct {
	dir, split          string
	images, repetitions int
}

func (o *benchDataOptions) flags(c *cobra.Command, images int) {
	c.Flags().StringVar(&o.split, "split", string(data.Val), "train or val")
	c.Flags().IntVar(&o.images, "images", images, "images a measurement")
	c.Flags().IntVar(&o.repetitions, "repetitions", 9, "measurements, of which the median counts")
}

func (o *benchDataOptions) check() error {
	if o.images < 1 || o.repetitions < 1 {
		return fmt.Errorf("%w: --images and --repetitions: at least 1", data.ErrData)
	}
	return nil
}

// newBenchDecodeCommand returns `mp bench decode`.
func newBenchDecodeCommand(e *env) *cobra.Command {
	var o benchDataOptions
	c := &cobra.Command{
		Use:   "decode [DIR]",
		Short: "JPEGs decoded a second by one core, beside libjpeg-turbo alone",
		Long: "decode decodes the JPEGs of the MiniPlaces root DIR, or without DIR made-up ones of about the same size, many a call.\n" +
			"Rates are per second of one core's processor time; the peer is the same libjpeg-turbo without our entropy decoder,\n" +
			"measured in turns with ours.",
		Example: "  mp bench decode miniplaces\n  mp bench decode --json",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			o.dir = first(args)
			return benchDecode(c.Context(), e, o)
		},
	}
	o.flags(c, 1000)
	return c
}

func first(args []string) string {
	if len(args) == 0 {
		return ""
	}
	return args[0]
}

func benchDecode(ctx context.Context, e *env, o benchDataOptions) error {
	if err := o.check(); err != nil {
		return err
	}
	jpegs, err := o.jpegs()
	if err != nil {
		return err
	}
	size := 0
	for _, j := range jpegs {
		size += len(j)
	}
	ours, plain := make([]byte, len(jpegs)*pixel.RecordBytes), make([]byte, len(jpegs)*pixel.RecordBytes)
	rates, err := contest(ctx, o.repetitions, float64(len(jpegs)), false,
		func() error { return errors.Join(pixel.Decode(jpegs, ours)...) },
		func() error { return errors.Join(pixel.DecodePlain(jpegs, plain)...) })
	if err != nil {
		return err
	}
	if !bytes.Equal(ours, plain) {
		return errors.New("decode: pixels differ from those of libjpeg-turbo alone; this is a fault of mp, please report it")
	}
	mean := float64(size) / float64(len(jpegs))
	return printBench(e, []benchRow{
		{Name: "decode", Value: rates[0], Unit: "images/s/core", Ratio: rates[0] / rates[1], Peer: "libjpeg-turbo alone"},
		{Name: "libjpeg-turbo alone", Value: rates[1], Unit: "images/s/core"},
		{Name: "compressed data", Value: rates[0] * mean / 1e6, Unit: "MB/s/core"},
		{Name: "mean JPEG", Value: mean, Unit: "bytes"},
	})
}

// jpegs reads images of the root, or makes some up.
func (o benchDataOptions) jpegs() ([][]byte, error) {
	jpegs := make([][]byte, 0, o.images)
	if o.dir == "" {
		for _, m := range made(min(o.images, 100)) {
			var b bytes.Buffer
			if err := jpeg.Encode(&b, m, &jpeg.Options{Quality: 75}); err != nil {
				return nil, fmt.Errorf("encode JPEG: %w", err)
			}
			jpegs = append(jpegs, b.Bytes())
		}
		for i := range o.images - len(jpegs) {
			jpegs = append(jpegs, jpegs[i])
		}
		return jpegs, nil
	}
	root, err := data.OpenRoot(o.dir)
	if err != nil {
		return nil, err
	}
	entries, err := root.Entries(data.Split(o.split))
	if err != nil {
		return nil, err
	}
	for _, entry := range entries[:min(len(entries), o.images)] {
		b, err := os.ReadFile(root.Path(entry.Name))
		if err != nil {
			return nil, fmt.Errorf("%w: %w", data.ErrData, err)
		}
		jpegs = append(jpegs, b)
	}
	return jpegs, nil
}

// newBenchLoaderCommand returns `mp bench loader`.
func newBenchLoaderCommand(e *env) *cobra.Command {
	var o benchDataOptions
	c := &cobra.Command{
		Use:   "loader [DIR]",
		Short: "Images gathered, warped and normalised a second by one core",
		Long: "loader measures the pass that turns records of a pack into a network's input, for each kind of warp, precision and\n" +
			"layout, and whole loaders for each recipe. Records are those of DIR's pack, or made up. Rates are per second of one\n" +
			"core's processor time. The peer of a pass is a plain copy of as many bytes as it writes, in turns with it.",
		Example: "  mp bench loader miniplaces --split train\n  mp bench loader --json",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			o.dir = first(args)
			return benchLoader(c.Context(), e, o)
		},
	}
	o.flags(c, 2048)
	return c
}

// benchBatch is the number of images of a call and of a batch.
const benchBatch = 128

func benchLoader(ctx context.Context, e *env, o benchDataOptions) error {
	if err := o.check(); err != nil {
		return err
	}
	images, done, err := o.records(ctx, e)
	if err != nil {
		return err
	}
	defer done()
	var rows []benchRow
	for _, p := range passes() {
		row, err := o.pass(ctx, images, p)
		if err != nil {
			return err
		}
		rows = append(rows, row)
	}
	for _, name := range data.RecipeNames() {
		row, err := o.loader(ctx, images, name)
		if err != nil {
			return err
		}
		rows = append(rows, row)
	}
	return printBench(e, rows)
}

// pass is one kind of gathering.
type pass struct {
	name string
	spec pixel.OutSpec
	warp func(r *data.Rand) pixel.Warp
}

// passes is the table of what is measured.
func passes() []pass {
	crop := func(r *data.Rand) pixel.Warp { // what padding by 8, cropping and flipping do
		w := pixel.Identity(pixel.Side)
		m := pixel.Shift(float64(r.IntN(17)-8), float64(r.IntN(17)-8))
		if r.IntN(2) == 0 {
			m = m.Then(pixel.Mirror(pixel.Side))
		}
		w.Map = m.Fixed()
		return w
	}
	turn := func(how pixel.Interpolation) func(r *data.Rand) pixel.Warp {
		return func(r *data.Rand) pixel.Warp {
			w := pixel.Identity(pixel.Side)
			m := pixel.Scale(100, 100, pixel.Side, pixel.Side).Then(pixel.Shift(14, 14))
			w.Map, w.Interpolation = m.Then(pixel.Rotate(0.4*r.Float64()-0.2, pixel.Side, pixel.Side)).Fixed(), how
			return w
		}
	}
	gain := func(r *data.Rand) pixel.Warp {
		w := crop(r)
		w.Steps, w.Gain = pixel.Gain, [3]uint16{30000, 33000, 36000}
		return w
	}
	spec := func(d pixel.DType, l pixel.Layout) pixel.OutSpec {
		return pixel.OutSpec{Size: pixel.Side, DType: d, Layout: l}.ImageNet()
	}
	return []pass{
		{"crop, flip: f32 NHWC", spec(pixel.F32, pixel.NHWC), crop},
		{"crop, flip: f32 NCHW", spec(pixel.F32, pixel.NCHW), crop},
		{"crop, flip: bf16 NHWC", spec(pixel.BF16, pixel.NHWC), crop},
		{"crop, flip: bf16 NCHW", spec(pixel.BF16, pixel.NCHW), crop},
		{"crop, flip, gain: bf16 NHWC", spec(pixel.BF16, pixel.NHWC), gain},
		{"crop, turn, bilinear: bf16 NHWC", spec(pixel.BF16, pixel.NHWC), turn(pixel.Bilinear)},
		{"crop, turn, bicubic: bf16 NHWC", spec(pixel.BF16, pixel.NHWC), turn(pixel.Bicubic)},
		{"crop, turn, nearest: bf16 NHWC", spec(pixel.BF16, pixel.NHWC), turn(pixel.Nearest)},
	}
}

// pass measures one kind of gathering over images in random order.
func (o benchDataOptions) pass(ctx context.Context, images data.Images, p pass) (benchRow, error) {
	calls := max(1, o.images/benchBatch)
	dst := make([]byte, benchBatch*p.spec.Bytes())
	from := make([]byte, len(dst))
	r := data.NewRand(1)
	index, warps := make([]int32, calls*benchBatch), make([]pixel.Warp, calls*benchBatch)
	for i := range index {
		index[i], warps[i] = int32(r.IntN(images.Len())), p.warp(r)
	}
	rates, err := contest(ctx, o.repetitions, float64(len(index)), false,
		func() error {
			for at := 0; at < len(index); at += benchBatch {
				if err := pixel.Gather(dst, images.Records(), index[at:at+benchBatch], warps[at:at+benchBatch], p.spec); err != nil {
					return err
				}
			}
			return nil
		},
		func() error {
			for range calls {
				copy(dst, from)
			}
			return nil
		})
	if err != nil {
		return benchRow{}, err
	}
	return benchRow{Name: p.name, Value: rates[0], Unit: "images/s/core", Ratio: rates[0] / rates[1], Peer: "a copy of as many bytes"}, nil
}

// loader measures a whole loader of one goroutine: drawing, gathering, handing over.
func (o benchDataOptions) loader(ctx context.Context, images data.Images, name string) (benchRow, error) {
	recipe, err := data.NewRecipe(name)
	if err != nil {
		return benchRow{}, err
	}
	s, err := data.NewSampler(1, images.Len(), benchBatch, true)
	if err != nil {
		return benchRow{}, err
	}
	l, err := data.NewLoader(data.LoaderConfig{Images: images, Sampler: s, Recipe: recipe, Epochs: math.MaxInt32, BFloat16: true, ChannelsLast: true, Workers: 1})
	if err != nil {
		return benchRow{}, err
	}
	defer l.Close()
	calls := max(1, o.images/benchBatch)
	rates, err := contest(ctx, o.repetitions, float64(calls*benchBatch), true, func() error {
		for range calls {
			b, err := l.Next(ctx)
			if err != nil {
				return err
			}
			b.Release()
		}
		return nil
	})
	if err != nil {
		return benchRow{}, err
	}
	return benchRow{Name: "loader " + name + ": bf16 NHWC", Value: rates[0], Unit: "images/s/core"}, nil
}

// records opens the pack, or makes records up.
func (o benchDataOptions) records(ctx context.Context, e *env) (images data.Images, done func(), err error) {
	if o.dir != "" {
		p, err := showPack(ctx, e, o.dir, data.Split(o.split))
		if err != nil {
			return nil, nil, err
		}
		if p.Len() < benchBatch {
			p.Close()
			return nil, nil, fmt.Errorf("%w: %s has %d images; measuring needs %d", data.ErrData, p.Path(), p.Len(), benchBatch)
		}
		return p, func() { p.Close() }, nil
	}
	var all []byte
	few := made(64)
	for i := range max(o.images, benchBatch) {
		all = append(all, few[i%len(few)].Pix...)
	}
	return madeUp(all), func() {}, nil
}

// madeUp is a pack without a file.
type madeUp []byte

func (m madeUp) Len() int            { return len(m) / pixel.RecordBytes }
func (m madeUp) Classes() []string   { return make([]string, 100) }
func (m madeUp) Label(i int) int     { return i % 100 }
func (m madeUp) Records() []byte     { return m }
func (m madeUp) Check([]int32) error { return nil }

// made makes pictures up: smooth colours under texture, whose JPEGs are about as large as those of MiniPlaces.
func made(n int) []pixel.Image {
	images := make([]pixel.Image, n)
	for k := range images {
		r := data.NewRand(uint64(k))
		m := pixel.Image{Pix: make([]byte, 0, pixel.RecordBytes), W: pixel.Side, H: pixel.Side}
		ax, ay, rough := r.IntN(256), r.IntN(256), 12+r.IntN(28)
		for y := range pixel.Side {
			for x := range pixel.Side {
				noise := r.IntN(rough)
				for c := range 3 {
					v := (ax*x/128+ay*y/128+60*c)/2 + noise
					m.Pix = append(m.Pix, byte(min(v, 255)))
				}
			}
		}
		images[k] = m
	}
	return images
}
