package data

import (
	"fmt"
	"math"
	"math/bits"
	"slices"
)

// Sampler says which images form which batch: a pure function of (seed, epoch, step), so that any worker, also one that
// joins late or resumes, computes the same batches without having seen the earlier ones. It holds no state and, but for
// images that are held out, no memory that grows with their number, and may be used from any number of goroutines.
type Sampler struct {
	seed     uint64
	n, batch int
	dropLast bool
	shuffle  bool

	list int     // images of which n are visited
	held []int32 // those left out, ascending
	only []int32 // all that are visited, in their order; nil: see held
}

// NewSampler returns the sampler that visits n images in another order each epoch, batch at a time. The last batch of an
// epoch holds what is left, or is dropped when it would be incomplete and dropLast is set. The error is ErrData when there
// would be no batch at all.
func NewSampler(seed uint64, n, batch int, dropLast bool) (*Sampler, error) {
	return NewSamplerWithout(nil, seed, n, batch, dropLast)
}

// NewSamplerWithout is NewSampler for a list of which some images, ascending, are held out: it visits the others only, and
// its sizes are theirs.
func NewSamplerWithout(held []int32, seed uint64, list, batch int, dropLast bool) (*Sampler, error) {
	n := list - len(held)
	if n < 1 || n > math.MaxInt32 {
		return nil, badf("sample %d images: need 1 to %d", n, math.MaxInt32)
	}
	if batch < 1 {
		return nil, badf("sample batches of %d images: need at least 1", batch)
	}
	if dropLast && batch > n {
		return nil, badf("sample batches of %d out of %d images, dropping incomplete ones: nothing is left; choose a batch size of at most %d", batch, n, n)
	}
	return &Sampler{seed: seed, n: n, batch: batch, dropLast: dropLast, shuffle: true, list: list, held: held}, nil
}

// NewSequence returns the sampler that visits n images in their own order, every one of them, as validation does.
func NewSequence(n, batch int) (*Sampler, error) {
	s, err := NewSampler(0, n, batch, false)
	if err != nil {
		return nil, err
	}
	s.shuffle = false
	return s, nil
}

// NewSequenceOf returns the sampler that visits only those images of a list, in the order given.
func NewSequenceOf(only []int32, list, batch int) (*Sampler, error) {
	s, err := NewSequence(len(only), batch)
	if err != nil {
		return nil, err
	}
	s.list, s.only = list, only
	return s, nil
}

// Images is the number of images of an epoch, those of an incomplete batch included.
func (s *Sampler) Images() int { return s.n }

// Hash is the sum of the fingerprints of the images of an epoch, modulo 2^64.
func (s *Sampler) Hash() uint64 {
	sum := uint64(0)
	for i := range s.n {
		sum += Fingerprint(s.image(uint64(i)))
	}
	return sum
}

// image is the one at place i of those that are visited, before they are shuffled.
func (s *Sampler) image(i uint64) int32 {
	switch {
	case s.only != nil:
		return s.only[i]
	case s.held != nil:
		return kept(s.held, int32(i))
	}
	return int32(i)
}

// Steps is the number of batches of an epoch, at least 1.
func (s *Sampler) Steps() int {
	if s.dropLast {
		return s.n / s.batch
	}
	return (s.n-1)/s.batch + 1
}

// At returns the image at position i of an epoch's order, 0 <= i < Images(), in constant time.
func (s *Sampler) At(epoch, i int) int32 {
	if !s.shuffle {
		return s.image(uint64(i))
	}
	p := newPermutation(s.seed, epoch, s.n)
	return s.image(p.at(uint64(i)))
}

// Order returns the whole order of an epoch: a permutation of the images that are visited, incomplete batch included.
func (s *Sampler) Order(epoch int) []int32 { return s.appendSpan(nil, epoch, 0, s.n) }

// Batch returns the images of one step, 0 <= step < Steps().
func (s *Sampler) Batch(epoch, step int) []int32 { return s.Shard(epoch, step, 0, 1) }

// Shard returns part shard of the shards contiguous parts of a step's batch. Their sizes differ by at most one, some are
// empty when there are more shards than images, and one after another they are the batch.
func (s *Sampler) Shard(epoch, step, shard, shards int) []int32 {
	return s.appendShard(nil, epoch, step, shard, shards)
}

// Size is the number of images of Shard(epoch, step, shard, shards), in any epoch.
func (s *Sampler) Size(step, shard, shards int) int {
	from, to := s.span(step, shard, shards)
	return to - from
}

// span is where a shard lies in an epoch's order.
func (s *Sampler) span(step, shard, shards int) (from, to int) {
	if step < 0 || step >= s.Steps() || shard < 0 || shard >= shards {
		panic(fmt.Sprintf("data: shard %d of %d of step %d of %d", shard, shards, step, s.Steps()))
	}
	first := step * s.batch
	size := min(s.batch, s.n-first)
	return first + size*shard/shards, first + size*(shard+1)/shards
}

// appendShard is Shard without a new slice for every call.
func (s *Sampler) appendShard(ids []int32, epoch, step, shard, shards int) []int32 {
	from, to := s.span(step, shard, shards)
	return s.appendSpan(ids, epoch, from, to)
}

// appendSpan appends the images at positions from..to-1 of an epoch's order.
func (s *Sampler) appendSpan(ids []int32, epoch, from, to int) []int32 {
	ids = slices.Grow(ids, to-from)
	if !s.shuffle {
		for i := from; i < to; i++ {
			ids = append(ids, s.image(uint64(i)))
		}
		return ids
	}
	p := newPermutation(s.seed, epoch, s.n)
	for i := from; i < to; i++ {
		ids = append(ids, s.image(p.at(uint64(i))))
	}
	return ids
}

// permutation is a keyed bijection of 0..n-1 that needs no table: a Feistel network on pairs (l, r) with l < a and
// r < b, where a*b is the least such product above n, walked until it falls below n (Black and Rogaway, "Ciphers with
// arbitrary finite domains", CT-RSA 2002, sections 3 and 4). Less than 1 + 1/sqrt(n) walks are needed on average.
type permutation struct {
	n, a, b uint64
	keys    [feistelRounds]uint64
}

// feistelRounds is even, so that both halves are mixed as often.
const feistelRounds = 10

func newPermutation(seed uint64, epoch, n int) permutation {
	p := permutation{n: uint64(n)}
	p.a = uint64(math.Sqrt(float64(n)))
	for p.a*p.a < p.n {
		p.a++
	}
	p.b = (p.n-1)/p.a + 1
	r := seeded([]uint64{seed, uint64(epoch), purposeOrder})
	for i := range p.keys {
		p.keys[i] = r.Uint64()
	}
	return p
}

func (p *permutation) at(i uint64) uint64 {
	for {
		l, r := i/p.b, i%p.b
		for k := 0; k < feistelRounds; k += 2 {
			if l += below(mix64(r^p.keys[k]), p.a); l >= p.a {
				l -= p.a
			}
			if r += below(mix64(l^p.keys[k+1]), p.b); r >= p.b {
				r -= p.b
			}
		}
		if i = l*p.b + r; i < p.n {
			return i
		}
	}
}

// below maps 64 random bits to 0..n-1.
func below(u, n uint64) uint64 {
	hi, _ := bits.Mul64(u, n)
	return hi
}
