package metrics

import "time"

// Meter measures the speed of a run and estimates its end. It reads no clock: the caller gives the time.
type Meter struct {
	start  time.Time // when the first update here began
	first  int       // updates done before
	total  int       // updates of the run
	done   int
	last   time.Time // of the last Rate
	images int       // since then
}

// NewMeter starts at the given time in a run of total updates of which done are done.
func NewMeter(done, total int, now time.Time) *Meter {
	return &Meter{start: now, first: done, total: total, done: done, last: now}
}

// Update notes one update made of so many images.
func (m *Meter) Update(images int) {
	m.done++
	m.images += images
}

// Rate is images per second since the last Rate.
func (m *Meter) Rate(now time.Time) float64 {
	rate := perSecond(m.images, now.Sub(m.last))
	m.images, m.last = 0, now
	return rate
}

// Pause takes the time since the last Rate out of the next one: after a validation, before training goes on. The
// estimate of the end counts it.
func (m *Meter) Pause(now time.Time) { m.last = now }

// ETA is the time to the end of the run, as fast as it has gone here so far, pauses included; 0 before the first update.
func (m *Meter) ETA(now time.Time) time.Duration {
	here := m.done - m.first
	if here == 0 {
		return 0
	}
	return time.Duration(float64(now.Sub(m.start)) / float64(here) * float64(m.total-m.done))
}

func perSecond(n int, d time.Duration) float64 {
	if d <= 0 {
		return 0
	}
	return float64(n) / d.Seconds()
}
