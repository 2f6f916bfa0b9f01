package data

import (
	"math"

	"mp/ops/pixel"
)

// courseSide is what the reference scales the short side to before everything else.
const courseSide = 144

// drawFlip mirrors half the time and shifts by up to 8 pixels each way; what comes in at the edge repeats it.
func drawFlip(r *Rand, size int) pixel.Warp {
	w := pixel.Identity(size)
	m := window{float64(r.IntN(17) - 8), float64(r.IntN(17) - 8), ImageSize, ImageSize}.zoom(size)
	if r.Float64() < 0.5 {
		m = m.Then(pixel.Mirror(ImageSize))
	}
	w.Map = m.Fixed()
	return w
}

// drawCourse is the reference's training transform: Scale(144), flip, RandomColor(.15), RandomRotate(15), RandomSizedCrop,
// composed into one map. The reference interpolates two or three times, each time in a way drawn anew; here pixels
// are interpolated once, in the way that is drawn last.
func drawCourse(r *Rand, size int) pixel.Warp {
	w := pixel.Identity(size)
	flip := r.Float64() < 0.5
	w.Steps |= pixel.Gain
	for c := range w.Gain {
		w.Gain[c] = uint16(math.RoundToEven((0.85 + 0.3*r.Float64()) * pixel.GainOne))
	}
	// From here on in the order of pixels: from the scaled image to the output.
	side := courseSide
	degrees := 30*r.Float64() - 15
	turn := pixel.Affine{A: 1, E: 1}
	if math.Abs(degrees) > 1 {
		angle := degrees * math.Pi / 180
		fw, _ := largestUpright(courseSide, courseSide, angle)
		side = int(fw)
		edge := float64((courseSide - side) / 2)
		turn = pixel.Shift(edge, edge).Then(pixel.Rotate(angle, courseSide, courseSide))
	}
	m := randomSizedCrop(r, side, side).zoom(size).Then(turn)
	if flip {
		m = m.Then(pixel.Mirror(courseSide))
	}
	w.Map = m.Then(pixel.Scale(ImageSize, ImageSize, courseSide, courseSide)).Fixed()
	w.Interpolation = pixel.Interpolation(r.IntN(3))
	return w
}
