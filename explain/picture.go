package explain

import (
	"math"
	"slices"
)

// Legend: H, W height and width of the image. A map is H x W numbers, row by row; a picture H x W x 3 bytes, RGB.

// brightest is the quantile of a map that is painted as its largest value: a few outliers must not darken the rest.
const brightest = .995

// Heat paints a map from black over purple and orange to pale yellow, its smallest value black.
func Heat(m []float32) []byte {
	out := make([]byte, 0, 3*len(m))
	for _, v := range stretched(m) {
		r, g, b := heat(v)
		out = append(out, r, g, b)
	}
	return out
}

// Blend paints a map over a picture: the picture in grey where the map is low, in the map's colours where it is high.
func Blend(picture []byte, m []float32) []byte {
	out := make([]byte, len(picture))
	for i, v := range stretched(m) {
		r, g, b := heat(v)
		share := .15 + .6*v
		grey := .7 * luminance(picture[3*i:])
		for c, h := range [3]byte{r, g, b} {
			out[3*i+c] = byte((1-share)*grey + share*float64(h) + .5)
		}
	}
	return out
}

// Red is the reference's overlay: the picture, red where the map exceeds twice its mean.
func Red(picture []byte, m []float32) []byte {
	var sum float64
	for _, v := range m {
		sum += float64(v)
	}
	limit := 2 * sum / float64(len(m))
	out := slices.Clone(picture)
	for i, v := range m {
		if float64(v) > limit {
			out[3*i] = 255
			out[3*i+1] /= 3
			out[3*i+2] /= 3
		}
	}
	return out
}

// stretched maps a map to [0, 1]; all of it to 0 where it is flat or not finite.
func stretched(m []float32) []float64 {
	sorted := slices.Clone(m)
	slices.Sort(sorted) // NaN first
	out := make([]float64, len(m))
	if len(m) == 0 {
		return out
	}
	low, high := float64(sorted[0]), float64(sorted[int(brightest*float64(len(m)-1))])
	if span := high - low; span > 0 && !math.IsInf(span, 0) {
		for i, v := range m {
			out[i] = min((float64(v)-low)/span, 1)
		}
	}
	return out
}

func luminance(rgb []byte) float64 {
	return .299*float64(rgb[0]) + .587*float64(rgb[1]) + .114*float64(rgb[2])
}

// heat is the colour of v in [0, 1]. It grows brighter throughout, so that it reads the same in grey.
func heat(v float64) (r, g, b byte) {
	stops := [...][3]float64{{0, 0, 4}, {60, 15, 112}, {140, 41, 129}, {222, 73, 104}, {254, 159, 109}, {252, 253, 191}}
	at := v * float64(len(stops)-1)
	i := min(int(at), len(stops)-2)
	f := at - float64(i)
	mix := func(c int) byte { return byte(stops[i][c]*(1-f) + stops[i+1][c]*f + .5) }
	return mix(0), mix(1), mix(2)
}
