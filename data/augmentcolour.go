package data

import (
	"math"

	"mp/ops/pixel"
)

// jitter is how far colours may go: factors of 1-v to 1+v for brightness, contrast and saturation, a part v of a full
// turn either way for hue.
type jitter struct{ brightness, contrast, saturation, hue float64 }

// light is a change of colour: three factors, 1 for none, and a turn of hue, 0 for none.
type light struct{ brightness, contrast, saturation, hue float64 }

func (j jitter) draw(r *Rand) light {
	about := func(v float64) float64 { return 1 + v*(2*r.Float64()-1) }
	return light{about(j.brightness), about(j.contrast), about(j.saturation), about(j.hue) - 1}
}

// luma returns the weights of grey (ITU-R BT.601).
func luma() [3]float64 { return [3]float64{0.299, 0.587, 0.114} }

// matrix3 acts on (r, g, b) columns.
type matrix3 [3][3]float64

func (a matrix3) times(b matrix3) (c matrix3) {
	for i := range c {
		for j := range c[i] {
			for k := range b {
				c[i][j] += a[i][k] * b[k][j]
			}
		}
	}
	return c
}

// apply writes the change into the warp as one matrix: brightness, contrast about the record's mean grey, saturation, hue.
// All four are linear, so they compose; only the clipping that PIL does between them is left out.
func (l light) apply(w *pixel.Warp) {
	if l == (light{1, 1, 1, 0}) {
		return
	}
	var m matrix3 // saturation: away from grey
	grey := luma()
	for i := range m {
		for j := range m[i] {
			m[i][j] = (1 - l.saturation) * grey[j]
		}
		m[i][i] += l.saturation
	}
	if l.hue != 0 {
		m = hueMatrix(l.hue).times(m)
	}
	// White and grey keep their hue and saturation, so the mean that contrast adds goes through unchanged.
	scale, mean := l.brightness*l.contrast, l.brightness*(1-l.contrast)
	for i := range m {
		for j := range m[i] {
			w.Matrix[4*i+j] = fixed16(scale * m[i][j])
		}
		w.Matrix[4*i+3] = fixed16(mean)
	}
	w.Steps |= pixel.ByMatrix
}

func fixed16(v float64) int32 { return int32(math.RoundToEven(v * pixel.MatrixOne)) }

// hueMatrix turns the plane of chroma of YIQ (ITU-R BT.601 primaries, the usual rounded coefficients) by a part of a full
// turn.
func hueMatrix(turn float64) matrix3 {
	toYIQ := matrix3{{0.299, 0.587, 0.114}, {0.596, -0.274, -0.322}, {0.211, -0.523, 0.312}}
	sin, cos := math.Sincos(2 * math.Pi * turn)
	return toYIQ.inverse().times(matrix3{{1, 0, 0}, {0, cos, -sin}, {0, sin, cos}}).times(toYIQ)
}

func (a matrix3) inverse() (b matrix3) {
	// Row i of the adjugate is the cross product of columns i+1 and i+2.
	for i := range 3 {
		p, q := (i+1)%3, (i+2)%3
		for j := range 3 {
			u, v := (j+1)%3, (j+2)%3
			b[i][j] = a[u][p]*a[v][q] - a[u][q]*a[v][p]
		}
	}
	det := a[0][0]*b[0][0] + a[1][0]*b[0][1] + a[2][0]*b[0][2]
	for i := range b {
		for j := range b[i] {
			b[i][j] /= det
		}
	}
	return b
}
