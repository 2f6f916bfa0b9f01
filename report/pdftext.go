package report

import (
	"strings"
	"unicode/utf8"
)

// style is how a paragraph is set.
type style struct {
	size, lead float64
	tone       tone
	indent     float64 // of all lines
}

func body() style { return style{size: bodySize, lead: bodyLead, tone: toneInk()} }

// piece is a part of a line in one style.
type piece struct {
	text  string
	span  Span
	width float64
}

// font chooses letters and their colour.
func (s *setter) font(family, weight string, size float64, t tone) {
	s.pdf.SetFont(family, weight, size)
	s.pdf.SetTextColor(t.r, t.g, t.b)
}

// spanFont chooses the letters of a span.
func (s *setter) spanFont(sp Span, st style) {
	switch {
	case sp.Code:
		s.font(fontMono, "", st.size*.9, st.tone)
	case sp.Strong:
		s.font(fontText, bold, st.size, st.tone)
	case sp.Link != "":
		s.font(fontText, "", st.size, toneAccent())
	default:
		s.font(fontText, "", st.size, st.tone)
	}
}

// settable leaves out what the library cannot set: characters beyond the first plane, and those that move the pen.
func settable(text string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t':
			return ' '
		case r < ' ' || r == utf8.RuneError:
			return -1
		case r > 0xFFFF:
			return '□'
		}
		return r
	}, text)
}

// fit shortens a text to a width in the current font.
func (s *setter) fit(text string, width float64) string {
	text = settable(text)
	if s.pdf.GetStringWidth(text) <= width {
		return text
	}
	runes := []rune(text)
	for len(runes) > 1 && s.pdf.GetStringWidth(string(runes)+"…") > width {
		runes = runes[:len(runes)-1]
	}
	return string(runes) + "…"
}

// lines breaks spans into lines of a width. A word that is wider than a line is cut.
func (s *setter) lines(spans []Span, st style, width float64) [][]piece {
	var out [][]piece
	var line []piece
	used := 0.
	end := func() {
		if n := len(line); n > 0 {
			line[n-1].text = strings.TrimRight(line[n-1].text, " ")
		}
		out, line, used = append(out, line), nil, 0
	}
	put := func(word string, sp Span) {
		w := s.pdf.GetStringWidth(word)
		if n := len(line); n > 0 && line[n-1].span == sp {
			line[n-1].text += word
			line[n-1].width += w
		} else {
			line = append(line, piece{word, sp, w})
		}
		used += w
	}
	for _, sp := range spans {
		s.spanFont(sp, st)
		for _, word := range words(settable(sp.Text)) {
			bare := strings.TrimRight(word, " ")
			if used > 0 && used+s.pdf.GetStringWidth(bare) > width {
				end()
				s.spanFont(sp, st)
				if bare == "" {
					continue
				}
			}
			for s.pdf.GetStringWidth(bare) > width && utf8.RuneCountInString(bare) > 1 {
				cut := s.cut(bare, width)
				put(bare[:cut], sp)
				end()
				s.spanFont(sp, st)
				bare, word = bare[cut:], word[cut:]
			}
			put(word, sp)
		}
	}
	if len(line) > 0 {
		end()
	}
	return out
}

// cut is how many bytes of a word fit into a width, at least one letter; it prefers the end of a part of a path.
func (s *setter) cut(word string, width float64) int {
	last, nice := 0, 0
	for i, r := range word {
		n := i + utf8.RuneLen(r)
		if s.pdf.GetStringWidth(word[:n]) > width {
			break
		}
		if last = n; strings.ContainsRune("/-_,.", r) {
			nice = n
		}
	}
	if nice > last/2 {
		last = nice
	}
	if last == 0 {
		_, last = utf8.DecodeRuneInString(word)
	}
	return last
}

// words cuts a text after its spaces.
func words(text string) []string {
	var out []string
	for text != "" {
		n := len(text)
		if i := strings.IndexByte(text, ' '); i >= 0 {
			for n = i; n < len(text) && text[n] == ' '; n++ {
			}
		}
		out, text = append(out, text[:n]), text[n:]
	}
	return out
}

// paragraph sets spans at the current height, over pages where it must; two lines or more stay together.
func (s *setter) paragraph(spans []Span, st style) {
	lines := s.lines(spans, st, textWidth-st.indent)
	s.need(float64(min(len(lines), 2)) * st.lead)
	for _, line := range lines {
		s.need(st.lead)
		s.line(line, st, marginSide+st.indent)
		s.y += st.lead
	}
	s.fresh = s.fresh && len(lines) == 0
}

// line sets one line whose box begins at the current height.
func (s *setter) line(line []piece, st style, x float64) {
	base := s.y + st.lead*.5 + st.size*.36
	for _, p := range line {
		s.spanFont(p.span, st)
		s.pdf.Text(x, base, p.text)
		if p.span.Link != "" {
			s.pdf.LinkString(x, s.y, p.width, st.lead, p.span.Link)
		}
		x += p.width
	}
	s.fresh = false
}

func (s *setter) list(l List) {
	st := body()
	st.indent = 13
	for _, item := range l.Items {
		s.need(min(float64(len(s.lines(item, st, textWidth-st.indent))), 2) * st.lead)
		s.font(fontText, "", st.size, toneMuted())
		s.pdf.Text(marginSide+2, s.y+st.lead*.5+st.size*.36, "•")
		s.paragraph(item, st)
		s.y += 2
	}
	s.y += 4
}

// code sets lines as they are typed, on a ground of their own.
func (s *setter) code(c Code) {
	const lead, pad = 12., 9.
	var lines []string
	s.font(fontMono, "", monoSize, toneInk())
	for _, line := range strings.Split(c.Text, "\n") {
		line = settable(line)
		for first := true; ; first = false {
			room := textWidth - 2*pad
			if !first {
				line = "    " + line
			}
			if s.pdf.GetStringWidth(line) <= room {
				lines = append(lines, line)
				break
			}
			at := s.cut(line, room-12)
			if space := strings.LastIndexByte(line[:at], ' '); space > at/2 {
				at = space + 1
			}
			lines = append(lines, strings.TrimRight(line[:at], " ")+" \\")
			line = line[at:]
		}
	}
	for len(lines) > 0 {
		s.need(3*lead + 2*pad)
		n := min(len(lines), max(1, int((pageEnd-s.y-2*pad)/lead)))
		s.ground(float64(n)*lead+2*pad, toneSoft())
		for i, line := range lines[:n] {
			s.font(fontMono, "", monoSize, toneInk())
			s.pdf.Text(marginSide+pad, s.y+pad+float64(i)*lead+8.8, line)
		}
		s.y += float64(n)*lead + 2*pad
		s.fresh = false
		lines = lines[n:]
	}
	s.y += 8
}

// ground paints a band across the text.
func (s *setter) ground(height float64, t tone) {
	s.pdf.SetFillColor(t.r, t.g, t.b)
	s.pdf.Rect(marginSide, s.y, textWidth, height, "F")
}

func (s *setter) note(n Note) {
	const pad = 7.
	st := style{size: 9, lead: 12.5, tone: toneInk(), indent: 12}
	word, bar, ground := "Missing. ", toneLine(), toneSoft()
	if n.Kind == NoteWarning {
		word, bar, ground, st.tone = "Note. ", toneWarm(), tone{0xFF, 0xF3, 0xE0}, toneWarm()
	}
	lines := s.lines(append([]Span{{Text: word, Strong: true}}, n.Spans...), st, textWidth-st.indent-10)
	height := float64(len(lines))*st.lead + 2*pad
	s.need(height)
	s.y += 2
	s.ground(height, ground)
	s.pdf.SetFillColor(bar.r, bar.g, bar.b)
	s.pdf.Rect(marginSide, s.y, 2.5, height, "F")
	s.y += pad
	for _, line := range lines {
		s.line(line, st, marginSide+st.indent)
		s.y += st.lead
	}
	s.y += pad + 6
}
