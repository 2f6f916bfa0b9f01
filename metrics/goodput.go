package metrics

import (
	"math"
	"slices"
	"time"
)

// Goodput measures how much of its time a run spends on work that counts: the time that the committed steps would have
// taken undisturbed, divided by the time that passed.
//
//   - The time that passed runs from the first call of Step to the Report, less what Planned takes out.
//   - Committed steps are the updates gained since the first Step: an update that is done again after a roll-back counts
//     once, and counts as lost until it is done again.
//   - An undisturbed step's time is the median of the time between Steps, per update, over those that no fault disturbed,
//     of the newest 4,096. A fault disturbs the Step that follows it and the settle updates after that. Only Steps made by
//     as many workers as the run has ever had count: speed lost with a worker that stays away is a cost of the fault.
//   - Where a step becomes other work, as larger images make it, Change closes the account of what was done so far and opens
//     another; work that was too short to be measured counts neither as steps' time nor as time that passed.
//
// It reads no clock: the caller gives the time. It is not safe for concurrent use.
type Goodput struct {
	steps, detect, recover sample

	first, last  time.Time
	begin        int  // updates done at first
	done         int  // updates done at last
	workers      int  // the most seen
	outgrown     bool // steps were measured with fewer
	faults       int
	disturbed    bool // since the last Step
	settling     int  // updates still to pass
	planned      time.Duration
	sincePlanned time.Duration // planned since the last Step

	useful      float64       // seconds that the steps before the last Change would have taken
	from        int           // updates done at the last Change
	changed     time.Time     // when that was; zero: never
	plannedThen time.Duration // planned by then
}

// settle is the number of updates after a fault that are not measured: caches are cold and shards are dealt anew.
const settle = 3

// Step notes that update updates are committed at the given time, by so many workers. Several updates may have been
// committed since the last call.
func (g *Goodput) Step(update, workers int, now time.Time) {
	if g.first.IsZero() {
		g.first, g.last, g.begin, g.done, g.workers = now, now, update, update, workers
		return
	}
	if workers > g.workers { // what was measured with fewer stands until there is better
		g.workers, g.outgrown, g.disturbed = workers, true, true
	}
	gained := update - g.done
	took := now.Sub(g.last) - g.sincePlanned
	switch {
	case gained == 0:
		return
	case gained < 0 || g.disturbed:
		g.settling, g.disturbed = settle, false
	case g.settling > 0:
		g.settling -= gained
	case workers == g.workers:
		if g.outgrown {
			g.steps, g.outgrown = sample{}, false
		}
		g.steps.add(took.Seconds() / float64(gained))
	}
	g.last, g.done, g.sincePlanned = now, update, 0
}

// Fault notes a fault that was noticed detect after its cause; 0 when that is not known.
func (g *Goodput) Fault(detect time.Duration) {
	g.faults++
	g.disturbed = true
	if detect > 0 {
		g.detect.add(detect.Seconds())
	}
}

// Recovered notes that the next update was committed so long after a fault was noticed.
func (g *Goodput) Recovered(after time.Duration) { g.recover.add(after.Seconds()) }

// Disturb notes a change that is no fault, such as a worker that joins: the next steps are not measured.
func (g *Goodput) Disturb() { g.disturbed = true }

// Change notes at the given time that a step is other work from here on.
func (g *Goodput) Change(now time.Time) {
	if g.first.IsZero() {
		return
	}
	g.useful += g.usefulSinceChange()
	g.planned += g.unmeasured(now)
	g.from, g.changed, g.plannedThen = max(g.done, g.from), now, g.planned
	g.steps, g.workers, g.outgrown, g.disturbed = sample{}, 0, false, true
}

// usefulSinceChange is in seconds.
func (g *Goodput) usefulSinceChange() float64 {
	return float64(max(g.done-max(g.from, g.begin), 0)) * g.steps.quantile(0.5)
}

// unmeasured is the time since the last Change while no step has been measured after it, or 0.
func (g *Goodput) unmeasured(now time.Time) time.Duration {
	if g.changed.IsZero() || len(g.steps.values) > 0 {
		return 0
	}
	return max(now.Sub(g.changed)-(g.planned-g.plannedThen), 0)
}

// Planned takes a span that has just passed out of the time: validation, or a pause that a person asked for.
func (g *Goodput) Planned(d time.Duration) {
	if g.first.IsZero() {
		return
	}
	g.planned += d
	g.sincePlanned += d
}

// Report is the state at the given time.
func (g *Goodput) Report(now time.Time) GoodputReport {
	r := GoodputReport{
		CommittedSteps: max(g.done-g.begin, 0), StepSeconds: g.steps.quantile(0.5), Faults: g.faults,
		DetectMedian: g.detect.quantile(0.5), DetectP99: g.detect.quantile(0.99),
		RecoverMedian: g.recover.quantile(0.5), RecoverP99: g.recover.quantile(0.99),
	}
	if g.first.IsZero() {
		return r
	}
	r.WallSeconds = max((now.Sub(g.first) - g.planned - g.unmeasured(now)).Seconds(), 0)
	r.UsefulSeconds = g.useful + g.usefulSinceChange()
	if r.WallSeconds > 0 {
		r.Share = min(r.UsefulSeconds/r.WallSeconds, 1)
	}
	return r
}

// sampleSize bounds a sample.
const sampleSize = 4096

// sample is the newest values of something.
type sample struct {
	values []float64
	next   int
}

func (s *sample) add(v float64) {
	if len(s.values) < sampleSize {
		s.values = append(s.values, v)
		return
	}
	s.values[s.next] = v
	s.next = (s.next + 1) % sampleSize
}

// quantile is the smallest value that at least the share q of all values do not exceed; 0 without values.
func (s *sample) quantile(q float64) float64 {
	n := len(s.values)
	if n == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(s.values))
	rank := int(math.Ceil(q*float64(n) - 1e-9)) // less what 0.99 is too large in binary
	return sorted[min(max(rank-1, 0), n-1)]
}
