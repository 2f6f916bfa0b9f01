package data

import (
	"fmt"
	"math"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"

	"mp/internal/shared"
	"mp/ops/pixel"
)

// look is what a person would measure of a geometric transform: which part of the record is seen, and how.
type look struct {
	area, ratio, degrees, x, y float64 // of the record; x, y is the centre of what is seen
	flip                       bool
}

func (l look) numbers() [5]float64 { return [5]float64{l.area, l.ratio, l.degrees, l.x, l.y} }

func lookOf(m [6]int32, size int) look {
	a, b, c := float64(m[0])/pixel.One, float64(m[1])/pixel.One, float64(m[2])/pixel.One
	d, e, f := float64(m[3])/pixel.One, float64(m[4])/pixel.One, float64(m[5])/pixel.One
	det, mid := a*e-b*d, float64(size-1)/2
	l := look{flip: det < 0, area: math.Abs(det) * float64(size*size) / (ImageSize * ImageSize)}
	l.x, l.y = a*mid+b*mid+c, d*mid+e*mid+f
	l.ratio = math.Hypot(a, d) / math.Hypot(b, e)
	l.degrees = math.Atan2(-b, e) * 180 / math.Pi
	return l
}

// plainCourse does the reference's transform step by step on sizes: an independent second version.
func plainCourse(r *rand.Rand) look {
	const side = 144
	var l look
	l.flip = r.IntN(2) == 0
	angle := r.Float64()*30 - 15
	w := side
	if math.Abs(angle) <= 1 {
		angle = 0
	} else {
		// The largest upright square whose corners stay in the turned image, by trying.
		sin, cos := math.Sincos(angle * math.Pi / 180)
		inside := func(k float64) bool {
			for _, p := range [][2]float64{{k, k}, {k, -k}, {-k, k}, {-k, -k}} {
				x, y := (p[0]*cos-p[1]*sin)/2, (p[0]*sin+p[1]*cos)/2
				if math.Abs(x) > side/2 || math.Abs(y) > side/2 {
					return false
				}
			}
			return true
		}
		for !inside(float64(w)) {
			w--
		}
	}
	cw, ch, cx, cy := 0, 0, 0, 0
	for trial := range 11 {
		if trial == 10 {
			cw, ch, cx, cy = w, w, 0, 0
			break
		}
		target, aspect := (r.Float64()*0.75+0.25)*float64(w*w), r.Float64()*0.4+0.8
		cw, ch = int(math.Sqrt(target*aspect)+0.5), int(math.Sqrt(target/aspect)+0.5)
		if r.IntN(2) == 1 {
			cw, ch = ch, cw
		}
		if cw <= w && ch <= w {
			cx, cy = r.IntN(w-cw+1), r.IntN(w-ch+1)
			break
		}
	}
	l.area = float64(cw*ch) / (side * side)
	l.ratio = float64(cw) / float64(ch)
	// The centre of the crop, seen from the middle of the square, turned back, mirrored, scaled.
	edge := float64((side - w) / 2)
	x, y := edge+float64(cx)+float64(cw)/2-side/2., edge+float64(cy)+float64(ch)/2-side/2.
	sin, cos := math.Sincos(angle * math.Pi / 180)
	x, y = x*cos-y*sin, x*sin+y*cos
	if l.flip {
		x = -x
	}
	l.degrees = angle
	l.x, l.y = (x+side/2)*ImageSize/side-0.5, (y+side/2)*ImageSize/side-0.5
	return l
}

// distance is the Kolmogorov-Smirnov statistic of two samples.
func distance(a, b []float64) float64 {
	slices.Sort(a)
	slices.Sort(b)
	most := 0.0
	for i, j := 0, 0; i < len(a) && j < len(b); {
		v := math.Min(a[i], b[j])
		for i < len(a) && a[i] <= v {
			i++
		}
		for j < len(b) && b[j] <= v {
			j++
		}
		most = math.Max(most, math.Abs(float64(i)/float64(len(a))-float64(j)/float64(len(b))))
	}
	return most
}

func TestCourseDistribution(t *testing.T) {
	const n = 20000
	r := rand.New(rand.NewPCG(7, 8))
	course, err := NewRecipe("course")
	if err != nil {
		t.Fatal(err)
	}
	var got, want [5][]float64
	var gains []float64
	flips, interpolations := 0, [3]int{}
	for i := range n {
		w := course.Draw(11, i/100, int32(i%100), ImageSize)
		l, p := lookOf(w.Map, ImageSize), plainCourse(r)
		for k := range got {
			a, b := l.numbers()[k], p.numbers()[k]
			// Both versions know pixels only to rounding; so do the steps between their values.
			got[k], want[k] = append(got[k], math.Round(a*1e4)/1e4), append(want[k], math.Round(b*1e4)/1e4)
		}
		if l.flip {
			flips++
		}
		interpolations[w.Interpolation]++
		for _, g := range w.Gain {
			gains = append(gains, float64(g)/pixel.GainOne)
		}
		for _, c := range [4][2]float64{{-0.5, -0.5}, {127.5, -0.5}, {-0.5, 127.5}, {127.5, 127.5}} {
			x := (float64(w.Map[0])*c[0] + float64(w.Map[1])*c[1] + float64(w.Map[2])) / pixel.One
			y := (float64(w.Map[3])*c[0] + float64(w.Map[4])*c[1] + float64(w.Map[5])) / pixel.One
			// The square is cut in whole pixels about the middle: of 144 half a pixel each way may stick out.
			if x < -1.2 || x > 128.2 || y < -1.2 || y > 128.2 {
				t.Fatalf("draw %d sees (%.2f, %.2f), beyond the image", i, x, y)
			}
		}
	}
	limit := 1.95 * math.Sqrt(2./n) // probability 0.001
	for k, name := range []string{"area", "ratio", "angle", "centre x", "centre y"} {
		d := distance(got[k], want[k])
		t.Logf("%s: distance %.4f of at most %.4f", name, d, limit)
		if d > limit {
			t.Errorf("%s: the distributions differ by %.4f, want at most %.4f", name, d, limit)
		}
	}
	if math.Abs(float64(flips)-n/2) > 4*math.Sqrt(n)/2 {
		t.Errorf("%d of %d mirrored", flips, n)
	}
	for how, k := range interpolations {
		if math.Abs(float64(k)-n/3.) > 4*math.Sqrt(n*2./9) {
			t.Errorf("interpolation %d drawn %d of %d times, want a third", how, k, n)
		}
	}
	var uniform []float64
	for i := range gains {
		uniform = append(uniform, 0.85+0.3*(float64(i)+0.5)/float64(len(gains)))
	}
	if d := distance(gains, uniform); d > 0.01 {
		t.Errorf("gains differ by %.4f from uniform in 1 +- 0.15", d)
	}
}

func TestLargestUpright(t *testing.T) {
	for _, size := range [][2]float64{{144, 144}, {200, 100}, {100, 200}, {300, 40}} {
		for degrees := -89.0; degrees < 90; degrees += 3.7 {
			angle := degrees * math.Pi / 180
			w, h := largestUpright(size[0], size[1], angle)
			sin, cos := math.Sincos(angle)
			reach := func(grow float64) float64 { // how far the corners are out, 1: at the edge
				far := 0.0
				for _, p := range [][2]float64{{w, h}, {w, -h}} {
					x, y := (p[0]*cos-p[1]*sin)*grow, (p[0]*sin+p[1]*cos)*grow
					far = max(far, math.Abs(x)/size[0], math.Abs(y)/size[1])
				}
				return far
			}
			if far := reach(1); math.Abs(far-1) > 1e-9 {
				t.Errorf("%v turned by %.1f: corners of %.1f x %.1f at %.4f of the edge, want 1", size, degrees, w, h, far)
			}
			// No rectangle of another shape is larger.
			for try := 0.05; try < 20; try *= 1.1 {
				scale := 1.0
				ow, oh := try, 1.0
				for _, p := range [][2]float64{{ow, oh}, {ow, -oh}} {
					x, y := math.Abs(p[0]*cos-p[1]*sin), math.Abs(p[0]*sin+p[1]*cos)
					scale = max(scale, x*1e6/size[0], y*1e6/size[1])
				}
				if area := ow * oh * 1e12 / scale / scale; area > w*h*(1+1e-9) {
					t.Fatalf("%v turned by %.1f: %.2f found, but a ratio of %.2f gives %.2f", size, degrees, w*h, try, area)
				}
			}
		}
	}
}

// goldenRecords decodes the reference's hundred validation images.
func goldenRecords(t *testing.T) (records, scaled []byte) {
	t.Helper()
	dir := filepath.Join(shared.Dir(t), "golden")
	return mustRead(t, filepath.Join(dir, "val100_rgb_u8_NHWC_100x128x128x3.bin")),
		mustRead(t, filepath.Join(dir, "val100_scale144_crop128_linear_u8_NHWC.bin"))
}

func TestValidationGolden(t *testing.T) {
	records, want := goldenRecords(t)
	v, err := NewValRecipe(144, "bilinear")
	if err != nil {
		t.Fatal(err)
	}
	got := drawAll(t, v, records)
	most := 0
	for i := range got {
		most = max(most, int(got[i])-int(want[i]), int(want[i])-int(got[i]))
	}
	t.Logf("largest difference %d", most)
	if most > 1 {
		t.Errorf("largest difference %d grey levels, want at most 1", most)
	}
}

// drawAll warps all records by a recipe.
func drawAll(t *testing.T, p Recipe, records []byte) []byte {
	t.Helper()
	n := len(records) / RecordBytes
	index, warps := make([]int32, n), make([]pixel.Warp, n)
	for i := range index {
		index[i], warps[i] = int32(i), p.Draw(1, 0, int32(i), ImageSize)
	}
	out := make([]byte, len(records))
	if err := pixel.GatherBytes(out, records, index, warps, ImageSize); err != nil {
		t.Fatal(err)
	}
	return out
}

// noise is n records of random pixels.
func noise(n int, seed uint64) []byte {
	b := make([]byte, n*RecordBytes)
	r := rand.New(rand.NewPCG(seed, 0))
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// Every interpolation must be what resizing and cutting step by step gives; the nearest pixel exactly.
func TestValidationSteps(t *testing.T) {
	record := noise(1, 3)
	for name, how := range map[string]pixel.Interpolation{"nearest": pixel.Nearest, "bilinear": pixel.Bilinear, "bicubic": pixel.Bicubic} {
		for _, scale := range []int{128, 144, 150, 160, 256} {
			v, err := NewValRecipe(scale, name)
			if err != nil {
				t.Fatal(err)
			}
			got := drawAll(t, v, record)
			m, err := pixel.ScaleShort(pixel.Image{Pix: record, W: ImageSize, H: ImageSize}, scale, how)
			if err == nil {
				m, err = pixel.CropCentre(m, ImageSize, ImageSize)
			}
			if err != nil {
				t.Fatal(err)
			}
			most := 0
			for i := range got {
				most = max(most, int(got[i])-int(m.Pix[i]), int(m.Pix[i])-int(got[i]))
			}
			if most > 1 || how == pixel.Nearest && most > 0 {
				t.Errorf("%s at %d: largest difference %d", name, scale, most)
			}
		}
	}
}

func TestRecipeNames(t *testing.T) {
	for _, name := range RecipeNames() {
		p, err := NewRecipe(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, size := range []int{32, 96, 128, 160} {
			same, other := 0, 0
			for i := range int32(50) {
				w := p.Draw(3, 2, i, size)
				if w == p.Draw(3, 2, i, size) {
					same++
				}
				if w != p.Draw(4, 2, i, size) && w != p.Draw(3, 1, i, size) && w != p.Draw(3, 2, i+1, size) {
					other++
				}
				dst := make([]byte, size*size*3)
				if err := pixel.GatherBytes(dst, make([]byte, RecordBytes), []int32{0}, []pixel.Warp{w}, size); err != nil {
					t.Fatalf("%s at %d pixels: %v", name, size, err)
				}
			}
			if same != 50 || name != "none" && other < 45 || name == "none" && other != 0 {
				t.Errorf("%s: of 50 draws %d repeat themselves and %d differ from their neighbours", name, same, other)
			}
		}
	}
	for _, err := range []error{second(NewRecipe("finest")), second(NewValRecipe(5000, "nearest")), second(NewValRecipe(144, "area"))} {
		if !isData(err) {
			t.Errorf("error %v, want ErrData", err)
		}
	}
}

func second(_ Recipe, err error) error { return err }

func ExampleRecipe_String() {
	p, _ := NewRecipe("strong")
	fmt.Println(p.String())
	// Output: strong, mixup 0.2, cutmix 1
}
