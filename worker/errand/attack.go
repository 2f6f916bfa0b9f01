package errand

import (
	"context"
	"slices"
	"time"

	torch "github.com/wangkuiyi/gotorch"

	"mp/attack"
	"mp/job"
	"mp/model"
	"mp/ops"
	"mp/ops/pixel"
)

// Legend: N images, S side of the image, K classes.

// Net is a network as attacks see it, computing in a precision of job's, or FP64. look is called before each look; it may be
// nil.
func Net(m *model.Model, precision string, look func()) *attack.Net {
	n := &attack.Net{Mean: pixel.Mean(), Std: pixel.Std(), Forward: func(s *ops.Scope, z torch.Tensor) torch.Tensor {
		if look != nil {
			look()
		}
		return m.Forward(s, z, model.Mode{})
	}}
	if precision == job.BF16 {
		n.DType = ops.BFloat16
	}
	return n
}

// ModelOptions are those of a network under attack.
func ModelOptions(classes int, precision string) model.Options {
	return model.Options{Classes: classes, ChannelsLast: true, DType: dtype(precision)}
}

func dtype(precision string) ops.DType {
	if precision == FP64 {
		return ops.Float64
	}
	return ops.Float32
}

// Networks are what is attacked and measured, and how it computes.
type Networks struct {
	Models    []*model.Model // made with ModelOptions: the measured one; the attacked one where it is another
	Precision string
	Look      func() // called on the device's thread before a network sees images; may be nil
}

// Free frees the models, on their device's thread.
func (n Networks) Free() {
	for _, m := range n.Models {
		m.Free()
	}
}

// Attack attacks a batch and measures what became of it. Whoever computes it with as many threads on the same kind of
// processor gets the same bits. It blocks until it is done or ctx ends, at which it looks between steps.
func (n Networks) Attack(ctx context.Context, s *ops.Scope, o Order, b Batch, want Pictures) (Found, error) {
	by, err := attack.New(o.Attack, o.Options)
	if err != nil {
		return Found{}, err
	}
	x := b.images(s, dtype(n.Precision))
	in := attack.Batch{X: x, Labels: b.Labels, Keys: attack.Keys(o.Seed, 0, b.IDs)}
	if o.Options.Goal == attack.Given {
		for range b.IDs {
			in.Targets = append(in.Targets, int64(o.Target))
		}
	}
	began, paused := time.Now(), time.Duration(0)
	look := func() {
		if n.Look != nil {
			at := time.Now()
			n.Look()
			paused += time.Since(at)
		}
	}
	res, err := by.Perturb(ctx, s, Net(n.Models[len(n.Models)-1], n.Precision, look), in)
	if err != nil {
		return Found{}, err
	}
	far := s.Sub(res.X, x)
	out := Found{Facts: res.Facts, Linf: ops.Values[float64](s, s.Largest(s.Abs(far), 1, 2, 3))}
	out.Seconds = (time.Since(began) - paused).Seconds() // reading the distances waited for the device
	out.L2 = ops.Values[float64](s, s.Sqrt(s.Sum(s.Mul(far, far), 1, 2, 3)))
	measured := Net(n.Models[0], n.Precision, look)
	s.NoGrad(func() {
		out.Clean = Top(s, measured.Logits(s, x))
		out.After = Top(s, measured.Logits(s, res.X))
	})
	for _, q := range res.Queries {
		out.Queries += q
	}
	if s.Err() == nil && (want.All || want.First > 0) {
		out.keep(ops.Values[float32](s, res.X), b, want)
	}
	return out, s.Err()
}

// images are the batch's pixels in [0, 1], [N 3 S S] in channels-last order.
func (b Batch) images(s *ops.Scope, d ops.DType) torch.Tensor {
	n := int64(len(b.IDs))
	bytes := s.To(ops.From(s, b.Records, n, pixel.Side, pixel.Side, 3), d)
	return s.Permute(s.Div(bytes, ops.From(s, []float32{255}, 1)), 0, 3, 1, 2)
}

// imageValues are the numbers of one image.
const imageValues = 3 * pixel.Side * pixel.Side

// keep takes the wanted of the changed images [N 3 S S].
func (f *Found) keep(changed []float32, b Batch, want Pictures) {
	if len(changed) != len(b.IDs)*imageValues {
		return // the scope has failed, and says so
	}
	for i, label := range b.Labels {
		if want.All || len(f.Kept) < want.First && f.Clean[i][0] == int(label) {
			f.Kept, f.Images = append(f.Kept, i), append(f.Images, changed[i*imageValues:(i+1)*imageValues]...)
		}
	}
}

// topFive is how many classes count as close.
const topFive = 5

// Top are the five likeliest classes of each row of logits [N K], fewer where there are fewer.
func Top(s *ops.Scope, logits torch.Tensor) [][]int {
	if s.Err() != nil {
		return nil
	}
	k := min(logits.Shape()[1], topFive)
	_, at := s.TopK(logits, k)
	flat := ops.Values[int64](s, at)
	var out [][]int
	for row := range slices.Chunk(flat, int(k)) {
		var classes []int
		for _, c := range row {
			classes = append(classes, int(c))
		}
		out = append(out, classes)
	}
	return out
}
