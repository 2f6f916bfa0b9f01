package cmd

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"time"

	torch "github.com/wangkuiyi/gotorch"

	"mp/attack"
	"mp/checkpoint"
	"mp/data"
	"mp/job"
	"mp/model"
	"mp/ops"
	"mp/ops/pixel"
	"mp/worker"
)

// Legend: N images, K classes.

// The normalisation of every network here, the reference's.
func channelMean() []float64 { return []float64{.485, .456, .406} }
func channelStd() []float64  { return []float64{.229, .224, .225} }

// attackRun attacks images with any number of plans.
type attackRun struct {
	flags      attackFlags
	device     *ops.Device
	models     []*model.Model // the measured one; the attacked one where it is another
	source     pictureSource
	target     int // class to be taken for, -1 for none
	dtype      ops.DType
	unreadable []error
	seen       map[int]bool // of unreadable
	progress   func(images int)
}

func newAttackRun(ctx context.Context, o attackFlags, source pictureSource) (*attackRun, error) {
	r := &attackRun{flags: o, source: source, dtype: ops.Float32, seen: map[int]bool{}}
	if o.precision == fp64 {
		r.dtype = ops.Float64
	}
	var err error
	if r.target, err = o.targetClass(source.Classes()); err != nil {
		return nil, err
	}
	word, err := pickDevice(o.device)
	if err != nil {
		return nil, err
	}
	threads := o.threads
	if threads == 0 {
		threads = cores()
	}
	if r.device, err = openDevice(word, threads); err != nil {
		return nil, err
	}
	err = r.device.Do(ctx, func(s *ops.Scope) error {
		for _, path := range []string{o.checkpoint, o.surrogate} {
			if path == "" {
				continue
			}
			m, err := worker.LoadModel(s, path, o.model, model.Options{Classes: len(source.Classes()), ChannelsLast: true, DType: r.dtype})
			if err != nil {
				return fmt.Errorf("%w (the images are of %d classes)", err, len(source.Classes()))
			}
			r.models = append(r.models, m)
		}
		return nil
	})
	if err != nil {
		r.close()
		return nil, err
	}
	return r, nil
}

func (r *attackRun) close() {
	_ = r.device.Do(context.Background(), func(*ops.Scope) error { // the process ends: nothing is lost
		for _, m := range r.models {
			m.Free()
		}
		return nil
	})
	r.device.Close()
}

// total is how many images are to be attacked.
func (r *attackRun) total() int {
	if n := r.flags.images; n > 0 {
		return min(n, r.source.Len())
	}
	return r.source.Len()
}

// netOf is a network as attacks see it, computing in a precision of job's.
func netOf(m *model.Model, precision string) *attack.Net {
	n := &attack.Net{Mean: channelMean(), Std: channelStd(), Forward: func(s *ops.Scope, z torch.Tensor) torch.Tensor {
		return m.Forward(s, z, model.Mode{})
	}}
	if precision == job.BF16 {
		n.DType = ops.BFloat16
	}
	return n
}

// attackedSet is what became of the images under one attack.
type attackedSet struct {
	ids    []int32
	labels []int64
	images []float32 // [N 3 S S], where they are kept: all to be saved, else those to be shown
	kept   []int     // which they are
	before []byte    // [N S S 3], where they are saved
	clean  [][]int   // the five likeliest classes of each image before,
	after  [][]int   // and after the attack
	linf   []float64 // of the change of each
	l2     []float64
	asked  int // queries of all
	facts  attack.Facts
	time   time.Duration
}

// shown is how many pictures are made: of the first images that the network recognises before the attack.
const shown = 12

// table runs every plan on all images. With keep the changed images are kept: all where they are saved, else the first few.
func (r *attackRun) table(ctx context.Context, plans []plan, keep bool) ([]attacked, []*attackedSet, error) {
	sets := make([]*attackedSet, len(plans))
	for i := range sets {
		sets[i] = &attackedSet{}
	}
	total := r.total()
	for next := 0; next < total; {
		var b attackBatch
		for ; next < total && len(b.ids) < r.flags.batch; next++ {
			record, err := r.source.Read(next)
			if err != nil {
				if !r.seen[next] {
					r.unreadable, r.seen[next] = append(r.unreadable, err), true
				}
				r.progress(len(plans))
				continue
			}
			if label := r.source.Label(next); label >= 0 {
				b.add(int32(next), label, record)
			}
		}
		if len(b.ids) == 0 {
			continue
		}
		for i, p := range plans {
			err := r.device.Do(ctx, func(s *ops.Scope) error { return r.batch(ctx, s, p, b, sets[i], keep) })
			if err != nil {
				return nil, nil, fmt.Errorf("%s: images %s to %s: %w", p.name, r.source.Name(int(b.ids[0])), r.source.Name(int(b.ids[len(b.ids)-1])), err)
			}
			r.progress(len(b.ids))
		}
	}
	if len(sets[0].ids) == 0 {
		return nil, nil, fmt.Errorf("%w: none of the %d images can be read and has a label", data.ErrData, total)
	}
	rows := make([]attacked, len(plans))
	for i, p := range plans {
		rows[i] = r.row(p, sets[i])
	}
	return rows, sets, nil
}

// attackBatch are images as they lie in a pack.
type attackBatch struct {
	ids     []int32
	labels  []int64
	records []byte
}

func (b *attackBatch) add(id int32, label int, record []byte) {
	b.ids, b.labels, b.records = append(b.ids, id), append(b.labels, int64(label)), append(b.records, record...)
}

// images are the batch's pixels in [0, 1], [N 3 S S] in channels-last order.
func (b *attackBatch) images(s *ops.Scope, d ops.DType) torch.Tensor {
	n := int64(len(b.ids))
	bytes := s.To(ops.From(s, b.records, n, pixel.Side, pixel.Side, 3), d)
	return s.Permute(s.Div(bytes, ops.From(s, []float32{255}, 1)), 0, 3, 1, 2)
}

// batch attacks one batch and adds what became of it to set.
func (r *attackRun) batch(ctx context.Context, s *ops.Scope, p plan, b attackBatch, set *attackedSet, keep bool) error {
	x := b.images(s, r.dtype)
	measured := netOf(r.models[0], r.flags.precision)
	under := netOf(r.models[len(r.models)-1], r.flags.precision)
	in := attack.Batch{X: x, Labels: b.labels, Keys: attack.Keys(r.flags.seed, 0, b.ids)}
	if p.options.Goal == attack.Given {
		for range b.ids {
			in.Targets = append(in.Targets, int64(r.target))
		}
	}
	began := time.Now()
	res, err := p.attack.Perturb(ctx, s, under, in)
	if err != nil {
		return err
	}
	far := s.Sub(res.X, x)
	linf := ops.Values[float64](s, s.Largest(s.Abs(far), 1, 2, 3))
	set.time += time.Since(began) // reading the distances waits for the device
	l2 := ops.Values[float64](s, s.Sqrt(s.Sum(s.Mul(far, far), 1, 2, 3)))
	s.NoGrad(func() {
		set.clean = append(set.clean, topRows(s, measured.Logits(s, x))...)
		set.after = append(set.after, topRows(s, measured.Logits(s, res.X))...)
	})
	if err := s.Err(); err != nil {
		return err
	}
	if keep && (r.flags.save != "" || r.flags.out != "" && len(set.kept) < shown) {
		r.keep(s, b, set, res.X)
	}
	set.ids, set.labels = append(set.ids, b.ids...), append(set.labels, b.labels...)
	set.linf, set.l2 = append(set.linf, linf...), append(set.l2, l2...)
	for _, n := range res.Queries {
		set.asked += n
	}
	set.facts.Add(res.Facts)
	return s.Err()
}

// keep copies changed images of the batch that has just been measured.
func (r *attackRun) keep(s *ops.Scope, b attackBatch, set *attackedSet, x torch.Tensor) {
	const values = 3 * pixel.Side * pixel.Side
	changed, first := ops.Values[float32](s, x), len(set.ids)
	if s.Err() != nil {
		return
	}
	for i, label := range b.labels {
		if r.flags.save == "" && (len(set.kept) == shown || set.clean[first+i][0] != int(label)) {
			continue
		}
		set.images, set.kept = append(set.images, changed[i*values:(i+1)*values]...), append(set.kept, first+i)
	}
	if r.flags.save != "" {
		set.before = append(set.before, b.records...)
	}
}

// topRows are the five likeliest classes of each row of logits [N K].
func topRows(s *ops.Scope, logits torch.Tensor) [][]int {
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

// row is what the table says of a set.
func (r *attackRun) row(p plan, set *attackedSet) attacked {
	n := len(set.ids)
	row := attacked{Attack: p.name, Norm: p.options.Norm.String(), Eps: p.options.Eps, Steps: p.options.Steps, Images: n, Seconds: set.time.Seconds()}
	if set.facts.Images > 0 {
		row.Broken, row.Warnings = set.facts.Broken, set.facts.Warnings()
	}
	correct, aimed, moved := 0, 0, 0
	var clean5, left, after1, after5 int // left: correct before and after
	for i, label := range set.labels {
		before, after := slices.Index(set.clean[i], int(label)), slices.Index(set.after[i], int(label))
		for _, c := range []struct {
			holds bool
			of    *int
		}{
			{before == 0, &correct}, {before >= 0, &clean5}, {after == 0, &after1}, {after >= 0, &after5}, {before == 0 && after == 0, &left},
			{p.options.Goal == attack.Given && set.after[i][0] == r.target, &aimed},
		} {
			if c.holds {
				*c.of++
			}
		}
		row.Linf = max(row.Linf, set.linf[i])
		if set.l2[i] > 0 {
			row.L2, moved = row.L2+set.l2[i], moved+1
		}
	}
	percent := func(part, whole int) float64 { return 100 * float64(part) / float64(max(whole, 1)) }
	row.Clean1, row.Clean5, row.Top1, row.Top5 = percent(correct, n), percent(clean5, n), percent(after1, n), percent(after5, n)
	row.L2 /= float64(max(moved, 1))
	row.Success = percent(correct-left, correct)
	if p.options.Goal == attack.Given {
		row.Success = percent(aimed, n)
	}
	row.Queries = float64(set.asked) / float64(n)
	return row
}

// attackMeta is what a saved set says about itself.
type attackMeta struct {
	Attack string  `json:"attack"`
	Norm   string  `json:"norm"`
	Eps    float64 `json:"eps"`
	Steps  int     `json:"steps"`
	Seed   uint64  `json:"seed"`
}

// write saves a set: images [N 3 S S] from 0 to 1 (course: perhaps beyond), what they were made of [N S S 3] in bytes, labels,
// and the images' places in the list.
func (r *attackRun) write(path string, p plan, set *attackedSet) error {
	n := int64(len(set.ids))
	meta, err := json.Marshal(attackMeta{p.name, p.options.Norm.String(), p.options.Eps, p.options.Steps, r.flags.seed})
	if err != nil {
		return err
	}
	ids := make([]int64, n)
	for i, id := range set.ids {
		ids[i] = int64(id)
	}
	state := &checkpoint.State{Meta: checkpoint.Meta{Job: meta}, Model: []checkpoint.Tensor{
		checkpoint.FromFloat32s("images", []int64{n, 3, pixel.Side, pixel.Side}, set.images), {Name: "clean", DType: checkpoint.U8, Shape: []int64{n, pixel.Side, pixel.Side, 3}, Data: set.before}, integers("ids", ids), integers("labels", set.labels),
	}}
	if err := checkpoint.Export(path, state); err != nil {
		return fmt.Errorf("save the changed images: %w", err)
	}
	return nil
}

// secondsText prints a time.
func secondsText(v float64) string { return span(time.Duration(math.Round(v*1000)) * time.Millisecond) }
