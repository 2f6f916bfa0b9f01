package report

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
)

func pdfOf(t *testing.T, d *Document) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := d.PDF(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// The file is whole, and has pages, fonts, an outline and a language.
func TestPDF(t *testing.T) {
	got := pdfOf(t, documentOf(t, copied(t)))
	if !bytes.HasPrefix(got, []byte("%PDF-1.")) || !bytes.HasSuffix(bytes.TrimSpace(got), []byte("%%EOF")) {
		t.Fatalf("no PDF: %.20q ... %.20q", got, got[len(got)-20:])
	}
	pages := bytes.Count(got, []byte("/Type /Page\n"))
	for _, want := range []string{fmt.Sprintf("/Count %d", pages), "/Outlines", "/FontFile2", "/Lang (en)"} {
		if !bytes.Contains(got, []byte(want)) {
			t.Errorf("no %q", want)
		}
	}
	if pages < 3 {
		t.Errorf("%d pages, want 3 or more", pages)
	}
}

// Nothing is set below the end of a page or beside it, whatever the lengths of words, tables and galleries.
func TestNothingLeavesThePage(t *testing.T) {
	long := strings.Repeat("a word and anotherwordthatislongerthanmost/with/parts ", 60)
	table := Table{Caption: long, Best: 3}
	for i := range 14 {
		table.Columns = append(table.Columns, Column{fmt.Sprintf("a column %d", i), i%2 == 1})
	}
	for i := range 90 {
		var row []string
		for j := range table.Columns {
			row = append(row, strings.Repeat("text ", (i+j)%5)+"12345")
		}
		table.Rows = append(table.Rows, row)
	}
	d := &Document{Title: long[:200], Subtitle: "sub", Made: made(), Keys: []Key{{"1", "x", long[:90]}, {"2", "x", long[:90]}}, Sections: []Section{
		{ID: "a", Title: long[:150], Level: 2, Blocks: []Block{Prose{spans(long)}, table, Code{long + "\n" + long}, Note{NoteWarning, spans(long)}, List{[][]Span{spans(long)}}, Prose{[]Span{{Text: strings.Repeat("x", 900)}, {Text: "\U0001F600\n\x01"}}}}},
		{ID: "b", Title: "b", Level: 3, Blocks: []Block{Heading{"h"}, Table{Columns: []Column{{"empty", false}}}}},
	}}
	s := newSetter(d, nil, 0)
	low := 0.
	s.document()
	if err := s.pdf.Error(); err != nil {
		t.Fatal(err)
	}
	if s.pdf.PageCount() < 5 {
		t.Errorf("%d pages for so much", s.pdf.PageCount())
	}
	if low = s.y; low > pageEnd+1 {
		t.Errorf("the last line ends at %g, below %g", low, pageEnd)
	}
	k := s.measure(table)
	if w := k.width(); w > textWidth+.5 {
		t.Errorf("a table of width %g, want %g at most", w, textWidth)
	}
	for _, line := range s.lines(spans(long), body(), 200) {
		w := 0.
		for _, p := range line {
			s.spanFont(p.span, body())
			w += s.pdf.GetStringWidth(p.text)
		}
		if w > 200.5 {
			t.Errorf("a line of width %g, want 200 at most: %v", w, line)
		}
	}
}
