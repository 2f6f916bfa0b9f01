package chart

import (
	"fmt"
	"math"
	"strings"
)

// Bars compares values of some things, a row each, from left to right.
type Bars struct {
	Unit   string // of the values
	Series []string
	Rows   []Row
	Width  float64 // 640 where it is 0
}

// Row is one thing and a value for each series; NaN where there is none.
type Row struct {
	Name   string
	Values []float64
}

// Measures of Bars.
const (
	barHeight, barGap = 11, 3
	rowGap            = 9
	legendHeight      = 22
)

// Size follows from the rows.
func (b Bars) Size() (float64, float64) {
	w := b.Width
	if w == 0 {
		w = 640
	}
	h := 4.
	if len(b.Series) > 1 {
		h += legendHeight
	}
	for _, r := range b.Rows {
		h += float64(len(r.Values))*(barHeight+barGap) + rowGap
	}
	return w, h
}

// Alt says every value.
func (b Bars) Alt() string {
	var rows []string
	for _, r := range b.Rows {
		var values []string
		for i, v := range r.Values {
			name := ""
			if len(b.Series) > 1 {
				name = b.Series[i] + " "
			}
			if !math.IsNaN(v) {
				values = append(values, name+short(v)+" "+b.Unit)
			}
		}
		rows = append(rows, r.Name+": "+strings.Join(values, ", "))
	}
	return fmt.Sprintf("Bars. %s.", strings.Join(rows, "; "))
}

// Draw draws the bars, with a line at 0.
func (b Bars) Draw(pen Pen) error {
	letters, err := newLetters()
	if err != nil {
		return err
	}
	label := Lettering{Ink: InkText, Size: textSize, Anchor: End}
	left, most, least := 0., 0., 0.
	for _, r := range b.Rows {
		left = max(left, letters.width(r.Name, label)+10)
		for _, v := range r.Values {
			if !math.IsNaN(v) {
				most, least = max(most, v), min(least, v)
			}
		}
	}
	if len(b.Rows) == 0 || most == least {
		return ErrEmpty
	}
	w, _ := b.Size()
	left = min(left, w/3)
	beside := func(v float64) float64 { return letters.width(short(v)+unitAfter(b.Unit), label) + 8 } // a bar's end
	from, to := left, w-beside(most)
	if least < 0 {
		from += beside(least)
	}
	zero := from + -least/(most-least)*(to-from)
	unit := (to - from) / (most - least)
	y := 2.
	if len(b.Series) > 1 {
		x := left
		for i, name := range b.Series {
			pen.Fill([][]Point{box(x, y+1, 10, 10)}, Series(i), 1)
			pen.Text(Point{x + 15, y + 10}, name, Lettering{Ink: InkText, Size: textSize})
			x += letters.width(name, label) + 34
		}
		y += legendHeight
	}
	begin := y
	for _, r := range b.Rows {
		height := float64(len(r.Values)) * (barHeight + barGap)
		pen.Text(Point{left - 8, y + height/2 + 2.5}, letters.cut(r.Name, label, left-10), label)
		for i, v := range r.Values {
			if !math.IsNaN(v) {
				ink := Series(i)
				if len(b.Series) < 2 && v < 0 {
					ink = Series(1)
				}
				pen.Fill([][]Point{box(min(zero, zero+v*unit), y, math.Abs(v)*unit, barHeight)}, ink, 1)
				value := Lettering{Ink: InkMuted, Size: textSize - 1}
				at := Point{zero + v*unit + 5, y + barHeight - 2}
				if v < 0 {
					at.X, value.Anchor = zero+v*unit-5, End
				}
				pen.Text(at, short(v)+unitAfter(b.Unit), value)
			}
			y += barHeight + barGap
		}
		y += rowGap
	}
	pen.Line([]Point{{zero, begin - 2}, {zero, y - rowGap}}, Stroke{Ink: InkMuted, Width: .8})
	return nil
}

func unitAfter(unit string) string {
	if unit == "" {
		return ""
	}
	return " " + unit
}

// box is the outline of a rectangle.
func box(x, y, w, h float64) []Point { return []Point{{x, y}, {x + w, y}, {x + w, y + h}, {x, y + h}} }
