package data

import (
	"bytes"
	"fmt"
	"image"
	"image/color"
	"image/draw"
	"image/png"

	"golang.org/x/image/font"
	"golang.org/x/image/font/gofont/gobold"
	"golang.org/x/image/font/gofont/goregular"
	"golang.org/x/image/font/opentype"
	"golang.org/x/image/math/fixed"
)

// Tile is one picture of a Sheet: Side x Side RGB pixels and two lines of text below it.
type Tile struct {
	Pixels      []byte
	Side        int
	Title, Note string
}

// Sheet is a contact sheet: rows of pictures with what they are.
type Sheet struct {
	Title, Subtitle string
	Columns         int
	Zoom            int // pixels of the sheet for each of a picture, 1 or more
	Tiles           []Tile
}

// Measures of a sheet in pixels.
const (
	sheetMargin  = 28
	sheetGap     = 14
	sheetHeader  = 64 // title and subtitle
	sheetCaption = 40 // below a picture
)

// sheetColours are those of the page, of titles and of what matters less.
func sheetColours() (page, ink, faint image.Image) {
	return image.NewUniform(color.RGBA{0xFA, 0xFA, 0xF8, 0xFF}), image.NewUniform(color.RGBA{0x20, 0x22, 0x26, 0xFF}),
		image.NewUniform(color.RGBA{0x7A, 0x7E, 0x86, 0xFF})
}

// WriteFile writes the sheet as a PNG; the file appears complete or not at all.
func (s Sheet) WriteFile(path string) error {
	text, err := s.PNG()
	if err != nil {
		return err
	}
	if err := writeFile(path, text); err != nil {
		return fmt.Errorf("write sheet: %w", err)
	}
	return nil
}

// PNG returns the sheet as a file is to hold it.
func (s Sheet) PNG() ([]byte, error) {
	m, err := s.Draw()
	if err != nil {
		return nil, fmt.Errorf("draw sheet: %w", err)
	}
	var b bytes.Buffer
	if err := png.Encode(&b, m); err != nil {
		return nil, fmt.Errorf("encode sheet: %w", err)
	}
	return b.Bytes(), nil
}

// Draw returns the sheet as a picture.
func (s Sheet) Draw() (*image.RGBA, error) {
	columns, zoom, side := max(s.Columns, 1), max(s.Zoom, 1), 0
	columns = min(columns, max(len(s.Tiles), 1))
	for i, t := range s.Tiles {
		if len(t.Pixels) != t.Side*t.Side*3 {
			return nil, badf("picture %d has %d bytes, want %d x %d pixels", i, len(t.Pixels), t.Side, t.Side)
		}
		side = max(side, t.Side*zoom)
	}
	large, err := newFace(gobold.TTF, 22)
	if err != nil {
		return nil, err
	}
	bold, err := newFace(gobold.TTF, 12)
	if err != nil {
		return nil, err
	}
	small, err := newFace(goregular.TTF, 11)
	if err != nil {
		return nil, err
	}
	page, ink, faint := sheetColours()
	// A sheet is as wide as its columns, and at least as its title.
	rows := (len(s.Tiles) + columns - 1) / columns
	width := max(columns*(side+sheetGap)-sheetGap, font.MeasureString(large, s.Title).Ceil(), font.MeasureString(small, s.Subtitle).Ceil())
	m := image.NewRGBA(image.Rect(0, 0, width+2*sheetMargin, sheetHeader+rows*(side+sheetCaption+sheetGap)+2*sheetMargin-sheetGap))
	draw.Draw(m, m.Bounds(), page, image.Point{}, draw.Src)
	text(m, large, ink, sheetMargin, sheetMargin+20, width, s.Title)
	text(m, small, faint, sheetMargin, sheetMargin+42, width, s.Subtitle)
	for i, t := range s.Tiles {
		x, y := sheetMargin+i%columns*(side+sheetGap), sheetMargin+sheetHeader+i/columns*(side+sheetCaption+sheetGap)
		t.paint(m, x, y, zoom)
		text(m, bold, ink, x, y+side+16, side, t.Title)
		text(m, small, faint, x, y+side+31, side, t.Note)
	}
	return m, nil
}

// paint draws the pixels, each as a square of zoom x zoom.
func (t Tile) paint(m *image.RGBA, x, y, zoom int) {
	for row := range t.Side * zoom {
		to := m.Pix[m.PixOffset(x, y+row):]
		from := t.Pixels[row/zoom*t.Side*3:]
		for column := range t.Side * zoom {
			p := from[column/zoom*3:]
			copy(to[4*column:], []byte{p[0], p[1], p[2], 255})
		}
	}
}

func newFace(ttf []byte, size float64) (font.Face, error) {
	f, err := opentype.Parse(ttf)
	if err != nil {
		return nil, err
	}
	return opentype.NewFace(f, &opentype.FaceOptions{Size: size, DPI: 72, Hinting: font.HintingFull})
}

// text draws one line whose baseline begins at (x, y), cut with an ellipsis where it is wider than width.
func text(m draw.Image, face font.Face, ink image.Image, x, y, width int, line string) {
	if font.MeasureString(face, line).Ceil() > width {
		runes := []rune(line)
		for len(runes) > 0 && font.MeasureString(face, string(runes)+"…").Ceil() > width {
			runes = runes[:len(runes)-1]
		}
		line = string(runes) + "…"
	}
	d := font.Drawer{Dst: m, Src: ink, Face: face, Dot: fixed.P(x, y)}
	d.DrawString(line)
}
