package attack

// Purposes of what is drawn, so that two uses for the same sample share nothing.
const (
	drawStart uint64 = iota + 1
	drawLength
	drawDiverse
	drawSquare
	drawStage
)

// Keys returns the keys of samples ids in the state of a run that moment names, such as a step: pure functions of the three.
func Keys(seed, moment uint64, ids []int32) []uint64 {
	keys := make([]uint64, len(ids))
	for i, id := range ids {
		keys[i] = mix(mix(mix(seed)^moment) ^ uint64(uint32(id)))
	}
	return keys
}

// mix is SplitMix64's output function after one step (Steele, Lea, Flood, 2014).
func mix(z uint64) uint64 {
	z += 0x9e3779b97f4a7c15
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// drawn derives the keys of one use: a purpose in a restart and a step.
func drawn(keys []uint64, purpose uint64, restart, step int) []uint64 {
	use := mix(purpose<<48 ^ uint64(restart)<<24 ^ uint64(step))
	out := make([]uint64, len(keys))
	for i, k := range keys {
		out[i] = mix(k ^ use)
	}
	return out
}

// stream is a generator for what is drawn on the host: the i-th number of a key.
type stream struct{ key, at uint64 }

func (r *stream) next() uint64 {
	r.at++
	return mix(r.key + r.at*0x9e3779b97f4a7c15)
}

// float is uniform in [0, 1).
func (r *stream) float() float64 { return float64(r.next()>>11) * 0x1p-53 }

// intn is uniform in [0, n), 0 where n is less than 2; the bias of 2^-53 n is nothing to an attack.
func (r *stream) intn(n int) int { return int(r.float() * float64(max(n, 1))) }

// sign is -1 or 1.
func (r *stream) sign() float64 { return float64(r.next()>>63)*2 - 1 }
