package pixel

/*
#include "csrc/pixel.h"
*/
import "C"

import (
	"fmt"
	"runtime"
	"unsafe"
)

// Resize returns m as w x h pixels, to the bit as OpenCV's resize interpolates uint8 (Nearest is its INTER_NEAREST_EXACT):
// centres of pixels at halves, nothing smoothed before shrinking. The error is ErrArgument.
func Resize(m Image, w, h int, how Interpolation) (Image, error) {
	if m.W < 1 || m.H < 1 || len(m.Pix) != m.W*m.H*3 {
		return Image{}, fmt.Errorf("resize: %w: %d bytes for %d x %d pixels", ErrArgument, len(m.Pix), m.W, m.H)
	}
	if w < 1 || h < 1 || w > C.MPP_MAX_PIXELS/h {
		return Image{}, fmt.Errorf("resize: %w: to %d x %d pixels", ErrArgument, w, h)
	}
	to := Image{Pix: make([]byte, w*h*3), W: w, H: h}
	var why message
	status := C.mpp_resize((*C.uint8_t)(unsafe.SliceData(m.Pix)), C.int32_t(m.W), C.int32_t(m.H), C.int32_t(how),
		(*C.uint8_t)(unsafe.SliceData(to.Pix)), C.int32_t(w), C.int32_t(h), why.buffer())
	runtime.KeepAlive(m.Pix)
	return to, why.check("resize", status)
}

// ScaleShort returns m resized so that its short side is size and the long one keeps the proportion, rounded.
func ScaleShort(m Image, size int, how Interpolation) (Image, error) {
	w, h := size, size
	if m.W > m.H {
		w = (2*size*m.W + m.H) / (2 * m.H)
	} else if m.H > m.W {
		h = (2*size*m.H + m.W) / (2 * m.W)
	}
	if w == m.W && h == m.H {
		return m, nil
	}
	return Resize(m, w, h, how)
}

// CropCentre returns the middle w x h pixels of m; the part left over is cut evenly, an odd pixel at the far side.
func CropCentre(m Image, w, h int) (Image, error) {
	if w < 1 || h < 1 || w > m.W || h > m.H {
		return Image{}, fmt.Errorf("crop: %w: %d x %d pixels out of %d x %d", ErrArgument, w, h, m.W, m.H)
	}
	x, y := (m.W-w)/2, (m.H-h)/2
	to := Image{Pix: make([]byte, 0, w*h*3), W: w, H: h}
	for row := y; row < y+h; row++ {
		at := (row*m.W + x) * 3
		to.Pix = append(to.Pix, m.Pix[at:at+w*3]...)
	}
	return to, nil
}
