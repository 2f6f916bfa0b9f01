package job

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// Table prints the effective configuration of s for a terminal of width columns: every option once, in as many columns
// as fit (those of adversarial training only where there is any), those that differ from the recipe's default marked and repeated below with that default. Width 0 means 80.
func (s Spec) Table(width int) string {
	d, err := Default(Spec{Recipe: s.Recipe, Model: s.Model, Conv: s.Conv, Adversarial: s.Adversarial})
	if err != nil { // s chooses no recipe or model that exists: there is nothing to differ from
		d = s
	}
	var cells, changed []string
	names, values := 0, 0
	for _, o := range s.tabled() {
		names = max(names, len(o.Name))
		if !isText(o.Name) {
			values = max(values, len(o.Value(s)))
		}
	}
	var texts strings.Builder
	for _, o := range s.tabled() {
		value, mark := o.Value(s), " "
		if !isChoice(o.Name) && value != o.Value(d) {
			mark = "*"
			changed = append(changed, fmt.Sprintf("%s (%s)", o.Name, o.Value(d)))
		}
		switch {
		case !isText(o.Name):
			cells = append(cells, fmt.Sprintf("%s %-*s  %-*s", mark, names, o.Name, values, value))
		case value != "":
			fmt.Fprintf(&texts, "  %-*s  %s\n", names, o.Name, value)
		}
	}
	var b strings.Builder
	b.WriteString(texts.String())
	b.WriteString(columns(cells, width))
	if len(changed) > 0 {
		b.WriteString(wrap(fmt.Sprintf("* not as recipe %s has it: %s", s.Recipe, strings.Join(changed, ", ")), width))
	}
	return b.String()
}

// tabled are the options that say something about s.
func (s Spec) tabled() []Option {
	return slices.DeleteFunc(Options(), func(o Option) bool {
		return o.Group == groupAdversarial && o.Name != groupChoice && !s.Attacked()
	})
}

// isText tells the options that hold a path or a free name, which get a line of their own and only when given.
func isText(option string) bool {
	switch option {
	case "data", "name", "resume", "init":
		return true
	}
	return false
}

// isChoice tells the options that no recipe decides.
func isChoice(option string) bool {
	switch option {
	case "model", "conv", "recipe", "seed", groupChoice:
		return true
	}
	return isText(option)
}

// columns sets cells of equal width in as many columns as fit, reading down.
func columns(cells []string, width int) string {
	if width <= 0 {
		width = 80
	}
	const gap = "   "
	cell := utf8.RuneCountInString(cells[0])
	n := max(1, (width+len(gap))/(cell+len(gap)))
	rows := (len(cells) + n - 1) / n
	var b strings.Builder
	for r := range rows {
		var line []string
		for i := r; i < len(cells); i += rows {
			line = append(line, cells[i])
		}
		b.WriteString(strings.TrimRight(strings.Join(line, gap), " "))
		b.WriteByte('\n')
	}
	return b.String()
}

// wrap breaks a text at spaces into lines of at most width columns; further lines are indented by two.
func wrap(text string, width int) string {
	if width <= 0 {
		width = 80
	}
	var b strings.Builder
	at := 0
	for i, word := range strings.Fields(text) {
		n := utf8.RuneCountInString(word)
		switch {
		case i == 0:
		case at+1+n > width:
			b.WriteString("\n  ")
			at = 2
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

// align sets rows in columns: the first column to the left, the others to the right where right says so.
func align(rows [][]string, right ...bool) string {
	var widths []int
	for _, row := range rows {
		for i, cell := range row {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	var b strings.Builder
	for _, row := range rows {
		var line strings.Builder
		for i, cell := range row {
			pad := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell))
			line.WriteString("  ")
			if i < len(right) && right[i] {
				line.WriteString(pad + cell)
			} else {
				line.WriteString(cell + pad)
			}
		}
		b.WriteString(strings.TrimRight(line.String(), " "))
		b.WriteByte('\n')
	}
	return b.String()
}
