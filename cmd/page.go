package cmd

import (
	"regexp"
	"strings"
	"unicode/utf8"
)

// pageRenderer shows the Markdown of docs/ on a terminal: headings, paragraphs, lists, tables, and code as it is.
type pageRenderer struct {
	width int
	color bool
}

// Marks of Markdown within a line.
const (
	markLink    = `!?\[([^\]]*)\]\(([^)]*)\)`
	markStrong  = `\*\*([^*]+)\*\*`
	markLiteral = "`([^`]*)`"
)

// render returns a page as lines of at most width columns, where words allow it.
func (r pageRenderer) render(page string) string {
	var b strings.Builder
	lines := strings.Split(strings.TrimRight(page, "\n"), "\n")
	for i := 0; i < len(lines); i++ {
		line := lines[i]
		switch {
		case strings.HasPrefix(line, "    "):
			b.WriteString(r.code(line) + "\n")
		case strings.HasPrefix(line, "#"):
			b.WriteString(r.paint("1", strings.TrimSpace(strings.TrimLeft(line, "#"))) + "\n")
		case strings.HasPrefix(line, "|"):
			from := i
			for i+1 < len(lines) && strings.HasPrefix(lines[i+1], "|") {
				i++
			}
			b.WriteString(r.table(lines[from : i+1]))
		case strings.TrimSpace(line) == "":
			b.WriteByte('\n')
		default: // a paragraph or a point of a list: up to an empty line, another point, or something else
			from := i
			for i+1 < len(lines) && continues(lines[i+1]) {
				i++
			}
			b.WriteString(r.paragraph(lines[from : i+1]))
		}
	}
	return b.String()
}

// continues says whether a line goes on with the paragraph before it.
func continues(line string) bool {
	return strings.TrimSpace(line) != "" && !strings.HasPrefix(line, "    ") && !strings.HasPrefix(line, "#") && !strings.HasPrefix(line, "|") && !strings.HasPrefix(line, "- ")
}

// code is a line of commands; what follows # is dimmed.
func (r pageRenderer) code(line string) string {
	at := strings.Index(line, "  #")
	if at < 4 {
		return line
	}
	at = len(strings.TrimRight(line[:at], " "))
	return line[:at] + r.paint("2", line[at:])
}

func (r pageRenderer) paragraph(lines []string) string {
	indent := ""
	if strings.HasPrefix(lines[0], "- ") {
		indent = "  "
	}
	var b strings.Builder
	at := 0
	for i, word := range strings.Fields(r.inline(strings.Join(lines, " "))) {
		n := utf8.RuneCountInString(word)
		switch {
		case i == 0:
		case at+1+n > r.width:
			b.WriteString("\n" + indent)
			at = len(indent)
		default:
			b.WriteByte(' ')
			at++
		}
		b.WriteString(word)
		at += n
	}
	b.WriteByte('\n')
	return b.String()
}

// table sets cells in columns, and breaks those of the widest where the line is too short.
func (r pageRenderer) table(lines []string) string {
	var rows [][]string
	var width []int
	for _, line := range lines {
		cells := strings.Split(strings.Trim(line, "|"), "|")
		if strings.Trim(strings.Join(cells, ""), "-: ") == "" {
			continue
		}
		for i, cell := range cells {
			cells[i] = r.inline(strings.TrimSpace(cell))
			if i == len(width) {
				width = append(width, 1)
			}
			width[i] = max(width[i], utf8.RuneCountInString(cells[i]))
		}
		rows = append(rows, cells)
	}
	const gap = 2
	for total(width)+gap*(len(width)-1) > r.width {
		widest := 0
		for i := range width {
			if width[i] > width[widest] {
				widest = i
			}
		}
		width[widest]--
	}
	var b strings.Builder
	for _, row := range rows {
		broken := make([][]string, len(row))
		height := 0
		for i, cell := range row {
			broken[i] = strings.Split(strings.TrimRight(pageRenderer{width: width[i]}.paragraph([]string{cell}), "\n"), "\n")
			height = max(height, len(broken[i]))
		}
		for h := range height {
			var line strings.Builder
			for i := range row {
				part := ""
				if h < len(broken[i]) {
					part = broken[i][h]
				}
				line.WriteString(part + strings.Repeat(" ", max(width[i]-utf8.RuneCountInString(part), 0)+gap))
			}
			b.WriteString(strings.TrimRight(line.String(), " ") + "\n")
		}
	}
	return b.String()
}

func total(numbers []int) int {
	sum := 0
	for _, n := range numbers {
		sum += n
	}
	return sum
}

// inline takes the marks out of a text.
func (r pageRenderer) inline(text string) string {
	text = regexp.MustCompile(markLink).ReplaceAllStringFunc(text, func(mark string) string {
		m := regexp.MustCompile(markLink).FindStringSubmatch(mark)
		if strings.HasPrefix(mark, "!") {
			return "(picture: docs/" + m[2] + ")"
		}
		return m[1]
	})
	text = regexp.MustCompile(markStrong).ReplaceAllString(text, "$1")
	return regexp.MustCompile(markLiteral).ReplaceAllString(text, "$1")
}

func (r pageRenderer) paint(attribute, text string) string {
	if !r.color {
		return text
	}
	return "\x1b[" + attribute + "m" + text + "\x1b[0m"
}
