package data

import (
	"math"

	"mp/ops/pixel"
)

// variation is a set of modern augmentations, done in the order of its fields.
type variation struct {
	leastArea, ratio float64 // of random resized crops
	jitter           jitter
	trivial          bool    // TrivialAugment
	erase            float64 // probability of random erasing
}

// bestVariation is for runs of any length: a network sees scenes at other scales and in other light, and never a place that
// is not there.
func bestVariation() variation {
	return variation{leastArea: 0.35, ratio: 4. / 3, jitter: jitter{0.2, 0.2, 0.2, 0}}
}

// strongVariation is for runs long enough to overfit that.
func strongVariation() variation {
	return variation{leastArea: 0.25, ratio: 4. / 3, jitter: jitter{0.2, 0.2, 0.2, 0.02}, trivial: true, erase: 0.25}
}

// meanRGB is the colour of what is not there: the mean that the reference normalises with, so that a network sees 0.
func meanRGB() [3]uint8 { return [3]uint8{124, 116, 104} }

func (v variation) draw(r *Rand, size int) pixel.Warp {
	w := pixel.Identity(size)
	m := resizedCrop(r, v.leastArea, v.ratio).zoom(size)
	if r.Float64() < 0.5 {
		m = m.Then(pixel.Mirror(ImageSize))
	}
	light := v.jitter.draw(r)
	if v.trivial {
		m = trivial(r, size, &w, &light).Then(m)
	}
	w.Map = m.Fixed()
	light.apply(&w)
	if v.erase > 0 && r.Float64() < v.erase {
		erase(r, size, &w)
	}
	return w
}

// erase draws a rectangle of 2 to 20 % of the output, its sides 1 : 1 to 1 : 3.3 either way round, and fills it with the mean
// colour (Zhong et al., "Random erasing data augmentation", 2020).
func erase(r *Rand, size int, w *pixel.Warp) {
	area := float64(size*size) * (0.02 + 0.18*r.Float64())
	stretch := math.Sqrt(1 + 2.3*r.Float64())
	bw, bh := math.Sqrt(area)*stretch, math.Sqrt(area)/stretch
	if r.Float64() < 0.5 {
		bw, bh = bh, bw
	}
	iw, ih := min(int(bw+0.5), size), min(int(bh+0.5), size)
	x, y := r.IntN(size-iw+1), r.IntN(size-ih+1)
	w.Steps |= pixel.EraseArea
	w.Erase = pixel.Box{X0: int16(x), Y0: int16(y), X1: int16(x + iw), Y1: int16(y + ih)}
	w.EraseRGB = meanRGB()
}

// trivial draws one of fourteen operations and how strongly it is done (Müller and Hutter, "TrivialAugment", 2021, with
// the ranges of its table for RandAugment). Those of geometry are returned as a map from the output to the cropped image;
// what they bring in from beyond the record is grey. Those of colour are left in light or w.
func trivial(r *Rand, size int, w *pixel.Warp, light *light) pixel.Affine {
	same := pixel.Affine{A: 1, E: 1}
	side := float64(size)
	centre := (side - 1) / 2
	op, strength := r.IntN(14), 2*r.Float64()-1
	enhance := 1 + 0.9*strength
	switch op {
	case 0: // as it is
	case 1:
		w.Border, w.Fill = pixel.Fill, meanRGB()
		return pixel.Affine{A: 1, B: 0.3 * strength, C: -0.3 * strength * centre, E: 1}
	case 2:
		w.Border, w.Fill = pixel.Fill, meanRGB()
		return pixel.Affine{A: 1, D: 0.3 * strength, F: -0.3 * strength * centre, E: 1}
	case 3:
		w.Border, w.Fill = pixel.Fill, meanRGB()
		return pixel.Shift(0.25*strength*side, 0)
	case 4:
		w.Border, w.Fill = pixel.Fill, meanRGB()
		return pixel.Shift(0, 0.25*strength*side)
	case 5:
		w.Border, w.Fill = pixel.Fill, meanRGB()
		return pixel.Rotate(strength*math.Pi/6, size, size)
	case 6:
		light.brightness *= enhance
	case 7:
		light.contrast *= enhance
	case 8:
		light.saturation *= enhance
	case 9:
		w.Steps |= pixel.Sharpen
		w.Sharpness = int32(math.RoundToEven(enhance * pixel.SharpenOne))
	case 10:
		w.Tone, w.ToneLevel = pixel.Posterize, uint8(4+r.IntN(5))
	case 11:
		w.Tone, w.ToneLevel = pixel.Solarize, uint8(r.IntN(256))
	case 12:
		w.Tone = pixel.Autocontrast
	case 13:
		w.Tone = pixel.Equalize
	}
	return same
}
