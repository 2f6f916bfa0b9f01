package cmd

import (
	"context"
	"encoding/json"
	"fmt"
	"runtime"
	"strconv"
	"time"

	torch "github.com/wangkuiyi/gotorch"

	"mp/job"
	"mp/model"
	"mp/ops"
	"mp/optim"
)

// Legend: N images, S side of the image, K classes.

func defaultThreads() int { return runtime.NumCPU() }

// gpuIndex is the number in the word of a device, -1 for the CPU.
func gpuIndex(word string) (int, error) {
	if word == job.DeviceCPU {
		return ops.CPU, nil
	}
	gpu, err := strconv.Atoi(word)
	if err != nil {
		return 0, fmt.Errorf("%w: --device %q: want cpu, auto or the number of a GPU", job.ErrConfig, word)
	}
	return gpu, nil
}

// stepBench is a model in training on one batch in memory.
type stepBench struct {
	device    *ops.Device
	model     *model.Model
	optimizer *optim.Optimizer
	images    torch.Tensor // [N 3 S S]
	labels    torch.Tensor // [N]
	grads     torch.Tensor // as model.Params
	keys      []uint64
}

const benchClasses = 100

// measureStep is a child process of `mp bench step`: it prints the seconds of each step as one JSON list.
func measureStep(ctx context.Context, e *env, text string) error {
	var spec stepSpec
	if err := json.Unmarshal([]byte(text), &spec); err != nil {
		return fmt.Errorf("%w: --measure: %w", job.ErrConfig, err)
	}
	if spec.Workers > 0 {
		return measureMember(ctx, e, spec)
	}
	word := job.DeviceCPU
	if spec.CUDA >= 0 {
		word = strconv.Itoa(spec.CUDA)
	}
	device, err := openDevice(word, spec.Threads)
	if err != nil {
		return err
	}
	defer device.Close()
	b := stepBench{device: device}
	defer b.close(ctx)
	if err := device.Do(ctx, func(s *ops.Scope) error { return b.prepare(s, spec) }); err != nil {
		return err
	}
	if err := b.step(ctx); err != nil { // the first one plans and allocates
		return err
	}
	if spec.Profile {
		return b.profile(ctx, e, spec)
	}
	var seconds []float64
	end := time.Now().Add(time.Duration(spec.Seconds * float64(time.Second)))
	for len(seconds) == 0 || time.Now().Before(end) {
		start := time.Now()
		if err := b.step(ctx); err != nil {
			return err
		}
		seconds = append(seconds, time.Since(start).Seconds())
	}
	return e.printJSON(seconds)
}

func (b *stepBench) prepare(s *ops.Scope, spec stepSpec) (err error) {
	last := spec.Mode != modeFP32
	if b.model, err = model.New(s, spec.Model, model.Options{Classes: benchClasses, ChannelsLast: last, OwnConv: spec.Own}); err != nil {
		return err
	}
	c := optim.DefaultConfig(optim.SGD)
	c.WeightDecay = 1e-4
	if spec.Model == job.ModelSimpleViT {
		c = optim.DefaultConfig(optim.AdamW)
		c.WeightDecay = .05
	}
	if b.optimizer, err = optim.New(s, c, b.model.Params, nil); err != nil {
		return err
	}
	n, side := int64(spec.Batch), int64(spec.Size)
	pixels := make([]float32, n*3*side*side)
	z := uint32(1)
	for i := range pixels { // uniform with deviation 1
		z = z*1664525 + 1013904223
		pixels[i] = (float32(z)/(1<<31) - 1) * 1.732
	}
	labels := make([]int64, n)
	b.keys = make([]uint64, n)
	for i := range labels {
		labels[i], b.keys[i] = int64(i*37%benchClasses), uint64(i)
	}
	x := ops.From(s, pixels, n, 3, side, side)
	if last {
		x = s.ChannelsLast(x)
	}
	if spec.Mode == modeBF16 {
		x = s.To(x, ops.BFloat16)
	}
	b.images = s.Release(x)
	b.labels = s.Release(ops.From(s, labels, n))
	b.grads = s.Release(s.Zeros(ops.Float32, b.model.Params.Len()))
	return s.Err()
}

// step is one update, with what a training loop reads of it.
func (b *stepBench) step(ctx context.Context) error {
	return b.device.Do(ctx, func(s *ops.Scope) error {
		logits := b.model.Forward(s, b.images, model.Mode{Train: true, Keys: b.keys}) // [N K]
		loss := s.CrossEntropy(logits, b.labels, 0, ops.ReduceMean)
		b.model.Params.Gather(s, s.Grad(loss, b.model.Params.Leaves()...), b.grads)
		b.optimizer.Step(s, b.grads, optim.Update{Rate: 1e-3, Scale: 1, Norm: s.Norm(b.grads), MaxNorm: 1})
		s.Item(loss)
		return s.Err()
	})
}

func (b *stepBench) close(ctx context.Context) {
	_ = b.device.Do(context.WithoutCancel(ctx), func(*ops.Scope) error { // the process ends: nothing is lost
		for _, t := range []torch.Tensor{b.images, b.labels, b.grads} {
			ops.Free(t)
		}
		if b.optimizer != nil {
			b.optimizer.Free()
		}
		if b.model != nil {
			b.model.Free()
		}
		return nil
	})
}
