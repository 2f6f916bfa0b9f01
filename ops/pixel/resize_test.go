package pixel

import (
	"errors"
	"math"
	"os"
	"testing"
)

func TestResize(t *testing.T) {
	for _, from := range [][2]int{{1, 1}, {5, 3}, {64, 48}, {128, 128}} {
		m := picture(from[0], from[1], 7)
		for _, to := range [][2]int{{1, 1}, {9, 4}, {64, 48}, {144, 144}, {31, 100}} {
			for _, how := range []Interpolation{Nearest, Bilinear, Bicubic} {
				got, err := Resize(m, to[0], to[1], how)
				if err != nil {
					t.Fatal(err)
				}
				most := 0.0
				for i, want := range resize(m, to[0], to[1], how) {
					most = max(most, math.Abs(float64(got.Pix[i])-want))
				}
				if limit := 1.0; most > limit || how == Nearest && most > 0 {
					t.Errorf("%v to %v, interpolation %d: largest difference %.3f grey levels, want at most 1", from, to, how, most)
				}
			}
		}
	}
}

// testdata/opencv.bin is what OpenCV's own resize makes of a small picture: see testdata/opencv.py. The heights and widths
// leave pixels over from OpenCV's vectors, which round otherwise.
func TestResizeOpenCV(t *testing.T) {
	want, err := os.ReadFile("testdata/opencv.bin")
	if err != nil {
		t.Fatal(err)
	}
	m := Image{W: 32, H: 24}
	for y := range m.H {
		for x := range m.W {
			for c := range 3 {
				m.Pix = append(m.Pix, byte((x*x*(c+3)+y*y*7+x*y*(5-c))%256))
			}
		}
	}
	for _, to := range [][2]int{{36, 27}, {64, 48}, {20, 15}, {45, 24}} {
		for _, how := range []Interpolation{Nearest, Bilinear, Bicubic} {
			got, err := Resize(m, to[0], to[1], how)
			if err != nil {
				t.Fatal(err)
			}
			d, at := largest(t, got.Pix, want[:len(got.Pix)])
			if d > 0 {
				t.Errorf("to %v, interpolation %d: largest difference %d at byte %d", to, how, d, at)
			}
			want = want[len(got.Pix):]
		}
	}
	if len(want) != 0 {
		t.Errorf("%d bytes of the golden left over", len(want))
	}
}

func TestScaleShort(t *testing.T) {
	for _, test := range []struct{ w, h, wantW, wantH int }{{128, 128, 144, 144}, {640, 480, 192, 144}, {100, 333, 144, 480}, {144, 200, 144, 200}, {3, 2, 216, 144}} {
		m, err := ScaleShort(picture(test.w, test.h, 1), 144, Bilinear)
		if err != nil {
			t.Fatal(err)
		}
		if m.W != test.wantW || m.H != test.wantH {
			t.Errorf("%d x %d became %d x %d, want %d x %d", test.w, test.h, m.W, m.H, test.wantW, test.wantH)
		}
	}
}

func TestResizeRefuses(t *testing.T) {
	m := picture(4, 4, 1)
	for name, f := range map[string]func() error{
		"no pixels":     func() error { _, err := Resize(Image{}, 3, 3, Bilinear); return err },
		"wrong length":  func() error { _, err := Resize(Image{m.Pix[1:], 4, 4}, 3, 3, Bilinear); return err },
		"to nothing":    func() error { _, err := Resize(m, 0, 3, Bilinear); return err },
		"to too much":   func() error { _, err := Resize(m, 1<<20, 1<<20, Bilinear); return err },
		"interpolation": func() error { _, err := Resize(m, 3, 3, 7); return err },
		"crop":          func() error { _, err := CropCentre(m, 5, 4); return err },
	} {
		if err := f(); !errors.Is(err, ErrArgument) {
			t.Errorf("%s: error %v, want ErrArgument", name, err)
		}
	}
}

func BenchmarkResize(b *testing.B) {
	m := picture(Side, Side, 1)
	for how, name := range []string{"nearest", "bilinear", "bicubic"} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if _, err := Resize(m, 144, 144, Interpolation(how)); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
