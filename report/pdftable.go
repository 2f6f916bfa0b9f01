package report

import "strings"

// Measures of tables.
const (
	cellGap  = 9.
	rowPad   = 3.2
	smallest = 6.2 // size of letters
)

// setTable is a table whose widths are known.
type setTable struct {
	Table
	style  style
	widths []float64
}

// table sets a table, with its heading again on every page.
func (s *setter) table(t Table) {
	if len(t.Columns) == 0 {
		return
	}
	k := s.measure(t)
	s.need(s.tableBeginning(t))
	s.y += 5
	s.paragraph([]Span{{Text: t.Caption}}, captionStyle())
	s.y += 3
	s.tableHead(k)
	for i := range t.Rows {
		if h := s.rowHeight(k, i); s.y+h > pageEnd {
			s.page()
			s.tableHead(k)
		}
		s.tableRow(k, i)
	}
	s.y += 11
}

// tableBeginning is the height of a table's caption, heading and first rows.
func (s *setter) tableBeginning(t Table) float64 {
	if len(t.Columns) == 0 {
		return 0
	}
	k := s.measure(t)
	height := float64(len(s.lines([]Span{{Text: t.Caption}}, captionStyle(), textWidth)))*captionLead + 10 + s.headHeight(k)
	for i := range min(len(t.Rows), 3) {
		height += s.rowHeight(k, i)
	}
	return height
}

// measure chooses the size of letters and the widths of columns: as wide as the cells want, or smaller letters, or columns of
// words that break.
func (s *setter) measure(t Table) setTable {
	k := setTable{Table: t}
	for size := 8.2; ; size -= .4 {
		k.style = style{size: size, lead: size * 1.32, tone: toneInk()}
		want, least := s.columnWidths(t, k.style)
		gaps := cellGap * float64(len(want)-1)
		if total := sum(want) + gaps; total <= textWidth {
			k.widths = want
			return k
		}
		// Words may break where what cannot break has room.
		if sum(least)+gaps <= textWidth && (size < 7.6 || sum(least)+gaps < .8*textWidth) || size <= smallest {
			k.widths = shared(want, least, textWidth-gaps)
			return k
		}
	}
}

// columnWidths are how wide columns want to be, and how wide they must be so that no word and no number breaks.
func (s *setter) columnWidths(t Table, st style) (want, least []float64) {
	want, least = make([]float64, len(t.Columns)), make([]float64, len(t.Columns))
	for i, c := range t.Columns {
		s.font(fontText, bold, st.size, st.tone)
		for _, word := range strings.Fields(c.Title) {
			least[i] = max(least[i], s.pdf.GetStringWidth(settable(word)))
		}
		want[i] = least[i]
		if !c.Number {
			want[i] = max(want[i], s.pdf.GetStringWidth(settable(c.Title)))
		}
		for r, row := range t.Rows {
			weight := ""
			if r+1 == t.Best {
				weight = bold
			}
			s.font(fontText, weight, st.size, st.tone)
			cell := settable(row[i])
			wide := s.pdf.GetStringWidth(cell)
			want[i] = max(want[i], wide)
			if c.Number {
				least[i] = max(least[i], wide)
				continue
			}
			for _, word := range strings.Fields(cell) {
				least[i] = max(least[i], min(s.pdf.GetStringWidth(word), 110))
			}
		}
	}
	return want, least
}

// shared gives each column what it must have, and of what is left in proportion to what it wants more.
func shared(want, least []float64, room float64) []float64 {
	out := make([]float64, len(want))
	left, wish := room-sum(least), sum(want)-sum(least)
	for i := range out {
		switch {
		case left < 0: // words break
			out[i] = least[i] * room / sum(least)
		case wish > 0:
			out[i] = least[i] + left*(want[i]-least[i])/wish
		default:
			out[i] = least[i]
		}
	}
	return out
}

func sum(v []float64) float64 {
	total := 0.
	for _, x := range v {
		total += x
	}
	return total
}

// cells breaks a row into lines.
func (s *setter) cells(k setTable, row []string, strong bool) (out [][][]piece, height float64) {
	for i, cell := range row {
		lines := s.lines([]Span{{Text: cell, Strong: strong}}, k.style, k.widths[i]+.01)
		out = append(out, lines)
		height = max(height, float64(len(lines))*k.style.lead)
	}
	return out, height
}

func (s *setter) titles(k setTable) []string {
	var out []string
	for _, c := range k.Columns {
		out = append(out, c.Title)
	}
	return out
}

func (s *setter) headHeight(k setTable) float64 {
	_, h := s.cells(k, s.titles(k), true)
	return h + 2*rowPad
}

func (s *setter) rowHeight(k setTable, i int) float64 {
	_, h := s.cells(k, k.Rows[i], i+1 == k.Best)
	return h + 2*rowPad
}

func (s *setter) tableHead(k setTable) {
	cells, h := s.cells(k, s.titles(k), true)
	s.setCells(k, cells, h, true)
	s.y += h + 2*rowPad
	t := toneInk()
	s.pdf.SetDrawColor(t.r, t.g, t.b)
	s.pdf.SetLineWidth(.8)
	s.pdf.Line(marginSide, s.y, marginSide+k.width(), s.y)
	s.fresh = false
}

// width is the table's.
func (k setTable) width() float64 { return sum(k.widths) + cellGap*float64(len(k.widths)-1) }

func (s *setter) tableRow(k setTable, i int) {
	best := i+1 == k.Best
	cells, h := s.cells(k, k.Rows[i], best)
	h += 2 * rowPad
	if best {
		t := toneSoft()
		s.pdf.SetFillColor(t.r, t.g, t.b)
		s.pdf.Rect(marginSide, s.y, k.width(), h, "F")
	}
	s.setCells(k, cells, h-2*rowPad, false)
	s.y += h
	t := toneLine()
	s.pdf.SetDrawColor(t.r, t.g, t.b)
	s.pdf.SetLineWidth(.5)
	s.pdf.Line(marginSide, s.y, marginSide+k.width(), s.y)
}

// setCells sets the lines of a row, those of headings at its bottom.
func (s *setter) setCells(k setTable, cells [][][]piece, height float64, low bool) {
	top, x := s.y, marginSide
	for i, lines := range cells {
		s.y = top + rowPad
		if low {
			s.y += height - float64(len(lines))*k.style.lead
		}
		for _, line := range lines {
			at := x
			if k.Columns[i].Number {
				wide := 0.
				for _, p := range line {
					s.spanFont(p.span, k.style)
					wide += s.pdf.GetStringWidth(p.text)
				}
				at = x + k.widths[i] - wide
			}
			s.line(line, k.style, at)
			s.y += k.style.lead
		}
		x += k.widths[i] + cellGap
	}
	s.y = top
}
