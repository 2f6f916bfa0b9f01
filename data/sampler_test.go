package data

import (
	"errors"
	"math"
	"slices"
	"testing"
)

func TestOrderIsAPermutation(t *testing.T) {
	for _, n := range []int{1, 2, 3, 4, 5, 7, 16, 17, 99, 100, 101, 1000, 20000, 65537} {
		s := newTestSampler(t, 7, n, 1, false)
		for epoch := range 3 {
			order := s.Order(epoch)
			for i, id := range order {
				if got := s.At(epoch, i); got != id {
					t.Fatalf("n %d epoch %d: At(%d) gives %d, Order %d", n, epoch, i, got, id)
				}
			}
			slices.Sort(order)
			for i, id := range order {
				if int(id) != i {
					t.Fatalf("n %d epoch %d: order holds %d where %d belongs", n, epoch, id, i)
				}
			}
		}
	}
}

func TestOrderDependsOnSeedAndEpochOnly(t *testing.T) {
	a, b := newTestSampler(t, 7, 1000, 10, false), newTestSampler(t, 7, 1000, 64, true)
	if !slices.Equal(a.Order(5), b.Order(5)) {
		t.Error("the batch size changes the order")
	}
	if slices.Equal(a.Order(5), a.Order(6)) {
		t.Error("epochs 5 and 6 have one order")
	}
	if c := newTestSampler(t, 8, 1000, 10, false); slices.Equal(a.Order(5), c.Order(5)) {
		t.Error("seeds 7 and 8 give one order")
	}
	want := []int32{35, 636, 152}
	if got := a.Order(5)[:3]; !slices.Equal(got, want) {
		t.Errorf("order changed, so older runs cannot be resumed: got %v, want %v", got, want)
	}
}

// Every image must be equally likely at every position, also next to any other image.
func TestOrderIsUniform(t *testing.T) {
	const n, epochs = 13, 40000
	var at, next [n][n]int
	s := newTestSampler(t, 3, n, 1, false)
	for epoch := range epochs {
		order := s.Order(epoch)
		for i, id := range order {
			at[i][id]++
			if i > 0 {
				next[order[i-1]][id]++
			}
		}
	}
	chi := func(table *[n][n]int, expected float64, diagonal bool) (sum float64, cells int) {
		for i := range n {
			for j := range n {
				if i == j && !diagonal {
					continue
				}
				d := float64(table[i][j]) - expected
				sum += d * d / expected
				cells++
			}
		}
		return sum, cells
	}
	if x, cells := chi(&at, epochs/float64(n), true); x > float64(cells)+5*math.Sqrt(2*float64(cells)) {
		t.Errorf("positions: chi square %.0f over %d cells", x, cells)
	}
	if x, cells := chi(&next, epochs/float64(n), false); x > float64(cells)+5*math.Sqrt(2*float64(cells)) {
		t.Errorf("neighbours: chi square %.0f over %d cells", x, cells)
	}
}

func TestBatchesAndShardsCoverAnEpoch(t *testing.T) {
	for _, c := range []struct {
		n, batch  int
		drop      bool
		steps     int
		lastBatch int
	}{
		{10, 3, false, 4, 1}, {10, 3, true, 3, 3}, {9, 3, false, 3, 3}, {9, 3, true, 3, 3}, {2, 5, false, 1, 2},
		{100000, 256, true, 390, 256}, {100000, 256, false, 391, 160},
	} {
		s := newTestSampler(t, 1, c.n, c.batch, c.drop)
		if got := s.Steps(); got != c.steps {
			t.Errorf("%+v: got %d steps", c, got)
		}
		if got := len(s.Batch(0, c.steps-1)); got != c.lastBatch {
			t.Errorf("%+v: last batch holds %d", c, got)
		}
		var all []int32
		for step := range c.steps {
			for _, shards := range []int{1, 2, 3, 8} {
				var joined []int32
				for shard := range shards {
					part := s.Shard(0, step, shard, shards)
					if got := s.Size(step, shard, shards); got != len(part) {
						t.Fatalf("%+v: shard %d of %d holds %d images, Size says %d", c, shard, shards, len(part), got)
					}
					if size := len(s.Batch(0, step)); len(part) < size/shards || len(part) > (size+shards-1)/shards {
						t.Fatalf("%+v: shard %d of %d of %d images holds %d", c, shard, shards, size, len(part))
					}
					joined = append(joined, part...)
				}
				if !slices.Equal(joined, s.Batch(0, step)) {
					t.Fatalf("%+v: %d shards of step %d are not its batch", c, shards, step)
				}
			}
			all = append(all, s.Batch(0, step)...)
		}
		if want := s.Order(0)[:len(all)]; !slices.Equal(all, want) {
			t.Errorf("%+v: batches are not the order", c)
		}
	}
}

func TestSequenceKeepsTheOrder(t *testing.T) {
	s, err := NewSequence(5, 2)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := s.Order(3), []int32{0, 1, 2, 3, 4}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if got, want := s.Batch(3, 2), []int32{4}; !slices.Equal(got, want) || s.At(0, 4) != 4 {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestSamplerRefusesNothing(t *testing.T) {
	for _, c := range []struct {
		n, batch int
		drop     bool
	}{{0, 1, false}, {-1, 1, false}, {1, 0, false}, {10, 11, true}, {math.MaxInt32 + 1, 1, false}} {
		if _, err := NewSampler(1, c.n, c.batch, c.drop); !errors.Is(err, ErrData) {
			t.Errorf("%+v: got error %v, want ErrData", c, err)
		}
	}
}

func newTestSampler(t testing.TB, seed uint64, n, batch int, drop bool) *Sampler {
	t.Helper()
	s, err := NewSampler(seed, n, batch, drop)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func BenchmarkSamplerBatch(b *testing.B) {
	s := newTestSampler(b, 1, 100000, 256, true)
	for i := range b.N {
		s.Batch(i, 17)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/256, "ns/image")
}
