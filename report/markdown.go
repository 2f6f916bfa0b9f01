package report

import (
	"strings"

	"github.com/yuin/goldmark"
	"github.com/yuin/goldmark/ast"
	"github.com/yuin/goldmark/extension"
	table "github.com/yuin/goldmark/extension/ast"
	"github.com/yuin/goldmark/text"
)

// markdown reads design notes into a section of level 3; a heading of the first level is its title.
func markdown(source, title, id string) Section {
	src := []byte(source)
	root := goldmark.New(goldmark.WithExtensions(extension.Table)).Parser().Parse(text.NewReader(src))
	r := markdownReader{src: src}
	here := Section{ID: id, Title: title, Level: 3}
	for n := root.FirstChild(); n != nil; n = n.NextSibling() {
		switch n := n.(type) {
		case *ast.Heading:
			heading := plain(r.inline(n))
			if n.Level == 1 { // the title of the file, or of the model's part of it
				here.Title = heading
				continue
			}
			here.Blocks = append(here.Blocks, Heading{heading})
		case *ast.Paragraph:
			here.Blocks = append(here.Blocks, Prose{r.inline(n)})
		case *ast.List:
			here.Blocks = append(here.Blocks, r.list(n))
		case *ast.CodeBlock:
			here.Blocks = append(here.Blocks, Code{r.lines(n)})
		case *ast.FencedCodeBlock:
			here.Blocks = append(here.Blocks, Code{r.lines(n)})
		case *table.Table:
			here.Blocks = append(here.Blocks, r.table(n))
		default:
			here.Blocks = append(here.Blocks, Prose{r.inline(n)})
		}
	}
	return here
}

type markdownReader struct{ src []byte }

// inline is the text below a node.
func (r markdownReader) inline(n ast.Node) []Span {
	var out []Span
	var visit func(ast.Node, Span)
	visit = func(n ast.Node, style Span) {
		for c := n.FirstChild(); c != nil; c = c.NextSibling() {
			inner := style
			switch c := c.(type) {
			case *ast.Text:
				inner.Text = string(c.Segment.Value(r.src))
				if c.SoftLineBreak() || c.HardLineBreak() {
					inner.Text += " "
				}
				out = append(out, inner)
				continue
			case *ast.String:
				inner.Text = string(c.Value)
				out = append(out, inner)
				continue
			case *ast.CodeSpan:
				inner.Code = true
			case *ast.Emphasis:
				inner.Strong = true
			case *ast.Link:
				inner.Link = string(c.Destination)
			case *ast.AutoLink:
				inner.Text, inner.Link = string(c.Label(r.src)), string(c.URL(r.src))
				out = append(out, inner)
				continue
			}
			visit(c, inner)
		}
	}
	visit(n, Span{})
	return out
}

func (r markdownReader) list(n *ast.List) List {
	var l List
	for item := n.FirstChild(); item != nil; item = item.NextSibling() {
		var spans []Span
		for part := item.FirstChild(); part != nil; part = part.NextSibling() {
			if len(spans) > 0 {
				spans = append(spans, Span{Text: " "})
			}
			spans = append(spans, r.inline(part)...)
		}
		l.Items = append(l.Items, spans)
	}
	return l
}

func (r markdownReader) lines(n ast.Node) string {
	var b strings.Builder
	for i := range n.Lines().Len() {
		line := n.Lines().At(i)
		b.Write(line.Value(r.src))
	}
	return strings.TrimRight(b.String(), "\n")
}

// table reads a table; a column is of numbers where all of its cells begin with a digit or a sign.
func (r markdownReader) table(n *table.Table) Table {
	var t Table
	for row := n.FirstChild(); row != nil; row = row.NextSibling() {
		var cells []string
		for c := row.FirstChild(); c != nil; c = c.NextSibling() {
			cells = append(cells, plain(r.inline(c)))
		}
		if _, head := row.(*table.TableHeader); head {
			for _, c := range cells {
				t.Columns = append(t.Columns, Column{Title: c, Number: true})
			}
			continue
		}
		for i, c := range cells {
			if i < len(t.Columns) && c != "" && !strings.ContainsAny(c[:1], "0123456789-+.") {
				t.Columns[i].Number = false
			}
		}
		t.Rows = append(t.Rows, cells)
	}
	return t
}
