package metrics

import (
	"math"
	"testing"
	"time"
)

func TestAccountFollowsARun(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	var a Account
	if r := a.Report(); r != (GoodputReport{}) {
		t.Errorf("before anything: got %+v", r)
	}
	hear := func(after float64, e Event) {
		at = at.Add(time.Duration(after * float64(time.Second)))
		e.Time = at
		a.Hear(e)
	}
	step := func(after float64, update int) { hear(after, Event{Kind: KindStep, Step: &Step{Update: update}}) }
	view := func(after float64, v View) { hear(after, Event{Kind: KindView, View: &v}) }
	view(0, View{Number: 1, Members: make([]ViewMember, 2)})
	hear(0, Event{Kind: KindStart, Start: &Start{}})
	for update := 10; update <= 100; update += 10 {
		step(1, update) // a tenth of a second each
	}
	hear(7, Event{Kind: KindValidation, Validation: &Validation{Seconds: 7}})
	if r := a.Report(); r.CommittedSteps != 90 || math.Abs(r.WallSeconds-9) > 1e-6 || r.Share < .999 {
		t.Errorf("undisturbed: got %+v, want a share of 1 of 9 s", r)
	}
	view(2, View{Number: 2, Members: make([]ViewMember, 1), Warning: true, DetectSeconds: 1})
	view(1, View{Number: 2, Update: 100, RecoverSeconds: 1})
	step(0, 110)
	r := a.Report()
	if r.Faults != 1 || r.DetectMedian != 1 || r.RecoverMedian != 1 || math.Abs(r.Share-10./12) > .01 {
		t.Errorf("after a fault: got %+v, want it counted and a share of 10 in 12", r)
	}
	hear(3600, Event{Kind: KindStart, Start: &Start{Update: 110}})
	step(1, 120)
	if again := a.Report(); math.Abs(again.WallSeconds-r.WallSeconds-1) > 1e-6 {
		t.Errorf("after a night without anybody: %g s, before %g s", again.WallSeconds, r.WallSeconds)
	}
}
