package pixel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
)

// records are n pictures, as a pack holds them.
func records(n int) []byte {
	var all []byte
	for i := range n {
		all = append(all, picture(Side, Side, uint64(i)).Pix...)
	}
	return all
}

// anyWarp draws a Warp in which everything may happen.
func anyWarp(r *rand.Rand, size, n int) Warp {
	w := Identity(size)
	w.Interpolation = Interpolation(r.IntN(3))
	w.Border = Border(r.IntN(2))
	w.Fill = [3]uint8{uint8(r.IntN(256)), uint8(r.IntN(256)), uint8(r.IntN(256))}
	switch r.IntN(4) {
	case 0: // any map
		w.Map = Affine{r.NormFloat64(), r.NormFloat64(), 200*r.Float64() - 40, r.NormFloat64(), r.NormFloat64(), 200*r.Float64() - 40}.Fixed()
	case 1: // a gentle one, mostly inside
		m := Scale(Side, Side, size, size).Then(Rotate(0.3*r.NormFloat64(), Side, Side))
		w.Map = m.Then(Shift(4*r.NormFloat64(), 4*r.NormFloat64())).Fixed()
	case 2: // whole pixels, either way round, perhaps over the edge
		w.Map = [6]int32{One, 0, int32(r.IntN(80)-40) * One, 0, One, int32(r.IntN(80)-40) * One}
		if r.IntN(2) == 0 {
			w.Map[0], w.Map[2] = -One, w.Map[2]+(Side-1)*One
		}
		if r.IntN(4) == 0 {
			w.Map[4], w.Map[5] = -One, w.Map[5]+(Side-1)*One
		}
		if r.IntN(3) == 0 {
			w.Interpolation = Nearest
			w.Map[2] += int32(r.IntN(One))
		}
	}
	first, second := r.IntN(16), r.IntN(16)
	w.Steps = Steps(first & second)
	w.Sharpness = int32(r.IntN(600) - 40)
	for c := range w.Gain {
		w.Gain[c] = uint16(r.IntN(1 << 16))
	}
	for i := range w.Matrix {
		w.Matrix[i] = int32(r.IntN(2*MatrixOne) - MatrixOne)
	}
	if r.IntN(2) == 0 {
		w.Tone = Tone(r.IntN(5))
		w.ToneLevel = uint8(1 + r.IntN(8))
	}
	box := func() Box {
		x, y := r.IntN(size+20)-10, r.IntN(size+20)-10
		return Box{int16(x), int16(y), int16(x + r.IntN(size)), int16(y + r.IntN(size))}
	}
	w.Erase, w.Paste = box(), box()
	w.EraseRGB = [3]uint8{uint8(r.IntN(256)), uint8(r.IntN(256)), uint8(r.IntN(256))}
	w.Mix = Mix(r.IntN(3))
	w.Mate = int32(r.IntN(n))
	w.Share = uint16(r.IntN(GainOne + 1))
	return w
}

// values reads what Gather wrote, as N, H, W, C.
func values(dst []byte, n int, spec OutSpec) []float32 {
	s := spec.Size
	out := make([]float32, n*s*s*3)
	for i := range out {
		at := i
		if spec.Layout == NCHW {
			image, pixel, c := i/(s*s*3), i/3%(s*s), i%3
			at = (image*3+c)*s*s + pixel
		}
		if spec.DType == BF16 {
			out[i] = math.Float32frombits(uint32(binary.LittleEndian.Uint16(dst[2*at:])) << 16)
		} else {
			out[i] = math.Float32frombits(binary.LittleEndian.Uint32(dst[4*at:]))
		}
	}
	return out
}

func TestGatherTwin(t *testing.T) {
	const n = 4
	recs := records(n)
	r := rand.New(rand.NewPCG(3, 4))
	most := 0.0
	for round := range 60 {
		spec := OutSpec{Size: 1 + r.IntN(48), DType: DType(round % 2), Layout: Layout(round / 2 % 2)}.ImageNet()
		if round%5 == 0 {
			spec.Mean, spec.Std = [3]float32{}, tyingStd(t)
		}
		index := make([]int32, 1+r.IntN(n))
		warps := make([]Warp, len(index))
		for i := range index {
			index[i] = int32(r.IntN(n))
			warps[i] = anyWarp(r, spec.Size, len(index))
		}
		dst := make([]byte, len(index)*spec.Bytes())
		if err := Gather(dst, recs, index, warps, spec); err != nil {
			t.Fatal(err)
		}
		got, want := values(dst, len(index), spec), gather(recs, index, warps, spec)
		for i := range got {
			if spec.DType == BF16 {
				want[i] = math.Float32frombits(uint32(bf16(want[i])) << 16)
			}
			d := math.Abs(float64(got[i]) - float64(want[i]))
			if d > most {
				most = d
				p := i / 3
				image := p / spec.Size / spec.Size
				t.Errorf("round %d: value %v, want %v, at image %d x %d y %d of %d pixels, %+v", round, got[i], want[i], image, p%spec.Size, p/spec.Size%spec.Size, spec.Size, warps[image])
			}
		}
	}
	t.Logf("largest difference %g", most)
}

// Crops and mirror images by whole pixels have a way of their own to bfloat16.
func TestGatherCrops(t *testing.T) {
	const n = 3
	recs := records(n)
	r := rand.New(rand.NewPCG(5, 6))
	for round := range 300 {
		spec := OutSpec{Size: 1 + r.IntN(160), DType: BF16, Layout: NHWC}.ImageNet()
		if round%5 == 0 {
			spec.Mean, spec.Std = [3]float32{}, tyingStd(t)
		}
		w := Identity(Side)
		reach := []int{8, 8, 200}[round%3]
		m := Shift(float64(r.IntN(2*reach+1)-reach), float64(r.IntN(2*reach+1)-reach))
		if r.IntN(2) == 0 {
			m = m.Then(Mirror(Side))
		}
		w.Map, w.Border, w.Fill = m.Fixed(), Border(r.IntN(2)), [3]uint8{1, 20, 255}
		index, warps := []int32{int32(round % n)}, []Warp{w}
		dst := make([]byte, spec.Bytes())
		if err := Gather(dst, recs, index, warps, spec); err != nil {
			t.Fatal(err)
		}
		got, want := values(dst, 1, spec), gather(recs, index, warps, spec)
		for i := range got {
			if b := math.Float32frombits(uint32(bf16(want[i])) << 16); got[i] != b {
				t.Fatalf("value %v, want %v, at x %d y %d of %d pixels of image %d, %+v", got[i], b, i/3%spec.Size, i/3/spec.Size, spec.Size, index[0], w)
			}
		}
	}
}

// tyingStd makes bytes multiples of 257, many of which lie midway between two bfloat16.
func tyingStd(t *testing.T) [3]float32 {
	std := float32(1. / (255 * 257))
	for range 9 {
		if float32(1/(float64(std)*255)) == 257 {
			return [3]float32{std, std, std}
		}
		std = math.Nextafter32(std, 1)
	}
	t.Fatal("no standard deviation makes a scale of 257")
	return [3]float32{}
}

// Sampling in integers must stay near sampling in real numbers.
func TestGatherNearReal(t *testing.T) {
	m := picture(Side, Side, 5)
	for _, how := range []Interpolation{Bilinear, Bicubic} {
		for _, size := range []int{40, 96, 128, 144, 200} {
			w := Identity(size)
			w.Interpolation = how
			dst := make([]byte, size*size*3)
			if err := GatherBytes(dst, m.Pix, []int32{0}, []Warp{w}, size); err != nil {
				t.Fatal(err)
			}
			most := 0.0
			for i, want := range resize(m, size, size, how) {
				most = max(most, math.Abs(float64(dst[i])-want))
			}
			t.Logf("interpolation %d to %d pixels: largest difference %.3f grey levels", how, size, most)
			if most > 1 {
				t.Errorf("interpolation %d to %d pixels: largest difference %.3f grey levels, want at most 1", how, size, most)
			}
		}
	}
}

func TestGatherBytes(t *testing.T) {
	const n, size = 3, 50
	recs := records(n)
	r := rand.New(rand.NewPCG(5, 6))
	index, warps := []int32{2, 0, 1}, make([]Warp, n)
	for i := range warps {
		warps[i] = anyWarp(r, size, n)
	}
	warps[0].Mix, warps[0].Share = Blend, 11000
	spec := OutSpec{Size: size, Mean: [3]float32{}, Std: [3]float32{1. / 255, 1. / 255, 1. / 255}}
	got, want := make([]byte, n*size*size*3), gather(recs, index, warps, spec)
	if err := GatherBytes(got, recs, index, warps, size); err != nil {
		t.Fatal(err)
	}
	for i := range got {
		if d := math.Abs(float64(got[i]) - float64(want[i])); d > 0.501 {
			t.Fatalf("byte %d is %d, want %v", i, got[i], want[i])
		}
	}
}

func TestScaleGolden(t *testing.T) {
	jpegs, want := golden(t, "val100_scale144_crop128_linear_u8_NHWC.bin")
	recs := make([]byte, len(want))
	if errs := Decode(jpegs, recs); errs != nil {
		t.Fatal(errors.Join(errs...))
	}
	index, warps := make([]int32, len(jpegs)), make([]Warp, len(jpegs))
	resized := make([]byte, 0, len(want))
	for i := range index {
		index[i], warps[i] = int32(i), Identity(Side)
		warps[i].Map = Shift(8, 8).Then(Scale(Side, Side, 144, 144)).Fixed()
		m, err := ScaleShort(Image{recs[i*RecordBytes:][:RecordBytes], Side, Side}, 144, Bilinear)
		if err != nil {
			t.Fatal(err)
		}
		if m, err = CropCentre(m, Side, Side); err != nil {
			t.Fatal(err)
		}
		resized = append(resized, m.Pix...)
	}
	warped := make([]byte, len(want))
	if err := GatherBytes(warped, recs, index, warps, Side); err != nil {
		t.Fatal(err)
	}
	for name, got := range map[string][]byte{"Resize": resized, "Gather": warped} {
		d, at := largest(t, got, want)
		t.Logf("%s: largest difference %d", name, d)
		if d > 1 {
			t.Errorf("%s: largest difference %d at byte %d, want at most 1", name, d, at)
		}
	}
}

func TestGatherRefuses(t *testing.T) {
	recs := records(2)
	spec := OutSpec{Size: 16}.ImageNet()
	good := func() (int, []int32, []Warp, OutSpec) {
		return 2 * spec.Bytes(), []int32{0, 1}, []Warp{Identity(16), Identity(16)}, spec
	}
	tests := []struct {
		name  string
		spoil func(bytes *int, index []int32, warps []Warp, spec *OutSpec)
	}{
		{"index", func(_ *int, index []int32, _ []Warp, _ *OutSpec) { index[1] = 2 }},
		{"negative index", func(_ *int, index []int32, _ []Warp, _ *OutSpec) { index[0] = -1 }},
		{"room", func(bytes *int, _ []int32, _ []Warp, _ *OutSpec) { *bytes-- }},
		{"map", func(_ *int, _ []int32, w []Warp, _ *OutSpec) { w[1].Map[2] = math.MaxInt32 }},
		{"interpolation", func(_ *int, _ []int32, w []Warp, _ *OutSpec) { w[1].Interpolation = 3 }},
		{"border", func(_ *int, _ []int32, w []Warp, _ *OutSpec) { w[1].Border = 2 }},
		{"tone", func(_ *int, _ []int32, w []Warp, _ *OutSpec) { w[1].Tone = 9 }},
		{"bits", func(_ *int, _ []int32, w []Warp, _ *OutSpec) { w[1].Tone, w[1].ToneLevel = Posterize, 9 }},
		{"matrix", func(_ *int, _ []int32, w []Warp, _ *OutSpec) { w[0].Matrix[7] = 1 << 21 }},
		{"mate", func(_ *int, _ []int32, w []Warp, _ *OutSpec) { w[0].Mix, w[0].Mate = Blend, 2 }},
		{"size", func(bytes *int, _ []int32, _ []Warp, s *OutSpec) { s.Size = 2000; *bytes = 2 * s.Bytes() }},
		{"deviation", func(_ *int, _ []int32, _ []Warp, s *OutSpec) { s.Std[1] = 0 }},
		{"type", func(_ *int, _ []int32, _ []Warp, s *OutSpec) { s.DType = 7 }},
	}
	for _, test := range tests {
		bytes, index, warps, spec := good()
		test.spoil(&bytes, index, warps, &spec)
		if err := Gather(make([]byte, bytes), recs, index, warps, spec); !errors.Is(err, ErrArgument) {
			t.Errorf("%s: error %v, want ErrArgument", test.name, err)
		}
	}
	bytes, index, warps, spec := good()
	if err := Gather(make([]byte, bytes), recs[1:], index, warps, spec); !errors.Is(err, ErrArgument) {
		t.Errorf("odd records: error %v, want ErrArgument", err)
	}
	if err := Gather(make([]byte, bytes), recs, index, warps, spec); err != nil {
		t.Errorf("good: error %v", err)
	}
}

func TestGatherDoesNotAllocate(t *testing.T) {
	recs, spec := records(1), OutSpec{Size: 8}.ImageNet()
	dst, index, warps := make([]byte, spec.Bytes()), []int32{0}, []Warp{Identity(8)}
	n := testing.AllocsPerRun(100, func() {
		if err := Gather(dst, recs, index, warps, spec); err != nil {
			t.Fatal(err)
		}
	})
	if n != 0 {
		t.Errorf("Gather allocates %v times, want 0", n)
	}
}

func BenchmarkGather(b *testing.B) {
	const n = 64
	recs := records(n)
	straight := Identity(Side)
	straight.Map = [6]int32{-One, 0, (Side - 1) * One, 0, One, 0}
	turned := Identity(Side)
	turned.Map = Scale(Side, Side, 144, 144).Then(Rotate(0.2, Side, Side)).Fixed()
	cubic := turned
	cubic.Interpolation = Bicubic
	for _, w := range []struct {
		name string
		warp Warp
	}{{"flip", straight}, {"same", Identity(Side)}, {"bilinear", turned}, {"bicubic", cubic}} {
		for _, d := range []DType{F32, BF16} {
			b.Run(fmt.Sprintf("%s/%dbytes", w.name, d.Bytes()), func(b *testing.B) {
				spec := OutSpec{Size: Side, DType: d}.ImageNet()
				dst, index, warps := make([]byte, n*spec.Bytes()), make([]int32, n), make([]Warp, n)
				for i := range index {
					index[i], warps[i] = int32(n-1-i), w.warp
				}
				for b.Loop() {
					if err := Gather(dst, recs, index, warps, spec); err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(float64(b.N*n)/b.Elapsed().Seconds(), "images/s")
			})
		}
	}
}
