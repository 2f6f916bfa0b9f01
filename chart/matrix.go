package chart

import (
	"fmt"
	"math"
)

// Matrix is a square of counts: rows are what is true, columns what is said. Each row is shaded by its own sum, right answers
// in one colour and mistakes in another.
type Matrix struct {
	Names  []string
	Counts [][]int // by row, then column
}

// Measures of a Matrix.
const (
	matrixSide  = 560.
	matrixNames = 78.
	shades      = 12
)

// Size is fixed.
func (Matrix) Size() (float64, float64) {
	return matrixNames + matrixSide + 2, matrixNames + matrixSide + 2
}

// Alt says how much is right.
func (m Matrix) Alt() string {
	right, all := 0, 0
	for i, row := range m.Counts {
		for j, n := range row {
			all += n
			if i == j {
				right += n
			}
		}
	}
	return fmt.Sprintf("Confusion matrix of %d classes, rows what is true, columns what the network says: %d of %d on the diagonal.", len(m.Names), right, all)
}

// Draw draws the matrix.
func (m Matrix) Draw(pen Pen) error {
	n := len(m.Names)
	if n == 0 || len(m.Counts) != n {
		return ErrEmpty
	}
	letters, err := newLetters()
	if err != nil {
		return err
	}
	cell := matrixSide / float64(n)
	var right, wrong [shades + 1][][]Point
	for i, row := range m.Counts {
		sum := 0
		for _, c := range row {
			sum += c
		}
		for j, c := range row {
			if c == 0 {
				continue
			}
			shade := int(math.Ceil(shades * math.Sqrt(float64(c)/float64(sum)))) // the root keeps single mistakes in sight
			outline := box(matrixNames+float64(j)*cell, matrixNames+float64(i)*cell, cell, cell)
			if i == j {
				right[shade] = append(right[shade], outline)
			} else {
				wrong[shade] = append(wrong[shade], outline)
			}
		}
	}
	for s := 1; s <= shades; s++ {
		for ink, outlines := range [2][][]Point{right[s], wrong[s]} {
			if len(outlines) > 0 {
				pen.Fill(outlines, Series(ink), float64(s)/shades)
			}
		}
	}
	label := Lettering{Ink: InkMuted, Size: min(max(cell*.86, 3), textSize), Anchor: End}
	for i, name := range m.Names {
		middle := matrixNames + (float64(i)+.5)*cell + label.Size*.34
		text := letters.cut(name, label, matrixNames-6)
		pen.Text(Point{matrixNames - 3, middle}, text, label)
		up := label
		up.Anchor, up.Turned = Begin, true
		pen.Text(Point{middle, matrixNames - 3}, text, up)
	}
	corner := matrixNames + matrixSide
	pen.Line([]Point{{matrixNames, matrixNames}, {corner, matrixNames}, {corner, corner}, {matrixNames, corner}, {matrixNames, matrixNames}}, Stroke{Ink: InkMuted, Width: .6})
	caption := Lettering{Ink: InkText, Size: 9}
	pen.Text(Point{0, 14}, "true, down", caption)
	pen.Text(Point{0, 26}, "said, across", caption)
	return nil
}
