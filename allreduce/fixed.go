package allreduce

import "math"

// Kernels are the loops of the sum over shards. Every implementation of a loop gives the same bits as the plain one.
// A nil function stands for the plain one.
//
// exponents has one byte for each Block elements of the float32 vector, the last block may be short: the greatest biased
// exponent in the block, 255 for one with NaN or Inf. An element x of a block with exponent e stands for the integer
// x * 2^(bits + 126 - max(e, minExponent)), rounded to nearest even, of magnitude at most 2^bits.
type Kernels struct {
	// Exponents raises exponents to those of x.
	Exponents func(exponents []byte, x []float32)
	// Quantize sets q to x's integers, or adds them to q. No exponent is 255.
	Quantize func(q []int32, x []float32, exponents []byte, bits int, add bool)
	// Dequantize sets x to what the integers stand for, rounded to nearest even.
	Dequantize func(x []float32, q []int32, exponents []byte, bits int)
	// Add adds src to dst, of equal length.
	Add func(dst, src []int32)

	// The loops of sums in 16 bits. A block's integers travel in Pairs: the halves of one integer hold an element of the
	// block's first half and one of its second, as upper*2^16 + lower. Pairs add up like other integers, as long as the
	// sums of their halves stay within 16 bits.

	// Accumulate adds src to dst, of equal length.
	Accumulate func(dst, src []float32)
	// Shorten sets pairs to x's integers and leaves in x what rounding took away. No exponent is 255, bits is at most 14.
	Shorten func(pairs []int32, x []float32, exponents []byte, bits int)
	// Lengthen sets x to what the pairs stand for.
	Lengthen func(x []float32, pairs []int32, exponents []byte, bits int)
}

// WithDefaults returns k with plain loops in the place of nil functions.
func (k Kernels) WithDefaults() Kernels {
	if k.Exponents == nil {
		k.Exponents = plainExponents
	}
	if k.Quantize == nil {
		k.Quantize = plainQuantize
	}
	if k.Dequantize == nil {
		k.Dequantize = plainDequantize
	}
	if k.Add == nil {
		k.Add = plainAdd
	}
	if k.Accumulate == nil {
		k.Accumulate = plainAccumulate
	}
	if k.Shorten == nil {
		k.Shorten = plainShorten
	}
	if k.Lengthen == nil {
		k.Lengthen = plainLengthen
	}
	return k
}

// minExponent keeps every factor a normal float32: a block of smaller values is counted in steps of 2^(-94-bits), which
// makes zeros of denormals.
const minExponent = 32

// notFinite is the exponent of a block that has NaN or Inf.
const notFinite = 255

func plainExponents(exponents []byte, x []float32) {
	for b := range exponents {
		var greatest uint32
		for _, v := range x[b*Block : min((b+1)*Block, len(x))] {
			greatest = max(greatest, math.Float32bits(v)&^(1<<31))
		}
		exponents[b] = max(exponents[b], byte(greatest>>23))
	}
}

func plainQuantize(q []int32, x []float32, exponents []byte, bits int, add bool) {
	for b, e := range exponents {
		lo, hi := b*Block, min((b+1)*Block, len(x))
		factor := power(bits + 126 - max(int(e), minExponent))
		q := q[lo:hi]
		for i, v := range x[lo:hi] {
			r := int32(math.RoundToEven(float64(v * factor)))
			if add {
				r += q[i]
			}
			q[i] = r
		}
	}
}

func plainDequantize(x []float32, q []int32, exponents []byte, bits int) {
	for b, e := range exponents {
		lo, hi := b*Block, min((b+1)*Block, len(x))
		factor := power(max(int(e), minExponent) - 126 - bits)
		x := x[lo:hi]
		for i, v := range q[lo:hi] {
			x[i] = float32(v) * factor
		}
	}
}

func plainAdd(dst, src []int32) {
	dst = dst[:len(src)]
	for i, v := range src {
		dst[i] += v
	}
}

func plainAccumulate(dst, src []float32) {
	dst = dst[:len(src)]
	for i, v := range src {
		dst[i] += v
	}
}

// Pairs is the number of pairs in which n elements travel, from the beginning of a block on.
func Pairs(n int) int { return n/Block*(Block/2) + (n%Block+1)/2 }

// halves calls use for each block of a vector of n elements: [lo, hi) are its elements, at is its first pair. Pair at+i
// holds elements lo+i and lo+half+i; there may be no such last element.
func halves(n int, use func(block, lo, half, hi, at int)) {
	for b := range blocks(n) {
		lo, hi := b*Block, min((b+1)*Block, n)
		use(b, lo, (hi-lo+1)/2, hi, lo/2)
	}
}

func plainShorten(pairs []int32, x []float32, exponents []byte, bits int) {
	halves(len(x), func(block, lo, half, hi, at int) {
		n := bits + 126 - max(int(exponents[block]), minExponent)
		there, back := power(n), power(-n)
		short := func(i int) int32 {
			r := float32(math.RoundToEven(float64(x[i] * there)))
			x[i] -= r * back
			return int32(r)
		}
		for i := range half {
			pairs[at+i] = short(lo+i) << 16
			if lo+half+i < hi {
				pairs[at+i] += short(lo + half + i)
			}
		}
	})
}

func plainLengthen(x []float32, pairs []int32, exponents []byte, bits int) {
	halves(len(x), func(block, lo, half, hi, at int) {
		back := power(max(int(exponents[block]), minExponent) - 126 - bits)
		for i, p := range pairs[at : at+half] {
			lower := int32(int16(p))
			x[lo+i] = float32((p-lower)>>16) * back
			if lo+half+i < hi {
				x[lo+half+i] = float32(lower) * back
			}
		}
	})
}

// power returns 2^n for -126 <= n <= 127.
func power(n int) float32 { return math.Float32frombits(uint32(n+127) << 23) }
