package metrics

import (
	"fmt"
	"math"
	"strconv"
	"time"
)

// duration prints a span with its two largest units: 12s, 4m05s, 3h07m, 2d04h.
func duration(d time.Duration) string {
	s := int64(d.Round(time.Second) / time.Second)
	switch {
	case s < 0:
		return "0s"
	case s < 60:
		return fmt.Sprintf("%ds", s)
	case s < 3600:
		return fmt.Sprintf("%dm%02ds", s/60, s%60)
	case s < 24*3600:
		return fmt.Sprintf("%dh%02dm", s/3600, s%3600/60)
	}
	return fmt.Sprintf("%dd%02dh", s/86400, s%86400/3600)
}

func seconds(s float64) string {
	if math.IsNaN(s) || s < 0 || s > 1e9 {
		return "?"
	}
	return duration(time.Duration(s * float64(time.Second)))
}

// memory prints bytes in MiB or GiB.
func memory(bytes int64) string {
	if bytes < 1<<30 {
		return fmt.Sprintf("%d MiB", (bytes+1<<19)>>20)
	}
	return fmt.Sprintf("%.1f GiB", float64(bytes)/(1<<30))
}

// rate prints images or other things a second, with three digits or more.
func rate(v float64) string {
	switch {
	case v < 10:
		return fmt.Sprintf("%.2f", v)
	case v < 100:
		return fmt.Sprintf("%.1f", v)
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

func percent(v float64) string { return fmt.Sprintf("%.2f%%", v) }
