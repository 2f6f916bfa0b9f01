package report

import (
	"fmt"
	"strings"
	"time"

	"mp/chart"
)

// Document is a report before it is HTML or PDF.
type Document struct {
	Title    string
	Subtitle string
	Made     time.Time
	Keys     []Key // the figures that matter most
	Sections []Section
	Missing  []string // what could not be made, and how to make it
}

// Key is a figure in large letters.
type Key struct{ Value, Unit, Label string }

// Section is a heading and what stands below it.
type Section struct {
	ID     string
	Title  string
	Level  int // 2: a chapter, 3: a part of the one before
	Blocks []Block
}

// Block is a part of a section: Heading, Prose, List, Table, Plot, Picture, Gallery, Code or Note.
type Block interface{ block() }

// Heading is a line above blocks of a section.
type Heading struct{ Text string }

// Prose is a paragraph.
type Prose struct{ Spans []Span }

// Span is a piece of text in one style.
type Span struct {
	Text         string
	Code, Strong bool
	Link         string // address; empty: none
}

// List is a list of short paragraphs.
type List struct{ Items [][]Span }

// Table is rows below a heading.
type Table struct {
	Caption string
	Columns []Column
	Rows    [][]string
	Best    int // the row to point out, counted from 1; 0: none
}

// Column is a column of a Table.
type Column struct {
	Title  string
	Number bool // to the right
}

// Plot is a drawn figure.
type Plot struct {
	Figure  chart.Figure
	Caption string
	Narrow  bool // it needs no more than three quarters of the page's width
}

// Picture is one image on a line of its own.
type Picture struct {
	Image   Image
	Caption string
}

// Gallery is images side by side.
type Gallery struct {
	Caption string
	Columns int
	Tiles   []Tile
}

// Tile is an image of a Gallery with two lines of text.
type Tile struct {
	Image       Image
	Title, Note string
}

// Image is a PNG or JPEG that can be decoded.
type Image struct {
	Bytes         []byte
	Type          string // png or jpeg
	Width, Height int    // pixels
	Alt           string
}

// Code is lines as they are typed.
type Code struct{ Text string }

// Note is a sentence or two beside the matter.
type Note struct {
	Kind  NoteKind
	Spans []Span
}

// NoteKind says what a Note is for.
type NoteKind int

// The kinds of notes.
const (
	NoteMissing NoteKind = iota // something is not in the report
	NoteWarning                 // something is wrong with what the report is made of
)

func (Heading) block() {}
func (Prose) block()   {}
func (List) block()    {}
func (Table) block()   {}
func (Plot) block()    {}
func (Picture) block() {}
func (Gallery) block() {}
func (Code) block()    {}
func (Note) block()    {}

// spans reads a text whose code stands between back quotes.
func spans(text string) []Span {
	var out []Span
	for i, part := range strings.Split(text, "`") {
		if part != "" {
			out = append(out, Span{Text: part, Code: i%2 == 1})
		}
	}
	return out
}

func prose(format string, args ...any) Prose { return Prose{spans(fmt.Sprintf(format, args...))} }

// plain is the text of spans without their styles.
func plain(s []Span) string {
	var b strings.Builder
	for _, span := range s {
		b.WriteString(span.Text)
	}
	return b.String()
}
