package chart

import (
	"fmt"

	"golang.org/x/image/font"
	"golang.org/x/image/font/gofont/gobold"
	"golang.org/x/image/font/gofont/goregular"
	"golang.org/x/image/font/opentype"
)

// letters measures texts in the Go fonts, which PNG and PDF use; those of a browser are about as wide.
type letters struct {
	plain, bold           *opentype.Font
	plainRuler, boldRuler font.Face
}

// rulerSize is the size in pixels at which texts are measured.
const rulerSize = 100

func newLetters() (*letters, error) {
	l := &letters{}
	for _, f := range []struct {
		ttf   []byte
		font  **opentype.Font
		ruler *font.Face
	}{{goregular.TTF, &l.plain, &l.plainRuler}, {gobold.TTF, &l.bold, &l.boldRuler}} {
		var err error
		if *f.font, err = opentype.Parse(f.ttf); err != nil {
			return nil, fmt.Errorf("read font: %w", err)
		}
		if *f.ruler, err = opentype.NewFace(*f.font, &opentype.FaceOptions{Size: rulerSize, DPI: 72}); err != nil {
			return nil, fmt.Errorf("read font: %w", err)
		}
	}
	return l, nil
}

// width is how wide a text is.
func (l *letters) width(text string, of Lettering) float64 {
	ruler := l.plainRuler
	if of.Bold {
		ruler = l.boldRuler
	}
	return float64(font.MeasureString(ruler, text)) / 64 / rulerSize * of.Size
}

// cut shortens a text to a width with an ellipsis.
func (l *letters) cut(text string, of Lettering, width float64) string {
	if l.width(text, of) <= width {
		return text
	}
	runes := []rune(text)
	for len(runes) > 1 && l.width(string(runes)+"…", of) > width {
		runes = runes[:len(runes)-1]
	}
	return string(runes) + "…"
}
