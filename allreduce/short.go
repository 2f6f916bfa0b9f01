package allreduce

import (
	"context"
	"math/bits"
)

// gather sets out[lo:hi] to what this member contributes to a bucket that travels in 16 bits: the sum of its shards, and
// what was left out before.
func (s *shardSum) gather(lo, hi int) {
	out := s.out[lo:hi]
	copy(out, s.Residual[lo:hi])
	for _, v := range s.Vectors {
		for i, x := range v[lo:hi] {
			out[i] += x
		}
	}
}

// shortBits is the magnitude of a member's integers such that n of them add up within 16 bits.
func shortBits(n int) int { return 15 - bits.Len(uint(n)) }

// sumShort adds up a bucket of which out holds this member's contribution. Two integers travel in the halves of one:
// members' halves add up within 16 bits, and so does a carry from the lower to the upper, which unpack takes back.
func (s *shardSum) sumShort(ctx context.Context, lo, hi int, e []byte) error {
	magnitude := shortBits(s.group.Size())
	out, q := s.out[lo:hi], integers(s.out[lo:hi])
	part := make([]int32, min(stride, len(out)))
	back := make([]float32, len(part))
	for at := 0; at < len(out); at += stride {
		to := min(at+stride, len(out))
		part, back, e := part[:to-at], back[:to-at], e[at/Block:blocks(to)]
		s.Kernels.Quantize(part, out[at:to], e, magnitude, false)
		s.Kernels.Dequantize(back, part, e, magnitude)
		left := s.Residual[lo+at : lo+to]
		for i, x := range out[at:to] {
			left[i] = x - back[i]
		}
		pack(q[at/2:], part) // behind what is still to be read
	}
	if err := s.group.Sum(ctx, q[:(len(q)+1)/2]); err != nil {
		return err
	}
	for at := (len(out) - 1) / stride * stride; at >= 0; at -= stride { // from the end: a half spreads over a whole
		to := min(at+stride, len(out))
		part := part[:to-at]
		unpack(part, q[at/2:])
		s.Kernels.Dequantize(out[at:to], part, e[at/Block:blocks(to)], magnitude)
	}
	return nil
}

// pack puts integers of 16 bits in pairs.
func pack(pairs, x []int32) {
	for i := 0; i+1 < len(x); i += 2 {
		pairs[i/2] = x[i]<<16 + x[i+1]
	}
	if n := len(x); n%2 == 1 {
		pairs[n/2] = x[n-1] << 16
	}
}

// unpack takes sums of pairs apart.
func unpack(x, pairs []int32) {
	for i := 0; i+1 < len(x); i += 2 {
		low := int32(int16(pairs[i/2]))
		x[i], x[i+1] = (pairs[i/2]-low)>>16, low
	}
	if n := len(x); n%2 == 1 {
		x[n-1] = pairs[n/2] >> 16
	}
}
