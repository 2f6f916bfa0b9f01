package training

import "math"

// Free training's perturbation moves by eps and stays within eps, so each of its values is -eps, 0 or eps: two bits.

// signsPerWord is how many signs an int32 holds.
const signsPerWord = 16

// Words is how many int32 hold n signs.
func Words(n int) int { return (n + signsPerWord - 1) / signsPerWord }

// PackSigns writes the signs of values into Words(len(values)) words: 0, 1 for above zero, 2 for below.
func PackSigns(words []int32, values []float32) {
	for w := range words {
		var bits uint32
		for i, v := range values[w*signsPerWord : min(len(values), (w+1)*signsPerWord)] {
			b := math.Float32bits(v)
			rest := b << 1 // 0 for a value of 0; no branch, which would be a guess for every value
			bits |= (rest | -rest) >> 31 << (b >> 31) << (2 * i)
		}
		words[w] = int32(bits)
	}
}

// UnpackSigns is PackSigns's inverse: values are -1, 0 or 1.
func UnpackSigns(values []float32, words []int32) {
	signs := [4]float32{0, 1, -1, 0}
	for i := range values {
		values[i] = signs[uint32(words[i/signsPerWord])>>(2*(i%signsPerWord))&3]
	}
}
