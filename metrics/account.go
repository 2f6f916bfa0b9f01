package metrics

import "time"

// Account follows the events of a run, in their order, and adds up what faults have cost it. Time in which nobody was there,
// before a run goes on with a Start, is not counted unless a fault was the reason, nor are validations.
type Account struct {
	goodput Goodput
	workers int       // of the view in force
	last    time.Time // of the newest event that says how far the run is
	hurt    bool      // by a fault since then
}

// Hear notes what e says of progress, faults and recovery.
func (a *Account) Hear(e Event) {
	switch {
	case e.Step != nil:
		a.reach(e.Step.Update, e.Time)
	case e.Epoch != nil:
		a.reach(e.Epoch.Update, e.Time)
	case e.Validation != nil:
		a.goodput.Planned(time.Duration(e.Validation.Seconds * float64(time.Second)))
		a.last = e.Time
	case e.View != nil:
		a.view(*e.View)
	case e.Story != nil && e.Story.Topic == "size":
		a.goodput.Change(e.Time)
	case e.Start != nil:
		a.Resume(e.Time)
	}
}

// Resume notes that a run goes on at the given time: unless a fault was the reason, it stood still because somebody wanted that.
func (a *Account) Resume(at time.Time) {
	if a.hurt || a.last.IsZero() || !at.After(a.last) {
		return
	}
	a.goodput.Planned(at.Sub(a.last))
	a.goodput.Disturb()
	a.last = at
}

func (a *Account) reach(update int, at time.Time) {
	a.goodput.Step(update, max(a.workers, 1), at)
	a.last, a.hurt = at, false
}

func (a *Account) view(v View) {
	if len(v.Members) > 0 {
		a.workers = len(v.Members)
	}
	switch {
	case v.RecoverSeconds > 0:
		a.goodput.Recovered(time.Duration(v.RecoverSeconds * float64(time.Second)))
	case v.Warning:
		a.goodput.Fault(time.Duration(v.DetectSeconds * float64(time.Second)))
		a.hurt = true
	default:
		a.goodput.Disturb()
	}
}

// Report is what faults have cost up to the newest event; it has no StepSeconds where too few steps were undisturbed to tell.
func (a *Account) Report() GoodputReport { return a.goodput.Report(a.last) }
