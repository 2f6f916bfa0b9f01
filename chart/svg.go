package chart

import (
	"fmt"
	"html"
	"math"
	"strconv"
	"strings"
)

// SVG draws a figure as an element of an HTML page. Its colours are those of CSS, and it is as wide as there is room.
func SVG(f Figure) (string, error) {
	w, h := f.Size()
	p := &svgPen{}
	fmt.Fprintf(&p.b, `<svg class="chart" viewBox="0 0 %s %s" role="img" aria-label="%s" xmlns="http://www.w3.org/2000/svg">`, coordinate(w), coordinate(h), html.EscapeString(f.Alt()))
	if err := f.Draw(p); err != nil {
		return "", err
	}
	p.b.WriteString("</svg>")
	return p.b.String(), nil
}

// CSS are the rules for what SVG writes, on light and dark pages.
func CSS() string {
	var light, dark strings.Builder
	for _, ink := range inks() {
		fmt.Fprintf(&light, ".chart .%s{color:#%02x%02x%02x}\n", ink.name, ink.light.R, ink.light.G, ink.light.B)
		fmt.Fprintf(&dark, ".chart .%s{color:#%02x%02x%02x}\n", ink.name, ink.dark.R, ink.dark.G, ink.dark.B)
	}
	return ".chart{width:100%;height:auto;display:block;overflow:visible}\n.chart text{fill:currentColor}\n.chart path,.chart circle{fill:currentColor}\n" +
		".chart polyline{fill:none;stroke:currentColor;stroke-linejoin:round;stroke-linecap:round}\n" + light.String() +
		"@media screen and (prefers-color-scheme:dark){\n" + dark.String() + "}\n"
}

type svgPen struct{ b strings.Builder }

func coordinate(v float64) string { return strconv.FormatFloat(math.Round(v*10)/10, 'f', -1, 64) }

func (p *svgPen) Line(points []Point, s Stroke) {
	fmt.Fprintf(&p.b, `<polyline class="%s" stroke-width="%g"`, inks()[s.Ink].name, s.Width)
	if s.Dashed {
		p.b.WriteString(` stroke-dasharray="5 4"`)
	}
	p.b.WriteString(` points="`)
	for i, q := range points {
		if i > 0 {
			p.b.WriteByte(' ')
		}
		p.b.WriteString(coordinate(q.X) + "," + coordinate(q.Y))
	}
	p.b.WriteString(`"/>`)
}

func (p *svgPen) Fill(outlines [][]Point, ink Ink, opacity float64) {
	fmt.Fprintf(&p.b, `<path class="%s"`, inks()[ink].name)
	if opacity < 1 {
		fmt.Fprintf(&p.b, ` fill-opacity="%.2f"`, opacity)
	}
	p.b.WriteString(` d="`)
	for _, outline := range outlines {
		for i, q := range outline {
			letter := "L"
			if i == 0 {
				letter = "M"
			}
			p.b.WriteString(letter + coordinate(q.X) + " " + coordinate(q.Y))
		}
		p.b.WriteByte('Z')
	}
	p.b.WriteString(`"/>`)
}

func (p *svgPen) Dot(at Point, radius float64, ink Ink, tip string) {
	fmt.Fprintf(&p.b, `<circle class="%s" cx="%s" cy="%s" r="%g"><title>%s</title></circle>`, inks()[ink].name, coordinate(at.X), coordinate(at.Y), radius, html.EscapeString(tip))
}

func (p *svgPen) Text(at Point, text string, l Lettering) {
	fmt.Fprintf(&p.b, `<text class="%s" x="%s" y="%s" font-size="%g"`, inks()[l.Ink].name, coordinate(at.X), coordinate(at.Y), l.Size)
	if l.Bold {
		p.b.WriteString(` font-weight="700"`)
	}
	if l.Anchor != Begin {
		p.b.WriteString(` text-anchor="` + [...]string{"start", "middle", "end"}[l.Anchor] + `"`)
	}
	if l.Turned {
		fmt.Fprintf(&p.b, ` transform="rotate(-90 %s %s)"`, coordinate(at.X), coordinate(at.Y))
	}
	p.b.WriteString(">" + html.EscapeString(text) + "</text>")
}
