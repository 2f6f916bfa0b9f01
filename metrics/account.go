package metrics

import "time"

// Account follows the events of a run, in their order, and keeps its Goodput. Time in which nobody was there, before a run
// goes on with a Start, is not counted, nor are validations.
type Account struct {
	goodput Goodput
	workers int // of the newest view that says whom it has
	last    time.Time
}

// Hear takes an event.
func (a *Account) Hear(e Event) {
	switch {
	case e.Start != nil:
		if !a.last.IsZero() && e.Start.Update > 0 {
			a.goodput.Planned(e.Time.Sub(a.last))
			a.goodput.Disturb()
		}
	case e.Step != nil:
		a.goodput.Step(e.Step.Update, max(a.workers, 1), e.Time)
	case e.Validation != nil:
		a.goodput.Planned(time.Duration(e.Validation.Seconds * float64(time.Second)))
	case e.View != nil && e.View.RecoverSeconds > 0:
		a.goodput.Recovered(time.Duration(e.View.RecoverSeconds * float64(time.Second)))
	case e.View != nil:
		if n := len(e.View.Members); n > 0 {
			a.workers = n
		}
		if e.View.Warning {
			a.goodput.Fault(time.Duration(e.View.DetectSeconds * float64(time.Second)))
		} else {
			a.goodput.Disturb()
		}
	}
	switch e.Kind {
	case KindStep, KindEpoch, KindValidation: // signs that somebody computes
		if e.Time.After(a.last) {
			a.last = e.Time
		}
	}
}

// Report is the state after the newest sign of work.
func (a *Account) Report() GoodputReport { return a.goodput.Report(a.last) }
