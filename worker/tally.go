package worker

import (
	"math"

	"mp/data"
	"mp/metrics"
)

// tally counts what a shard, a step or a validation did. All of it is integers, so that a sum of tallies does not depend on
// who counted what.
type tally struct {
	images     uint64
	top1, top5 uint64 // images whose label was first, or among the first five
	loss       uint64 // sum over images, in units of lossUnit
	unknown    uint64 // images whose loss is no number; loss does not count them
	hash       uint64 // sum of the images' fingerprints, modulo 2^64
}

// lossUnit is the resolution of a summed loss.
const lossUnit = 1.0 / (1 << 20)

// A tally travels as limbs of eight bits, the lowest first: 255 times the greatest number of shards is exact in a float32,
// and a small integer survives the fixed point of allreduce.SumShards whatever the number of shards.
const (
	limbBits = 8
	// tallyLimbs is the number of limbs of a tally: four for each count, eight for loss and hash.
	tallyLimbs = 4*4 + 2*8
)

// fields are the numbers of a tally with the limbs that each takes.
func (t *tally) fields() []limbed {
	return []limbed{{&t.images, 4}, {&t.top1, 4}, {&t.top5, 4}, {&t.unknown, 4}, {&t.loss, 8}, {&t.hash, 8}}
}

type limbed struct {
	value *uint64
	limbs int
}

// number is what a limb can be carried in.
type number interface{ float32 | int32 }

// writeLimbs writes t into the first tallyLimbs elements of to.
func writeLimbs[T number](t tally, to []T) {
	i := 0
	for _, f := range t.fields() {
		for k := range f.limbs {
			to[i] = T(*f.value >> (limbBits * k) & (1<<limbBits - 1))
			i++
		}
	}
}

// readLimbs reads a sum of tallies back: limbs may have grown beyond their bits.
func readLimbs[T number](from []T) tally {
	var t tally
	i := 0
	for _, f := range t.fields() {
		for k := range f.limbs {
			*f.value += uint64(from[i]) << (limbBits * k)
			i++
		}
	}
	return t
}

// add counts o too.
func (t *tally) add(o tally) {
	t.images += o.images
	t.top1 += o.top1
	t.top5 += o.top5
	t.loss += o.loss
	t.unknown += o.unknown
	t.hash += o.hash
}

// lose sets the loss of n images from its sum.
func (t *tally) lose(sum float64, n int) {
	units := math.Round(max(sum, 0) / lossUnit)
	if math.IsNaN(sum) || units >= 1<<63 {
		t.unknown = uint64(n)
		return
	}
	t.loss = uint64(units)
}

// score turns the counts into a mean loss and percentages.
func (t tally) score() Score {
	n := max(float64(t.images), 1)
	s := Score{Images: int(t.images), Loss: float64(t.loss) * lossUnit / n, Top1: 100 * float64(t.top1) / n, Top5: 100 * float64(t.top5) / n}
	if t.unknown > 0 {
		s.Loss = math.NaN()
	}
	return s
}

// Score is how well a network did on some images.
type Score struct {
	Images     int     `json:"images"`
	Top1, Top5 float64 `json:"-"` // per cent
	Loss       float64 `json:"loss"`
}

func (s Score) validation(epoch, epochs, update int) metrics.Validation {
	return metrics.Validation{Epoch: epoch, Epochs: epochs, Update: update, Images: s.Images, Loss: metrics.Value(s.Loss), Top1: s.Top1, Top5: s.Top5}
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

// fingerprints sums those of the images ids.
func fingerprints(ids []int32) uint64 {
	var sum uint64
	for _, id := range ids {
		sum += data.Fingerprint(id)
	}
	return sum
}
