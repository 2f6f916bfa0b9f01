package optim

import (
	"math"
	"strings"
	"testing"
)

// dumbCourse is the reference's schedule by recursion, one update after another, as its scheduler steps it.
func dumbCourse(base float64, warmup, total int) []float64 {
	rates := make([]float64, total)
	rate, span := 0.0, float64(total-warmup)
	for t := range rates {
		switch {
		case t < warmup && t > 0:
			rate += base / float64(warmup-1)
		case t == warmup:
			rate = base
		case t > warmup:
			now, before := 1+math.Cos(math.Pi*float64(t-warmup)/span), 1+math.Cos(math.Pi*float64(t-warmup-1)/span)
			rate = now/before*(rate-1e-8) + 1e-8
		}
		rates[t] = rate
	}
	return rates
}

func TestCosineIsTheReferencesTable(t *testing.T) {
	for _, c := range []struct {
		base, warmup  float64
		epochs, steps int
	}{{0.1, 5, 60, 390}, {0.01, 5, 90, 390}, {0.1, 5, 10, 390}, {0.1, 0, 3, 7}, {1, 1, 2, 1}, {0.3, 0.5, 2, 10}, {0.1, 2, 2, 5}} {
		s, err := NewSchedule("cosine", c.base, c.warmup, c.epochs, c.steps)
		if err != nil {
			t.Fatal(err)
		}
		worst := 0.0
		for step, want := range dumbCourse(c.base, s.Warmup, s.Total) {
			// The recursion gathers rounding in each of up to 35,100 steps.
			if diff := math.Abs(s.Rate(step) - want); diff > 1e-12*c.base+1e-9*want || math.IsNaN(want) {
				t.Fatalf("%+v: rate of update %d is %v, want %v", c, step, s.Rate(step), want)
			} else {
				worst = max(worst, diff)
			}
		}
		t.Logf("%+v: largest difference %.2g", c, worst)
	}
}

// Golden numbers: the reference's 60 epochs of SimpleNet and 90 of the ViT, 390 updates each, computed in Python; the
// one-cycle ones by torch.optim.lr_scheduler.OneCycleLR (torch 2.11.0).
func TestGoldenRates(t *testing.T) {
	for _, c := range []struct {
		s    Schedule
		want map[int]float64
	}{
		{Schedule{"cosine", 0.1, 1950, 23400}, map[int]float64{0: 0, 1: 5.130836326321191e-05, 100: 0.005130836326321195, 1949: 0.1, 1950: 0.1,
			1951: 0.099999999463728, 12675: 0.050000005, 23398: 1.2145087e-08, 23399: 1.0536272e-08}},
		{Schedule{"cosine", 0.01, 1950, 35100}, map[int]float64{1: 5.130836326321191e-06, 1949: 0.01, 18525: 0.005000005, 35099: 1.0022452890e-08}},
		{Schedule{"one-cycle", 0.2, 5, 20}, map[int]float64{0: 0.008, 1: 0.036117749006091465, 3: 0.17188225099390858, 4: 0.2, 5: 0.1978147688143403,
			9: 0.1500002, 18: 0.0021860311856597247, 19: 8e-07}},
		{Schedule{"one-cycle", 0.1, 2, 7}, map[int]float64{0: 0.004, 1: 0.1, 2: 0.0904508879153485, 5: 0.009549512084651508, 6: 4e-07}},
		{Schedule{"one-cycle", 0.4, 250, 1000}, map[int]float64{1: 0.016015281518908686, 124: 0.20678879158885172, 600: 0.2200730626808711, 999: 1.6e-06}},
		{Schedule{"one-cycle", 0.4, 0, 2}, map[int]float64{0: 0.4, 1: 1.6e-06}},
		{Schedule{"one-cycle", 0.4, 1, 1}, map[int]float64{0: 0.4}},
		{Schedule{"constant", 0.4, 5, 20}, map[int]float64{0: 0, 1: 0.1, 4: 0.4, 5: 0.4, 19: 0.4}},
	} {
		for step, want := range c.want {
			if got := c.s.Rate(step); math.Abs(got-want) > 1e-7*want+1e-18 {
				t.Errorf("%+v: rate of update %d is %.17g, want %.17g", c.s, step, got, want)
			}
		}
	}
}

func TestScheduleRefusesWhatCannotBe(t *testing.T) {
	for _, c := range []struct {
		kind          string
		warmup        float64
		epochs, steps int
		want          string
	}{
		{"linear", 0, 1, 1, "choose cosine"},
		{"cosine", 0, 0, 1, "at least 1"},
		{"cosine", 3, 2, 10, "does not fit"},
		{"cosine", -1, 2, 10, "does not fit"},
	} {
		if _, err := NewSchedule(c.kind, 0.1, c.warmup, c.epochs, c.steps); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: got %v", c, err)
		}
	}
}
