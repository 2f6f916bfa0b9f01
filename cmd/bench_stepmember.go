package cmd

import (
	"context"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"mp/data"
	"mp/job"
	"mp/worker"
)

// job is the training that a rank of `bench step --workers` takes steps of: bench_step.py's on ours.
func (s stepSpec) job() (job.Spec, error) {
	j, err := job.Default(job.Spec{Model: s.Model, Recipe: job.RecipeBest, Augment: job.AugmentNone, Epochs: 100_000})
	if err != nil {
		return job.Spec{}, err
	}
	j.Data, j.BatchSize, j.Shards, j.ImageSize, j.Device, j.Threads = s.Data, s.Batch, s.Shards, strconv.Itoa(s.Size), job.DeviceCPU, s.Threads
	j.Augment, j.LabelSmoothing, j.EMA, j.Nesterov = job.AugmentNone, 0, 0, false
	j.Schedule, j.Warmup, j.LR, j.ClipGrad, j.Seed = job.ScheduleConstant, 0, 1e-3, 1, 1
	if j.Optimizer == job.SGD {
		j.Momentum, j.WeightDecay = .9, 1e-4
	}
	j.ChannelsLast = s.Mode != modeFP32
	if s.Load {
		j.Augment = job.AugmentBest
	}
	if s.Mode == modeBF16 {
		j.Precision = job.BF16
	}
	if s.Strategy != "" {
		d, err := job.Default(job.Spec{Model: s.Model, Adversarial: s.Strategy})
		if err != nil {
			return j, err
		}
		j.Adversarial = s.Strategy // an unknown one has no defaults, and is refused below
		j.AdvEps, j.AdvStepSize, j.AdvSteps, j.AdvBeta = d.AdvEps, d.AdvStepSize, d.AdvSteps, d.AdvBeta
		j.AdvBatchNorm, j.AdvPrecision, j.AdvWatch, j.Augment = d.AdvBatchNorm, d.AdvPrecision, d.AdvWatch, d.Augment
		if s.AdvPrecision != "" && s.Strategy != job.AdversarialNone && s.Strategy != job.AdversarialFree { // whose attack is its update
			j.AdvPrecision = s.AdvPrecision
		}
	}
	return j, j.Validate()
}

// measureMember is a child process of `mp bench step --workers`: one rank, which prints its crewTimes.
func measureMember(ctx context.Context, e *env, spec stepSpec) error {
	stepper, leave, err := joinCrew(ctx, spec)
	if err != nil {
		return err
	}
	defer leave()
	j, err := spec.job()
	if err != nil {
		return err
	}
	times, err := memberTimes(ctx, stepper, spec.Seconds, uint32(j.Replays()))
	if err != nil {
		return err
	}
	return e.printJSON(times)
}

// memberTimes takes steps for about so many seconds, the same number on every rank. Each batch is good for replays of them.
func memberTimes(ctx context.Context, stepper *worker.Stepper, seconds float64, replays uint32) (crewTimes, error) {
	var t crewTimes
	var working, waited time.Duration
	take := func(n int) error {
		t.Seconds, working, waited = t.Seconds[:0], 0, 0
		for range n {
			start := time.Now()
			parts, err := stepper.Step(ctx)
			if err != nil {
				return err
			}
			t.Seconds = append(t.Seconds, time.Since(start).Seconds())
			working, waited = working+parts.Working, waited+parts.Waited
		}
		return nil
	}
	if err := take(3); err != nil { // the first two plan, allocate and read images for the first time
		return t, err
	}
	steps, err := stepper.Agree(ctx, uint32(math.Ceil(max(1, min(seconds/t.Seconds[2], 1e6)))))
	if err != nil {
		return t, err
	}
	if rest := steps % replays; rest > 0 { // whole batches
		steps += replays - rest
	}
	cpu, err := cpuSeconds(true, func() error { return take(int(steps)) })
	if err != nil {
		return t, err
	}
	t.CPU = cpu / float64(steps)
	t.Working, t.Waited = working.Seconds()/float64(steps), waited.Seconds()/float64(steps)
	_, err = stepper.Agree(ctx, 0) // so that nobody leaves too early
	return t, err
}

// joinCrew makes one rank's stepper and lets it meet the others in spec.Dir.
func joinCrew(ctx context.Context, spec stepSpec) (stepper *worker.Stepper, leave func(), err error) {
	c := worker.StepperConfig{Rank: spec.Rank, Size: spec.Workers, Scratch: filepath.Join(spec.Dir, fmt.Sprint("rank-", spec.Rank))}
	var open []func() error
	closeAll := func() {
		for i := len(open) - 1; i >= 0; i-- {
			_ = open[i]() // the measurement is over: nothing is lost
		}
	}
	defer func() {
		if err != nil {
			closeAll()
		}
	}()
	if c.Spec, err = spec.job(); err != nil {
		return nil, nil, err
	}
	if c.Train, err = data.OpenPack(data.PackPath(spec.Data, data.Train)); err != nil {
		return nil, nil, err
	}
	open = append(open, c.Train.Close)
	if c.Val, err = data.OpenPack(data.PackPath(spec.Data, data.Val)); err != nil {
		return nil, nil, err
	}
	open = append(open, c.Val.Close)
	if c.Device, err = openDevice(job.DeviceCPU, spec.Threads); err != nil {
		return nil, nil, err
	}
	open = append(open, func() error { c.Device.Close(); return nil })
	if stepper, err = worker.NewStepper(ctx, c); err != nil {
		return nil, nil, err
	}
	open = append(open, stepper.Close)
	addresses := []string{stepper.Address()}
	if spec.Workers > 1 {
		file := addressFile(spec.Dir, spec.Rank)
		if err = os.WriteFile(file+"-", []byte(stepper.Address()), 0o600); err == nil {
			err = os.Rename(file+"-", file)
		}
		if err != nil {
			return nil, nil, fmt.Errorf("tell where rank %d is: %w", spec.Rank, err)
		}
		if addresses, err = peerAddresses(ctx, spec.Dir, spec.Workers); err != nil {
			return nil, nil, err
		}
	}
	return stepper, closeAll, stepper.Join(ctx, addresses)
}
