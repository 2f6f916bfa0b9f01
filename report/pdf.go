package report

import (
	"bytes"
	"fmt"
	"io"

	"codeberg.org/go-pdf/fpdf"
	"golang.org/x/image/font/gofont/gobold"
	"golang.org/x/image/font/gofont/gomono"
	"golang.org/x/image/font/gofont/goregular"
)

// A page is A4, lengths are in points.
const (
	pageWidth, pageHeight = 595.28, 841.89
	marginSide            = 60.
	marginTop             = 62.
	marginBottom          = 70.
	textWidth             = pageWidth - 2*marginSide
	pageEnd               = pageHeight - marginBottom
)

// Sizes of letters and distances of lines.
const (
	bodySize, bodyLead       = 9.6, 14.
	captionSize, captionLead = 8., 11.
	monoSize                 = 8.2
)

// Names of the fonts in the file: the Go fonts (Bigelow & Holmes), whose licence is Go's and allows it.
const (
	fontText = "go"
	fontMono = "gomono"
	bold     = "B"
)

// tone is a colour of the page.
type tone struct{ r, g, b int }

func toneInk() tone    { return tone{0x20, 0x22, 0x26} }
func toneMuted() tone  { return tone{0x66, 0x6B, 0x73} }
func toneLine() tone   { return tone{0xDD, 0xDE, 0xE0} }
func toneSoft() tone   { return tone{0xF3, 0xF3, 0xEF} }
func toneAccent() tone { return tone{0x00, 0x72, 0xB2} }
func toneWarm() tone   { return tone{0x8A, 0x4B, 0x00} }

// PDF writes the document as A4 pages, made without a browser. It is set twice: the first time finds the pages of the contents.
func (d *Document) PDF(w io.Writer) error {
	var pages map[string]int
	var total int
	var out bytes.Buffer
	for range 2 {
		s := newSetter(d, pages, total)
		s.document()
		out.Reset()
		if err := s.pdf.Output(&out); err != nil {
			return fmt.Errorf("write report as PDF: %w", err)
		}
		pages, total = s.found, s.pdf.PageCount()
	}
	_, err := w.Write(out.Bytes())
	return err
}

// setter sets a document, from top to bottom and page after page.
type setter struct {
	doc   *Document
	pdf   *fpdf.Fpdf
	y     float64        // where the next thing begins
	pages map[string]int // of the chapters, by their ID, from the time before; nil the first time
	total int            // pages, likewise
	found map[string]int
	links map[string]int
	fresh bool // nothing is on the page yet
	count int  // images so far
}

func newSetter(d *Document, pages map[string]int, total int) *setter {
	s := &setter{doc: d, pdf: fpdf.New("P", "pt", "A4", ""), pages: pages, total: total, found: map[string]int{}, links: map[string]int{}}
	s.pdf.SetAutoPageBreak(false, 0)
	s.pdf.SetCellMargin(0)
	s.pdf.SetCatalogSort(true)
	s.pdf.SetCreationDate(d.Made)
	s.pdf.SetModificationDate(d.Made)
	s.pdf.SetTitle(d.Title, true)
	s.pdf.SetSubject(d.Subtitle, true)
	s.pdf.SetCreator("mp report", true)
	s.pdf.SetLang("en")
	s.pdf.AddUTF8FontFromBytes(fontText, "", goregular.TTF)
	s.pdf.AddUTF8FontFromBytes(fontText, bold, gobold.TTF)
	s.pdf.AddUTF8FontFromBytes(fontMono, "", gomono.TTF)
	for _, c := range d.Sections {
		s.links[c.ID] = s.pdf.AddLink()
	}
	return s
}

// document sets everything.
func (s *setter) document() {
	s.page()
	s.head()
	s.contents()
	chapters := s.doc.chapters()
	for i, c := range chapters {
		s.need(s.ahead(chapters[i:]))
		s.heading(c)
		for _, b := range c.Blocks {
			s.block(b)
		}
	}
	s.need(40)
	s.y += 14
	s.paragraph([]Span{{Text: "Set in the Go fonts by Bigelow & Holmes, under Go's licence (golang.org/LICENSE). Made by mp report from the runs' own files."}}, style{size: captionSize, lead: captionLead, tone: toneMuted()})
}

func (s *setter) block(b Block) {
	switch b := b.(type) {
	case Heading:
		s.need(62)
		s.y += 5
		s.paragraph([]Span{{Text: b.Text, Strong: true}}, body())
		s.y += 1
	case Prose:
		s.paragraph(b.Spans, body())
		s.y += 5
	case List:
		s.list(b)
	case Table:
		s.table(b)
	case Plot:
		s.plot(b)
	case Picture:
		s.picture(b)
	case Gallery:
		s.gallery(b)
	case Code:
		s.code(b)
	case Note:
		s.note(b)
	default:
		panic(fmt.Sprintf("report: no way to set a %T", b))
	}
}

// page begins a page, with its foot.
func (s *setter) page() {
	s.pdf.AddPage()
	s.y, s.fresh = marginTop, true
	s.font(fontText, "", captionSize, toneMuted())
	foot := pageHeight - 38
	s.pdf.Text(marginSide, foot, s.fit(s.doc.Title, textWidth-90))
	n := fmt.Sprint(s.pdf.PageNo())
	if s.total > 0 {
		n += fmt.Sprintf(" / %d", s.total)
	}
	s.pdf.Text(pageWidth-marginSide-s.pdf.GetStringWidth(n), foot, n)
}

// need begins a page where h does not fit on this one.
func (s *setter) need(h float64) {
	if s.y+h > pageEnd && !s.fresh {
		s.page()
	}
}

// rule draws a line across the text.
func (s *setter) rule(y, width float64, t tone) {
	s.pdf.SetDrawColor(t.r, t.g, t.b)
	s.pdf.SetLineWidth(width)
	s.pdf.Line(marginSide, y, pageWidth-marginSide, y)
}

// head sets the title, and the figures in large letters.
func (s *setter) head() {
	s.y = 92
	s.font(fontText, "", 8.5, toneMuted())
	s.pdf.Text(marginSide, s.y, "MP REPORT")
	s.y += 14
	s.paragraph([]Span{{Text: s.doc.Title, Strong: true}}, style{size: 25, lead: 31, tone: toneInk()})
	s.y += 3
	s.paragraph([]Span{{Text: s.doc.Subtitle}}, style{size: 11, lead: 16, tone: toneMuted()})
	s.paragraph([]Span{{Text: s.doc.Made.Format("2 January 2006, 15:04 MST")}}, style{size: 8.5, lead: 13, tone: toneMuted()})
	if len(s.doc.Keys) == 0 {
		return
	}
	s.y += 22
	x, gap := marginSide, 22.
	for _, k := range s.doc.Keys {
		s.font(fontText, bold, 19, toneInk())
		wide := s.pdf.GetStringWidth(k.Value)
		s.font(fontText, "", 9, toneMuted())
		unit := 0.
		if k.Unit != "" {
			unit = s.pdf.GetStringWidth(k.Unit) + 4
		}
		s.font(fontText, "", 7.6, toneMuted())
		all := max(wide+unit, s.pdf.GetStringWidth(k.Label))
		if x+all > pageWidth-marginSide && x > marginSide {
			x, s.y = marginSide, s.y+44
		}
		s.pdf.Text(x, s.y+30, k.Label)
		s.font(fontText, bold, 19, toneInk())
		s.pdf.Text(x, s.y+17, k.Value)
		s.font(fontText, "", 9, toneMuted())
		s.pdf.Text(x+wide+4, s.y+17, k.Unit)
		x += all + gap
	}
	s.y += 44
}

// contents lists the chapters with their pages.
func (s *setter) contents() {
	s.y += 12
	s.rule(s.y, .6, toneLine())
	s.y += 20
	for _, c := range s.doc.chapters() {
		if c.Number == 0 {
			continue
		}
		s.font(fontText, "", bodySize, toneMuted())
		s.pdf.Text(marginSide, s.y, fmt.Sprint(c.Number))
		s.font(fontText, "", bodySize, toneInk())
		s.pdf.Text(marginSide+20, s.y, c.Title)
		if n := s.pages[c.ID]; n > 0 {
			text := fmt.Sprint(n)
			s.font(fontText, "", bodySize, toneMuted())
			s.pdf.Text(pageWidth-marginSide-s.pdf.GetStringWidth(text), s.y, text)
		}
		s.pdf.Link(marginSide, s.y-bodySize, textWidth, bodyLead, s.links[c.ID])
		s.y += 15.5
	}
	s.y += 4
	s.fresh = false
}

// heading sets the title of a section and keeps what follows with it.
func (s *setter) heading(c chapter) {
	if c.Number > 0 {
		if !s.fresh {
			s.y += 20
			s.rule(s.y, .6, toneLine())
			s.y += 16
		}
		s.mark(c)
		number := fmt.Sprint(c.Number)
		s.font(fontText, "", 15, toneMuted())
		s.pdf.Text(marginSide, s.y+15, number)
		indent := s.pdf.GetStringWidth(number) + 10
		s.paragraph([]Span{{Text: c.Title, Strong: true}}, style{size: 15, lead: 20, tone: toneInk(), indent: indent})
		s.y += 6
		return
	}
	if !s.fresh {
		s.y += 12
	}
	s.mark(c)
	s.paragraph([]Span{{Text: c.Title, Strong: true}}, style{size: 11, lead: 16, tone: toneInk()})
	s.y += 3
}

// ahead is the height of a section's heading with the beginning of what follows it, which may be another heading.
func (s *setter) ahead(sections []chapter) float64 {
	height := 0.
	for _, c := range sections {
		if height += 34; c.Number > 0 {
			height += 38
		}
		if len(c.Blocks) > 0 {
			return min(height+s.least(c.Blocks[0]), pageEnd-marginTop)
		}
	}
	return height
}

// least is the height of a block's beginning, which nothing divides.
func (s *setter) least(b Block) float64 {
	switch b := b.(type) {
	case Table:
		return s.tableBeginning(b)
	case Plot:
		return s.plotHeight(b)
	case Picture:
		return s.pictureHeight(b)
	}
	return 64
}

// mark makes a section findable.
func (s *setter) mark(c chapter) {
	s.found[c.ID] = s.pdf.PageNo()
	s.pdf.SetLink(s.links[c.ID], s.y, s.pdf.PageNo())
	s.pdf.Bookmark(c.Title, c.Level-2, s.y)
}
