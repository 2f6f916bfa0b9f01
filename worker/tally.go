package worker

import "mp/metrics"

// tally counts what a step, or several, did. It travels through the all-reduce as float32s, exact up to 2^24 images.
type tally struct {
	loss       float64 // sum over images
	top1, top5 float64 // images whose label was first, or among the first five
	images     float64
}

// tallySize is the number of elements that a tally takes in the vector that a group sums.
const tallySize = 16

func (t tally) floats() []float32 {
	out := make([]float32, tallySize)
	out[0], out[1], out[2], out[3] = float32(t.loss), float32(t.top1), float32(t.top5), float32(t.images)
	return out
}

func tallyOf(f []float32) tally {
	return tally{float64(f[0]), float64(f[1]), float64(f[2]), float64(f[3])}
}

func (t *tally) add(o tally) {
	t.loss += o.loss
	t.top1 += o.top1
	t.top5 += o.top5
	t.images += o.images
}

// score turns the counts into a mean loss and percentages.
func (t tally) score() Score {
	n := max(t.images, 1)
	return Score{Images: int(t.images), Loss: t.loss / n, Top1: 100 * t.top1 / n, Top5: 100 * t.top5 / n}
}

// Score is how well a network did on some images.
type Score struct {
	Images     int     `json:"images"`
	Top1, Top5 float64 `json:"-"` // per cent
	Loss       float64 `json:"loss"`
}

// count tallies logits [N K], row by row, against labels. An image counts as first when no other class has a greater
// logit than its label; NaN never counts.
func count(logits []float32, labels []int64) tally {
	var t tally
	if len(labels) == 0 {
		return t
	}
	k := len(logits) / len(labels)
	for i, label := range labels {
		row := logits[i*k : (i+1)*k]
		own := row[label]
		above := 0
		for _, v := range row {
			if !(v <= own) {
				above++
			}
		}
		if above < 1 {
			t.top1++
		}
		if above < 5 {
			t.top5++
		}
		t.images++
	}
	return t
}

func (s Score) validation(epoch, epochs, update int) metrics.Validation {
	return metrics.Validation{Epoch: epoch, Epochs: epochs, Update: update, Images: s.Images, Loss: metrics.Value(s.Loss), Top1: s.Top1, Top5: s.Top5}
}
