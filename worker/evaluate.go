package worker

import (
	"cmp"
	"context"
	"math"
	"slices"

	torch "github.com/wangkuiyi/gotorch"

	"mp/data"
	"mp/model"
	"mp/ops"
)

// Evaluation says how networks answer.
type Evaluation struct {
	Device *ops.Device
	Models []*model.Model // several are an ensemble: their probabilities are averaged
	Mirror bool           // average each network's logits over the image and its mirror image
}

// Logits returns log-probabilities or, for one network, logits: [N K] row by row, on the host.
func (e Evaluation) Logits(ctx context.Context, b *data.Batch) ([]float32, error) {
	var out []float32
	err := e.Device.Do(ctx, func(s *ops.Scope) error {
		s.NoGrad(func() { out = ops.Values[float32](s, e.forward(s, b)) })
		return nil
	})
	return out, err
}

func (e Evaluation) forward(s *ops.Scope, b *data.Batch) torch.Tensor {
	x := images(s, b)
	one := func(m *model.Model) torch.Tensor {
		logits := s.To(m.Forward(s, x, model.Mode{}), ops.Float32)
		if e.Mirror {
			mirrored := s.To(m.Forward(s, s.Flip(x, 3), model.Mode{}), ops.Float32)
			logits = s.Scale(s.Add(logits, mirrored), .5)
		}
		return logits
	}
	if len(e.Models) == 1 {
		return one(e.Models[0])
	}
	var sum torch.Tensor
	for i, m := range e.Models {
		p := s.Softmax(one(m), 1)
		if i == 0 {
			sum = p
		} else {
			sum = s.Add(sum, p)
		}
	}
	return s.Log(s.Scale(sum, 1/float64(len(e.Models))))
}

// Score evaluates every batch of the loader; progress (may be nil) hears how many images are done.
func (e Evaluation) Score(ctx context.Context, loader *data.Loader, progress func(done int)) (Score, error) {
	var total tally
	err := each(ctx, loader, func(b *data.Batch) error {
		logits, err := e.Logits(ctx, b)
		if err != nil {
			return err
		}
		t := count(logits, b.Labels)
		t.lose(crossEntropy(logits, b.Labels), len(b.Labels))
		total.add(t)
		if progress != nil {
			progress(int(total.images))
		}
		return nil
	})
	return total.score(), err
}

// Top hands the k most likely classes of every image to visit, most likely first, a batch at a time.
func (e Evaluation) Top(ctx context.Context, loader *data.Loader, k int, visit func(ids []int32, labels [][]int)) error {
	return each(ctx, loader, func(b *data.Batch) error {
		logits, err := e.Logits(ctx, b)
		if err != nil {
			return err
		}
		classes := len(logits) / len(b.IDs)
		labels := make([][]int, len(b.IDs))
		for i := range labels {
			labels[i] = top(logits[i*classes:(i+1)*classes], k)
		}
		visit(b.IDs, labels)
		return nil
	})
}

// top returns the positions of the k greatest elements, the greatest first; of equal ones the earlier first.
func top(row []float32, k int) []int {
	order := make([]int, len(row))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(row[b], row[a]) })
	return order[:min(k, len(order))]
}

// each hands every batch of the loader to f and releases it.
func each(ctx context.Context, loader *data.Loader, f func(*data.Batch) error) error {
	for {
		b, err := loader.Next(ctx)
		if err == data.ErrEnd {
			return nil
		}
		if err != nil {
			return err
		}
		err = f(b)
		b.Release()
		if err != nil {
			return err
		}
	}
}

// crossEntropy is the sum over rows of -log softmax(logits)[label], in float64.
func crossEntropy(logits []float32, labels []int64) float64 {
	var sum float64
	if len(labels) == 0 {
		return 0
	}
	k := len(logits) / len(labels)
	for i, label := range labels {
		row := logits[i*k : (i+1)*k]
		top := math.Inf(-1)
		for _, v := range row {
			top = math.Max(top, float64(v))
		}
		var z float64
		for _, v := range row {
			z += math.Exp(float64(v) - top)
		}
		sum += top + math.Log(z) - float64(row[label])
	}
	return sum
}
