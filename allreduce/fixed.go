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

// power returns 2^n for -126 <= n <= 127.
func power(n int) float32 { return math.Float32frombits(uint32(n+127) << 23) }
