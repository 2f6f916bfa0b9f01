package cmd

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"slices"

	torch "github.com/wangkuiyi/gotorch"

	"mp/checkpoint"
	"mp/data"
	"mp/job"
	"mp/ops"
	"mp/ops/pixel"
	"mp/worker"
	"mp/worker/errand"
)

// integers makes a tensor of numbers.
func integers(name string, v []int64) checkpoint.Tensor {
	t := checkpoint.Tensor{Name: name, DType: checkpoint.I64, Shape: []int64{int64(len(v))}}
	for _, x := range v {
		t.Data = binary.LittleEndian.AppendUint64(t.Data, uint64(x))
	}
	return t
}

// savedSet is what `mp attack --save` wrote.
type savedSet struct {
	images []float32 // [N 3 S S]
	labels []int64
}

// readSet reads a saved set and checks it against the number of classes.
func readSet(path string, classes int) (*savedSet, error) {
	state, err := checkpoint.Read(path)
	if err != nil {
		return nil, err
	}
	images, ok := checkpoint.Find(state.Model, "images")
	labels, ok2 := checkpoint.Find(state.Model, "labels")
	if !ok || !ok2 || images.DType != checkpoint.F32 || labels.DType != checkpoint.I64 || len(images.Shape) != 4 || len(labels.Shape) != 1 ||
		images.Shape[0] != labels.Shape[0] || images.Shape[0] == 0 || !slices.Equal(images.Shape[1:], []int64{3, pixel.Side, pixel.Side}) {
		return nil, fmt.Errorf("%w: %s holds no attacked images: make some with `mp attack DATA --save %[2]s`", data.ErrData, path)
	}
	s := &savedSet{images: images.Float32s()}
	for i := range int(labels.Shape[0]) {
		l := int64(binary.LittleEndian.Uint64(labels.Data[8*i:]))
		if l < 0 || l >= int64(classes) {
			return nil, fmt.Errorf("%w: %s: image %d is of class %d, the data has %d classes", data.ErrData, path, i, l, classes)
		}
		s.labels = append(s.labels, l)
	}
	return s, nil
}

// savedAttack is a saved set and the data that it was made of.
type savedAttack struct {
	dir   string
	split data.Split
	file  string
}

// evaluateSet is `mp evaluate --on`.
func evaluateSet(ctx context.Context, e *env, n networkFlags, a savedAttack) error {
	if n.mirror || n.scale != job.ScaleNone {
		return fmt.Errorf("%w: --on takes images as they were saved: leave --mirror and --scale out", job.ErrConfig)
	}
	source, closeSource, err := openPictures(a.dir, a.split)
	if err != nil {
		return err
	}
	classes := len(source.Classes())
	closeSource()
	set, err := readSet(a.file, classes)
	if err != nil {
		return err
	}
	networks, closeNetworks, err := n.open(ctx, classes)
	if err != nil {
		return err
	}
	defer closeNetworks()
	bar := e.progress("evaluate", int64(len(set.labels)))
	score, err := set.score(ctx, networks, n, bar.Add)
	bar.Finish()
	if err != nil {
		return err
	}
	return printScore(e, score)
}

// score is the mean over the set. Several networks vote with their probabilities, as in Evaluation.
func (v *savedSet) score(ctx context.Context, networks worker.Evaluation, n networkFlags, progress func(int64)) (worker.Score, error) {
	const values = 3 * pixel.Side * pixel.Side
	out := worker.Score{Images: len(v.labels)}
	var right1, right5 int
	for from := 0; from < len(v.labels); from += n.batch {
		to := min(from+n.batch, len(v.labels))
		err := networks.Device.Do(ctx, func(s *ops.Scope) error {
			s.NoGrad(func() {
				x := s.ChannelsLast(ops.From(s, v.images[from*values:to*values], int64(to-from), 3, pixel.Side, pixel.Side))
				var p torch.Tensor
				for i, m := range networks.Models {
					q := s.Softmax(s.To(errand.Net(m, n.precision, nil).Logits(s, x), ops.Float32), 1)
					if i > 0 {
						q = s.Add(p, q)
					}
					p = q
				}
				p = s.Scale(p, 1/float64(len(networks.Models)))
				flat := ops.Values[float64](s, p)
				for i, row := range errand.Top(s, p) {
					label := v.labels[from+i]
					if row[0] == int(label) {
						right1++
					}
					if slices.Contains(row, int(label)) {
						right5++
					}
					k := len(flat) / (to - from)
					out.Loss -= math.Log(max(flat[i*k+int(label)], math.SmallestNonzeroFloat64)) / float64(out.Images)
				}
			})
			return s.Err()
		})
		if err != nil {
			return out, err
		}
		progress(int64(to - from))
	}
	out.Top1, out.Top5 = 100*float64(right1)/float64(out.Images), 100*float64(right5)/float64(out.Images)
	return out, nil
}
