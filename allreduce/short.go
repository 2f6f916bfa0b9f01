package allreduce

import (
	"math/bits"
	"slices"
)

// Elements that travel in 16 bits come first in a vector, and so do their pairs among the integers that travel: place,
// element and end say which integer stands for which element.

// place is where element lo travels; it is the beginning of a block.
func (s *shardSum) place(lo int) int {
	if lo < len(s.Residual) {
		return lo / 2
	}
	return s.pairs + lo - len(s.Residual)
}

// element is the first element that travels from a place on.
func (s *shardSum) element(at int) int {
	if at < s.pairs {
		return min(2*at, len(s.Residual))
	}
	return len(s.Residual) + at - s.pairs
}

// end is where the last element before hi has travelled. Where that is in a pair, no more than it is in this operation.
func (s *shardSum) end(hi int) int {
	if hi <= len(s.Residual) {
		return Pairs(hi)
	}
	return s.place(hi)
}

// gather turns Residual[lo:hi] into what this member contributes: the sum of its shards, and what was left out before.
// It raises exponents to these elements' own.
func (s *shardSum) gather(exponents []byte, lo, hi int) {
	for at := lo; at < hi; at += stride {
		sum := s.Residual[at:min(at+stride, hi)]
		for _, v := range s.Vectors {
			s.Kernels.Accumulate(sum, v[at:][:len(sum)])
		}
		s.Kernels.Exponents(exponents[(at-lo)/Block:][:blocks(len(sum))], sum)
	}
}

// shortBits is the magnitude of a member's integers such that n of them add up within 16 bits.
func shortBits(n int) int { return 15 - bits.Len(uint(n)) }

// shorten sets pairs to those from a place on, and leaves in Residual what they do not say.
func (s *shardSum) shorten(pairs []int32, at int) {
	x, e := s.short(s.Residual, pairs, at)
	if clear(pairs[Pairs(len(x)):]); slices.Contains(e, notFinite) {
		s.bad = true
		clear(pairs)
	} else {
		s.Kernels.Shorten(pairs[:Pairs(len(x))], x, e, shortBits(s.group.Size()))
	}
}

// lengthen sets the result to what the sums of pairs from a place on stand for.
func (s *shardSum) lengthen(pairs []int32, at int) {
	x, e := s.short(s.out, pairs, at)
	s.Kernels.Lengthen(x, pairs[:Pairs(len(x))], e, shortBits(s.group.Size()))
}

// short is the part of a vector that travels in pairs from a place on, and its exponents.
func (s *shardSum) short(of []float32, pairs []int32, at int) (x []float32, exponents []byte) {
	lo := s.element(at)
	hi := min(lo+2*len(pairs), len(s.Residual))
	return of[lo:hi], s.exponents[lo/Block : blocks(hi)]
}
