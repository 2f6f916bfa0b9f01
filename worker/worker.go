// Package worker is one device's share of a run: it computes shards, sums them with others, evaluates, saves, copies what it
// lacks and goes on where it stopped.
//
// It owns the training loop and knows models, data, optimizers and checkpoints; it must never import the coordinator, which
// it meets in mppb only, read flags or the environment, or print. What happens goes to a metrics.Sink.
//
// Start reading at step.go, one step on one screen; visit.go is the loop around it, engine.go the loop around views, and
// DESIGN.md says why a step is a transaction. Node is a worker of a cluster, Worker one that has no other.
package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"mp/allreduce"
	"mp/checkpoint"
	"mp/data"
	"mp/job"
	"mp/metrics"
	"mp/ops"
)

// ErrStopped is returned by Run when its context ended and everything done so far is saved: the run can go on.
var ErrStopped = errors.New("stopped, with everything saved")

// Config is what a lone worker needs to run. All fields are required.
type Config struct {
	Spec       job.Spec
	Train, Val *data.Pack // of the same classes
	Directory  string     // of the run: checkpoints go to its folder checkpoints
	Device     *ops.Device
	Sink       metrics.Sink
	Version    string // of the program
}

// Worker computes a whole run with one device and no coordinator: one view, one member, all shards. What it computes is
// what any number of Nodes would. It is for one goroutine.
type Worker struct {
	Config
	lone   *lone
	engine *engine
}

// New builds the model and optimizer of the run, at their first values or where Spec.Resume or Spec.Init says.
// Close the worker.
func New(ctx context.Context, c Config) (*Worker, error) {
	w := &Worker{Config: c, lone: newLone(c.Spec.Shards)}
	w.engine = newEngine(context.Background(), engineConfig{
		device: c.Device, train: c.Train, val: c.Val, control: w.lone, ring: w.lone, donors: w.lone,
		library: shelf{c.Directory, c.Spec.KeepCheckpoints}, sink: func(string, metrics.Sink) metrics.Sink { return c.Sink },
		version: c.Version, kernels: kernels(), log: slog.New(slog.DiscardHandler), fatal: true,
	})
	v := w.lone.only.view
	v.Directory = c.Directory
	if err := w.engine.prepare(ctx, v, c.Spec); err != nil {
		w.Close()
		return nil, err
	}
	own, err := w.engine.replica.begin(ctx, "")
	if err != nil {
		w.Close()
		return nil, err
	}
	if own {
		w.engine.saved = w.engine.replica.at
	}
	return w, nil
}

// Run trains from where New put the worker to the end of the last epoch, validating and saving after each. It blocks until
// then, or until ctx ends: it saves the state between two steps then and returns ErrStopped. Call it once.
func (w *Worker) Run(ctx context.Context) (Result, error) {
	err := w.engine.serve(ctx, w.lone.only)
	err = w.engine.settle(ctx, w.lone.only, err)
	if err == nil && w.engine.result == nil {
		err = w.stop()
	}
	if err = errors.Join(err, w.engine.saver.flush(context.Background())); err != nil {
		return Result{}, err
	}
	result := *w.engine.result
	if result.Checkpoint, _, err = checkpoint.Best(w.Directory); err != nil {
		return Result{}, err
	}
	return result, nil
}

// stop saves the state between two steps.
func (w *Worker) stop() error {
	e := w.engine
	if e.saved != e.replica.at {
		if err := e.save(w.lone.only.view); err != nil {
			return fmt.Errorf("save before stopping: %w", err)
		}
	}
	if err := e.saver.flush(context.Background()); err != nil {
		return fmt.Errorf("stop: %w", err)
	}
	e.emit(metrics.Event{Kind: metrics.KindStory, Story: &metrics.Story{
		Topic: "stop", Text: fmt.Sprintf("stopped after update %d, saved", e.replica.at.Done), Advice: "go on with: mp train --resume " + w.Directory}})
	return ErrStopped
}

// kernels are the loops over elements that sums use.
func kernels() allreduce.Kernels {
	return allreduce.Kernels{Exponents: ops.FixedExponents, Quantize: ops.FixedQuantize, Dequantize: ops.FixedDequantize, Add: ops.FixedAdd,
		Accumulate: ops.FixedAccumulate, Shorten: ops.FixedShorten, Lengthen: ops.FixedLengthen}
}

// Close frees the worker's tensors. The device and the packs are the caller's.
func (w *Worker) Close() { w.engine.close() }
