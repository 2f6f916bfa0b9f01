package data

import (
	"math/bits"
	"math/rand/v2"
)

// Purposes: the last key of a stream, so that two uses of randomness for the same sample never share draws.
const (
	purposeOrder   uint64 = 1 // order of samples in an epoch
	purposeAugment uint64 = 2 // geometry and colour of one sample
	purposeMix     uint64 = 3 // mixup and cutmix of one batch
	purposeSynth   uint64 = 4 // look of a synthetic class or image
)

// Rand is a stream of random numbers that is a pure function of its keys, such as (seed, epoch, sample, purpose): every
// worker that draws with the same keys gets the same numbers on any machine. The i-th word is a mixing of s + i*gamma,
// where s and gamma (odd) are hashes of the keys: SplitMix64 with a gamma per stream (Steele, Lea, Flood: "Fast splittable
// pseudorandom number generators", OOPSLA 2014). Not safe for concurrent use; make one per sample instead of sharing.
type Rand struct {
	state, gamma uint64
}

// NewRand returns the stream with these keys. Their order and number matter.
func NewRand(keys ...uint64) *Rand {
	r := seeded(keys)
	return &r
}

func seeded(keys []uint64) Rand {
	a, b := uint64(len(keys)), uint64(0x6a09e667f3bcc909)
	for _, k := range keys {
		a = mix64(a + k + 0x9e3779b97f4a7c15)
		b = mix64(b ^ bits.RotateLeft64(k, 32) ^ a)
	}
	gamma := mix64(b) | 1
	// A gamma whose bits hardly alternate gives neighbouring words in common; section 5 of the paper repairs it so.
	if bits.OnesCount64(gamma^gamma>>1) < 24 {
		gamma ^= 0xaaaaaaaaaaaaaaaa
	}
	return Rand{state: a, gamma: gamma}
}

// mix64 is a permutation of 64-bit words in which every input bit reaches every output bit (Stafford's variant 13).
func mix64(z uint64) uint64 {
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// Uint64 returns the next 64 random bits. Rand therefore is a source for math/rand/v2.
func (r *Rand) Uint64() uint64 {
	r.state += r.gamma
	return mix64(r.state)
}

// Float64 returns a multiple of 2^-53, uniform in [0, 1).
func (r *Rand) Float64() float64 {
	return float64(r.Uint64()>>11) * 0x1p-53
}

// IntN returns a uniform integer in [0, n) without bias. It panics if n < 1.
func (r *Rand) IntN(n int) int {
	if n < 1 {
		panic("data: Rand.IntN needs n of at least 1")
	}
	hi, lo := bits.Mul64(r.Uint64(), uint64(n))
	if lo < uint64(n) {
		for reject := -uint64(n) % uint64(n); lo < reject; {
			hi, lo = bits.Mul64(r.Uint64(), uint64(n))
		}
	}
	return int(hi)
}

// NormFloat64 returns a standard normal number, by the ziggurat of math/rand/v2: tables and products only, but for one
// comparison in a hundred, so the numbers do not depend on how a processor rounds a logarithm.
func (r *Rand) NormFloat64() float64 {
	return rand.New(r).NormFloat64()
}
