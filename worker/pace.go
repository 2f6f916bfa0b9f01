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
}

// start begins an epoch, or the rest of one.
func (p *pace) start() {
	now := time.Now()
	p.recent, p.whole, p.waited = tally{}, tally{}, 0
	p.lap, p.epochBegan = now, now
	p.meter.Pause(now)
}

// did notes one step.
func (p *pace) did(t tally) {
	p.recent.add(t)
	p.whole.add(t)
	p.meter.Update(int(t.images))
}

// report emits progress and, every PrintFreq steps, a line. Both epoch and step count from 0.
func (w *Worker) report(epoch, step int, rate float64, p *pace) {
	now := time.Now()
	steps := w.sampler.Steps()
	w.Sink.Emit(metrics.Event{Time: now, Kind: metrics.KindProgress,
		Progress: &metrics.Progressed{Title: "train", Done: int64(step + 1), Total: int64(steps)}})
	if (step+1)%w.Spec.PrintFreq != 0 && step+1 != steps {
		return
	}
	s := p.recent.score()
	w.Sink.Emit(metrics.Event{Time: now, Kind: metrics.KindStep, Step: &metrics.Step{
		Epoch: epoch + 1, Epochs: w.Spec.Epochs, Step: step + 1, Steps: steps, Update: w.done,
		Loss: metrics.Value(s.Loss), Top1: s.Top1, Top5: s.Top5, ImagesPerSecond: p.meter.Rate(now), LearningRate: rate,
		GradientNorm: metrics.Value(w.norm), DataWait: p.waited.Seconds() / max(now.Sub(p.lap).Seconds(), 1e-9),
		MemoryBytes: w.memory(), ETASeconds: p.meter.ETA(now).Seconds(),
	}})
	p.recent, p.waited, p.lap = tally{}, 0, now
}

// epoch is the event of an epoch that has ended.
func (p *pace) epoch(epoch int, w *Worker) metrics.Event {
	now := time.Now()
	took := now.Sub(p.epochBegan)
	p.training += took
	p.images += p.whole.images
	s := p.whole.score()
	return metrics.Event{Time: now, Kind: metrics.KindEpoch, Epoch: &metrics.Epoch{
		Epoch: epoch + 1, Epochs: w.Spec.Epochs, Update: w.done, Loss: metrics.Value(s.Loss), Top1: s.Top1, Top5: s.Top5,
		ImagesPerSecond: p.whole.images / max(took.Seconds(), 1e-9), Seconds: took.Seconds(),
	}}
}

// rate is images a second in training, over all epochs of this process.
func (p *pace) rate() float64 { return p.images / max(p.training.Seconds(), 1e-9) }
