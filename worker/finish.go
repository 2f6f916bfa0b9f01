package worker

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"mp/checkpoint"
	"mp/metrics"
	"mp/mppb"
)

// Result is what a finished run amounts to.
type Result struct {
	Best            Score
	BestEpoch       int           // epochs completed when the best validation was made; 0: none was
	Epochs          int           // completed
	Took            time.Duration // of this process's part
	Checkpoint      string        // of the best epoch
	SHA256          string        // of the final weights and running statistics, in hexadecimal
	OptimizerSHA256 string        // of the optimizer's state and the average of the weights
	Rate            float64       // images a second in training
}

// save copies the state and lets it be written.
func (e *engine) save(view *mppb.View) error {
	s, err := e.replica.snapshot()
	if err != nil {
		return err
	}
	e.saved = s.at
	e.saver.put(e.background, saving{view: view, name: checkpointName(s.at, e.replica.validationDue(s.at)), state: s.state})
	return nil
}

// saveBest lets the weights of the best validation be written.
func (v *visit) saveBest() {
	meta, err := v.replica.meta()
	if err != nil {
		v.log.Warn("the best checkpoint is not written", "reason", err)
		return
	}
	b := v.replica.best
	meta.Epoch, meta.Step = b.epoch, b.update
	v.savedBest = b.update
	v.saver.put(v.background, saving{view: v.view, name: bestName(b.update), best: true, state: &checkpoint.State{Model: b.weights, Meta: meta}})
}

// saveAndWait is a view that saves and does no more.
func (v *visit) saveAndWait(ctx context.Context) error {
	if !v.writes || v.view.Checkpoint != "" && v.replica.at.Done <= int(v.view.CheckpointUpdate) {
		return nil
	}
	v.phase(mppb.Phase_SAVING)
	return v.store(ctx)
}

// againAfter is the pause before a checkpoint that must not be missed is tried again.
const againAfter = 2 * time.Second

// store saves the state as it is, and the best, unless both are saved. In a cluster it goes on until that has worked or the
// view ends: there is nothing else to do.
func (v *visit) store(ctx context.Context) error {
	for {
		if v.replica.best.weights != nil && v.savedBest != v.replica.best.update {
			v.saveBest()
		}
		if v.saved != v.replica.at {
			if err := v.save(v.view); err != nil {
				return err
			}
		}
		err := v.saver.flush(ctx)
		if err == nil || v.fatal || ctx.Err() != nil {
			return err
		}
		v.emit(metrics.Event{Kind: metrics.KindStory, Story: &metrics.Story{
			Topic: "checkpoint", Warning: true, Text: "the last checkpoint could not be saved: " + err.Error(), Advice: "it is tried again until it is"}})
		v.saved, v.savedBest = nowhere, 0
		select {
		case <-time.After(againAfter):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// last is what members compare at the end: replicas that differ must not pass for one result.
type last struct{ Weights, Optimizer string }

// finish saves what is not saved yet, and tells what the run amounts to once that is durable.
func (v *visit) finish(ctx context.Context) error {
	r := v.replica
	v.phase(mppb.Phase_SAVING)
	if v.writes {
		if err := v.store(ctx); err != nil {
			return err
		}
	}
	s, err := r.snapshot()
	if err != nil {
		return err
	}
	mine := last{checkpoint.Digest(s.state.Model), checkpoint.Digest(s.state.Optimizer)}
	if err := v.compare(ctx, mine); err != nil {
		return err
	}
	v.result = &Result{
		Best: r.best.Score, BestEpoch: r.best.epoch, Epochs: r.at.Validated, Took: time.Since(v.pace.began),
		Checkpoint: bestName(r.best.update), SHA256: mine.Weights, OptimizerSHA256: mine.Optimizer, Rate: v.pace.rate(),
	}
	v.tellWhere()
	ledger := recent(r.epochs, true)
	v.control.post(func(s *mppb.Status) {
		s.Phase, s.Finished, s.Ledger = mppb.Phase_READY, true, ledger
		s.Outcome = &mppb.Outcome{
			BestTop1: r.best.Top1, BestTop5: r.best.Top5, BestEpoch: uint32(r.best.epoch), Epochs: uint32(r.at.Validated),
			Checkpoint: v.result.Checkpoint, Sha256: mine.Weights, OptimizerSha256: mine.Optimizer,
		}
	})
	return nil
}

// compare is the barrier behind which the run is done: all members have the same bits, and the writer has saved them.
func (v *visit) compare(ctx context.Context, mine last) error {
	text, err := json.Marshal(mine)
	if err != nil {
		return fmt.Errorf("say how the run ended: %w", err)
	}
	said, err := v.group.Exchange(ctx, text)
	if err != nil {
		return err
	}
	for rank, b := range said {
		var other last
		if err := json.Unmarshal(b, &other); err != nil {
			return fmt.Errorf("rank %d says how the run ended: %w", rank, err)
		}
		if other != mine {
			return fmt.Errorf("%s and %s ended with different bits (%s and %s): one of them computes wrongly, or another processor rounds in its own way: %w",
				v.view.Members[rank].Name, v.me().Name, other.Weights, mine.Weights, errJob)
		}
	}
	return nil
}

// open tells what run this is when it begins or goes on after all had stopped.
func (v *visit) open() {
	meta, err := v.replica.meta()
	if err != nil || v.replica.moved {
		return // a description is no reason to stop
	}
	threads := "1 thread"
	if n := v.device.Threads(); n > 1 {
		threads = fmt.Sprintf("%d threads", n)
	}
	v.emit(metrics.Event{Kind: metrics.KindStart, Start: &metrics.Start{
		Directory: v.view.Directory, Device: fmt.Sprintf("%s, %s", v.device, threads),
		Update: v.replica.at.Done, Updates: v.replica.total(), Job: meta.Job, Version: v.version,
	}})
}
