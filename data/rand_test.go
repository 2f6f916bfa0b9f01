package data

import (
	"math"
	"testing"
)

// The numbers must never change: a run that is resumed by a newer program has to draw what the older one would have.
func TestRandGolden(t *testing.T) {
	r := NewRand(1, 2, 3, purposeAugment)
	for i, want := range []uint64{0xba1541fdf35fbb3d, 0x742bf32e11c67f93, 0x1beb25093df7b3ef} {
		if got := r.Uint64(); got != want {
			t.Errorf("word %d: got %#x, want %#x", i, got, want)
		}
	}
	if got, want := r.NormFloat64(), -1.5021116565470773; got != want {
		t.Errorf("normal: got %v, want %v", got, want)
	}
}

func TestRandStreamsDiffer(t *testing.T) {
	seen := map[uint64][]uint64{}
	for _, keys := range [][]uint64{
		{}, {0}, {0, 0}, {1}, {0, 1}, {1, 0}, {1, 1}, {1, 1, 0}, {2, 1, 1}, {1, 2, 1}, {1, 1, 2}, {1 << 63}, {1 << 32},
	} {
		r := NewRand(keys...)
		for range 100 {
			v := r.Uint64()
			if old, dup := seen[v]; dup {
				t.Fatalf("keys %v draw %#x as keys %v do", keys, v, old)
			}
			seen[v] = keys
		}
	}
}

// Neighbouring keys must give unrelated numbers: the first draw over 100,000 samples has to look uniform, and the first
// draws of neighbouring samples uncorrelated.
func TestRandNeighbouringKeys(t *testing.T) {
	const n, bins = 100000, 64
	var count [bins]int
	var product, previous float64
	for i := range uint64(n) {
		u := NewRand(7, 3, i, purposeOrder).Float64()
		count[int(u*bins)]++
		product += (u - .5) * (previous - .5)
		previous = u
	}
	chi := 0.0
	for _, c := range count {
		d := float64(c) - n/bins
		chi += d * d / (n / bins)
	}
	if chi > 120 { // 63 degrees of freedom: beyond 120 once in 50,000
		t.Errorf("chi square of %d bins: got %.1f, want below 120", bins, chi)
	}
	if r := product / n * 12; math.Abs(r) > 5/math.Sqrt(n) {
		t.Errorf("correlation of neighbours: got %.4f, want within %.4f", r, 5/math.Sqrt(n))
	}
}

func TestRandMoments(t *testing.T) {
	r := NewRand(42)
	const n = 200000
	var s1, s2, s4 float64
	count := make([]int, 7)
	for range n {
		x := r.NormFloat64()
		s1, s2, s4 = s1+x, s2+x*x, s4+x*x*x*x
		count[r.IntN(7)]++
	}
	if m := s1 / n; math.Abs(m) > .012 {
		t.Errorf("mean of normals: got %.4f, want 0", m)
	}
	if v := s2 / n; math.Abs(v-1) > .016 {
		t.Errorf("variance of normals: got %.4f, want 1", v)
	}
	if k := s4 / n; math.Abs(k-3) > .12 {
		t.Errorf("fourth moment of normals: got %.4f, want 3", k)
	}
	for i, c := range count {
		if math.Abs(float64(c)-n/7) > 5*math.Sqrt(n/7) {
			t.Errorf("IntN(7) gave %d %d times in %d", i, c, n)
		}
	}
}

func BenchmarkRand(b *testing.B) {
	b.ReportAllocs()
	for i := range uint64(b.N) {
		r := NewRand(1, 2, i, purposeAugment)
		if r.Float64() < 0 {
			b.Fatal("negative")
		}
	}
}
