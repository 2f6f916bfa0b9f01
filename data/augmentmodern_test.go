package data

import (
	"errors"
	"math"
	"math/rand/v2"
	"os"
	"testing"

	"mp/ops/pixel"
)

func mustRead(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func isData(err error) bool { return errors.Is(err, ErrData) }

func TestResizedCrop(t *testing.T) {
	const n = 20000
	var areas, uniform, xs, plainX []float64
	r, plain := seeded([]uint64{5}), rand.New(rand.NewPCG(1, 1))
	wide := 0
	for range n {
		v := resizedCrop(&r, 0.35, 4./3)
		if v.x < 0 || v.y < 0 || v.x+v.w > ImageSize+1e-9 || v.y+v.h > ImageSize+1e-9 {
			t.Fatalf("window %+v leaves the image", v)
		}
		if ratio := math.Max(v.w/v.h, v.h/v.w); ratio > 4./3+1e-9 {
			t.Fatalf("window %+v has a ratio of %.3f", v, ratio)
		}
		if v.w > v.h {
			wide++
		}
		areas, xs = append(areas, v.w*v.h/(ImageSize*ImageSize)), append(xs, v.x)
		// By rejection, step by step.
		for {
			area := 0.35 + 0.65*plain.Float64()
			s := math.Sqrt(1 + plain.Float64()/3)
			w, h := math.Sqrt(area)*s, math.Sqrt(area)/s
			if plain.IntN(2) == 0 {
				w, h = h, w
			}
			if w <= 1 && h <= 1 {
				uniform, plainX = append(uniform, area), append(plainX, ImageSize*(1-w)*plain.Float64())
				break
			}
		}
	}
	if d := distance(areas, uniform); d > 0.02 {
		t.Errorf("areas differ by %.4f from the plain version's", d)
	}
	if d := distance(xs, plainX); d > 0.02 {
		t.Errorf("positions differ by %.4f from the plain version's", d)
	}
	if math.Abs(float64(wide)-n/2) > 300 {
		t.Errorf("%d of %d wider than high, want half", wide, n)
	}
}

// The matrix must be what brightness, contrast, saturation and hue do one after another.
func TestLight(t *testing.T) {
	r := rand.New(rand.NewPCG(2, 3))
	grey := func(v [3]float64) float64 { return 0.299*v[0] + 0.587*v[1] + 0.114*v[2] }
	for range 200 {
		l := light{0.5 + r.Float64(), 0.5 + r.Float64(), 2 * r.Float64(), r.Float64() - 0.5}
		w := pixel.Identity(8)
		l.apply(&w)
		v, mean := [3]float64{256 * r.Float64(), 256 * r.Float64(), 256 * r.Float64()}, 256*r.Float64()
		var got [3]float64
		for c := range got {
			for k := range v {
				got[c] += float64(w.Matrix[4*c+k]) * v[k] / pixel.MatrixOne
			}
			got[c] += float64(w.Matrix[4*c+3]) * mean / pixel.MatrixOne
		}
		for c := range v {
			v[c] *= l.brightness
			v[c] = l.brightness*mean + l.contrast*(v[c]-l.brightness*mean)
		}
		g := grey(v)
		for c := range v {
			v[c] = g + l.saturation*(v[c]-g)
		}
		i, q := 0.596*v[0]-0.274*v[1]-0.322*v[2], 0.211*v[0]-0.523*v[1]+0.312*v[2]
		sin, cos := math.Sincos(2 * math.Pi * l.hue)
		i, q = i*cos-q*sin, i*sin+q*cos
		want := [3]float64{g + 0.956*i + 0.621*q, g - 0.272*i - 0.647*q, g - 1.106*i + 1.703*q} // rounded inverse
		for c := range want {
			if math.Abs(got[c]-want[c]) > 1 {
				t.Fatalf("%+v: channel %d is %.3f, want %.3f", l, c, got[c], want[c])
			}
		}
	}
	w := pixel.Identity(8)
	light{1, 1, 1, 0}.apply(&w)
	if w.Steps != 0 {
		t.Error("no change of colour still asks for a matrix")
	}
}

func TestTrivial(t *testing.T) {
	const n = 14000
	kinds := map[string]int{}
	r := seeded([]uint64{9})
	for range n {
		w, l := pixel.Identity(ImageSize), light{1, 1, 1, 0}
		m := trivial(&r, ImageSize, &w, &l)
		kind := "same"
		switch {
		case w.Tone != pixel.NoTone:
			kind = [...]string{"", "posterize", "solarize", "autocontrast", "equalize"}[w.Tone]
		case w.Steps&pixel.Sharpen != 0:
			kind = "sharpness"
		case l.brightness != 1:
			kind = "brightness"
		case l.contrast != 1:
			kind = "contrast"
		case l.saturation != 1:
			kind = "saturation"
		case m.B != 0 && m.D != 0:
			kind = "rotate"
		case m.B != 0:
			kind = "shear x"
		case m.D != 0:
			kind = "shear y"
		case m.C != 0:
			kind = "translate x"
		case m.F != 0:
			kind = "translate y"
		}
		kinds[kind]++
		geometric := m != (pixel.Affine{A: 1, E: 1})
		if geometric != (w.Border == pixel.Fill) {
			t.Fatalf("%s: border %d", kind, w.Border)
		}
		// Shears and turns leave the middle where it is.
		if mid := (ImageSize - 1) / 2.; kind == "rotate" || kind == "shear x" || kind == "shear y" {
			x, y := m.A*mid+m.B*mid+m.C, m.D*mid+m.E*mid+m.F
			if math.Abs(x-mid) > 1e-9 || math.Abs(y-mid) > 1e-9 {
				t.Fatalf("%s moves the middle to %.3f, %.3f", kind, x, y)
			}
		}
	}
	if len(kinds) != 14 {
		t.Errorf("%d kinds, want 14: %v", len(kinds), kinds)
	}
	for kind, k := range kinds {
		if math.Abs(float64(k)-n/14) > 5*math.Sqrt(n/14) {
			t.Errorf("%s drawn %d of %d times, want about %d", kind, k, n, n/14)
		}
	}
}

func TestErase(t *testing.T) {
	r := seeded([]uint64{10})
	for _, size := range []int{32, 128} {
		for range 3000 {
			w := pixel.Identity(size)
			erase(&r, size, &w)
			b := w.Erase
			if b.X0 < 0 || b.Y0 < 0 || int(b.X1) > size || int(b.Y1) > size || b.X1 <= b.X0 || b.Y1 <= b.Y0 {
				t.Fatalf("%d pixels: box %+v", size, b)
			}
			if part := float64(int(b.X1-b.X0)*int(b.Y1-b.Y0)) / float64(size*size); part < 0.01 || part > 0.23 {
				t.Fatalf("%d pixels: box %+v has %.3f of the area", size, b, part)
			}
		}
	}
}

func TestBeta(t *testing.T) {
	r := seeded([]uint64{11})
	for _, alpha := range []float64{0.1, 0.2, 1, 4, 50} {
		const n = 40000
		var sum, squares float64
		for range n {
			v := beta(&r, alpha)
			if v < 0 || v > 1 || math.IsNaN(v) {
				t.Fatalf("Beta(%g): %v", alpha, v)
			}
			sum += v
			squares += v * v
		}
		mean := sum / n
		variance, want := squares/n-mean*mean, 1/(4*(2*alpha+1))
		if math.Abs(mean-0.5) > 0.01 || math.Abs(variance/want-1) > 0.04 {
			t.Errorf("Beta(%g): mean %.4f, variance %.5f, want 0.5, %.5f", alpha, mean, variance, want)
		}
	}
}

func TestMix(t *testing.T) {
	const n, size = 16, 64
	for _, p := range []Recipe{{Mixup: 0.4}, {Cutmix: 1}, {Mixup: 0.4, Cutmix: 1}} {
		blends, pastes, shares := 0, 0, 0.0
		for step := range 400 {
			warps, again := make([]pixel.Warp, n), make([]pixel.Warp, n)
			p.Mix(1, 2, step, 0, warps, size)
			p.Mix(1, 2, step, 0, again, size)
			for i := range warps {
				w := &warps[i]
				if *w != again[i] {
					t.Fatal("Mix is not a function of its arguments")
				}
				if w.Mate == int32(i) || w.Mate < 0 || w.Mate >= n {
					t.Fatalf("image %d is mixed with %d of %d", i, w.Mate, n)
				}
				share := ownShare(w, size)
				if share < 0 || share > 1 || share < 0.5 && w.Mix == pixel.Blend {
					t.Fatalf("own share %v", share)
				}
				shares += float64(share)
				switch w.Mix {
				case pixel.Blend:
					blends++
				case pixel.Paste:
					pastes++
				}
			}
		}
		all := blends + pastes
		if all != 400*n || p.Mixup == 0 && blends > 0 || p.Cutmix == 0 && pastes > 0 {
			t.Errorf("%v: %d blends and %d pastes of %d", p, blends, pastes, 400*n)
		}
		if p.Mixup > 0 && p.Cutmix > 0 && math.Abs(float64(blends)/float64(all)-0.5) > 0.1 {
			t.Errorf("%d blends and %d pastes, want half and half", blends, pastes)
		}
		// Boxes lose what sticks out of the image, so cutmix keeps more of an image than its share drawn.
		if mean := shares / float64(all); mean < 0.6 || mean > 0.9 {
			t.Errorf("%v: mean own share %.3f", p, mean)
		}
	}
	alone := []pixel.Warp{pixel.Identity(size)}
	p := Recipe{Mixup: 1}
	if p.Mix(1, 1, 1, 1, alone, size); alone[0].Mix != pixel.NoMix {
		t.Error("an image alone in its shard is mixed")
	}
}
