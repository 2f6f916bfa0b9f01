package ops

import (
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"unsafe"

	torch "github.com/wangkuiyi/gotorch"

	"mp/allreduce"
)

// fixedVector has values of all magnitudes, and of the kinds where rounding or ranges could go wrong.
func fixedVector(r *rand.Rand, n int) []float32 {
	odd := []float32{0, float32(math.Copysign(0, -1)), 1e-45, -1e-38, math.MaxFloat32, -math.MaxFloat32, .5, 1.5, -2.5, 1}
	x := make([]float32, n)
	for i := range x {
		switch r.IntN(12) {
		case 0:
			x[i] = odd[r.IntN(len(odd))]
		default:
			x[i] = float32(math.Ldexp(r.NormFloat64(), (i/700)*37%250-125))
		}
	}
	return x
}

func TestFixedKernelsHaveThePlainOnesBits(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	plain := allreduce.Kernels{}.WithDefaults()
	if FixedBlock != allreduce.Block {
		t.Fatalf("a block has %d elements here, %d there", FixedBlock, allreduce.Block)
	}
	for _, n := range []int{0, 1, 7, 255, 256, 257, 1000, 100003} {
		for _, bits := range []int{30, 28, 18, 14} {
			x, y := fixedVector(r, n), fixedVector(r, n)
			ours, theirs := make([]byte, (n+255)/256), make([]byte, (n+255)/256)
			for _, v := range [][]float32{x, y} {
				FixedExponents(ours, v)
				plain.Exponents(theirs, v)
			}
			if !slices.Equal(ours, theirs) {
				t.Fatalf("%d elements: exponents differ", n)
			}
			a, b := make([]int32, n), make([]int32, n)
			for i, v := range [][]float32{x, y} {
				FixedQuantize(a, v, ours, bits, i > 0)
				plain.Quantize(b, v, theirs, bits, i > 0)
			}
			if !slices.Equal(a, b) {
				t.Fatalf("%d elements, %d bits: integers differ", n, bits)
			}
			for i := range a { // as large as sums become
				a[i] = int32(r.Uint32())
			}
			copy(b, a)
			FixedAdd(a, a)
			plain.Add(b, b)
			if !slices.Equal(a, b) {
				t.Fatalf("%d elements: sums differ", n)
			}
			p, q := make([]float32, n), make([]float32, n)
			plain.Dequantize(q, b, theirs, bits)
			FixedDequantize(p, a, ours, bits)
			if !slices.Equal(integersOf(p), integersOf(q)) {
				t.Fatalf("%d elements, %d bits: values differ", n, bits)
			}
		}
	}
}

// Vectors on a device give the bits of the kernels, one vector after another.
func TestFixedVectorsHaveTheKernelsBits(t *testing.T) {
	const length, bits = 20*FixedBlock + 77, 27
	r := rand.New(rand.NewPCG(5, 6))
	for _, members := range []int{0, 1, 3} {
		on(t, func(s *Scope) error {
			var values [][]float32
			var vectors []torch.Tensor
			for range members {
				v := fixedVector(r, length)
				values, vectors = append(values, v), append(vectors, From(s, v, length))
			}
			for _, of := range [][2]int{{0, length}, {0, 0}, {FixedBlock, 3 * FixedBlock}, {17 * FixedBlock, length}} {
				lo, hi := of[0], of[1]
				e, want := make([]byte, (hi-lo+FixedBlock-1)/FixedBlock), make([]byte, (hi-lo+FixedBlock-1)/FixedBlock)
				q, sum := make([]int32, hi-lo), make([]int32, hi-lo)
				for i := range q {
					q[i] = 99 // left over
				}
				for _, v := range values {
					FixedExponents(want, v[lo:hi])
				}
				s.FixedVectorsExponents(e, vectors, lo, hi)
				for i, v := range values {
					FixedQuantize(sum, v[lo:hi], want, bits, i > 0)
				}
				s.FixedVectorsQuantize(q, e, vectors, lo, bits)
				if s.Err() == nil && (!slices.Equal(e, want) || !slices.Equal(q, sum)) {
					t.Errorf("%d vectors, elements %d to %d: exponents or integers differ", members, lo, hi)
				}
			}
			return s.Err()
		})
	}
	on(t, func(s *Scope) error {
		c := s.Child()
		c.FixedVectorsExponents(make([]byte, 2), []torch.Tensor{c.Zeros(Float32, FixedBlock)}, FixedBlock, 3*FixedBlock)
		if err := c.Err(); err == nil || !strings.Contains(err.Error(), "elements 256 to 768 of 256") {
			t.Errorf("elements that are not there: error is %v", err)
		}
		c.err = nil
		c.Close()
		return nil
	})
}

func integersOf(x []float32) []int32 {
	return unsafe.Slice((*int32)(unsafe.Pointer(unsafe.SliceData(x))), len(x))
}

// Two elements travel in one integer: what they are, what rounding left of them, and what a sum of pairs stands for.
func TestFixedKernelsOfPairsHaveThePlainOnesBits(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	plain := allreduce.Kernels{}.WithDefaults()
	for _, n := range []int{0, 1, 2, 7, 255, 256, 257, 1000, 100003} {
		for _, bits := range []int{14, 13, 4} {
			ours, theirs := fixedVector(r, n), make([]float32, n)
			for i := range ours {
				ours[i] /= 4 // its double is still finite
			}
			copy(theirs, ours)
			other := slices.Clone(ours)
			FixedAccumulate(ours, other)
			plain.Accumulate(theirs, other)
			if !slices.Equal(integersOf(ours), integersOf(theirs)) {
				t.Fatalf("%d elements: sums differ", n)
			}
			exponents := make([]byte, (n+255)/256)
			plain.Exponents(exponents, ours)
			a, b := make([]int32, allreduce.Pairs(n)), make([]int32, allreduce.Pairs(n))
			FixedShorten(a, ours, exponents, bits)
			plain.Shorten(b, theirs, exponents, bits)
			if !slices.Equal(a, b) || !slices.Equal(ours, theirs) { // but for the sign of zeros, which nothing sees
				t.Fatalf("%d elements, %d bits: pairs or what they leave differ", n, bits)
			}
			for i := range a { // as large as sums become
				a[i] = int32(r.Uint32())
			}
			FixedLengthen(ours, a, exponents, bits)
			plain.Lengthen(theirs, a, exponents, bits)
			if !slices.Equal(integersOf(ours), integersOf(theirs)) {
				t.Fatalf("%d elements, %d bits: values differ", n, bits)
			}
		}
	}
}

func TestFixedKernelsSeeWhatIsNoNumber(t *testing.T) {
	for _, v := range []float32{float32(math.NaN()), float32(math.Inf(1)), float32(math.Inf(-1))} {
		x := make([]float32, 600)
		x[300] = v
		e := make([]byte, 3)
		FixedExponents(e, x)
		if !slices.Equal(e, []byte{0, 255, 0}) {
			t.Errorf("%g has exponents %v, want 255 for its block", v, e)
		}
	}
}

func BenchmarkFixed(b *testing.B) {
	const n = 1 << 18
	x, q, e := fixedVector(rand.New(rand.NewPCG(1, 2)), n), make([]int32, n), make([]byte, n/256)
	plain := allreduce.Kernels{}.WithDefaults()
	for name, k := range map[string]allreduce.Kernels{"plain": plain, "ours": {Exponents: FixedExponents, Quantize: FixedQuantize, Dequantize: FixedDequantize, Add: FixedAdd}} {
		for loop, f := range map[string]func(){
			"exponents":  func() { k.Exponents(e, x) },
			"quantize":   func() { k.Quantize(q, x, e, 28, true) },
			"dequantize": func() { k.Dequantize(x, q, e, 28) },
			"add":        func() { k.Add(q, q) },
		} {
			b.Run(loop+"/"+name, func(b *testing.B) {
				b.SetBytes(4 * n)
				for b.Loop() {
					f()
				}
			})
		}
	}
}
