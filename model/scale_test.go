package model_test

import "math"

// The goldens' Scale(144) and centre crop 128, bit for bit. Their pixels follow OpenCV 4.6's INTER_NEAREST_EXACT (pixel
// centres at halves) and its INTER_CUBIC without dispatched code, setUseOptimized(False): a = -3/4, weights in 1/2048, rows
// in integers, columns in float32. OpenCV's faster code rounds some pixels to the next grey level.

// taps are the source pixels and weights (in 1/2048) of one destination pixel.
type taps struct {
	at     [4]int
	weight [4]int64
}

func nearestTaps(from, to int) []taps {
	out := make([]taps, to)
	step := (from<<16 + to/2) / to
	for i := range out {
		at := min((step*i+step/2-from%2)>>16, from-1)
		out[i] = taps{at: [4]int{at, at, at, at}, weight: [4]int64{2048}}
	}
	return out
}

func cubicTaps(from, to int) []taps {
	out := make([]taps, to)
	for i := range out {
		centre := float32((float64(i)+0.5)*float64(from)/float64(to) - 0.5)
		first := int(math.Floor(float64(centre)))
		x := centre - float32(first)
		const a = -0.75
		near := func(d float32) float32 { return ((a+2)*d-(a+3))*d*d + 1 }
		far := func(d float32) float32 { return ((a*d-5*a)*d+8*a)*d - 4*a }
		w := [4]float32{far(x + 1), near(x), near(1 - x)}
		w[3] = 1 - w[0] - w[1] - w[2]
		for k := range w {
			out[i].at[k] = min(max(first+k-1, 0), from-1)
			out[i].weight[k] = int64(math.RoundToEven(float64(w[k] * 2048)))
		}
	}
	return out
}

// scaled returns pixels N H W C, 128 x 128, scaled to 144 x 144 with taps and cropped to the middle 128 x 128.
func scaled(pixels []byte, along []taps) []byte {
	const side, crop = 128, 8
	out := make([]byte, 0, len(pixels))
	for ; len(pixels) > 0; pixels = pixels[side*side*3:] {
		rows := make([]int64, side*side*3) // [source row, column, channel] in 1/2048
		for y := range side {
			for x, t := range along[crop : crop+side] {
				for c := range 3 {
					for k, at := range t.at {
						rows[(y*side+x)*3+c] += t.weight[k] * int64(pixels[(y*side+at)*3+c])
					}
				}
			}
		}
		for _, t := range along[crop : crop+side] {
			for x := range side * 3 {
				var v float32
				for k := 3; k >= 0; k-- {
					v += float32(float32(rows[t.at[k]*side*3+x]) * (float32(t.weight[k]) / (2048 * 2048)))
				}
				out = append(out, byte(min(max(math.RoundToEven(float64(v)), 0), 255)))
			}
		}
	}
	return out
}
