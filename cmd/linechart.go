package cmd

import (
	"bytes"
	"fmt"
	"image"
	"image/color"
	"image/draw"
	"image/png"
	"math"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/image/font"
	"golang.org/x/image/font/gofont/gobold"
	"golang.org/x/image/font/gofont/goregular"
	"golang.org/x/image/font/opentype"
	"golang.org/x/image/math/fixed"
	"golang.org/x/image/vector"
)

// lineChart is a picture of some curves over one axis. The vertical axis begins at 0.
type lineChart struct {
	Title, Subtitle, XLabel, YLabel string
	LogX                            bool // positive points only
	Lines                           []line
}

type line struct {
	Name   string
	Points [][2]float64
}

// Measures of a chart in pixels.
const (
	chartWidth, chartHeight      = 900, 560
	chartLeft, chartRight        = 80, 190
	chartTop, chartBottom        = 90, 70
	lineWidth, pointSize         = 2.5, 4
	titleSize, textSize          = 22, 14
	chartTicks, chartLegendSpace = 6, 24
)

// lineColours can be told apart by people who see no red or no green (Okabe & Ito, 2008).
func lineColours() []color.RGBA {
	return []color.RGBA{{0, 114, 178, 255}, {213, 94, 0, 255}, {0, 158, 115, 255}, {204, 121, 167, 255}, {230, 159, 0, 255}, {86, 180, 233, 255}, {0, 0, 0, 255}}
}

// canvas is a chart being drawn.
type canvas struct {
	m            *image.RGBA
	bold, plain  font.Face
	x0, x1, y1   float64 // range of the axes; y begins at 0
	log          bool
	ink, faint   color.RGBA
	chartedLines int
}

// Write draws the chart to a PNG, which appears complete or not at all.
func (c lineChart) Write(path string) error {
	m, err := c.draw()
	if err != nil {
		return fmt.Errorf("draw chart: %w", err)
	}
	var b bytes.Buffer
	if err := png.Encode(&b, m); err != nil {
		return fmt.Errorf("encode chart: %w", err)
	}
	return writeWhole(path, b.Bytes())
}

// writeWhole writes a file under a name of its own and then gives it its name.
func writeWhole(path string, content []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	_, err = f.Write(content)
	for _, step := range []func() error{func() error { return f.Chmod(0o644) }, f.Sync, f.Close} {
		if e := step(); err == nil {
			err = e
		}
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		os.Remove(f.Name())
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

func (c lineChart) draw() (image.Image, error) {
	k := &canvas{m: image.NewRGBA(image.Rect(0, 0, chartWidth, chartHeight)), log: c.LogX, ink: color.RGBA{0x20, 0x22, 0x26, 255}, faint: color.RGBA{0xD5, 0xD6, 0xD8, 255}}
	var err error
	if k.bold, err = face(gobold.TTF, titleSize); err != nil {
		return nil, err
	}
	if k.plain, err = face(goregular.TTF, textSize); err != nil {
		return nil, err
	}
	draw.Draw(k.m, k.m.Bounds(), image.NewUniform(color.RGBA{0xFA, 0xFA, 0xF8, 255}), image.Point{}, draw.Src)
	k.x0, k.x1 = math.Inf(1), math.Inf(-1)
	for _, l := range c.Lines {
		for _, p := range l.Points {
			k.x0, k.x1, k.y1 = min(k.x0, p[0]), max(k.x1, p[0]), max(k.y1, p[1])
		}
	}
	if len(c.Lines) == 0 || math.IsInf(k.x0, 0) {
		return nil, fmt.Errorf("there is nothing to draw")
	}
	if k.x1 == k.x0 {
		k.x1 = k.x0 + 1
	}
	k.y1 = max(10*math.Ceil(k.y1/10), 10)
	k.text(k.bold, chartLeft, 40, c.Title)
	k.text(k.plain, chartLeft, 64, c.Subtitle)
	k.axes(c)
	for i, l := range c.Lines {
		k.line(l, lineColours()[i%len(lineColours())])
	}
	return k.m, nil
}

func face(ttf []byte, size float64) (font.Face, error) {
	f, err := opentype.Parse(ttf)
	if err != nil {
		return nil, err
	}
	return opentype.NewFace(f, &opentype.FaceOptions{Size: size, DPI: 72, Hinting: font.HintingFull})
}

func (k *canvas) text(f font.Face, x, y float64, s string) {
	d := font.Drawer{Dst: k.m, Src: image.NewUniform(k.ink), Face: f, Dot: fixed.P(int(x), int(y))}
	d.DrawString(s)
}

// at is where a point lies.
func (k *canvas) at(x, y float64) (float64, float64) {
	from, to, v := k.x0, k.x1, x
	if k.log {
		from, to, v = math.Log(from), math.Log(to), math.Log(v)
	}
	px := chartLeft + (v-from)/(to-from)*(chartWidth-chartLeft-chartRight)
	return px, chartHeight - chartBottom - y/k.y1*(chartHeight-chartTop-chartBottom)
}

// axes draws the grid and what stands at it.
func (k *canvas) axes(c lineChart) {
	for i := range chartTicks {
		y := k.y1 * float64(i) / (chartTicks - 1)
		_, py := k.at(k.x1, y)
		k.stroke(k.faint, 1, [2]float64{chartLeft, py}, [2]float64{chartWidth - chartRight, py})
		label := strconv.FormatFloat(y, 'g', 4, 64)
		k.text(k.plain, chartLeft-12-float64(font.MeasureString(k.plain, label).Ceil()), py+5, label)
	}
	last := math.Inf(-1)
	for _, x := range k.ticks(c) {
		px, py := k.at(x, 0)
		label := strconv.FormatFloat(x, 'g', 4, 64)
		width := float64(font.MeasureString(k.plain, label).Ceil())
		if px-width/2 < last+10 { // it would run into the one before
			continue
		}
		last = px + width/2
		k.stroke(k.ink, 1, [2]float64{px, py}, [2]float64{px, py + 5})
		k.text(k.plain, px-width/2, py+22, label)
	}
	k.stroke(k.ink, 1, [2]float64{chartLeft, chartHeight - chartBottom}, [2]float64{chartWidth - chartRight, chartHeight - chartBottom})
	k.text(k.plain, chartLeft, chartTop-8, c.YLabel)
	k.text(k.plain, (chartLeft+chartWidth-chartRight)/2-60, chartHeight-20, c.XLabel)
}

// ticks are the points of the first line, where people will look.
func (k *canvas) ticks(c lineChart) []float64 {
	var out []float64
	for _, p := range c.Lines[0].Points {
		out = append(out, p[0])
	}
	return out
}

func (k *canvas) line(l line, ink color.RGBA) {
	var before [2]float64
	for i, p := range l.Points {
		x, y := k.at(p[0], p[1])
		here := [2]float64{x, y}
		if i > 0 {
			k.stroke(ink, lineWidth, before, here)
		}
		k.stroke(ink, 2*pointSize, [2]float64{x - pointSize, y}, [2]float64{x + pointSize, y})
		before = here
	}
	y := float64(chartTop + chartLegendSpace*k.chartedLines)
	k.stroke(ink, lineWidth, [2]float64{chartWidth - chartRight + 20, y}, [2]float64{chartWidth - chartRight + 50, y})
	k.text(k.plain, chartWidth-chartRight+58, y+5, l.Name)
	k.chartedLines++
}

// stroke draws a straight line of some width.
func (k *canvas) stroke(ink color.RGBA, width float64, from, to [2]float64) {
	dx, dy := to[0]-from[0], to[1]-from[1]
	long := math.Hypot(dx, dy)
	if long == 0 {
		return
	}
	nx, ny := -dy/long*width/2, dx/long*width/2
	r := vector.NewRasterizer(chartWidth, chartHeight)
	r.MoveTo(float32(from[0]+nx), float32(from[1]+ny))
	r.LineTo(float32(to[0]+nx), float32(to[1]+ny))
	r.LineTo(float32(to[0]-nx), float32(to[1]-ny))
	r.LineTo(float32(from[0]-nx), float32(from[1]-ny))
	r.ClosePath()
	r.Draw(k.m, k.m.Bounds(), image.NewUniform(ink), image.Point{})
}
