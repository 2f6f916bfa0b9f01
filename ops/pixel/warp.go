package pixel

/*
#include "csrc/pixel.h"
*/
import "C"

import (
	"math"
	"unsafe"
)

// Interpolation is how a value between pixels is found.
type Interpolation uint8

// Bicubic is cubic convolution with a = -3/4 (Keys, "Cubic convolution interpolation", 1981), as OpenCV has it.
const (
	Nearest  Interpolation = C.MPP_NEAREST
	Bilinear Interpolation = C.MPP_BILINEAR
	Bicubic  Interpolation = C.MPP_BICUBIC
)

// Border is what stands beyond the edge of a record.
type Border uint8

const (
	Clamp Border = C.MPP_CLAMP // its nearest pixel
	Fill  Border = C.MPP_FILL  // the warp's Fill
)

// Steps are the stages of a warp that are done only where asked for.
type Steps uint8

const (
	Sharpen   Steps = C.MPP_DO_SHARPEN
	Gain      Steps = C.MPP_DO_GAIN
	ByMatrix  Steps = C.MPP_DO_MATRIX
	EraseArea Steps = C.MPP_DO_ERASE
)

// Tone is a curve through which each channel goes, as PIL's ImageOps of the same name have it. Autocontrast and Equalize
// look at the histogram of the whole record.
type Tone uint8

const (
	NoTone       Tone = C.MPP_TONE_NONE
	Posterize    Tone = C.MPP_POSTERIZE
	Solarize     Tone = C.MPP_SOLARIZE
	Autocontrast Tone = C.MPP_AUTOCONTRAST
	Equalize     Tone = C.MPP_EQUALIZE
)

// Mix is how an image is mixed with another of its batch.
type Mix uint8

const (
	NoMix Mix = C.MPP_MIX_NONE
	Blend Mix = C.MPP_MIX_BLEND // a weighted mean (mixup)
	Paste Mix = C.MPP_MIX_PASTE // a rectangle of the other (cutmix)
)

// Units of the fixed-point fields of Warp.
const (
	One        = 1 << 20 // of Map: one pixel
	GainOne    = 1 << 15 // of Gain and Share
	MatrixOne  = 1 << 16 // of Matrix
	SharpenOne = 1 << 8  // of Sharpness
)

// Warp says what happens to one image, in the order of its fields: sharpened, sampled, coloured, partly erased, mixed.
// Everything is an integer, so that the same Warp gives the same bits on every processor and GPU. It is laid out as C's
// mpp_warp. Identity is a Warp that changes nothing; the zero Warp shows one pixel of the record everywhere.
type Warp struct {
	// Map takes output pixel (X, Y) to the point (Map[0] X + Map[1] Y + Map[2], Map[3] X + Map[4] Y + Map[5]) of the
	// record in units of 1/One pixel, whole numbers being the centres of pixels.
	Map           [6]int32
	Interpolation Interpolation
	Border        Border
	Fill          [3]uint8
	Steps         Steps
	Tone          Tone
	Mix           Mix
	// Sharpness is for Sharpen: 0 smooths (PIL's SMOOTH), SharpenOne changes nothing, more sharpens.
	Sharpness int32
	// Gain is for Gain: value v becomes v*Gain/GainOne, clipped to 255 and truncated.
	Gain [3]uint16
	// ToneLevel is the number of bits that Posterize leaves, or the first value that Solarize turns round.
	ToneLevel uint8
	EraseRGB  [3]uint8 // for EraseArea
	// Share is the weight of this image, in 1/GainOne, in a Blend.
	Share uint16
	// Matrix is for ByMatrix: for each channel, what is added of r, g, b and of the record's mean grey, in 1/MatrixOne. The sum
	// is rounded and clipped.
	Matrix [12]int32
	Erase  Box // for EraseArea
	Paste  Box // for Paste
	// Mate is the position in the batch of the image to mix with: with everything its own Warp does to it but mixing.
	Mate int32
}

// Box is a rectangle of output pixels: X1 and Y1 are the first beyond it.
type Box struct{ X0, Y0, X1, Y1 int16 }

// Both must be laid out alike.
var _ [C.sizeof_mpp_warp]byte = [unsafe.Sizeof(Warp{})]byte{}

// Affine is a map from output pixels to points of a source, in pixels: (A X + B Y + C, D X + E Y + F). Whole numbers are
// the centres of pixels.
type Affine struct{ A, B, C, D, E, F float64 }

// Then is the map that does m first and next after it.
func (m Affine) Then(next Affine) Affine {
	return Affine{
		A: next.A*m.A + next.B*m.D, B: next.A*m.B + next.B*m.E, C: next.A*m.C + next.B*m.F + next.C,
		D: next.D*m.A + next.E*m.D, E: next.D*m.B + next.E*m.E, F: next.D*m.C + next.E*m.F + next.F,
	}
}

// Scale is the map of a resize from a source of w x h pixels to one of newW x newH, centres of pixels at halves, as
// OpenCV's resize has it.
func Scale(w, h, newW, newH int) Affine {
	sx, sy := float64(w)/float64(newW), float64(h)/float64(newH)
	return Affine{A: sx, C: sx/2 - 0.5, E: sy, F: sy/2 - 0.5}
}

// Shift is the map of a crop whose first pixel is (x, y).
func Shift(x, y float64) Affine { return Affine{A: 1, C: x, E: 1, F: y} }

// Mirror is the map of a horizontal flip of an image of width w.
func Mirror(w int) Affine { return Affine{A: -1, C: float64(w - 1), E: 1} }

// Rotate is the map of a rotation by radians, counter-clockwise as seen, about the centre of an image of w x h pixels.
func Rotate(radians float64, w, h int) Affine {
	sin, cos := math.Sincos(radians)
	cx, cy := float64(w-1)/2, float64(h-1)/2
	return Affine{
		A: cos, B: -sin, C: cx - cos*cx + sin*cy,
		D: sin, E: cos, F: cy - sin*cx - cos*cy,
	}
}

// Fixed is the map in the units of Warp.Map.
func (m Affine) Fixed() [6]int32 {
	var f [6]int32
	for i, v := range [6]float64{m.A, m.B, m.C, m.D, m.E, m.F} {
		f[i] = int32(math.RoundToEven(v * One))
	}
	return f
}

// Identity is the Warp that shows a record of Side x Side pixels as it is, in an output of any size.
func Identity(size int) Warp {
	return Warp{
		Map:           Scale(Side, Side, size, size).Fixed(),
		Interpolation: Bilinear,
		Sharpness:     SharpenOne,
		Gain:          [3]uint16{GainOne, GainOne, GainOne},
		Share:         GainOne,
		Matrix:        [12]int32{0: MatrixOne, 5: MatrixOne, 10: MatrixOne},
	}
}
