package cmd

import (
	"fmt"
	"io"
	"math"
	"strings"
	"time"
	"unicode/utf8"
)

// writeTable prints rows below a heading, columns aligned: numbers to the right, words to the left. A column of numbers has
// a heading that begins with ">", which is not printed. The last column may be of any width. A cell may have several lines.
func writeTable(out io.Writer, heading []string, rows [][]string) error {
	right := make([]bool, len(heading))
	width := make([]int, len(heading))
	first := make([]string, len(heading))
	for i, h := range heading {
		first[i], right[i] = strings.CutPrefix(h, ">")
	}
	var all [][]string
	for _, row := range append([][]string{first}, rows...) {
		all = append(all, unfolded(row)...)
	}
	for _, row := range all {
		for i, cell := range row {
			width[i] = max(width[i], utf8.RuneCountInString(cell))
		}
	}
	var b strings.Builder
	for _, row := range all {
		var line strings.Builder
		for i, cell := range row {
			pad := strings.Repeat(" ", width[i]-utf8.RuneCountInString(cell))
			if right[i] {
				cell, pad = pad+cell, ""
			}
			line.WriteString(cell + pad + "  ")
		}
		b.WriteString(strings.TrimRight(line.String(), " ") + "\n")
	}
	_, err := io.WriteString(out, b.String())
	return err
}

// unfolded returns the lines of a row whose cells may have several.
func unfolded(row []string) [][]string {
	var lines [][]string
	for i, cell := range row {
		for n, part := range strings.Split(cell, "\n") {
			if n == len(lines) {
				lines = append(lines, make([]string, len(row)))
			}
			lines[n][i] = part
		}
	}
	return lines
}

// folded breaks a cell at spaces into lines of at most width characters; a longer word has a line of its own.
func folded(cell string, width int) string {
	var b strings.Builder
	at := 0
	for i, word := range strings.Fields(cell) {
		n := utf8.RuneCountInString(word)
		if i > 0 && at+1+n > width {
			b.WriteByte('\n')
			at = 0
		} else if i > 0 {
			b.WriteByte(' ')
			at++
		}
		b.WriteString(word)
		at += n
	}
	return b.String()
}

// thousands prints a whole number with commas between thousands.
func thousands(n uint64) string {
	if n < 1000 {
		return fmt.Sprint(n)
	}
	return fmt.Sprintf("%s,%03d", thousands(n/1000), n%1000)
}

// span prints a time in its two largest units, below ten seconds with what of it matters.
func span(d time.Duration) string {
	switch {
	case d < 0:
		return "-" + span(-d)
	case d < time.Second:
		return fmt.Sprintf("%.2fs", d.Seconds())
	case d < 10*time.Second:
		return fmt.Sprintf("%.1fs", d.Seconds())
	case d < time.Minute:
		return fmt.Sprintf("%.0fs", d.Seconds())
	case d < time.Hour:
		return fmt.Sprintf("%dm%02ds", int(d.Minutes()), int(d.Seconds())%60)
	}
	return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
}

// figure prints a measured number with three digits or more, and nothing for one that is not known.
func figure(v float64) string {
	switch {
	case v == 0 || math.IsNaN(v) || math.IsInf(v, 0):
		return ""
	case v < 10:
		return fmt.Sprintf("%.2f", v)
	case v < 100:
		return fmt.Sprintf("%.1f", v)
	}
	return thousands(uint64(math.Round(v)))
}

// percentOf prints part of whole; nothing when the whole is not known.
func percentOf(part, whole uint64) string {
	if whole == 0 {
		return ""
	}
	return fmt.Sprintf("%.0f %%", 100*float64(part)/float64(whole))
}
