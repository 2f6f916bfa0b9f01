package chart

import (
	"bytes"
	"fmt"
	"image"
	"image/color"
	"image/draw"
	"image/png"
	"math"

	"golang.org/x/image/font"
	"golang.org/x/image/font/opentype"
	"golang.org/x/image/math/fixed"
	"golang.org/x/image/vector"
)

// pngMargin is the empty border of a PNG, in units.
const pngMargin = 24

// PNG draws a figure as a picture with so many pixels a unit, in the colours of a light page.
func PNG(f Figure, scale float64) ([]byte, error) {
	w, h := f.Size()
	letters, err := newLetters()
	if err != nil {
		return nil, err
	}
	m := image.NewRGBA(image.Rect(0, 0, int(math.Ceil((w+2*pngMargin)*scale)), int(math.Ceil((h+2*pngMargin)*scale))))
	draw.Draw(m, m.Bounds(), image.NewUniform(color.RGBA{0xFA, 0xFA, 0xF8, 255}), image.Point{}, draw.Src)
	p := &pngPen{m: m, scale: scale, letters: letters}
	if err := f.Draw(p); err != nil {
		return nil, fmt.Errorf("draw figure: %w", err)
	}
	if p.err != nil {
		return nil, fmt.Errorf("draw figure: %w", p.err)
	}
	var b bytes.Buffer
	if err := png.Encode(&b, m); err != nil {
		return nil, fmt.Errorf("encode figure: %w", err)
	}
	return b.Bytes(), nil
}

type pngPen struct {
	m       *image.RGBA
	scale   float64
	letters *letters
	err     error // the first
}

// pixel is where a point lies.
func (p *pngPen) pixel(q Point) Point {
	return Point{(q.X + pngMargin) * p.scale, (q.Y + pngMargin) * p.scale}
}

func (p *pngPen) fill(outline []Point, ink color.RGBA) {
	// The rasterizer works on the outline's own box: one of the whole picture would cost its area every time.
	box := image.Rectangle{image.Pt(math.MaxInt32, math.MaxInt32), image.Pt(math.MinInt32, math.MinInt32)}
	for _, q := range outline {
		box.Min.X, box.Min.Y = min(box.Min.X, int(math.Floor(q.X))), min(box.Min.Y, int(math.Floor(q.Y)))
		box.Max.X, box.Max.Y = max(box.Max.X, int(math.Ceil(q.X))+1), max(box.Max.Y, int(math.Ceil(q.Y))+1)
	}
	r := vector.NewRasterizer(box.Dx(), box.Dy())
	for i, q := range outline {
		x, y := float32(q.X-float64(box.Min.X)), float32(q.Y-float64(box.Min.Y))
		if i == 0 {
			r.MoveTo(x, y)
		} else {
			r.LineTo(x, y)
		}
	}
	r.ClosePath()
	r.Draw(p.m, box, image.NewUniform(ink), image.Point{})
}

// disc is a circle's outline in pixels.
func disc(at Point, radius float64) []Point {
	const corners = 24
	var out []Point
	for i := range corners {
		sin, cos := math.Sincos(2 * math.Pi * float64(i) / corners)
		out = append(out, Point{at.X + radius*cos, at.Y + radius*sin})
	}
	return out
}

func (p *pngPen) Line(points []Point, s Stroke) {
	half := s.Width * p.scale / 2
	for i := 1; i < len(points); i++ {
		from, to := p.pixel(points[i-1]), p.pixel(points[i])
		if s.Dashed {
			p.dashes(from, to, half, s.Ink.RGB())
			continue
		}
		p.segment(from, to, half, s.Ink.RGB())
		if i > 1 {
			p.fill(disc(from, half), s.Ink.RGB())
		}
	}
}

func (p *pngPen) segment(from, to Point, half float64, ink color.RGBA) {
	dx, dy := to.X-from.X, to.Y-from.Y
	long := math.Hypot(dx, dy)
	if long == 0 {
		return
	}
	nx, ny := -dy/long*half, dx/long*half
	p.fill([]Point{{from.X + nx, from.Y + ny}, {to.X + nx, to.Y + ny}, {to.X - nx, to.Y - ny}, {from.X - nx, from.Y - ny}}, ink)
}

func (p *pngPen) dashes(from, to Point, half float64, ink color.RGBA) {
	long, on, off := math.Hypot(to.X-from.X, to.Y-from.Y), 5*p.scale, 4*p.scale
	along := func(d float64) Point {
		return Point{from.X + (to.X-from.X)*d/long, from.Y + (to.Y-from.Y)*d/long}
	}
	for d := 0.; d < long; d += on + off {
		p.segment(along(d), along(min(d+on, long)), half, ink)
	}
}

func (p *pngPen) Fill(outlines [][]Point, ink Ink, opacity float64) {
	c := ink.RGB()
	faded := color.RGBA{uint8(float64(c.R) * opacity), uint8(float64(c.G) * opacity), uint8(float64(c.B) * opacity), uint8(255 * opacity)} // premultiplied
	for _, outline := range outlines {
		moved := make([]Point, len(outline))
		for i, q := range outline {
			moved[i] = p.pixel(q)
		}
		p.fill(moved, faded)
	}
}

func (p *pngPen) Dot(at Point, radius float64, ink Ink, _ string) {
	p.fill(disc(p.pixel(at), radius*p.scale), ink.RGB())
}

func (p *pngPen) Text(at Point, text string, l Lettering) {
	f := p.letters.plain
	if l.Bold {
		f = p.letters.bold
	}
	face, err := opentype.NewFace(f, &opentype.FaceOptions{Size: l.Size * p.scale, DPI: 72, Hinting: font.HintingNone})
	if err != nil {
		if p.err == nil {
			p.err = err
		}
		return
	}
	wide := font.MeasureString(face, text).Ceil()
	before := [...]int{0, wide / 2, wide}[l.Anchor]
	to := p.pixel(at)
	if !l.Turned {
		d := font.Drawer{Dst: p.m, Src: image.NewUniform(l.Ink.RGB()), Face: face, Dot: fixed.P(int(to.X)-before, int(to.Y))}
		d.DrawString(text)
		return
	}
	high, deep := face.Metrics().Ascent.Ceil(), face.Metrics().Descent.Ceil()
	flat := image.NewAlpha(image.Rect(0, 0, wide, high+deep))
	d := font.Drawer{Dst: flat, Src: image.Opaque, Face: face, Dot: fixed.P(0, high)}
	d.DrawString(text)
	up := image.NewAlpha(image.Rect(0, 0, high+deep, wide))
	for y := range high + deep {
		for x := range wide {
			up.SetAlpha(y, wide-1-x, flat.AlphaAt(x, y))
		}
	}
	corner := image.Pt(int(to.X)-high, int(to.Y)-wide+before)
	draw.DrawMask(p.m, up.Bounds().Add(corner), image.NewUniform(l.Ink.RGB()), image.Point{}, up, image.Point{}, draw.Over)
}
