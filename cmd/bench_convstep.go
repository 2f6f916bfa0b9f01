package cmd

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"mp/job"
	"mp/ops"
)

// convStep is what a child process of `mp bench conv` prints: whole training steps of SimpleNet.
type convStep struct {
	Seconds []float64 `json:"seconds"` // of each step
	Tensors int64     `json:"tensors"` // most bytes of tensors
	Peak    int64     `json:"peak"`    // most resident bytes of the process
	Before  int64     `json:"before"`  // resident bytes before the process made its tensors
}

// convSteps is the number of steps that a child process measures, after two that warm up.
const convSteps = 5

// compareConvSteps measures training steps of SimpleNet with either convolution, process by process in turn.
func compareConvSteps(ctx context.Context, program string, o benchConvOptions) ([]benchRow, error) {
	spec := stepSpec{Model: job.ModelSimpleNet, Mode: modeFP32, Batch: o.batch, Size: 128, Threads: o.threads, CUDA: ops.CPU}
	switch {
	case o.precision == job.BF16:
		spec.Mode = modeBF16
	case o.layout == layoutChannelsLast:
		spec.Mode = modeChannelsLast
	}
	var seconds, tensors, peak, growth [2][]float64
	for i := range min(o.repetitions, 3) {
		for turn := range 2 {
			side := (i + turn) % 2
			spec.Own = side == sideOwn
			step, err := runConvStep(ctx, program, spec)
			if err != nil {
				return nil, fmt.Errorf("measure training steps of %s: %w", spec.Model, err)
			}
			seconds[side] = append(seconds[side], median(step.Seconds))
			tensors[side] = append(tensors[side], float64(step.Tensors))
			peak[side] = append(peak[side], float64(step.Peak))
			growth[side] = append(growth[side], float64(step.Peak-step.Before))
		}
	}
	return []benchRow{
		pairRow("training step", "ms", 1e3, seconds),
		pairRow("training step's tensors", "MB", 1e-6, tensors),
		pairRow("training process, resident", "MB", 1e-6, peak),
		pairRow("the same less the idle process", "MB", 1e-6, growth),
	}, nil
}

func runConvStep(ctx context.Context, program string, spec stepSpec) (step convStep, err error) {
	text, err := json.Marshal(spec)
	if err != nil {
		return step, err
	}
	c := exec.CommandContext(ctx, program, "bench", "conv", "--measure", string(text))
	var complaint bytes.Buffer
	c.Stderr = &complaint
	out, err := c.Output()
	if err != nil {
		return step, fmt.Errorf("%w: %s", err, strings.TrimSpace(complaint.String()))
	}
	if err := json.Unmarshal(out, &step); err != nil || len(step.Seconds) == 0 {
		return step, fmt.Errorf("a child process prints no measurement: %.100q", out)
	}
	return step, nil
}

// measureConvStep is a child process of `mp bench conv`.
func measureConvStep(ctx context.Context, e *env, text string) error {
	var spec stepSpec
	if err := json.Unmarshal([]byte(text), &spec); err != nil {
		return fmt.Errorf("%w: --measure: %w", job.ErrConfig, err)
	}
	device, err := openDevice(job.DeviceCPU, spec.Threads)
	if err != nil {
		return err
	}
	defer device.Close()
	var out convStep
	if out.Before, err = resident("VmRSS"); err != nil {
		return err
	}
	b := stepBench{device: device}
	defer b.close(ctx)
	if err := device.Do(ctx, func(s *ops.Scope) error { return b.prepare(s, spec) }); err != nil {
		return err
	}
	ops.ResetPeak()
	for i := range convSteps + 2 {
		start := time.Now()
		if err := b.step(ctx); err != nil {
			return err
		}
		if i >= 2 {
			out.Seconds = append(out.Seconds, time.Since(start).Seconds())
		}
	}
	out.Tensors = ops.HostMemory().Peak
	if out.Peak, err = resident("VmHWM"); err != nil {
		return err
	}
	return e.printJSON(out)
}

// resident reads a size of this process, in bytes, from the system: VmRSS now, VmHWM at most.
func resident(field string) (int64, error) {
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, fmt.Errorf("resident memory: %w", err)
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, field+":"); ok {
			kib, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 10, 64)
			if err != nil {
				return 0, fmt.Errorf("resident memory: %s: %w", strings.TrimSpace(line), err)
			}
			return kib << 10, nil
		}
	}
	return 0, fmt.Errorf("resident memory: /proc/self/status has no %s", field)
}
