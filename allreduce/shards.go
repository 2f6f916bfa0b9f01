package allreduce

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/bits"
	"slices"
)

// ErrNotFinite is wrapped by SumShards when a shard has NaN or Inf, or the sum does not fit float32; the group stays whole.
var ErrNotFinite = errors.New("a value is no finite number")

// NotFiniteError says where the first value was that is no number: the same on every member. It wraps ErrNotFinite.
type NotFiniteError struct {
	Rank    int // who brought it; -1: every term is finite, only their sum is not
	Shard   int // its number, from Terms.Shards
	Element int // index in the vector
}

func (e *NotFiniteError) Error() string {
	if e.Rank < 0 {
		return fmt.Sprintf("element %d of the sum over shards exceeds float32", e.Element)
	}
	return fmt.Sprintf("rank %d's shard %d has a value that is no number (element %d)", e.Rank, e.Shard, e.Element)
}

func (e *NotFiniteError) Unwrap() error { return ErrNotFinite }

// Block is the number of elements that share an exponent, counted from the beginning of the vector. Whatever must survive
// a sum exactly starts at a multiple of Block and shares its block with nothing large: integers do, as long as each is
// below 2^(31-bits.Len(Total)) in magnitude, and so is everything in their block, and their sum is at most 2^24.
const Block = 256

// MaxShards is the greatest Terms.Total.
const MaxShards = 1<<16 - 1

// Terms are what one member brings to a sum over the shards of a step.
type Terms struct {
	// Total is the number of shards of the whole step, over all members: the same on every member, at most MaxShards.
	Total int
	// Shards are the numbers of this member's shards, for errors; none where it has no shards.
	Shards []int
	// Vectors are the shards' vectors, as long as out each; SumShards reads them only.
	Vectors [][]float32
	// Source reads the shards' vectors in place of Vectors and Kernels, where a device has them; nil: Vectors.
	Source Source
	// Ready blocks until the elements from lo to the end of all Vectors are final. lo falls from call to call and ends
	// with 0. It is called from a goroutine of SumShards that ends before SumShards does. Nil: everything is final.
	Ready func(ctx context.Context, lo int) error
	// Bucket is the greatest number of elements whose exponents are agreed on in one operation, a multiple of Block and
	// the same on every member; 0: 1 MB, and from 16 members on Size/8 MB.
	Bucket int
	// Kernels are the loops over elements; nil functions: plain Go.
	Kernels Kernels
	// Residual, if it is not empty, asks that elements [0, len(Residual)) travel in 16 bits instead of 32, on every member
	// alike; its length is a multiple of Block, or the vector's. What rounding leaves out of this member's contribution
	// is kept there and added to the next one, so that it is late but not lost. Zeros at first; it is the caller's, who
	// passes it on from sum to sum and starts again with zeros after an error. All members still get the same bits, but
	// these depend on which member brings which shards.
	Residual []float32
}

// defaultBucket is 1 MB of a vector, up to 15 members: what is read for its exponents is still in a cache when it is summed.
const defaultBucket = 1 << 18

// SumShards sets out to the sum of the vectors of all shards of all members. All members call it with vectors of one
// length; each of them gets the same bits, and they depend on the shards alone: not on which member brings which, on how
// many members there are, or on any order. To that end the blocks of a vector share an exponent, that of the greatest
// magnitude in any shard, and every shard is rounded on its own to integers of 31-bits.Len(t.Total) bits and a sign:
// integers add up to the same whatever comes first. The error of a sum is at most half a unit of these for every shard,
// and its own rounding to float32.
//
// It goes through the vector from its end to its beginning; the Max of one bucket overlaps with the Sum of those before.
// out must not overlap any vector. The group's errors are Group's; after a NotFiniteError, which all members return, the
// group is whole and out undefined. An error of t.Ready leaves the group broken, one about t itself leaves it whole.
func SumShards(ctx context.Context, g Group, t Terms, out []float32) error {
	if err := t.validate(len(out), g.Size()); err != nil {
		return err
	}
	s := shardSum{Terms: t, group: g, out: out, bits: 31 - bits.Len(uint(t.Total)), pairs: blocks(Pairs(len(t.Residual))) * Block,
		exponents: make([]byte, blocks(len(out))), known: len(out)}
	if s.Kernels = t.Kernels.WithDefaults(); s.Source == nil {
		s.Source = here{&s.Terms}
	}
	many := max(1, g.Size()/8) // a bucket's agreement takes as many messages one after another as there are members
	s.first = firstBucket * many
	if s.Bucket == 0 {
		s.Bucket = defaultBucket * many
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// Buckets whose exponents are known. There is room for all: a member that waits for a piece of the sum must go on
	// agreeing on exponents meanwhile, which those that make that piece may need first.
	scaled := make(chan int, s.buckets())
	agreed := make(chan error, 1)
	go func() {
		defer close(scaled)
		agreed <- s.agree(ctx, scaled)
	}()
	err := s.sum(ctx, scaled)
	if err != nil {
		cancel() // ends a Ready that waits
	}
	for range scaled { // it ends when agree does
	}
	if failed := <-agreed; err == nil || errors.Is(err, errNoExponents) || failed != nil && !errors.Is(failed, context.Canceled) && !errors.Is(failed, ErrBroken) {
		err = failed // sum only saw what followed from it
	}
	if err != nil {
		g.Close()
		return err
	}
	return s.finite(ctx)
}

// stride is the number of elements that are quantised at once, shard after shard.
const stride = 16 * Block

// validate checks t against the length of the result and the number of members.
func (t Terms) validate(length, size int) error {
	switch {
	case t.Total < 1 || t.Total > MaxShards:
		return fmt.Errorf("sum %d shards: want 1 to %d", t.Total, MaxShards)
	case t.Source != nil && (len(t.Vectors) > 0 || len(t.Residual) > 0 || len(t.Shards) > t.Total):
		return fmt.Errorf("sum %d shards of a source, %d vectors, %d residuals in a step of %d shards: a source goes alone", len(t.Shards), len(t.Vectors), len(t.Residual), t.Total)
	case t.Source == nil && (len(t.Vectors) > t.Total || len(t.Vectors) != len(t.Shards)):
		return fmt.Errorf("sum %d vectors named by %d numbers in a step of %d shards", len(t.Vectors), len(t.Shards), t.Total)
	case len(t.Residual) > length || len(t.Residual)%Block != 0 && len(t.Residual) != length:
		return fmt.Errorf("sum the first %d of %d elements in 16 bits: want a multiple of %d", len(t.Residual), length, Block)
	case len(t.Residual) > 0 && shortBits(size) < 4:
		return fmt.Errorf("sum over %d members in 16 bits: too many of them", size)
	case t.Bucket < 0 || t.Bucket%Block != 0:
		return fmt.Errorf("sum in buckets of %d elements: want a multiple of %d", t.Bucket, Block)
	}
	for i, v := range t.Vectors {
		if len(v) != length {
			return fmt.Errorf("shard %d has %d elements, the result %d: %w", t.Shards[i], len(v), length, ErrLength)
		}
	}
	return nil
}

// blocks is the number of blocks that n elements fill, the last perhaps in part.
func blocks(n int) int { return (n + Block - 1) / Block }

// shardSum is one SumShards under way.
type shardSum struct {
	Terms
	group     Group
	out       []float32
	first     int    // elements of the first bucket, if Bucket is larger
	bits      int    // magnitude of a shard's integers
	pairs     int    // integers in which Residual's elements travel, filled up to a multiple of Block
	exponents []byte // one a block of out
	known     int    // exponents from this element on are those of the group, as far as sum knows
	bad       bool   // some block is not finite
}

// below is the beginning of the bucket that ends before element hi. The first buckets are small, so that the sum can begin.
func (s *shardSum) below(hi int) int {
	n := s.Bucket
	for n > s.first && n > 2*(len(s.out)-hi) {
		n /= 2
	}
	n = n / Block * Block
	lo := max(0, (hi-1)/Block*Block-n+Block)
	if hi > len(s.Residual) {
		lo = max(lo, len(s.Residual))
	}
	return lo
}

// buckets is the number of buckets.
func (s *shardSum) buckets() int {
	n := 0
	for hi := len(s.out); hi > 0; hi = s.below(hi) {
		n++
	}
	return n
}

// firstBucket is the number of elements of the first bucket where Bucket is larger, up to 15 members.
const firstBucket = 1 << 16

// agree finds the exponents of all buckets, the last bucket first, and sends where each bucket begins.
func (s *shardSum) agree(ctx context.Context, scaled chan<- int) error {
	for hi := len(s.out); hi > 0; {
		lo := s.below(hi)
		if s.Ready != nil {
			if err := s.Ready(ctx, lo); err != nil {
				return fmt.Errorf("wait for elements %d to %d: %w", lo, hi, err)
			}
		}
		e := s.exponents[lo/Block : blocks(hi)]
		if lo < len(s.Residual) {
			s.gather(e, lo, hi)
		} else if err := s.Source.Exponents(e, lo, hi); err != nil {
			return fmt.Errorf("exponents of elements %d to %d: %w", lo, hi, err)
		}
		if err := s.group.Max(ctx, e); err != nil {
			return err
		}
		scaled <- lo // there is room
		hi = lo
	}
	return nil
}

// errNoExponents is why a sum ends when agree has.
var errNoExponents = errors.New("no exponents")

// sum adds up what has exponents: in one operation where the group can, else bucket by bucket.
func (s *shardSum) sum(ctx context.Context, scaled <-chan int) error {
	wait := func(lo int) error {
		for s.known > lo {
			next, ok := <-scaled
			if !ok {
				return errNoExponents
			}
			s.known = next
		}
		return nil
	}
	if g, ok := s.group.(Streamer); ok {
		return g.SumStream(ctx, s.place(len(s.out)), Stream{Store: s.store, Load: func(q []int32, at int) error {
			if err := wait(s.element(at)); err != nil {
				return err
			}
			return s.load(q, at)
		}})
	}
	room := make([]int32, min(s.Bucket, len(s.out)))
	for hi := len(s.out); hi > 0; hi = s.known {
		if wait(hi-1) != nil {
			return nil // agree knows why
		}
		at := s.place(s.known)
		q := room[:s.end(hi)-at]
		if err := s.load(q, at); err != nil {
			return err
		}
		if err := s.group.Sum(ctx, q); err != nil {
			return err
		}
		s.store(q, at)
	}
	return nil
}

// load sets q to this member's integers from a place on.
func (s *shardSum) load(q []int32, at int) error {
	whole := q
	if pairs := min(len(q), s.pairs-at); pairs > 0 {
		s.shorten(q[:pairs], at)
		whole, at = q[pairs:], s.pairs
	}
	if len(whole) == 0 {
		return nil
	}
	lo := s.element(at)
	e := s.exponents[lo/Block:][:blocks(len(whole))]
	if slices.Contains(e, notFinite) {
		s.bad = true
		clear(whole)
		return nil
	}
	if err := s.Source.Quantize(whole, e, lo, s.bits); err != nil {
		return fmt.Errorf("quantise elements %d to %d: %w", lo, lo+len(whole), err)
	}
	return nil
}

// store sets the result to what the sums from a place on stand for.
func (s *shardSum) store(q []int32, at int) {
	if pairs := min(len(q), s.pairs-at); pairs > 0 {
		s.lengthen(q[:pairs], at)
		q, at = q[pairs:], s.pairs
	}
	lo := s.element(at)
	s.Kernels.Dequantize(s.out[lo:][:len(q)], q, s.exponents[lo/Block:][:blocks(len(q))], s.bits)
}

// finite returns an error, the same on all members, if a term or the sum is no finite number.
func (s *shardSum) finite(ctx context.Context) error {
	if !s.bad {
		return s.overflow()
	}
	found := where{element: math.MaxUint64}
	for i, shard := range s.Shards {
		v, err := s.Source.Vector(i)
		if err != nil {
			s.group.Close()
			return fmt.Errorf("find what is no number: %w", err)
		}
		for j, x := range v {
			at := where{element: uint64(j), shard: uint64(shard)}
			if !at.before(found) {
				break
			}
			if math.Float32bits(x)>>23&notFinite == notFinite {
				found = at
			}
		}
	}
	all, err := s.group.Exchange(ctx, found.bytes())
	if err != nil {
		return err
	}
	first, rank := where{element: math.MaxUint64}, 0
	for r, m := range all {
		w, ok := parseWhere(m)
		if !ok {
			s.group.Close()
			return fmt.Errorf("%w: %w", ErrBroken, &PeerError{Rank: r, Kind: KindProtocol, Err: errors.New("a report of a value that is no number has the wrong length")})
		}
		if w.before(first) {
			first, rank = w, r
		}
	}
	if first.element == math.MaxUint64 { // finite terms, whose sum in float32 is not
		return &NotFiniteError{Rank: -1}
	}
	return &NotFiniteError{Rank: rank, Shard: int(first.shard), Element: int(first.element)}
}

// overflow looks for sums above float32's range, where the exponents leave room for them.
func (s *shardSum) overflow() error {
	for b, e := range s.exponents {
		if int(e)+bits.Len(uint(s.Total)) < notFinite {
			continue
		}
		lo := b * Block
		for i, x := range s.out[lo:min(lo+Block, len(s.out))] {
			if math.IsInf(float64(x), 0) {
				return &NotFiniteError{Rank: -1, Element: lo + i}
			}
		}
	}
	return nil
}

// where is a place of a value that is no number; the greatest element stands for none.
type where struct{ element, shard uint64 }

func (w where) before(o where) bool {
	return w.element < o.element || w.element == o.element && w.shard < o.shard
}

func (w where) bytes() []byte {
	return binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(nil, w.element), w.shard)
}

func parseWhere(b []byte) (where, bool) {
	if len(b) != 16 {
		return where{}, false
	}
	return where{binary.LittleEndian.Uint64(b), binary.LittleEndian.Uint64(b[8:])}, true
}
