package membership

import "math"

// Fingerprint is 64 bits of an image's number: SplitMix64's finaliser (Stafford's variant 13) of id+1. It is
// data.Fingerprint, which membership may not import; both are held to the same table of values.
func Fingerprint(id int32) uint64 {
	z := uint64(id) + 1
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// heldOut is the sum of the fingerprints of those n of size images that a job holds out of training: of n equal stretches of
// the list, the image with the smallest fingerprint. It is data.HoldOut, which membership may not import; both are held to
// the same table of values. 0 where nothing would be left to train on: the workers refuse such a job.
func heldOut(size, n uint32) uint64 {
	sum := uint64(0)
	if n >= size {
		return sum
	}
	for k := range uint64(n) {
		least := uint64(math.MaxUint64)
		for id := k * uint64(size) / uint64(n); id < (k+1)*uint64(size)/uint64(n); id++ {
			least = min(least, Fingerprint(int32(id)))
		}
		sum += least
	}
	return sum
}

// fingerprints is the sum of the fingerprints of images 0..n-1, modulo 2^64.
func fingerprints(n uint32) uint64 {
	sum := uint64(0)
	for id := range n {
		sum += Fingerprint(int32(id))
	}
	return sum
}
