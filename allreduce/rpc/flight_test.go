package rpc

import (
	"testing"
	"time"
)

func TestADelayNeedsNoCommonClock(t *testing.T) {
	var f flight
	const offset = -7 * time.Hour // of the other clock
	at := time.Now()
	for i, c := range []struct{ flies, want time.Duration }{
		{time.Millisecond, 0},
		{30 * time.Millisecond, 29 * time.Millisecond},
		{500 * time.Microsecond, 0},
		{30 * time.Millisecond, 29500 * time.Microsecond},
	} {
		if got := f.over(offset+c.flies, at); got != c.want {
			t.Errorf("piece %d: a delay of %s, want %s", i, got, c.want)
		}
	}
	// The other clock runs slower by 100 millionths: within an hour that is no delay.
	slowest := time.Duration(0)
	for s := range 3600 {
		x := time.Duration(s) * time.Second
		slowest = max(slowest, f.over(offset+500*time.Microsecond+x/10_000, at.Add(x)))
	}
	if slowest > time.Millisecond {
		t.Errorf("clocks that run apart pass for a delay of %s", slowest)
	}
}
