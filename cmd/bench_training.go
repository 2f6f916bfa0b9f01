package cmd

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"

	"github.com/spf13/cobra"

	"mp/job"
)

// benchTraining is `mp bench attack --training`.
type benchTraining struct {
	on                 bool
	models, strategies []string
	size, workers      int
	precision          string
}

func (o *benchTraining) add(c *cobra.Command) {
	f := c.Flags()
	f.BoolVar(&o.on, "training", false, "measure what an epoch of adversarial training costs beside one of natural training instead")
	f.StringSliceVar(&o.models, "model", []string{job.ModelSimpleNet, job.ModelSceneNet}, "with --training: networks, by commas")
	f.StringSliceVar(&o.strategies, "strategy", []string{job.AdversarialPGD, job.AdversarialFGSMRS, job.AdversarialNFGSM, job.AdversarialFree},
		"with --training: strategies, by commas, with their default steps; free counts by its passes, replays included")
	f.StringVar(&o.precision, "adv-precision", job.AdvSame, "with --training: numbers in the network while pgd, fgsm-rs and nfgsm attack: same, bf16")
	f.IntVar(&o.size, "image-size", 64, "with --training: side of the images in pixels")
	f.IntVar(&o.workers, "workers", 0, "with --training: workers whose speed is compared with one worker's, each with --threads, 1 unless given; 0: one a core, 1: none")
}

// trainingTimes is what a measurement says of one update.
type trainingTimes struct{ seconds, cpu float64 }

// measureUpdates takes updates in as many processes as the spec has workers.
func measureUpdates(spec stepSpec, command func(string) *exec.Cmd) (t trainingTimes, err error) {
	ranks, err := measureCrew(spec, command)
	if err != nil {
		return t, err
	}
	for _, s := range ranks[0].Seconds { // of free training's replays some are longer: the mean
		t.seconds += s / float64(len(ranks[0].Seconds))
	}
	for _, r := range ranks {
		t.cpu += r.CPU
	}
	return t, nil
}

// run measures natural training and every strategy in turn, by one worker and by several, and compares within each turn.
func (o *benchTraining) run(ctx context.Context, e *env, a benchAttackOptions) error {
	base, err := o.base(a)
	if err != nil {
		return err
	}
	program, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program, to measure in processes of its own: %w", err)
	}
	images, err := os.MkdirTemp("", "mp-bench-training-")
	if err != nil {
		return fmt.Errorf("make a folder for images: %w", err)
	}
	defer os.RemoveAll(images)
	if err := paintImages(ctx, images, a.Batch); err != nil {
		return err
	}
	base.Data = images
	ours := func(spec string) *exec.Cmd {
		return exec.CommandContext(ctx, program, "bench", "step", "--measure", spec)
	}
	var rows []benchRow
	for _, model := range o.models {
		base.Model = model
		figures := make([]trainingFigures, len(o.strategies)+1) // natural training first
		for range a.repetitions {
			var natural trainingTimes
			for i, strategy := range append([]string{job.AdversarialNone}, o.strategies...) {
				base.Strategy, base.Workers = strategy, 1
				one, err := measureUpdates(base, ours)
				if err != nil {
					return fmt.Errorf("measure %s %s: %w", model, strategy, err)
				}
				if i == 0 {
					natural = one
				}
				f := &figures[i]
				f.clock, f.cpu = append(f.clock, one.seconds/natural.seconds), append(f.cpu, one.cpu/natural.cpu)
				if o.workers == 1 {
					continue
				}
				base.Workers = o.workers
				many, err := measureUpdates(base, ours)
				if err != nil {
					return fmt.Errorf("measure %s %s by %d workers: %w", model, strategy, o.workers, err)
				}
				f.scaling = append(f.scaling, one.seconds/many.seconds)
			}
		}
		for i, f := range figures {
			strategy := "natural"
			if i > 0 {
				strategy = o.strategies[i-1]
			}
			more := f.rows(model+" "+strategy, o.workers, i > 0)
			for _, r := range more {
				if !e.quiet {
					fmt.Fprintf(e.stderr, "%-32s %.3g %s\n", r.Name, r.Value, r.Unit)
				}
			}
			rows = append(rows, more...)
		}
	}
	return printBench(e, rows)
}

// trainingFigures are those of one strategy, a value a repetition.
type trainingFigures struct{ clock, cpu, scaling []float64 }

func (f trainingFigures) rows(name string, workers int, attacked bool) (rows []benchRow) {
	if attacked {
		rows = append(rows, benchRow{Name: name, Value: median(f.clock), Unit: "times natural training, by the clock"},
			benchRow{Name: name, Value: median(f.cpu), Unit: "times natural training, by processor time"})
	}
	if len(f.scaling) > 0 {
		rows = append(rows, benchRow{Name: fmt.Sprintf("%s, %d workers", name, workers), Value: median(f.scaling), Unit: "times as fast as 1 worker"})
	}
	return rows
}

// base is what all measurements have in common. Everything that is asked for is checked before the first.
func (o *benchTraining) base(a benchAttackOptions) (stepSpec, error) {
	s := stepSpec{Mode: modeChannelsLast, Batch: a.Batch, Size: o.size, Threads: max(a.Threads, 1), Seconds: a.Seconds, AdvPrecision: o.precision}
	if slices.Equal(a.modes, []string{modeBF16}) {
		s.Mode = modeBF16
	}
	if a.Batch < 1 || a.repetitions < 1 || a.Threads < 0 || !(a.Seconds >= 0) || o.size < 32 || o.size > 256 || o.workers < 0 || o.workers > 64 {
		return s, fmt.Errorf("%w: want --batch-size and --repetitions of at least 1, --image-size of 32 to 256, --workers up to 64, --threads and --seconds not negative", job.ErrConfig)
	}
	if o.workers == 0 {
		o.workers = cores()
	}
	if s.Shards = o.workers; a.Batch%s.Shards != 0 { // the same shards by one worker and by all: the same work
		return s, fmt.Errorf("%w: --batch-size %d must be cut evenly by --workers %d", job.ErrConfig, a.Batch, o.workers)
	}
	s.Data = "painted" // once everything else is known to be right
	for _, s.Model = range o.models {
		for _, s.Strategy = range o.strategies {
			if s.Strategy == job.AdversarialNone {
				return s, fmt.Errorf("%w: --strategy none is what the others are compared with: leave it out", job.ErrConfig)
			}
			if _, err := s.job(); err != nil {
				return s, err
			}
		}
	}
	return s, nil
}
