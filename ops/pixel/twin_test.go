package pixel

import "math"

// The plain versions of what csrc does, named alike: one pixel after another, nothing shared, integers as documented in
// Warp. They must agree with the C to the last bit.

type twin struct {
	record []byte
	w      Warp
	counts [3][256]int // histogram of the record
	mean   int         // of its grey
}

func newTwin(record []byte, w Warp) twin {
	t := twin{record: record, w: w}
	var sum [3]int
	for i, v := range record {
		t.counts[i%3][v]++
		sum[i%3] += int(v)
	}
	const n = Side * Side * 1000
	t.mean = (299*sum[0] + 587*sum[1] + 114*sum[2] + n/2) / n
	return t
}

func (t *twin) source(x, y int) [3]int {
	if (x < 0 || x >= Side || y < 0 || y >= Side) && t.w.Border == Fill {
		return [3]int{int(t.w.Fill[0]), int(t.w.Fill[1]), int(t.w.Fill[2])}
	}
	x, y = min(max(x, 0), Side-1), min(max(y, 0), Side-1)
	at := func(x, y, c int) int { return int(t.record[(y*Side+x)*3+c]) }
	var v [3]int
	for c := range v {
		v[c] = at(x, y, c)
		if t.w.Steps&Sharpen != 0 && x > 0 && x < Side-1 && y > 0 && y < Side-1 {
			sum := 0
			for dy := -1; dy <= 1; dy++ {
				for dx := -1; dx <= 1; dx++ {
					k := 1
					if dx == 0 && dy == 0 {
						k = 5
					}
					sum += k * at(x+dx, y+dy, c)
				}
			}
			smooth := int(math.Floor(float64(sum)/13 + 0.5))
			v[c] = clip(int(math.Floor(float64(smooth) + float64(t.w.Sharpness)/SharpenOne*float64(v[c]-smooth) + 0.5)))
		}
	}
	return v
}

func clip(v int) int { return min(max(v, 0), 255) }

// weights of the pixels first, first+1, ... about fraction f (Q11) behind pixel 0.
func weights(how Interpolation, f int) (first int, w []int) {
	if how == Bilinear {
		return 0, []int{2048 - f, f}
	}
	cubic := func(x float64) int { // a = -3/4, 1 <= |x| <= 2 and below
		const a = -0.75
		if x > 1 {
			return int(math.Round(2048 * (((x-5)*x+8)*x - 4) * a))
		}
		return int(math.Floor(2048*(((a+2)*x-(a+3))*x*x+1) + 0.5))
	}
	x := float64(f) / 2048
	w = []int{cubic(1 + x), cubic(x), cubic(1 - x), 0}
	w[3] = 2048 - w[0] - w[1] - w[2]
	return -1, w
}

func (t *twin) sample(u, v int) [3]int {
	if t.w.Interpolation == Nearest {
		return t.source((u+One/2)>>20, (v+One/2)>>20)
	}
	fx, wx := weights(t.w.Interpolation, u>>9&2047)
	fy, wy := weights(t.w.Interpolation, v>>9&2047)
	var sum [3]int
	for j := range wy {
		for i := range wx {
			tap := t.source(u>>20+fx+i, v>>20+fy+j)
			for c := range sum {
				sum[c] += wx[i] * wy[j] * tap[c]
			}
		}
	}
	for c := range sum {
		sum[c] = clip((sum[c] + 1<<21) >> 22)
	}
	return sum
}

func (t *twin) tone(v, c int) int {
	switch t.w.Tone {
	case Posterize:
		return v >> (8 - t.w.ToneLevel) << (8 - t.w.ToneLevel)
	case Solarize:
		if v >= int(t.w.ToneLevel) {
			return 255 - v
		}
	case Autocontrast:
		n := t.counts[c]
		low, high := 0, 255
		for low < 255 && n[low] == 0 {
			low++
		}
		for high > 0 && n[high] == 0 {
			high--
		}
		if high > low {
			return clip(int(math.Trunc(float64((v-low)*255) / float64(high-low))))
		}
	case Equalize:
		n := t.counts[c]
		last, sum := 0, 0
		for i, k := range n {
			if k > 0 {
				last = i
			}
			sum += k
		}
		if step := (sum - n[last]) / 255; step > 0 {
			below := step / 2
			for i := range v {
				below += n[i]
			}
			return clip(below / step)
		}
	}
	return v
}

// pixel is an output pixel before mixing.
func (t *twin) pixel(x, y int) [3]int {
	w := t.w
	inside := func(b Box) bool { return x >= int(b.X0) && x < int(b.X1) && y >= int(b.Y0) && y < int(b.Y1) }
	if w.Steps&EraseArea != 0 && inside(w.Erase) {
		return [3]int{int(w.EraseRGB[0]), int(w.EraseRGB[1]), int(w.EraseRGB[2])}
	}
	m := w.Map
	v := t.sample(int(m[0])*x+int(m[1])*y+int(m[2]), int(m[3])*x+int(m[4])*y+int(m[5]))
	if w.Steps&Gain != 0 {
		for c := range v {
			v[c] = min(255, int(float64(v[c])*float64(w.Gain[c])/GainOne))
		}
	}
	if w.Steps&ByMatrix != 0 {
		var to [3]int
		for c := range to {
			k := w.Matrix[4*c:]
			sum := int(k[0])*v[0] + int(k[1])*v[1] + int(k[2])*v[2] + int(k[3])*t.mean
			to[c] = clip(int(math.Floor(float64(sum)/MatrixOne + 0.5)))
		}
		v = to
	}
	for c := range v {
		v[c] = t.tone(v[c], c)
	}
	return v
}

// gather returns N, H, W, C values.
func gather(records []byte, index []int32, warps []Warp, spec OutSpec) []float32 {
	out := make([]float32, 0, len(index)*spec.Size*spec.Size*3)
	of := func(i int) twin {
		return newTwin(records[int(index[i])*RecordBytes:][:RecordBytes], warps[i])
	}
	for i := range index {
		own, mate := of(i), of(int(warps[i].Mate))
		for y := range spec.Size {
			for x := range spec.Size {
				v := own.pixel(x, y)
				f := [3]float64{float64(v[0]), float64(v[1]), float64(v[2])}
				p := warps[i].Paste
				switch {
				case warps[i].Mix == Blend:
					o := mate.pixel(x, y)
					share := float64(warps[i].Share) / GainOne
					for c := range f {
						f[c] = f[c]*share + float64(o[c])*(1-share)
					}
				case warps[i].Mix == Paste && x >= int(p.X0) && x < int(p.X1) && y >= int(p.Y0) && y < int(p.Y1):
					o := mate.pixel(x, y)
					f = [3]float64{float64(o[0]), float64(o[1]), float64(o[2])}
				}
				for c := range f {
					mean := float32(float64(spec.Mean[c]) * 255)
					scale := float32(1 / (float64(spec.Std[c]) * 255))
					out = append(out, (float32(f[c])-mean)*scale)
				}
			}
		}
	}
	return out
}

// bf16 rounds to the nearest bfloat16, ties to even, by looking at both neighbours.
func bf16(f float32) uint16 {
	down := math.Float32bits(f) >> 16
	low := math.Float32frombits(down << 16)
	high := math.Float32frombits((down + 1) << 16)
	a, b := math.Abs(float64(f)-float64(low)), math.Abs(float64(high)-float64(f))
	if a < b || a == b && down&1 == 0 {
		return uint16(down)
	}
	return uint16(down + 1)
}

// resize in real numbers, as OpenCV defines it.
func resize(m Image, w, h int, how Interpolation) []float64 {
	axis := func(i, from, to int) (first int, weights []float64) {
		scale := float64(from) / float64(to)
		if how == Nearest {
			// In OpenCV, a centre on the line between two pixels falls as steps in 1/65536 pixel happen to.
			step := (2*(from<<16)/to + 1) / 2
			return min((step*i+step/2-from%2)>>16, from-1), []float64{1}
		}
		at := (float64(i)+0.5)*scale - 0.5
		first = int(math.Floor(at))
		f := at - math.Floor(at)
		if how == Bilinear {
			return first, []float64{1 - f, f}
		}
		const a = -0.75
		near := func(x float64) float64 { return ((a+2)*x-(a+3))*x*x + 1 }
		far := func(x float64) float64 { return ((a*x-5*a)*x+8*a)*x - 4*a }
		return first - 1, []float64{far(1 + f), near(f), near(1 - f), far(2 - f)}
	}
	var out []float64
	for y := range h {
		fy, wy := axis(y, m.H, h)
		for x := range w {
			fx, wx := axis(x, m.W, w)
			for c := range 3 {
				sum := 0.0
				for j := range wy {
					for i := range wx {
						px, py := min(max(fx+i, 0), m.W-1), min(max(fy+j, 0), m.H-1)
						sum += wx[i] * wy[j] * float64(m.Pix[(py*m.W+px)*3+c])
					}
				}
				out = append(out, min(max(sum, 0), 255))
			}
		}
	}
	return out
}
