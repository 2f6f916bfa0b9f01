package worker

import (
	"math"
	"testing"
)

func TestCounting(t *testing.T) {
	got := count([]float32{3, 1, 2, 0, 5, 9}, []int64{0, 1}).score()
	if got.Top1 != 50 || got.Top5 != 100 || got.Images != 2 {
		t.Errorf("got %+v, want one of two images right", got)
	}
}

func TestTalliesSurviveTheSum(t *testing.T) {
	terms := []tally{
		{images: 3, top1: 1, top5: 2, loss: 1 << 40, hash: 0xfedcba9876543210},
		{images: 65_535, top1: 65_535, top5: 65_535, loss: 1<<63 - 1, hash: math.MaxUint64, unknown: 9},
		{},
	}
	var want tally
	floats, ints := make([]float32, tallyLimbs), make([]int32, tallyLimbs)
	for _, term := range terms {
		want.add(term)
		f, n := make([]float32, tallyLimbs), make([]int32, tallyLimbs)
		writeLimbs(term, f)
		writeLimbs(term, n)
		for i := range f {
			floats[i] += f[i]
			ints[i] += n[i]
		}
	}
	if got := readLimbs(floats); got != want {
		t.Errorf("by float32: got %+v, want %+v", got, want)
	}
	if got := readLimbs(ints); got != want {
		t.Errorf("by int32: got %+v, want %+v", got, want)
	}
}

func TestALossThatIsNoNumberIsNotHidden(t *testing.T) {
	var bad, good tally
	bad.lose(math.NaN(), 4)
	good.lose(8, 4)
	good.images, bad.images = 4, 4
	if got := good.score().Loss; got != 2 {
		t.Errorf("got a mean of %g, want 2", got)
	}
	good.add(bad)
	if got := good.score().Loss; !math.IsNaN(got) {
		t.Errorf("got a mean of %g, want NaN", got)
	}
}
