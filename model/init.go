package model

import (
	"encoding/binary"
	"math"

	"mp/ops"
)

// First values are drawn from the distributions of PyTorch's defaults (torch.nn.init), by a stream of our own: value i of
// a parameter is a function of (seed, name, i), whatever else the model holds and whoever draws it.

// stream is SplitMix64 (Steele, Lea & Flood, 2014) started from a hash of its keys.
type stream struct{ state uint64 }

const gamma = 0x9e3779b97f4a7c15

func newStream(seed uint64, name string) *stream {
	h := uint64(0xcbf29ce484222325) // FNV-1a
	for _, c := range []byte(name) {
		h = (h ^ uint64(c)) * 0x100000001b3
	}
	return &stream{mix(mix(seed+gamma) ^ h)}
}

// mix is SplitMix64's finaliser: every input bit reaches every output bit.
func mix(z uint64) uint64 {
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// open returns a number in (-1, 1), uniform and symmetric: an odd multiple of 2^-52.
func (r *stream) open() float64 {
	r.state += gamma
	return (float64(mix(r.state)>>12)+0.5)*0x1p-51 - 1
}

// normal returns a standard normal number, by the inverse of its distribution function.
func (r *stream) normal() float64 { return math.Sqrt2 * math.Erfinv(r.open()) }

// mixKeys derives a layer's own keys from those of the samples.
func mixKeys(keys []uint64, layer uint64) []uint64 {
	own := make([]uint64, len(keys))
	for i, k := range keys {
		own[i] = mix(k + (layer+1)*gamma)
	}
	return own
}

// initialiser fills the first values of a parameter.
type initialiser func(r *stream, v []float32)

func constant(c float32) initialiser {
	return func(_ *stream, v []float32) {
		for i := range v {
			v[i] = c
		}
	}
}

// uniform in (-bound, bound).
func uniform(bound float64) initialiser {
	return func(r *stream, v []float32) {
		for i := range v {
			v[i] = float32(bound * r.open())
		}
	}
}

// kaimingUniform is the default of PyTorch's Conv2d and Linear, kaiming_uniform_(a=sqrt(5)): bound
// sqrt(6 / ((1+a^2) fan_in)) = 1/sqrt(fan_in), which is their bias's bound too.
func kaimingUniform(fanIn int64) initialiser { return uniform(1 / math.Sqrt(float64(fanIn))) }

// kaimingNormal is kaiming_normal_(mode="fan_out", nonlinearity="relu") (He et al., 2015): deviation sqrt(2 / fan_out).
func kaimingNormal(fanOut int64) initialiser {
	std := math.Sqrt(2 / float64(fanOut))
	return func(r *stream, v []float32) {
		for i := range v {
			v[i] = float32(std * r.normal())
		}
	}
}

// truncNormal is PyTorch's (and timm's) trunc_normal_(std=std), whose bounds -2 and 2 are values, not deviations: at the
// usual std of 0.02 nothing is cut off.
func truncNormal(std float64) initialiser {
	cut := math.Erf(2 / std / math.Sqrt2) // P(|value| < 2)
	return func(r *stream, v []float32) {
		for i := range v {
			x := std * math.Sqrt2 * math.Erfinv(cut*r.open())
			v[i] = float32(min(max(x, -2), 2))
		}
	}
}

// encode returns the values as little-endian elements of d, Float32 or Float64.
func encode(v []float32, d ops.DType) []byte {
	out := make([]byte, 0, len(v)*ops.SizeOf(d))
	for _, x := range v {
		if d == ops.Float64 {
			out = binary.LittleEndian.AppendUint64(out, math.Float64bits(float64(x)))
		} else {
			out = binary.LittleEndian.AppendUint32(out, math.Float32bits(x))
		}
	}
	return out
}
