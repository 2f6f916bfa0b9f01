package report

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// percent prints per cent with so many decimals as a validation of some thousand images knows.
func percent(v float64) string { return figure(v, 2) }

// figure prints a number with so many decimals, and a dash for one that is not known.
func figure(v float64, decimals int) string {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return "–"
	}
	return strconv.FormatFloat(v, 'f', decimals, 64)
}

// rate prints images a second, or another figure of which three digits matter.
func rate(v float64) string {
	switch {
	case v == 0 || math.IsNaN(v) || math.IsInf(v, 0):
		return "–"
	case v < 10:
		return figure(v, 2)
	case v < 100:
		return figure(v, 1)
	}
	return thousands(int64(math.Round(v)))
}

// thousands prints a whole number with commas.
func thousands(n int64) string {
	if n < 0 {
		return "-" + thousands(-n)
	}
	if n < 1000 {
		return strconv.FormatInt(n, 10)
	}
	return fmt.Sprintf("%s,%03d", thousands(n/1000), n%1000)
}

// span prints seconds in the two largest units.
func span(seconds float64) string {
	if math.IsNaN(seconds) || seconds < 0 {
		return "–"
	}
	d := time.Duration(seconds * float64(time.Second))
	switch {
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	case d < 10*time.Second:
		return fmt.Sprintf("%.1f s", d.Seconds())
	case d < time.Minute:
		return fmt.Sprintf("%.0f s", d.Seconds())
	case d < time.Hour:
		return fmt.Sprintf("%d min %02d s", int(d.Minutes()), int(d.Seconds())%60)
	}
	return fmt.Sprintf("%d h %02d min", int(d.Hours()), int(d.Minutes())%60)
}

// mebibytes prints bytes.
func mebibytes(n int64) string {
	if n == 0 {
		return "–"
	}
	return thousands((n+1<<19)>>20) + " MiB"
}

// count prints a number of things: 1 image, 2 images.
func count(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return thousands(int64(n)) + " " + thing + "s"
}

// spoken is a class as people say it.
func spoken(class string) string { return strings.ReplaceAll(class, "_", " ") }

// joined is a list in a sentence: a, b and c.
func joined(words []string) string {
	if n := len(words); n > 1 {
		return strings.Join(words[:n-1], ", ") + " and " + words[n-1]
	}
	return strings.Join(words, "")
}

// epsText is an attack's radius as people write it: in 255ths where it is small.
func epsText(eps float64) string {
	if n := eps * 255; eps < .2 && math.Abs(n*16-math.Round(n*16)) < 1e-6 {
		return strconv.FormatFloat(math.Round(n*16)/16, 'g', -1, 64) + "/255"
	}
	return strconv.FormatFloat(eps, 'g', 4, 64)
}

// signed prints a difference with its sign.
func signed(v float64, decimals int) string {
	text := figure(v, decimals)
	if v > 0 {
		text = "+" + text
	}
	return strings.Replace(text, "-", "−", 1)
}
