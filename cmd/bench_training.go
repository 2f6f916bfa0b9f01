package cmd

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"os/exec"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"mp/data"
	"mp/job"
	"mp/worker"
)

// trainingSpec says what one process measures: whole updates of a training, images from a pack included.
type trainingSpec struct {
	stepSpec
	Strategy string `json:"strategy"`
}

// benchTraining is `mp bench attack --training`.
type benchTraining struct {
	on                 bool
	models, strategies []string
	size               int
}

func (o *benchTraining) add(c *cobra.Command) {
	f := c.Flags()
	f.BoolVar(&o.on, "training", false, "measure what an epoch of adversarial training costs beside one of natural training instead")
	f.StringSliceVar(&o.models, "model", []string{job.ModelSimpleNet, job.ModelSceneNet}, "with --training: networks, by commas")
	f.StringSliceVar(&o.strategies, "strategy", []string{job.AdversarialPGD, job.AdversarialFGSMRS, job.AdversarialNFGSM, job.AdversarialFree},
		"with --training: strategies, by commas, with their default steps; free counts by its passes, replays included")
	f.IntVar(&o.size, "image-size", 64, "with --training: side of the images in pixels")
}

// trainingTimes is what a measuring process prints.
type trainingTimes struct {
	Seconds float64 `json:"seconds"` // of an update, by the clock
	CPU     float64 `json:"cpu"`     // of processor time, of all threads
}

// run measures natural training and every strategy in turn, each a process of its own, and compares within each turn.
func (o *benchTraining) run(ctx context.Context, e *env, a benchAttackOptions) error {
	if a.measure != "" {
		return measureTraining(ctx, e, a.measure)
	}
	if a.Batch < 1 || a.repetitions < 1 || a.Threads < 0 || !(a.Seconds >= 0) || o.size < 32 || o.size > 256 {
		return fmt.Errorf("%w: want --batch-size and --repetitions of at least 1, --image-size of 32 to 256, --threads and --seconds not negative", job.ErrConfig)
	}
	base := stepSpec{Mode: modeChannelsLast, Batch: a.Batch, Size: o.size, Threads: a.Threads, Seconds: a.Seconds, Workers: 1, Shards: 1}
	if base.Threads == 0 {
		base.Threads = defaultThreads()
	}
	if slices.Equal(a.modes, []string{modeBF16}) {
		base.Mode = modeBF16
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
	base.Dir, base.Data = images, images
	for _, model := range o.models {
		for _, strategy := range o.strategies {
			if strategy == job.AdversarialNone {
				return fmt.Errorf("%w: --strategy none is what the others are compared with: leave it out", job.ErrConfig)
			}
			base.Model = model
			if _, err := (trainingSpec{base, strategy}).job(); err != nil {
				return err
			}
		}
	}
	var rows []benchRow
	for _, model := range o.models {
		base.Model = model
		clock, cpu := map[string][]float64{}, map[string][]float64{}
		for range a.repetitions {
			var natural trainingTimes
			for _, strategy := range append([]string{job.AdversarialNone}, o.strategies...) {
				t, err := trainingProcess(ctx, program, trainingSpec{base, strategy})
				if err != nil {
					return fmt.Errorf("measure %s %s: %w", model, strategy, err)
				}
				if strategy == job.AdversarialNone {
					natural = t
					continue
				}
				clock[strategy], cpu[strategy] = append(clock[strategy], t.Seconds/natural.Seconds), append(cpu[strategy], t.CPU/natural.CPU)
			}
		}
		for _, strategy := range o.strategies {
			name := model + " " + strategy
			rows = append(rows,
				benchRow{Name: name, Value: median(clock[strategy]), Unit: "times natural training, by the clock"},
				benchRow{Name: name, Value: median(cpu[strategy]), Unit: "times natural training, by processor time"})
			if !e.quiet {
				fmt.Fprintf(e.stderr, "%-20s %.2f times natural training, %.2f by processor time\n", name, median(clock[strategy]), median(cpu[strategy]))
			}
		}
	}
	return printBench(e, rows)
}

func trainingProcess(ctx context.Context, program string, spec trainingSpec) (t trainingTimes, err error) {
	text, err := json.Marshal(spec)
	if err != nil {
		return t, err
	}
	c := exec.CommandContext(ctx, program, "bench", "attack", "--training", "--measure", string(text))
	out, err := c.Output()
	if err != nil {
		return t, complaint(c, err)
	}
	if err := json.Unmarshal(out, &t); err != nil || !(t.Seconds > 0 && t.CPU > 0) {
		return t, fmt.Errorf("a child process prints no measurement: %.100q", out)
	}
	return t, nil
}

// job is the training that is measured: that of `bench step --workers` with images varied as in our recipe.
func (s trainingSpec) job() (job.Spec, error) {
	j, err := s.stepSpec.job()
	if err != nil {
		return j, err
	}
	d, err := job.Default(job.Spec{Model: s.Model, Adversarial: s.Strategy})
	if err != nil {
		return j, err
	}
	j.Adversarial = s.Strategy // an unknown one has no defaults, and is refused below
	j.AdvEps, j.AdvStepSize, j.AdvSteps, j.AdvBeta = d.AdvEps, d.AdvStepSize, d.AdvSteps, d.AdvBeta
	j.AdvBatchNorm, j.AdvWatch, j.Augment = d.AdvBatchNorm, d.AdvWatch, d.Augment
	return j, j.Validate()
}

// measureTraining is a child process: it prints trainingTimes.
func measureTraining(ctx context.Context, e *env, text string) error {
	var s trainingSpec
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		return fmt.Errorf("%w: --measure: %w", job.ErrConfig, err)
	}
	c := worker.StepperConfig{Size: 1, Scratch: s.Dir}
	var err error
	if c.Spec, err = s.job(); err != nil {
		return err
	}
	if c.Train, err = data.OpenPack(data.PackPath(s.Data, data.Train)); err != nil {
		return err
	}
	defer c.Train.Close()
	if c.Val, err = data.OpenPack(data.PackPath(s.Data, data.Val)); err != nil {
		return err
	}
	defer c.Val.Close()
	if c.Device, err = openDevice(job.DeviceCPU, s.Threads); err != nil {
		return err
	}
	defer c.Device.Close()
	stepper, err := worker.NewStepper(ctx, c)
	if err != nil {
		return err
	}
	defer stepper.Close()
	if err := stepper.Join(ctx, []string{stepper.Address()}); err != nil {
		return err
	}
	group := c.Spec.Replays() // updates with one batch
	take := func(n int) error {
		for range n * group {
			if _, err := stepper.Step(ctx); err != nil {
				return err
			}
		}
		return nil
	}
	if err := take(2); err != nil { // plans, allocates and fills the loader
		return err
	}
	began := time.Now()
	if err := take(1); err != nil {
		return err
	}
	n := int(math.Ceil(max(1, s.Seconds/time.Since(began).Seconds())))
	var t trainingTimes
	began = time.Now()
	if t.CPU, err = cpuSeconds(true, func() error { return take(n) }); err != nil {
		return err
	}
	t.Seconds, t.CPU = time.Since(began).Seconds()/float64(n*group), t.CPU/float64(n*group)
	return e.printJSON(t)
}
