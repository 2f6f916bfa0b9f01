package worker

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"mp/checkpoint"
	"mp/data"
	"mp/metrics"
	"mp/model"
	"mp/ops"
)

// Result is what a finished run amounts to.
type Result struct {
	Best       Score
	BestEpoch  int           // epochs completed when the best validation was made; 0: none was
	Epochs     int           // completed
	Took       time.Duration // of this process's part
	Checkpoint string        // of the best epoch
	SHA256     string        // of the final weights and running statistics, in hexadecimal
	Rate       float64       // images a second in training
}

// Run trains from where New put the worker to the end of the last epoch, validating and saving after each. It blocks until
// then, or until ctx ends: after the step in hand it saves and returns ErrStopped. Call it once.
func (w *Worker) Run(ctx context.Context) (Result, error) {
	began := time.Now()
	steps := w.sampler.Steps()
	loader, err := w.trainLoader()
	if err != nil {
		return Result{}, err
	}
	defer loader.Close()
	clock := &pace{meter: metrics.NewMeter(w.done, w.Spec.Epochs*steps, began), began: began}
	for w.validated < w.Spec.Epochs {
		epoch := w.validated
		if w.done%steps == 0 && epoch > 0 && w.sizes.At(epoch) != w.sizes.At(epoch-1) {
			ops.TrimMemory() // blocks of the old size are of no use
			w.story(metrics.Story{Topic: "size", Text: fmt.Sprintf("images are %d pixels wide from epoch %d on", w.sizes.At(epoch), epoch+1)})
		}
		err := w.epoch(ctx, loader, clock)
		if errors.Is(err, context.Canceled) && ctx.Err() != nil {
			return Result{}, w.stop()
		}
		if err != nil {
			return Result{}, err
		}
	}
	return w.finish(clock)
}

// stop saves the state between two steps.
func (w *Worker) stop() error {
	if err := w.save(false); err != nil {
		return fmt.Errorf("save before stopping: %w", err)
	}
	w.story(metrics.Story{Topic: "stop", Text: fmt.Sprintf("stopped after update %d, saved", w.done), Advice: "go on with: mp train --resume " + w.Directory})
	return ErrStopped
}

// epoch trains the rest of an epoch, validates and saves.
func (w *Worker) epoch(ctx context.Context, loader *data.Loader, clock *pace) error {
	steps := w.sampler.Steps()
	epoch := w.validated
	clock.start()
	for step := w.done - epoch*steps; step < steps; step++ {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		rate := w.schedule.Rate(w.done)
		shards, err := w.fetch(ctx, loader, clock)
		if err != nil {
			return err
		}
		got, err := w.step(ctx, shards, rate)
		release(shards)
		if err != nil {
			return fmt.Errorf("epoch %d, step %d: %w", epoch+1, step+1, err)
		}
		if math.IsNaN(got.loss) || math.IsInf(got.loss, 0) {
			return fmt.Errorf("epoch %d, step %d: the loss is %v; lower --lr or lengthen --warmup, and go on with --resume %s: %w",
				epoch+1, step+1, got.loss, w.Directory, ErrDiverged)
		}
		clock.did(got)
		w.report(epoch, step, rate, clock)
		if every := w.Spec.CheckpointEvery; every > 0 && (step+1)%every == 0 && step+1 < steps {
			if err := w.save(false); err != nil {
				return err
			}
			clock.meter.Pause(time.Now())
		}
	}
	if clock.whole.images > 0 { // else the run was stopped between training and validation
		w.Sink.Emit(clock.epoch(epoch, w))
	}
	return w.validate(ctx, epoch)
}

// fetch takes the shards of one step from the loader.
func (w *Worker) fetch(ctx context.Context, loader *data.Loader, clock *pace) ([]*data.Batch, error) {
	asked := time.Now()
	shards := make([]*data.Batch, 0, w.Spec.Shards)
	for range w.Spec.Shards {
		b, err := loader.Next(ctx)
		if err != nil {
			release(shards)
			return nil, err
		}
		shards = append(shards, b)
	}
	clock.waited += time.Since(asked)
	return shards, nil
}

func release(shards []*data.Batch) {
	for _, b := range shards {
		b.Release()
	}
}

// validate scores the weights (their running average where there is one), keeps the best, and saves.
func (w *Worker) validate(ctx context.Context, epoch int) error {
	began := time.Now()
	loader, err := w.valLoader(epoch)
	if err != nil {
		return err
	}
	defer loader.Close()
	restore, err := w.useAverages(ctx)
	if err != nil {
		return err
	}
	evaluation := Evaluation{Device: w.Device, Models: []*model.Model{w.model}}
	score, err := evaluation.Score(ctx, loader, func(done int) {
		w.Sink.Emit(metrics.Event{Time: time.Now(), Kind: metrics.KindProgress,
			Progress: &metrics.Progressed{Title: "validate", Done: int64(done), Total: int64(w.Val.Len())}})
	})
	if err := errors.Join(err, restore()); err != nil {
		return err
	}
	isBest := w.best.epoch == 0 && w.best.Top1 == 0 || score.Top1 > w.best.Top1
	if isBest {
		w.best = best{score, epoch + 1}
	}
	w.validated = epoch + 1
	if err := w.save(isBest); err != nil {
		return err
	}
	took := time.Since(began)
	v := score.validation(epoch+1, w.Spec.Epochs, w.done)
	v.Best, v.Seconds, v.ImagesPerSecond = isBest, took.Seconds(), float64(score.Images)/took.Seconds()
	w.Sink.Emit(metrics.Event{Time: time.Now(), Kind: metrics.KindValidation, Validation: &v})
	return nil
}

// useAverages puts the running averages in the place of weights and statistics until restore is called.
func (w *Worker) useAverages(ctx context.Context) (restore func() error, err error) {
	if w.average == nil {
		return func() error { return nil }, nil
	}
	swap := func(s *ops.Scope) error {
		w.average.Swap(s)
		return s.Err()
	}
	if err := w.Device.Do(ctx, swap); err != nil {
		return nil, err
	}
	return func() error { return w.Device.Do(context.Background(), swap) }, nil
}

// finish tells what the run amounts to.
func (w *Worker) finish(clock *pace) (Result, error) {
	state, err := w.snapshot()
	if err != nil {
		return Result{}, err
	}
	best, _, err := checkpoint.Best(w.Directory)
	if err != nil {
		return Result{}, err
	}
	return Result{
		Best: w.best.Score, BestEpoch: w.best.epoch, Epochs: w.validated, Took: time.Since(clock.began),
		Checkpoint: best, SHA256: checkpoint.Digest(state.Model), Rate: clock.rate(),
	}, nil
}

func (w *Worker) story(s metrics.Story) {
	w.Sink.Emit(metrics.Event{Time: time.Now(), Kind: metrics.KindStory, Story: &s})
}
