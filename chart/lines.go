package chart

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
)

// ErrEmpty is returned by Draw where there is nothing to draw.
var ErrEmpty = errors.New("there is nothing to draw")

// Lines are curves over one axis. Each curve's name stands at its end.
type Lines struct {
	Title, Subtitle string // above the figure; empty on a page that has its own
	XLabel, YLabel  string
	LogX, LogY      bool // positive values only
	WholeX          bool // ticks of the horizontal axis are whole numbers
	FromZero        bool // the vertical axis begins at 0
	Width, Height   float64
	Curves          []Curve
}

// Curve is one of Lines. A point that is no number interrupts it.
type Curve struct {
	Name   string
	Points [][2]float64
	Ink    Ink
	Dashed bool
	Dots   bool // at each point
}

// Measures of Lines.
const (
	titleSize, subtitleSize = 15, 11
	textSize, nameSize      = 10.5, 10.5
	curveWidth              = 1.8
	dotRadius               = 2.3
	namesAtMost             = 190 // width of names
)

// Size is Width and Height; 640 x 280 where they are 0.
func (c Lines) Size() (float64, float64) {
	w, h := c.Width, c.Height
	if w == 0 {
		w = 640
	}
	if h == 0 {
		h = 280
	}
	return w, h
}

// Alt names the curves and where each begins and ends.
func (c Lines) Alt() string {
	var parts []string
	for _, l := range c.Curves {
		first, last, ok := l.ends()
		if !ok {
			continue
		}
		parts = append(parts, fmt.Sprintf("%s from %s at %s to %s at %s", l.Name, short(first[1]), short(first[0]), short(last[1]), short(last[0])))
	}
	return fmt.Sprintf("Curves of %s over %s: %s.", c.YLabel, c.XLabel, strings.Join(parts, "; "))
}

// ends are the first and last points of a curve.
func (l Curve) ends() (first, last [2]float64, ok bool) {
	for _, p := range l.Points {
		if finite(p) {
			if !ok {
				first = p
			}
			last, ok = p, true
		}
	}
	return first, last, ok
}

func finite(p [2]float64) bool {
	return !math.IsNaN(p[0]) && !math.IsInf(p[0], 0) && !math.IsNaN(p[1]) && !math.IsInf(p[1], 0)
}

// plot is the area within the axes.
type plot struct {
	Lines
	letters      *letters
	left, right  float64
	top, bottom  float64
	x0, x1       float64
	y0, y1       float64
	xAt, yAt     []float64
	xFine, yFine int // decimals of ticks
}

// Draw draws the curves.
func (c Lines) Draw(pen Pen) error {
	letters, err := newLetters()
	if err != nil {
		return err
	}
	k := &plot{Lines: c, letters: letters}
	if !k.span() {
		return ErrEmpty
	}
	w, h := c.Size()
	k.top, k.bottom = 22, h-38
	if c.Title != "" {
		pen.Text(Point{0, 16}, c.Title, Lettering{Ink: InkText, Size: titleSize, Bold: true})
		pen.Text(Point{0, 32}, c.Subtitle, Lettering{Ink: InkMuted, Size: subtitleSize})
		k.top += 40
	}
	label := Lettering{Ink: InkMuted, Size: textSize}
	for _, y := range k.yAt {
		k.left = max(k.left, letters.width(k.yText(y), label)+8)
	}
	names := 0.
	for _, l := range c.Curves {
		names = max(names, 1.08*letters.width(l.Name, Lettering{Size: nameSize})) // a browser may have wider letters
	}
	k.right = w - min(names, namesAtMost) - 14
	k.axes(pen)
	for _, l := range c.Curves {
		k.curve(pen, l)
	}
	k.names(pen)
	return nil
}

// span finds the ends of the axes; false where there is no point.
func (k *plot) span() bool {
	k.x0, k.y0 = math.Inf(1), math.Inf(1)
	k.x1, k.y1 = math.Inf(-1), math.Inf(-1)
	for _, l := range k.Curves {
		for _, p := range l.Points {
			if finite(p) {
				k.x0, k.x1, k.y0, k.y1 = min(k.x0, p[0]), max(k.x1, p[0]), min(k.y0, p[1]), max(k.y1, p[1])
			}
		}
	}
	if math.IsInf(k.x0, 0) {
		return false
	}
	if k.FromZero {
		k.y0 = min(k.y0, 0)
	}
	if k.LogY {
		k.yAt = decades(k.y0, k.y1)
	} else {
		k.yAt, k.yFine = ticks(k.y0, k.y1, 5, false)
	}
	k.y0, k.y1 = min(k.y0, k.yAt[0]), max(k.y1, k.yAt[len(k.yAt)-1])
	if k.LogX {
		for _, p := range k.Curves[0].Points {
			k.xAt = append(k.xAt, p[0])
		}
		if k.x1 == k.x0 {
			k.x1 = k.x0 * 2
		}
		return true
	}
	if k.x1 == k.x0 {
		k.x1 = k.x0 + 1
	}
	at, fine := ticks(k.x0, k.x1, 8, k.WholeX)
	for _, x := range at {
		if x >= k.x0-1e-9 && x <= k.x1+1e-9 {
			k.xAt = append(k.xAt, x)
		}
	}
	k.xFine = fine
	return true
}

// decades are the powers of ten around a range.
func decades(low, high float64) []float64 {
	var out []float64
	for e := math.Floor(math.Log10(low)); ; e++ {
		out = append(out, math.Pow(10, e))
		if math.Pow(10, e) >= high {
			return out
		}
	}
}

// at is where a point lies.
func (k *plot) at(p [2]float64) Point {
	share := func(v, from, to float64, log bool) float64 {
		if log {
			v, from, to = math.Log(v), math.Log(from), math.Log(to)
		}
		return (v - from) / (to - from)
	}
	return Point{k.left + share(p[0], k.x0, k.x1, k.LogX)*(k.right-k.left), k.bottom - share(p[1], k.y0, k.y1, k.LogY)*(k.bottom-k.top)}
}

func (k *plot) yText(y float64) string {
	if k.LogY {
		return fmt.Sprintf("%.3g", y)
	}
	return number(y, k.yFine)
}

// axes draws the grid and what stands at it.
func (k *plot) axes(pen Pen) {
	label := Lettering{Ink: InkMuted, Size: textSize}
	for _, y := range k.yAt {
		p := k.at([2]float64{k.x1, y})
		ink := InkGrid
		if y == k.yAt[0] {
			ink = InkMuted
		}
		pen.Line([]Point{{k.left, p.Y}, {k.right, p.Y}}, Stroke{Ink: ink, Width: .7})
		end := label
		end.Anchor = End
		pen.Text(Point{k.left - 6, p.Y + 3.5}, k.yText(y), end)
	}
	last := math.Inf(-1)
	centre := label
	centre.Anchor = Middle
	for _, x := range k.xAt {
		p := k.at([2]float64{x, k.y0})
		text := number(x, k.xFine)
		if k.LogX {
			text = fmt.Sprintf("%.4g", x)
		}
		half := k.letters.width(text, label) / 2
		if p.X-half < last+6 { // it would run into the one before
			continue
		}
		last = p.X + half
		pen.Line([]Point{{p.X, k.bottom}, {p.X, k.bottom + 3}}, Stroke{Ink: InkMuted, Width: .7})
		pen.Text(Point{p.X, k.bottom + 14}, text, centre)
	}
	pen.Text(Point{0, k.top - 10}, k.YLabel, label)
	pen.Text(Point{(k.left + k.right) / 2, k.bottom + 30}, k.XLabel, centre)
}

// curve draws one curve, in pieces where it is interrupted.
func (k *plot) curve(pen Pen, l Curve) {
	var piece []Point
	end := func() {
		if len(piece) > 1 {
			pen.Line(piece, Stroke{Ink: l.Ink, Width: curveWidth, Dashed: l.Dashed})
		}
		piece = nil
	}
	for _, p := range l.Points {
		if !finite(p) {
			end()
			continue
		}
		piece = append(piece, k.at(p))
	}
	alone := len(piece) == 1
	end()
	for _, p := range l.Points {
		if finite(p) && (l.Dots || alone) {
			pen.Dot(k.at(p), dotRadius, l.Ink, fmt.Sprintf("%s: %s at %s %s", l.Name, short(p[1]), k.XLabel, short(p[0])))
		}
	}
}

// names writes each curve's name at its end, spread so that none covers another.
func (k *plot) names(pen Pen) {
	type name struct {
		text string
		ink  Ink
		y    float64
	}
	var all []name
	for _, l := range k.Curves {
		if _, last, ok := l.ends(); ok {
			all = append(all, name{l.Name, l.Ink, k.at(last).Y})
		}
	}
	slices.SortStableFunc(all, func(a, b name) int { return cmp.Compare(a.y, b.y) })
	const apart = nameSize + 2.5
	for range 100 { // push neighbours apart until none touches another
		moved := false
		for i := 1; i < len(all); i++ {
			if gap := apart - (all[i].y - all[i-1].y); gap > .01 {
				all[i-1].y, all[i].y, moved = all[i-1].y-gap/2, all[i].y+gap/2, true
			}
		}
		if n := len(all); n > 0 && all[n-1].y > k.bottom {
			all[n-1].y = k.bottom
		}
		if !moved {
			break
		}
	}
	for _, n := range all {
		l := Lettering{Ink: n.ink, Size: nameSize}
		pen.Text(Point{k.right + 8, n.y + 3.5}, k.letters.cut(n.text, l, namesAtMost), l)
	}
}
