package data

import (
	"math"

	"mp/ops/pixel"
)

// Sides of the images, records and crops below are in pixels, positions are of first pixels, angles in radians.

// window is a rectangle of an image.
type window struct{ x, y, w, h float64 }

// zoom maps an output of size x size pixels onto the window.
func (v window) zoom(size int) pixel.Affine {
	sx, sy := v.w/float64(size), v.h/float64(size)
	return pixel.Affine{A: sx, C: v.x + sx/2 - 0.5, E: sy, F: v.y + sy/2 - 0.5}
}

// largestUpright returns the sides of the largest upright rectangle without black corners in a w x h image turned by
// angle (the two ways a rectangle can be held: by two opposite corners on the long sides, or by all four).
func largestUpright(w, h, angle float64) (float64, float64) {
	sin, cos := math.Sincos(math.Abs(angle))
	long, short := math.Max(w, h), math.Min(w, h)
	if short <= 2*sin*cos*long || math.Abs(sin-cos) < 1e-10 {
		half := short / 2
		if w >= h {
			return half / sin, half / cos
		}
		return half / cos, half / sin
	}
	double := cos*cos - sin*sin
	return (w*cos - h*sin) / double, (h*cos - w*sin) / double
}

// randomSizedCrop draws the reference's RandomSizedCrop of a w x h image: ten trials of an area of 1/4 to 1 of the image
// and a ratio of 0.8 to 1.2, either way round; if none fits, the middle square.
func randomSizedCrop(r *Rand, w, h int) window {
	for range 10 {
		area := float64(w*h) * (0.25 + 0.75*r.Float64())
		ratio := 0.8 + 0.4*r.Float64()
		cw, ch := int(math.RoundToEven(math.Sqrt(area*ratio))), int(math.RoundToEven(math.Sqrt(area/ratio)))
		if r.Float64() < 0.5 {
			cw, ch = ch, cw
		}
		if cw <= w && ch <= h {
			x, y := r.IntN(w-cw+1), r.IntN(h-ch+1)
			return window{float64(x), float64(y), float64(cw), float64(ch)}
		}
	}
	side := float64(min(w, h))
	return window{(float64(w) - side) / 2, (float64(h) - side) / 2, side, side}
}

// resizedCrop draws a crop of the record whose area is least to 1 of it and whose sides are 1 : 1 to 1 : ratio, either
// way round (Szegedy et al., "Going deeper with convolutions", section 6, but real numbers instead of whole pixels).
func resizedCrop(r *Rand, least, ratio float64) window {
	const side = ImageSize
	for range 10 {
		area := side * side * (least + (1-least)*r.Float64())
		stretch := math.Sqrt(1 + (ratio-1)*r.Float64())
		w, h := math.Sqrt(area)*stretch, math.Sqrt(area)/stretch
		if r.Float64() < 0.5 {
			w, h = h, w
		}
		if w <= side && h <= side {
			return window{r.Float64() * (side - w), r.Float64() * (side - h), w, h}
		}
	}
	return window{0, 0, side, side}
}
