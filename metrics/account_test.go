package metrics

import (
	"math"
	"testing"
	"time"
)

// life plays a run for an Account by a clock of its own.
type life struct {
	Account
	at     time.Time
	update int
}

func (l *life) emit(e Event) {
	e.Time = l.at
	l.Hear(e)
}

// steps makes n updates that take so long each, and reports every second of them.
func (l *life) steps(n int, each time.Duration) {
	for i := range n {
		l.at, l.update = l.at.Add(each), l.update+1
		if i%2 == 1 {
			l.emit(Event{Kind: KindStep, Step: &Step{Update: l.update}})
		}
	}
}

func crewOf(n int) []ViewMember { return make([]ViewMember, n) }

func TestAccountOfARunWithAFaultAndLargerImages(t *testing.T) {
	l := life{at: time.Unix(1000, 0)}
	l.emit(Event{Kind: KindView, View: &View{Number: 1, Members: crewOf(2), Reason: "the first"}})
	l.steps(42, time.Second) // the first report opens the account: 40 steps of it count
	l.emit(Event{Kind: KindView, View: &View{Number: 2, Members: crewOf(2), Warning: true, DetectSeconds: 0.1}})
	l.at = l.at.Add(4 * time.Second)
	l.steps(20, time.Second)
	l.emit(Event{Kind: KindView, View: &View{Number: 2, RecoverSeconds: 3.9, Warning: true}})
	l.at = l.at.Add(30 * time.Second)
	l.emit(Event{Kind: KindValidation, Validation: &Validation{Seconds: 30}})
	l.emit(Event{Kind: KindStory, Story: &Story{Topic: "size"}})
	l.steps(40, 3*time.Second)
	got := l.Report()
	if got.Faults != 1 || got.CommittedSteps != 100 || got.WallSeconds != 40+4+20+120 || got.StepSeconds != 3 || got.RecoverMedian != 3.9 || got.DetectMedian != 0.1 {
		t.Errorf("got %+v, want 100 steps in 184 s, the last of 3 s each, and a fault", got)
	}
	if want := 180.0 / 184; math.Abs(got.Share-want) > 1e-9 {
		t.Errorf("got a share of %g, want %g: 4 s are lost, and steps of larger images are no slower ones", got.Share, want)
	}
	if text := survivalText(got); text != "goodput      97.8%, 1 fault survived, next step after 3.9 s" {
		t.Errorf("told as %q", text)
	}
}

// A night in which nobody ran is no cost of faults, unless a fault was the reason.
func TestAccountOfAResumedRun(t *testing.T) {
	for _, c := range []struct {
		fault bool
		wall  float64
	}{{false, 60}, {true, 60 + 3600}} {
		l := life{at: time.Unix(1000, 0)}
		l.steps(32, time.Second)
		if c.fault {
			l.emit(Event{Kind: KindView, View: &View{Number: 2, Members: []ViewMember{}, Warning: true}})
		}
		l.at = l.at.Add(time.Hour)
		l.emit(Event{Kind: KindStart, Start: &Start{}})
		l.steps(30, time.Second)
		if got := l.Report(); got.WallSeconds != c.wall || got.CommittedSteps != 60 {
			t.Errorf("after a fault %v: got %+v, want 60 steps in %g s", c.fault, got, c.wall)
		}
	}
}

// Nothing is claimed where nothing could be measured.
func TestAccountOfAShortRun(t *testing.T) {
	l := life{at: time.Unix(1000, 0)}
	l.steps(2, time.Second) // one report: nothing to measure between
	l.emit(Event{Kind: KindView, View: &View{Number: 2, Members: crewOf(1), Warning: true}})
	if text := survivalText(l.Report()); text != "faults       1 fault survived" {
		t.Errorf("told as %q", text)
	}
	if text := survivalText(GoodputReport{}); text != "faults       none" {
		t.Errorf("nothing is told as %q", text)
	}
	l.steps(40, time.Second)
	before := l.Report().Share
	l.emit(Event{Kind: KindStory, Story: &Story{Topic: "size"}})
	l.steps(2, 10*time.Second) // too few to know what a step takes now
	if after := l.Report().Share; after != before {
		t.Errorf("a change that is not measured yet moves the share from %g to %g", before, after)
	}
}

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
