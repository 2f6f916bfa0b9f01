package report

import (
	"bytes"
	"fmt"
	"image"
	"image/draw"
	"image/png"

	"codeberg.org/go-pdf/fpdf"

	"mp/chart"
)

// caption sets the words below a figure.
func (s *setter) caption(text string) {
	s.y += 5
	s.paragraph([]Span{{Text: text}}, captionStyle())
	s.y += 12
}

func captionStyle() style { return style{size: captionSize, lead: captionLead, tone: toneMuted()} }

// captionHeight is what caption takes.
func (s *setter) captionHeight(text string) float64 {
	return 5 + float64(len(s.lines([]Span{{Text: text}}, captionStyle(), textWidth)))*captionLead + 12
}

// plotScale is how much of the text's width a unit of a figure takes: all of it, or as much as a page's height allows.
func (s *setter) plotScale(p Plot) float64 {
	w, h := p.Figure.Size()
	scale := textWidth / w
	if p.Narrow {
		scale *= .78
	}
	return min(scale, (pageEnd-marginTop-s.captionHeight(p.Caption)-12)/h)
}

// plotHeight is that of a figure with its caption.
func (s *setter) plotHeight(p Plot) float64 {
	_, h := p.Figure.Size()
	return h*s.plotScale(p) + s.captionHeight(p.Caption) + 6
}

// plot draws a figure.
func (s *setter) plot(p Plot) {
	_, h := p.Figure.Size()
	scale := s.plotScale(p)
	s.need(s.plotHeight(p))
	s.y += 6
	if err := p.Figure.Draw(&pdfPen{s, marginSide, s.y, scale}); err != nil {
		s.pdf.SetError(fmt.Errorf("draw %q: %w", p.Caption, err))
		return
	}
	s.y += h * scale
	s.fresh = false
	s.caption(p.Caption)
}

// register makes an image known to the file, as a PNG that the library surely reads.
func (s *setter) register(m Image) string {
	s.count++
	name := fmt.Sprintf("image %d", s.count)
	kind, content := m.Type, m.Bytes
	if kind == "png" { // one with more than the library reads, such as interlacing, is written anew
		decoded, _, err := image.Decode(bytes.NewReader(content))
		if err != nil {
			s.pdf.SetError(fmt.Errorf("decode picture: %w", err))
			return ""
		}
		flat := image.NewRGBA(decoded.Bounds())
		draw.Draw(flat, flat.Bounds(), image.White, image.Point{}, draw.Src)
		draw.Draw(flat, flat.Bounds(), decoded, decoded.Bounds().Min, draw.Over)
		var b bytes.Buffer
		if err := png.Encode(&b, flat); err != nil {
			s.pdf.SetError(fmt.Errorf("encode picture: %w", err))
			return ""
		}
		content = b.Bytes()
	}
	s.pdf.RegisterImageOptionsReader(name, fpdf.ImageOptions{ImageType: kind}, bytes.NewReader(content))
	return name
}

func (s *setter) image(name string, x, y, w, h float64) {
	s.pdf.ImageOptions(name, x, y, w, h, false, fpdf.ImageOptions{}, 0, "")
}

// pictureSize is as wide as the text, or as high as a page allows, and no larger than a point a pixel.
func (s *setter) pictureSize(p Picture) (w, h float64) {
	scale := min(textWidth/float64(p.Image.Width), (pageEnd-marginTop-s.captionHeight(p.Caption)-12)/float64(p.Image.Height), 1)
	return float64(p.Image.Width) * scale, float64(p.Image.Height) * scale
}

// pictureHeight is that of an image with its caption.
func (s *setter) pictureHeight(p Picture) float64 {
	_, h := s.pictureSize(p)
	return h + s.captionHeight(p.Caption) + 6
}

// picture sets an image.
func (s *setter) picture(p Picture) {
	w, h := s.pictureSize(p)
	s.need(s.pictureHeight(p))
	s.y += 6
	s.image(s.register(p.Image), marginSide, s.y, w, h)
	s.y += h
	s.fresh = false
	s.caption(p.Caption)
}

// gallery sets images side by side, row after row.
func (s *setter) gallery(g Gallery) {
	const gap, words = 7., 19.
	columns := max(g.Columns, 1)
	side := (textWidth - gap*float64(columns-1)) / float64(columns)
	s.y += 6
	for first := 0; first < len(g.Tiles); first += columns {
		row := g.Tiles[first:min(first+columns, len(g.Tiles))]
		high := 0.
		for _, t := range row {
			high = max(high, side*float64(t.Image.Height)/float64(t.Image.Width))
		}
		under := 0.
		if first+columns >= len(g.Tiles) {
			under = s.captionHeight(g.Caption)
		}
		s.need(high + words + 6 + under)
		for i, t := range row {
			x := marginSide + float64(i)*(side+gap)
			s.image(s.register(t.Image), x, s.y, side, side*float64(t.Image.Height)/float64(t.Image.Width))
			s.font(fontText, bold, 6.6, toneInk())
			s.pdf.Text(x, s.y+high+8.5, s.fit(t.Title, side))
			s.font(fontText, "", 6.4, toneMuted())
			s.pdf.Text(x, s.y+high+16.5, s.fit(t.Note, side))
		}
		s.y += high + words + 6
		s.fresh = false
	}
	s.caption(g.Caption)
}

// pdfPen draws a chart's figure on the page.
type pdfPen struct {
	s     *setter
	x, y  float64
	scale float64
}

func (p *pdfPen) at(q chart.Point) (float64, float64) { return p.x + q.X*p.scale, p.y + q.Y*p.scale }

// Line draws a line with round corners and ends.
func (p *pdfPen) Line(points []chart.Point, st chart.Stroke) {
	c := st.Ink.RGB()
	pdf := p.s.pdf
	pdf.SetDrawColor(int(c.R), int(c.G), int(c.B))
	pdf.SetLineWidth(st.Width * p.scale)
	pdf.SetLineCapStyle("round")
	pdf.SetLineJoinStyle("round")
	if st.Dashed {
		pdf.SetDashPattern([]float64{5 * p.scale, 4 * p.scale}, 0)
	}
	for i, q := range points {
		if x, y := p.at(q); i == 0 {
			pdf.MoveTo(x, y)
		} else {
			pdf.LineTo(x, y)
		}
	}
	pdf.DrawPath("D")
	if st.Dashed {
		pdf.SetDashPattern(nil, 0)
	}
	pdf.SetLineCapStyle("butt")
	pdf.SetLineJoinStyle("miter")
}

// Fill fills outlines; what is transparent is mixed with the white of the page.
func (p *pdfPen) Fill(outlines [][]chart.Point, ink chart.Ink, opacity float64) {
	c := ink.RGB()
	mix := func(v uint8) int { return int(255 - opacity*(255-float64(v)) + .5) }
	p.s.pdf.SetFillColor(mix(c.R), mix(c.G), mix(c.B))
	for _, outline := range outlines {
		var points []fpdf.PointType
		for _, q := range outline {
			x, y := p.at(q)
			points = append(points, fpdf.PointType{X: x, Y: y})
		}
		p.s.pdf.Polygon(points, "F")
	}
}

// Dot draws a disc; paper shows no tips.
func (p *pdfPen) Dot(at chart.Point, radius float64, ink chart.Ink, _ string) {
	c := ink.RGB()
	p.s.pdf.SetFillColor(int(c.R), int(c.G), int(c.B))
	x, y := p.at(at)
	p.s.pdf.Circle(x, y, radius*p.scale, "F")
}

// Text sets a text.
func (p *pdfPen) Text(at chart.Point, text string, l chart.Lettering) {
	c, weight, pdf := l.Ink.RGB(), "", p.s.pdf
	if l.Bold {
		weight = bold
	}
	p.s.font(fontText, weight, l.Size*p.scale, tone{int(c.R), int(c.G), int(c.B)})
	text = settable(text)
	back := [...]float64{0, .5, 1}[l.Anchor] * pdf.GetStringWidth(text)
	x, y := p.at(at)
	if !l.Turned {
		pdf.Text(x-back, y, text)
		return
	}
	pdf.TransformBegin()
	pdf.TransformRotate(90, x, y)
	pdf.Text(x-back, y, text)
	pdf.TransformEnd()
}
