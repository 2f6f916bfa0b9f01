package report

import (
	"bytes"
	_ "embed"
	"encoding/base64"
	"fmt"
	"html/template"
	"io"

	"mp/chart"
)

//go:embed page.html
var pageTemplate string

//go:embed page.css
var pageStyle string

// HTML writes the document as one file: pictures are in it, and it asks for nothing from elsewhere.
func (d *Document) HTML(w io.Writer) error {
	page, err := template.New("page").Funcs(template.FuncMap{
		"kind": kind,
		"svg": func(f chart.Figure) (template.HTML, error) {
			text, err := chart.SVG(f)
			return template.HTML(text), err // chart escapes what it is given
		},
		"inline": func(m Image) template.URL {
			return template.URL("data:image/" + m.Type + ";base64," + base64.StdEncoding.EncodeToString(m.Bytes))
		},
		"inc": func(i int) int { return i + 1 },
	}).Parse(pageTemplate)
	if err != nil {
		return fmt.Errorf("read the page's template: %w", err)
	}
	var b bytes.Buffer
	err = page.Execute(&b, struct {
		*Document
		Style    template.CSS
		Chapters []chapter
		Date     string
	}{d, template.CSS(pageStyle + chart.CSS()), d.chapters(), d.Made.Format("2 January 2006, 15:04 MST")})
	if err != nil {
		return fmt.Errorf("write report as HTML: %w", err)
	}
	_, err = w.Write(b.Bytes())
	return err
}

// chapter is a section of level 2 with its number, or one of level 3 without.
type chapter struct {
	Section
	Number int
}

// chapters numbers the sections of level 2.
func (d *Document) chapters() []chapter {
	var out []chapter
	n := 0
	for _, s := range d.Sections {
		c := chapter{Section: s}
		if s.Level == 2 {
			n++
			c.Number = n
		}
		out = append(out, c)
	}
	return out
}

// kind names a block's type for the template.
func kind(b Block) string {
	switch b := b.(type) {
	case Heading:
		return "heading"
	case Prose:
		return "prose"
	case List:
		return "list"
	case Table:
		return "table"
	case Plot:
		return "plot"
	case Picture:
		return "picture"
	case Gallery:
		return "gallery"
	case Code:
		return "code"
	case Note:
		if b.Kind == NoteWarning {
			return "warning"
		}
		return "missing"
	}
	panic(fmt.Sprintf("report: no way to write a %T", b))
}
