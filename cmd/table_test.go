package cmd

import (
	"strings"
	"testing"
)

func TestTableOfCellsWithSeveralLines(t *testing.T) {
	var b strings.Builder
	rows := [][]string{
		{"a", folded("one two three four", 9), "7"},
		{"bb", folded("longerthannine and", 9), "10"},
	}
	if err := writeTable(&b, []string{"", "what", ">n"}, rows); err != nil {
		t.Fatal(err)
	}
	want := `
    what             n
a   one two          7
    three
    four
bb  longerthannine  10
    and
`
	if got := "\n" + b.String(); got != want {
		t.Errorf("got%s\nwant%s", got, want)
	}
}

func TestRadiusIsWrittenAsPeopleDo(t *testing.T) {
	for eps, want := range map[float64]string{.1: "0.1", .3: "0.3", 8. / 255: "8/255", .5 / 255: "0.5/255", .0123: "0.0123", 1: "1"} {
		if got := epsText(eps); got != want {
			t.Errorf("%g is written %s, want %s", eps, got, want)
		}
	}
}
