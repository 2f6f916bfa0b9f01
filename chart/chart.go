// Package chart draws figures of numbers: curves, bars and matrices. A figure says what there is to see and lays it out; a Pen
// draws it. SVG and PNG are here, and report has a pen for PDF. It owns layout, colours and ticks; it must never import
// another package of the module, nor know what the numbers mean.
//
// Start reading at Figure and Pen, then lines.go.
package chart

import (
	"fmt"
	"image/color"
	"math"
	"strconv"
)

// Lengths are in units of the figure: its Size fits the page, whatever a unit is there. Y grows downwards.

// Figure is something to draw.
type Figure interface {
	// Size is the figure's width and height.
	Size() (width, height float64)
	// Draw lays the figure out and draws it. The error says what is missing for that.
	Draw(Pen) error
	// Alt says in words what the figure shows, for people who do not see it.
	Alt() string
}

// Pen draws on a figure's area. It keeps none of the slices that it is given.
type Pen interface {
	Line(points []Point, s Stroke)
	Fill(outlines [][]Point, ink Ink, opacity float64)
	Dot(at Point, radius float64, ink Ink, tip string) // tip: what the dot stands for, where a reader can ask
	Text(at Point, text string, l Lettering)           // at: on the baseline
}

// Point is a place on a figure.
type Point struct{ X, Y float64 }

// Stroke is how a line is drawn.
type Stroke struct {
	Ink    Ink
	Width  float64
	Dashed bool
}

// Lettering is how a text is drawn.
type Lettering struct {
	Ink    Ink
	Size   float64
	Bold   bool
	Anchor Anchor
	Turned bool // upwards, about the point
}

// Anchor says which part of a text stands at its point.
type Anchor int

// The parts of a text.
const (
	Begin Anchor = iota
	Middle
	End
)

// Ink is a colour by its purpose, so that a page can have its own.
type Ink int

// The purposes. Series has those of what is compared.
const (
	InkText Ink = iota
	InkMuted
	InkGrid
	inkSeries
)

// seriesInks is how many things can be told apart by colour.
const seriesInks = 7

// Series is the ink of the i-th thing compared, counted from 0.
func Series(i int) Ink { return inkSeries + Ink(i%seriesInks) }

// inks are the colours on a light and on a dark page. Those of series can be told apart by people who see no red or no green
// (Okabe & Ito, 2008).
func inks() [inkSeries + seriesInks]struct {
	name        string
	light, dark color.RGBA
} {
	return [inkSeries + seriesInks]struct {
		name        string
		light, dark color.RGBA
	}{
		{"text", rgb(0x202226), rgb(0xE4E5E7)},
		{"muted", rgb(0x666B73), rgb(0xA3A8B0)},
		{"grid", rgb(0xDDDEE0), rgb(0x3A3D42)},
		{"s0", rgb(0x0072B2), rgb(0x5AB0E8)},
		{"s1", rgb(0xD55E00), rgb(0xFF8B42)},
		{"s2", rgb(0x009E73), rgb(0x35C9A0)},
		{"s3", rgb(0xB8538F), rgb(0xE5A0CB)},
		{"s4", rgb(0xB87900), rgb(0xF0B63A)},
		{"s5", rgb(0x2F8FC4), rgb(0x9AD6F7)},
		{"s6", rgb(0x4B4F56), rgb(0xC9CCD1)},
	}
}

func rgb(v uint32) color.RGBA { return color.RGBA{uint8(v >> 16), uint8(v >> 8), uint8(v), 255} }

// RGB is the ink's colour on a light page.
func (i Ink) RGB() color.RGBA { return inks()[i].light }

// ticks are round numbers from low to high or just beyond, about n of them, and the decimals that they need.
func ticks(low, high float64, n int, whole bool) (at []float64, decimals int) {
	if !(high > low) {
		high = low + 1
	}
	step := math.Pow(10, math.Floor(math.Log10((high-low)/float64(n))))
	for _, times := range []float64{1, 2, 5, 10} {
		if step*times*float64(n) >= high-low {
			step *= times
			break
		}
	}
	if whole {
		step = max(1, math.Round(step))
	}
	if step < 1 {
		decimals = int(math.Ceil(-math.Log10(step) - 1e-9))
	}
	for i := math.Floor(low/step + 1e-9); ; i++ {
		at = append(at, i*step)
		if i*step >= high-1e-9*step {
			return at, decimals
		}
	}
}

// number prints a value with so many decimals, and commas between thousands.
func number(v float64, decimals int) string {
	text := strconv.FormatFloat(math.Abs(v), 'f', decimals, 64)
	whole := len(text)
	if decimals > 0 {
		whole -= decimals + 1
	}
	for i := whole - 3; i > 0; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	if v < 0 && math.Abs(v) > 1e-12 {
		text = "−" + text
	}
	return text
}

// short prints a measured value with as many digits as matter.
func short(v float64) string {
	switch a := math.Abs(v); {
	case a >= 1000:
		return number(v, 0)
	case a >= 100:
		return number(v, 1)
	case a >= .1 || a == 0:
		return number(v, 2)
	}
	return fmt.Sprintf("%.3g", v)
}
