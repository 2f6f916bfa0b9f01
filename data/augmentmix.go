package data

import (
	"math"

	"mp/ops/pixel"
)

// Mix draws the mixing of the images of one shard of a step into their warps: each image gets a mate of the same shard, so
// that what a shard computes depends on the shard alone, and a share of its own. size is the side of the output.
func (p *Recipe) Mix(seed uint64, epoch, step, shard int, warps []pixel.Warp, size int) {
	if !p.Mixes() || len(warps) < 2 {
		return
	}
	r := seeded([]uint64{seed, uint64(epoch), uint64(step), uint64(shard), purposeMix})
	cut := p.Mixup == 0 || p.Cutmix > 0 && r.Float64() < 0.5
	apart := 1 + r.IntN(len(warps)-1)
	for i := range warps {
		w := &warps[i]
		w.Mate = int32((i + apart) % len(warps))
		if !cut {
			// The larger share is its own: else a batch shows some images twice and others not at all.
			own := beta(&r, p.Mixup)
			w.Mix, w.Share = pixel.Blend, uint16(math.RoundToEven(max(own, 1-own)*pixel.GainOne))
			continue
		}
		side := float64(size) * math.Sqrt(1-beta(&r, p.Cutmix))
		w.Mix, w.Paste = pixel.Paste, cutBox(&r, size, side)
	}
}

// cutBox draws a square about a centre anywhere in the image; what sticks out is cut off.
func cutBox(r *Rand, size int, side float64) pixel.Box {
	span := func() (int16, int16) {
		centre := float64(size) * r.Float64()
		clip := func(v float64) int16 { return int16(max(0, min(float64(size), math.RoundToEven(v)))) }
		return clip(centre - side/2), clip(centre + side/2)
	}
	var b pixel.Box
	b.X0, b.X1 = span()
	b.Y0, b.Y1 = span()
	return b
}

// ownShare is how much of a warped image is its own; the rest is its mate's.
func ownShare(w *pixel.Warp, size int) float32 {
	switch w.Mix {
	case pixel.Blend:
		return float32(w.Share) / pixel.GainOne
	case pixel.Paste:
		b := w.Paste
		return 1 - float32(int(b.X1-b.X0)*int(b.Y1-b.Y0))/float32(size*size)
	}
	return 1
}

// beta returns a number of Beta(alpha, alpha): X/(X+Y) for two of Gamma(alpha).
func beta(r *Rand, alpha float64) float64 {
	x, y := gamma(r, alpha), gamma(r, alpha)
	if x+y == 0 { // both too small to tell apart
		return float64(r.IntN(2))
	}
	return x / (x + y)
}

// gamma returns a number of Gamma(alpha, 1) (Marsaglia and Tsang, "A simple method for generating gamma variables",
// 2000; section 6 for alpha below 1).
func gamma(r *Rand, alpha float64) float64 {
	if alpha < 1 {
		u := 1 - r.Float64()
		return gamma(r, alpha+1) * math.Pow(u, 1/alpha)
	}
	d := alpha - 1./3
	c := 1 / math.Sqrt(9*d)
	for {
		x := normal(r)
		v := 1 + c*x
		if v <= 0 {
			continue
		}
		v = v * v * v
		if math.Log(1-r.Float64()) < x*x/2+d*(1-v+math.Log(v)) {
			return d * v
		}
	}
}

// normal is a standard normal number by the polar method; Rand.NormFloat64 would put the stream on the heap.
func normal(r *Rand) float64 {
	for {
		x, y := 2*r.Float64()-1, 2*r.Float64()-1
		if q := x*x + y*y; q > 0 && q < 1 {
			return x * math.Sqrt(-2*math.Log(q)/q)
		}
	}
}
