package data

import (
	"fmt"

	"mp/ops/pixel"
)

// validation is the reference's other transform: Scale, centre crop.
type validation struct {
	scale  int // 0: none
	how    pixel.Interpolation
	random bool
}

func (v validation) draw(r *Rand, size int) pixel.Warp {
	w := pixel.Identity(size)
	w.Interpolation = v.how
	if v.random {
		w.Interpolation = pixel.Interpolation(r.IntN(3))
	}
	if v.scale == 0 {
		return w
	}
	// A crop larger than the scaled image has as much of it as there is, in the middle.
	edge := float64((v.scale - size) / 2)
	scale := pixel.Scale(ImageSize, ImageSize, v.scale, v.scale)
	if w.Interpolation == pixel.Nearest {
		// Centres that lie between two pixels fall as in OpenCV's INTER_NEAREST_EXACT, whose steps are of 2^-16 pixels.
		step := float64((ImageSize<<16+v.scale/2)/v.scale) / 65536
		scale = pixel.Affine{A: step, C: step/2 - 0.5, E: step, F: step/2 - 0.5}
	}
	w.Map = pixel.Shift(edge, edge).Then(scale).Fixed()
	return w
}

// exact says whether show can take the place of draw's warp.
func (v validation) exact(size int) bool { return v.scale >= ImageSize && size == ImageSize }

// show writes records ids, scaled and cut, into to, one after another: what their warps show within one grey level, with the
// last bit as OpenCV has it. A tenth of a millisecond an image, some ten times a warp: validation alone can afford it.
func (v validation) show(to, records []byte, ids []int32, warps []pixel.Warp) error {
	for i, id := range ids {
		m := pixel.Image{Pix: records[int(id)*RecordBytes : (int(id)+1)*RecordBytes], W: ImageSize, H: ImageSize}
		m, err := pixel.ScaleShort(m, v.scale, warps[i].Interpolation)
		if err == nil {
			m, err = pixel.CropCentre(m, ImageSize, ImageSize)
		}
		if err != nil {
			return fmt.Errorf("scale image %d: %w", id, err)
		}
		copy(to[i*RecordBytes:], m.Pix)
	}
	return nil
}
