// Package worker is one device's share of a run: it computes steps, evaluates, saves and goes on where it stopped.
//
// It owns the training loop and knows models, data, optimizers and checkpoints; it must never import the coordinator, read
// flags or the environment, or print. What happens goes to a metrics.Sink.
//
// Start reading at step.go, one step on one screen; run.go is the loop around it.
package worker

import (
	"context"
	"errors"
	"fmt"

	torch "github.com/wangkuiyi/gotorch"

	"mp/allreduce"
	"mp/data"
	"mp/job"
	"mp/metrics"
	"mp/model"
	"mp/ops"
	"mp/optim"
)

// ErrStopped is returned by Run when its context ended and everything done so far is saved: the run can go on.
var ErrStopped = errors.New("stopped, with everything saved")

// ErrDiverged is returned by Run when the loss is no number any more.
var ErrDiverged = errors.New("training diverged")

// Config is what a worker needs to run. All fields are required.
type Config struct {
	Spec       job.Spec
	Train, Val *data.Pack // of the same classes
	Directory  string     // of the run: checkpoints go to its folder checkpoints
	Device     *ops.Device
	Group      allreduce.Group
	Sink       metrics.Sink
}

// Worker computes the shards of one device. It is for one goroutine.
type Worker struct {
	Config
	sizes     job.Sizes
	schedule  optim.Schedule
	sampler   *data.Sampler
	model     *model.Model
	optimizer *optim.Optimizer
	average   *optim.Average // of the weights, nil where the job has none

	sum    vector       // what the group adds up in a step
	part   vector       // one shard's contribution to sum
	before torch.Tensor // the model's buffers before the step

	done      int     // updates done
	validated int     // epochs done, validation included
	norm      float64 // of the last step's gradient before clipping; 0 where nothing is clipped
	best      best    // of all validations so far
}

// best is the validation that the best checkpoint is of.
type best struct {
	Score
	epoch int // epochs completed then; 0: none yet
}

// vector is one flat float32 buffer with named parts: gradients laid out as the model's parameters, running statistics
// laid out as its buffers, and a tally. A group sums it in one piece.
type vector struct {
	whole, grads, stats, tally torch.Tensor
}

func newVector(s *ops.Scope, m *model.Model) vector {
	p, b := m.Params.Len(), m.Buffers.Len()
	whole := s.Release(s.Zeros(ops.Float32, p+b+tallySize))
	return vector{
		whole: whole,
		grads: s.Release(s.Narrow(whole, 0, 0, p)),
		stats: s.Release(s.Narrow(whole, 0, p, b)),
		tally: s.Release(s.Narrow(whole, 0, p+b, tallySize)),
	}
}

func (v vector) free() {
	for _, t := range []torch.Tensor{v.whole, v.grads, v.stats, v.tally} {
		ops.Free(t)
	}
}

// New builds the model and optimizer of the run, at their first values or where Spec.Resume or Spec.Init says.
// Close the worker.
func New(ctx context.Context, c Config) (*Worker, error) {
	w := &Worker{Config: c}
	if err := w.Spec.Validate(); err != nil {
		return nil, err
	}
	if t, v := len(c.Train.Classes()), len(c.Val.Classes()); t != v {
		return nil, fmt.Errorf("train: %s has %d classes and %s has %d; pack both from the same folder: %w",
			c.Train.Path(), t, c.Val.Path(), v, job.ErrConfig)
	}
	var err error
	if w.sizes, err = job.ParseSizes(w.Spec.ImageSize); err != nil {
		return nil, err
	}
	if w.sampler, err = data.NewSampler(w.Spec.Seed, c.Train.Len(), w.Spec.BatchSize, true); err != nil {
		return nil, err
	}
	if w.schedule, err = optim.NewSchedule(w.Spec.Schedule, w.Spec.LR, w.Spec.Warmup, w.Spec.Epochs, w.sampler.Steps()); err != nil {
		return nil, fmt.Errorf("%w: %w", job.ErrConfig, err)
	}
	if err := w.Device.Do(ctx, w.build); err != nil {
		w.Close()
		return nil, err
	}
	if err := w.start(ctx); err != nil {
		w.Close()
		return nil, err
	}
	return w, nil
}

// build makes everything that lives on the device.
func (w *Worker) build(s *ops.Scope) error {
	var err error
	w.model, err = model.New(s, w.Spec.Model, model.Options{
		Classes:      len(w.Train.Classes()),
		OwnConv:      w.Spec.Conv == job.ConvOwn,
		ChannelsLast: w.Spec.ChannelsLast,
		Seed:         w.Spec.Seed,
	})
	if err != nil {
		return err
	}
	if w.optimizer, err = optim.New(s, optimizerConfig(w.Spec), w.model.Params, w.decays); err != nil {
		return err
	}
	if w.Spec.EMA > 0 {
		w.average, err = optim.NewAverage(s, optim.AverageConfig{Decay: w.Spec.EMA, Warmup: true}, w.model.Params, w.model.Buffers)
		if err != nil {
			return err
		}
	}
	w.sum = newVector(s, w.model)
	if w.Spec.Shards > 1 {
		w.part = newVector(s, w.model)
	}
	w.before = s.Release(s.Zeros(ops.Float32, w.model.Buffers.Len()))
	return s.Err()
}

// decays says whether weight decay acts on a parameter.
func (w *Worker) decays(name string) bool { return w.Spec.DecayAll || !w.model.NoDecay(name) }

func optimizerConfig(s job.Spec) optim.Config {
	c := optim.DefaultConfig(s.Optimizer)
	c.Momentum, c.Nesterov, c.WeightDecay = s.Momentum, s.Nesterov, s.WeightDecay
	return c
}

// Begin is the event that opens the run. version is the program's.
func (w *Worker) Begin(version string) *metrics.Start {
	device := fmt.Sprintf("%s, %d threads", w.Device, w.Device.Threads())
	return &metrics.Start{
		Directory: w.Directory, Device: device, Update: w.done, Updates: w.Spec.Epochs * w.sampler.Steps(),
		Job: w.meta().Job, Version: version,
	}
}

// memory is what the worker occupies in bytes: resident on a CPU, allocated on a GPU.
func (w *Worker) memory() int64 {
	n, err := w.Device.MemoryInUse()
	if err != nil {
		return 0 // shown as unknown; a figure is no reason to stop
	}
	return n
}

// Close frees the worker's tensors. The device, the packs and the group are the caller's.
func (w *Worker) Close() {
	ctx := context.Background()
	_ = w.Device.Do(ctx, func(*ops.Scope) error { // a closed device has nothing left to free
		ops.Free(w.before)
		w.part.free()
		w.sum.free()
		if w.average != nil {
			w.average.Free()
		}
		if w.optimizer != nil {
			w.optimizer.Free()
		}
		if w.model != nil {
			w.model.Free()
		}
		return nil
	})
}
