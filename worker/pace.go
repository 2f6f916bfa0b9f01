package worker

import (
	"time"

	"mp/metrics"
)

// pace is how fast a run goes: what happened since the last report, in the epoch, and since the start.
type pace struct {
	meter *metrics.Meter
	began time.Time

	recent, whole tally         // since the last report, since the epoch began (in this process)
	waited        time.Duration // for images, since the last report
	lap           time.Time     // of the last report
	epochBegan    time.Time
	training      time.Duration // in all epochs
	images        float64

	shard   mean      // seconds to compute a shard
	step    mean      // seconds between two updates
	exposed mean      // seconds a step that the sum took after the last gradient was there
	summing mean      // seconds a step that the sum was at work
	done    time.Time // of the last update
}

func newPace(done, total int, now time.Time) *pace {
	return &pace{meter: metrics.NewMeter(done, total, now), began: now, lap: now, epochBegan: now}
}

// mean forgets: each value counts an eighth, the ones before the rest.
type mean float64

func (m *mean) add(d time.Duration) {
	if *m == 0 {
		*m = mean(d.Seconds())
	}
	*m += (mean(d.Seconds()) - *m) / 8
}

// start begins an epoch, or the rest of one.
func (p *pace) start(now time.Time) {
	p.recent, p.whole, p.waited = tally{}, tally{}, 0
	p.lap, p.epochBegan, p.done = now, now, time.Time{}
	p.meter.Pause(now)
}

// pause takes what happened since the last update out of the speed.
func (p *pace) pause(now time.Time) {
	p.meter.Pause(now)
	p.done = time.Time{}
}

// did notes one update.
func (p *pace) did(t tally, now time.Time) {
	p.recent.add(t)
	p.whole.add(t)
	p.meter.Update(int(t.images))
	if !p.done.IsZero() {
		p.step.add(now.Sub(p.done))
	}
	p.done = now
}

// hidden is the share of communication during which this worker computed, from 0 to 1.
func (p *pace) hidden() float64 {
	if p.summing == 0 {
		return 0
	}
	return max(0, 1-float64(p.exposed/p.summing))
}

// rate is images a second in training, over all epochs of this process.
func (p *pace) rate() float64 { return p.images / max(p.training.Seconds(), 1e-9) }

// reported returns the event of a step and starts the next report. Epoch and step count from 0.
func (p *pace) reported(r *replica, now time.Time) metrics.Event {
	s := p.recent.score()
	update := r.at.Done - 1
	steps := r.steps()
	e := metrics.Event{Time: now, Kind: metrics.KindStep, Step: &metrics.Step{
		Epoch: update/steps + 1, Epochs: r.spec.Epochs, Step: update%steps + 1, Steps: steps, Update: r.at.Done,
		Loss: metrics.Value(s.Loss), Top1: s.Top1, Top5: s.Top5, ImagesPerSecond: p.meter.Rate(now), LearningRate: r.schedule.Rate(r.updates(r.at) - 1),
		GradientNorm: metrics.Value(r.norm), DataWait: p.waited.Seconds() / max(now.Sub(p.lap).Seconds(), 1e-9),
		MemoryBytes: r.memory(), ETASeconds: p.meter.ETA(now).Seconds(),
	}}
	p.recent, p.waited, p.lap = tally{}, 0, now
	return e
}

// epoch is the event of an epoch that has ended.
func (p *pace) epoch(r *replica, now time.Time) metrics.Event {
	took := now.Sub(p.epochBegan)
	p.training += took
	p.images += float64(p.whole.images)
	s := p.whole.score()
	return metrics.Event{Time: now, Kind: metrics.KindEpoch, Epoch: &metrics.Epoch{
		Epoch: r.at.Validated + 1, Epochs: r.spec.Epochs, Update: r.at.Done, Loss: metrics.Value(s.Loss), Top1: s.Top1, Top5: s.Top5,
		ImagesPerSecond: float64(p.whole.images) / max(took.Seconds(), 1e-9), Seconds: took.Seconds(),
	}}
}
