package pixel

/*
#include "csrc/pixel.h"
*/
import "C"

import (
	"fmt"
	"image"
	"image/color"
	"runtime"
	"unsafe"
)

// Image is uint8 RGB, interleaved, rows from the top: Pix has W*H*3 bytes. It is an image.Image of the standard library.
type Image struct {
	Pix  []byte
	W, H int
}

// ColorModel is that of the standard library's opaque colours.
func (m Image) ColorModel() color.Model { return color.RGBAModel }

// Bounds is the rectangle of the pixels, from (0, 0).
func (m Image) Bounds() image.Rectangle { return image.Rect(0, 0, m.W, m.H) }

// At returns a pixel.
func (m Image) At(x, y int) color.Color {
	p := m.Pix[(y*m.W+x)*3:]
	return color.RGBA{p[0], p[1], p[2], 255}
}

// Decode decodes JPEGs of Side x Side pixels, one after another, into dst, which must have len(jpegs)*RecordBytes bytes.
// Grey images become RGB. It returns nil if all are good, else an error for each image (nil for the good ones): ErrData
// is in its chain where the image is truncated, damaged, not a JPEG, CMYK, or of another size. The pixels of a bad image
// are undefined. Decoding is libjpeg-turbo's: accurate integer DCT, smooth chroma upsampling.
func Decode(jpegs [][]byte, dst []byte) []error { return decodeAll(jpegs, dst, false) }

// DecodePlain is Decode by libjpeg-turbo alone, without the entropy decoder of this package: the same pixels and errors,
// slower. It is there to compare with.
func DecodePlain(jpegs [][]byte, dst []byte) []error { return decodeAll(jpegs, dst, true) }

func decodeAll(jpegs [][]byte, dst []byte, plain bool) []error {
	if len(dst) != len(jpegs)*RecordBytes {
		panic(fmt.Sprintf("pixel: Decode of %d images into %d bytes, want %d", len(jpegs), len(dst), len(jpegs)*RecordBytes))
	}
	var errs []error
	for from := 0; from < len(jpegs); {
		done, err := decode(jpegs[from:], Side, Side, plain, dst[from*RecordBytes:])
		from += done
		if err != nil {
			if errs == nil {
				errs = make([]error, len(jpegs))
			}
			errs[from] = err
			from++
		}
	}
	return errs
}

// DecodeAny decodes one JPEG of any size up to 64 megapixels. Errors are those of Decode.
func DecodeAny(jpeg []byte) (Image, error) {
	if len(jpeg) == 0 {
		return Image{}, fmt.Errorf("decode JPEG: %w: empty", ErrData)
	}
	var w, h C.int32_t
	var why message
	status := C.mpp_jpeg_size((*C.uint8_t)(unsafe.SliceData(jpeg)), C.int64_t(len(jpeg)), &w, &h, why.buffer())
	if err := why.check("decode JPEG", status); err != nil {
		return Image{}, err
	}
	m := Image{Pix: make([]byte, int(w)*int(h)*3), W: int(w), H: int(h)}
	if _, err := decode([][]byte{jpeg}, m.W, m.H, false, m.Pix); err != nil {
		return Image{}, err
	}
	return m, nil
}

// decode stops at the first bad image and returns how many came before it.
func decode(jpegs [][]byte, w, h int, plain bool, dst []byte) (done int, err error) {
	var pinner runtime.Pinner
	defer pinner.Unpin()
	at := make([]*C.uint8_t, len(jpegs))
	size := make([]C.int64_t, len(jpegs))
	for i, j := range jpegs {
		if len(j) == 0 {
			jpegs = jpegs[:i] // the C library wants at least one byte
			break
		}
		p := unsafe.SliceData(j)
		pinner.Pin(p)
		at[i], size[i] = (*C.uint8_t)(p), C.int64_t(len(j))
	}
	if len(jpegs) == 0 {
		return 0, fmt.Errorf("decode JPEG: %w: empty", ErrData)
	}
	var n C.int64_t
	var alone C.int32_t
	if plain {
		alone = 1
	}
	var why message
	status := C.mpp_jpeg_decode(&at[0], &size[0], C.int64_t(len(jpegs)), C.int32_t(w), C.int32_t(h), alone,
		(*C.uint8_t)(unsafe.SliceData(dst)), &n, why.buffer())
	return int(n), why.check("decode JPEG", status)
}
