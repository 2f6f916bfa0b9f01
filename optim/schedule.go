package optim

import (
	"fmt"
	"math"
)

// Schedule is the learning rate before each update of a run. It is pure arithmetic: the same on every worker, and a
// resumed run asks for any step.
type Schedule struct {
	Kind   string  // "cosine", "one-cycle" or "constant", after warm-up
	Base   float64 // the highest rate
	Warmup int     // updates of warm-up, W
	Total  int     // updates of the run, T
}

// finalRate is where the cosine ends (the reference's).
const finalRate = 1e-8

// The one-cycle policy's defaults in PyTorch: the first rate is base/25, the last one 10,000 times smaller.
const (
	cycleStart = 25
	cycleEnd   = 1e4
)

// NewSchedule makes the schedule of a run of epochs of stepsPerEpoch updates each, the first warmup epochs (whole or
// not) being warm-up.
func NewSchedule(kind string, base, warmup float64, epochs, stepsPerEpoch int) (Schedule, error) {
	s := Schedule{Kind: kind, Base: base, Warmup: int(math.Round(warmup * float64(stepsPerEpoch))), Total: epochs * stepsPerEpoch}
	switch {
	case kind != "cosine" && kind != "one-cycle" && kind != "constant":
		return Schedule{}, fmt.Errorf("make schedule %q: choose cosine, one-cycle or constant", kind)
	case s.Total <= 0:
		return Schedule{}, fmt.Errorf("make schedule: %d epochs of %d updates: both must be at least 1", epochs, stepsPerEpoch)
	case s.Warmup < 0 || s.Warmup > s.Total:
		return Schedule{}, fmt.Errorf("make schedule: warm-up of %d updates does not fit in %d", s.Warmup, s.Total)
	}
	return s, nil
}

// Rate is the learning rate of update t, counted from 0 over the whole run, t < Total.
//
// cosine is the reference's table: t*Base/(W-1) for t < W, so that the first update has rate 0 and the last of warm-up
// Base; from W on, 1e-8 + (Base-1e-8)*(1+cos(pi*(t-W)/(T-W)))/2, which reaches 1e-8 at T, the end of the last epoch.
// constant has the same warm-up and then Base. one-cycle is PyTorch's OneCycleLR with cosine annealing: up from Base/25
// within the warm-up, down to Base/250,000 at the last update.
func (s Schedule) Rate(t int) float64 {
	if s.Kind == "one-cycle" {
		return s.cycle(float64(t))
	}
	switch {
	case t < s.Warmup && s.Warmup == 1:
		return 0
	case t < s.Warmup:
		return s.Base * float64(t) / float64(s.Warmup-1)
	case s.Kind == "constant":
		return s.Base
	}
	return anneal(s.Base, finalRate, float64(t-s.Warmup)/float64(s.Total-s.Warmup))
}

// cycle is the one-cycle rate of update t.
func (s Schedule) cycle(t float64) float64 {
	first, last := s.Base/cycleStart, s.Base/cycleStart/cycleEnd
	top, end := float64(max(s.Warmup-1, 0)), float64(s.Total-1)
	switch {
	case t < top:
		return anneal(first, s.Base, t/top)
	case top == end:
		return s.Base
	}
	return anneal(s.Base, last, (t-top)/(end-top))
}

// anneal goes from a at share 0 to b at share 1 along half a cosine.
func anneal(a, b, share float64) float64 {
	return b + (a-b)*(1+math.Cos(math.Pi*share))/2
}
