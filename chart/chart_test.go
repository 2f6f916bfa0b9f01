package chart

import (
	"bytes"
	"encoding/xml"
	"errors"
	"image/png"
	"io"
	"math"
	"slices"
	"strings"
	"testing"
)

// figures are one of each kind.
func figures() map[string]Figure {
	return map[string]Figure{
		"lines": Lines{Title: "A title", Subtitle: "and what it means", XLabel: "epoch", YLabel: "top-1, per cent", WholeX: true, FromZero: true, Curves: []Curve{
			{Name: "scenenet, validation", Ink: Series(0), Dots: true, Points: [][2]float64{{1, 7}, {2, 14}, {3, math.NaN()}, {4, 25}, {5, 31.6}}},
			{Name: "scenenet, training", Ink: Series(0), Dashed: true, Points: [][2]float64{{1, 6}, {2, 12}, {3, 20}, {4, 26}, {5, 31.5}}},
			{Name: "a name that is much too long to stand beside the figure <&>", Ink: Series(1), Points: [][2]float64{{1, 5}, {5, 31}}},
		}},
		"log":         Lines{XLabel: "steps", YLabel: "rate", LogX: true, LogY: true, Curves: []Curve{{Name: "pgd", Points: [][2]float64{{1, .1}, {10, .01}, {100, .0005}}}}},
		"bars":        Bars{Unit: "%", Series: []string{"clean", "attacked"}, Rows: []Row{{"control", []float64{41, 1.5}}, {"trained against it", []float64{30, math.NaN()}}}},
		"differences": Bars{Unit: "points", Series: []string{"difference"}, Rows: []Row{{"abbey", []float64{12}}, {"alley", []float64{-30}}}},
		"matrix":      Matrix{Names: []string{"abbey", "alley", "attic"}, Counts: [][]int{{8, 2, 0}, {1, 9, 0}, {0, 5, 5}}},
	}
}

// Every figure is well-formed XML with a text for those who cannot see it, and a picture with ink on it.
func TestFigures(t *testing.T) {
	for name, f := range figures() {
		t.Run(name, func(t *testing.T) {
			svg, err := SVG(f)
			if err != nil {
				t.Fatal(err)
			}
			for d := xml.NewDecoder(strings.NewReader(svg)); ; {
				if _, err := d.Token(); err == io.EOF {
					break
				} else if err != nil {
					t.Fatalf("%v in\n%s", err, svg)
				}
			}
			if !strings.Contains(svg, `role="img" aria-label="`) || len(f.Alt()) < 20 || strings.Contains(svg, "NaN") {
				t.Errorf("no alternative text, or NaN: %.200s", svg)
			}
			picture, err := PNG(f, 1.5)
			if err != nil {
				t.Fatal(err)
			}
			m, err := png.Decode(bytes.NewReader(picture))
			if err != nil {
				t.Fatal(err)
			}
			w, _ := f.Size()
			if got := float64(m.Bounds().Dx()); math.Abs(got-1.5*(w+2*pngMargin)) > 1 {
				t.Errorf("%g pixels wide, want 1.5 a unit", got)
			}
			inked := 0
			for y := range m.Bounds().Dy() {
				for x := range m.Bounds().Dx() {
					if r, g, b, _ := m.At(x, y).RGBA(); r+g+b < 0x20000 {
						inked++
					}
				}
			}
			if inked < 100 {
				t.Errorf("%d dark pixels: nothing is drawn", inked)
			}
		})
	}
}

func TestNothingToDraw(t *testing.T) {
	for _, f := range []Figure{Lines{}, Lines{Curves: []Curve{{Points: [][2]float64{{1, math.NaN()}}}}}, Bars{}, Matrix{}} {
		if _, err := SVG(f); !errors.Is(err, ErrEmpty) {
			t.Errorf("%T: got %v, want ErrEmpty", f, err)
		}
		if _, err := PNG(f, 1); !errors.Is(err, ErrEmpty) {
			t.Errorf("%T: got %v, want ErrEmpty", f, err)
		}
	}
}

func TestTicks(t *testing.T) {
	for _, c := range []struct {
		low, high float64
		n         int
		whole     bool
		want      []float64
		decimals  int
	}{
		{0, 41, 5, false, []float64{0, 10, 20, 30, 40, 50}, 0},
		{2.3, 4.5, 5, false, []float64{2, 2.5, 3, 3.5, 4, 4.5}, 1},
		{1, 3, 8, true, []float64{1, 2, 3}, 0},
		{1, 26, 8, true, []float64{0, 5, 10, 15, 20, 25, 30}, 0},
		{5, 5, 5, false, []float64{5, 5.2, 5.4, 5.6, 5.8, 6}, 1},
	} {
		got, decimals := ticks(c.low, c.high, c.n, c.whole)
		near := func(a, b float64) bool { return math.Abs(a-b) < 1e-9 }
		if !slices.EqualFunc(got, c.want, near) || decimals != c.decimals {
			t.Errorf("ticks from %g to %g: got %v with %d decimals, want %v with %d", c.low, c.high, got, decimals, c.want, c.decimals)
		}
	}
}

func TestNumbers(t *testing.T) {
	for _, c := range []struct {
		v        float64
		decimals int
		want     string
	}{{1234567, 0, "1,234,567"}, {-12.345, 2, "−12.35"}, {999, 0, "999"}, {1000.5, 1, "1,000.5"}, {0, 1, "0.0"}} {
		if got := number(c.v, c.decimals); got != c.want && got != strings.Replace(c.want, "35", "34", 1) {
			t.Errorf("got %q, want %q", got, c.want)
		}
	}
}

// No name stands on another, whatever the curves' ends.
func TestNamesAreSpread(t *testing.T) {
	var c Lines
	for i := range 6 {
		c.Curves = append(c.Curves, Curve{Name: "curve", Ink: Series(i), Points: [][2]float64{{0, 0}, {1, 1 + float64(i)/100}}})
	}
	p := &recorder{}
	if err := c.Draw(p); err != nil {
		t.Fatal(err)
	}
	slices.Sort(p.names)
	for i := 1; i < len(p.names); i++ {
		if p.names[i]-p.names[i-1] < nameSize {
			t.Errorf("names at %v", p.names)
		}
	}
	if len(p.names) != 6 {
		t.Errorf("%d names, want 6", len(p.names))
	}
}

// recorder is a Pen that remembers where names of curves stand.
type recorder struct{ names []float64 }

func (*recorder) Line([]Point, Stroke)            {}
func (*recorder) Fill([][]Point, Ink, float64)    {}
func (*recorder) Dot(Point, float64, Ink, string) {}
func (r *recorder) Text(at Point, s string, _ Lettering) {
	if s == "curve" {
		r.names = append(r.names, at.Y)
	}
}
