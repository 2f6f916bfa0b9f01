package cmd

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"mp/data"
	"mp/job"
)

// crewTimes is what one rank of a measurement prints.
type crewTimes struct {
	Seconds []float64 `json:"seconds"` // of each step
	Working float64   `json:"working"` // seconds a step that communication was under way
	Waited  float64   `json:"waited"`  // seconds a step that it went on after this rank's backward pass
	CPU     float64   `json:"cpu"`     // seconds a step of processor time, of all this rank's threads
}

// crewSide is one of those that are compared.
type crewSide struct {
	name    string
	spec    stepSpec
	command func(spec string) *exec.Cmd
}

// crewFigures are one side's figures, a value a repetition.
type crewFigures struct{ rate, core, hidden, working, waited []float64 }

// prepareCrew fills in what `--workers` means where the command line leaves it open, and checks it.
func (o *benchStepOptions) prepareCrew(c *cobra.Command) error {
	open := func(flag string) bool { return !c.Flags().Changed(flag) }
	if open("model") {
		o.models = []string{job.ModelSimpleNet, job.ModelResNet18}
	}
	if open("mode") {
		o.modes = []string{modeChannelsLast}
	}
	if open("batch-size") {
		o.Batch = 64
	}
	if open("device") {
		o.device = job.DeviceCPU
	}
	if o.Threads == 0 {
		o.Threads = 1
	}
	if o.Workers < 2 || o.Workers > 64 {
		return fmt.Errorf("%w: --workers %d: choose 2 to 64, or leave it out to measure one process", job.ErrConfig, o.Workers)
	}
	if o.Shards == 0 {
		o.Shards = shardsFor(o.Workers, o.Batch)
	}
	switch {
	case o.device != job.DeviceCPU:
		return fmt.Errorf("%w: --workers measures on the CPU, where gloo is: leave --device out", job.ErrConfig)
	case o.Shards < o.Workers || o.Batch%o.Shards != 0 || o.Batch%o.Workers != 0:
		return fmt.Errorf("%w: --batch-size %d must be cut evenly by --workers %d and by --shards %d, and each worker needs a shard", job.ErrConfig, o.Batch, o.Workers, o.Shards)
	case o.Size > 256:
		return fmt.Errorf("%w: --image-size %d: choose 32 to 256 with --workers", job.ErrConfig, o.Size)
	}
	return nil
}

// recordsFile holds the images of the training pack without anything else, for PyTorch.
const recordsFile = "records"

// benchCrew measures every model in every mode: several processes of ours and of DistributedDataParallel, and one process of
// each, in turn.
func benchCrew(ctx context.Context, e *env, o benchStepOptions) error {
	program, err := o.prepare(ctx, e)
	if err != nil {
		return err
	}
	if all := o.Workers * o.Threads; all > cores() && !e.quiet {
		fmt.Fprintf(e.stderr, "%d threads share %d cores: the figures say how that goes, not how fast either side is\n", all, cores())
	}
	images, err := os.MkdirTemp("", "mp-bench-step-")
	if err != nil {
		return fmt.Errorf("make a folder for images: %w", err)
	}
	defer os.RemoveAll(images)
	if err := paintImages(ctx, images, o.Batch); err != nil {
		return err
	}
	o.Data = images
	ours := func(spec string) *exec.Cmd {
		return exec.CommandContext(ctx, program, "bench", "step", "--measure", spec)
	}
	torchs := func(spec string) *exec.Cmd { return o.peer.runs(ctx, torchStep, spec) }
	var rows []benchRow
	for _, model := range o.models {
		for _, mode := range o.modes {
			many := o.stepSpec
			many.Model, many.Mode = model, mode
			one := many
			one.Workers, one.Shards, one.Threads = 1, 1, many.Workers*many.Threads
			sides := []crewSide{{"ours", many, ours}, {"DDP", many, torchs}, {"one process", one, ours}, {"PyTorch", one, torchs}}
			if o.compiled {
				one.Compile = true
				sides = append(sides, crewSide{"torch.compile", one, torchs})
			}
			figures, err := measureCrews(sides, o.repetitions)
			if err != nil {
				return err
			}
			more := crewRows(many, figures)
			for _, r := range more {
				if !e.quiet {
					fmt.Fprintf(e.stderr, "%-44s %8.4g %s  %.2fx %s\n", r.Name, r.Value, r.Unit, r.Ratio, r.Peer)
				}
			}
			rows = append(rows, more...)
		}
	}
	return printBench(e, rows)
}

// paintImages packs made-up images, whole batches of them, for both sides to train on.
func paintImages(ctx context.Context, dir string, batch int) error {
	n := batch * max(8, (benchClasses+batch-1)/batch)
	if err := data.Synth(ctx, data.SynthConfig{Dir: dir, Classes: benchClasses, Train: n, Val: 1, Seed: 1}); err != nil {
		return err
	}
	root, err := data.OpenRoot(dir)
	if err != nil {
		return err
	}
	for _, split := range []data.Split{data.Train, data.Val} {
		if err := data.WritePack(ctx, data.PackConfig{Root: root, Split: split, Path: data.PackPath(dir, split), Decoder: decoder{}}); err != nil {
			return err
		}
	}
	pack, err := data.OpenPack(data.PackPath(dir, data.Train))
	if err != nil {
		return err
	}
	defer pack.Close()
	return os.WriteFile(filepath.Join(dir, recordsFile), pack.Records(), 0o644)
}

// measureCrews returns the figures of each side. The order of sides turns round.
func measureCrews(sides []crewSide, repetitions int) ([]crewFigures, error) {
	figures := make([]crewFigures, len(sides))
	for rep := range repetitions {
		for turn := range sides {
			i := (rep + turn) % len(sides)
			spec := sides[i].spec
			times, err := measureCrew(spec, sides[i].command)
			if err != nil {
				return nil, fmt.Errorf("measure %s %s, %s: %w", spec.Model, spec.Mode, sides[i].name, err)
			}
			var working, waited, cpu float64
			for _, t := range times {
				working += t.Working / float64(len(times))
				waited += t.Waited / float64(len(times))
				cpu += t.CPU
			}
			hidden := 0.
			if working > 0 {
				hidden = max(0, 1-waited/working)
			}
			f := &figures[i]
			f.rate = append(f.rate, float64(spec.Batch)/median(times[0].Seconds))
			f.core = append(f.core, float64(spec.Batch)/max(cpu, 1e-9))
			f.hidden, f.working, f.waited = append(f.hidden, hidden), append(f.working, working), append(f.waited, waited)
		}
	}
	return figures, nil
}

// measureCrew runs all ranks of one measurement and returns what they print, by rank.
func measureCrew(spec stepSpec, command func(spec string) *exec.Cmd) ([]crewTimes, error) {
	dir, err := os.MkdirTemp("", "mp-bench-step-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	spec.Dir = dir
	var running []*exec.Cmd
	for rank := range spec.Workers {
		spec.Rank = rank
		text, err := json.Marshal(spec)
		if err != nil {
			return nil, err
		}
		running = append(running, command(string(text)))
	}
	printed, err := runRanks(running)
	if err != nil {
		return nil, err
	}
	times := make([]crewTimes, len(printed))
	for rank, out := range printed {
		if err := json.Unmarshal(out, &times[rank]); err != nil || len(times[rank].Seconds) == 0 {
			return nil, fmt.Errorf("rank %d prints no seconds: %.100q", rank, out)
		}
	}
	return times, nil
}

// crewRows turns the figures of ours, DistributedDataParallel, one process of each and, if it was asked, torch.compile into rows.
func crewRows(spec stepSpec, f []crewFigures) []benchRow {
	name := fmt.Sprintf("%s %s, %d workers", spec.Model, spec.Mode, spec.Workers)
	ratio := func(a, b []float64) float64 {
		var r []float64
		for i := range a {
			if b[i] > 0 {
				r = append(r, a[i]/b[i])
			}
		}
		if len(r) == 0 {
			return 0
		}
		return median(r)
	}
	ms := func(f crewFigures) string {
		return fmt.Sprintf("waited %.3g of %.3g ms a step", 1e3*median(f.waited), 1e3*median(f.working))
	}
	ours, ddp, one, torch := f[0], f[1], f[2], f[3]
	alone := fmt.Sprintf("%s %s, 1 process of %d threads", spec.Model, spec.Mode, spec.Workers*spec.Threads)
	rows := []benchRow{
		{Name: name, Value: median(ours.rate), Unit: "images/s", Ratio: ratio(ours.rate, ddp.rate), Peer: fmt.Sprintf("DDP %.5g", median(ddp.rate))},
		{Name: name + ", by processor time", Value: median(ours.core), Unit: "images/s/core", Ratio: ratio(ours.core, ddp.core), Peer: fmt.Sprintf("DDP %.5g", median(ddp.core))},
		{Name: name + ", hidden", Value: median(ours.hidden), Unit: "of the sum", Ratio: ratio(ours.hidden, ddp.hidden),
			Peer: fmt.Sprintf("DDP %.3g; %s, DDP %s", median(ddp.hidden), ms(ours), ms(ddp))},
		{Name: alone, Value: median(one.rate), Unit: "images/s",
			Ratio: ratio(one.rate, torch.rate), Peer: fmt.Sprintf("PyTorch %.5g", median(torch.rate))},
		{Name: name + ", beside 1 process", Value: ratio(ours.rate, one.rate), Unit: "times", Ratio: 0,
			Peer: fmt.Sprintf("PyTorch's DDP beside its 1 process: %.3g times", ratio(ddp.rate, torch.rate))},
	}
	if len(f) < 5 {
		return rows
	}
	compiled := f[4]
	best, theirs := slices.Clone(ours.rate), slices.Clone(ddp.rate) // of each turn
	for i := range best {
		best[i], theirs[i] = max(best[i], one.rate[i]), max(theirs[i], torch.rate[i], compiled.rate[i])
	}
	return append(rows,
		benchRow{Name: alone, Value: median(one.rate), Unit: "images/s", Ratio: ratio(one.rate, compiled.rate), Peer: fmt.Sprintf("torch.compile %.5g", median(compiled.rate))},
		benchRow{Name: fmt.Sprintf("%s %s, the best of ours", spec.Model, spec.Mode), Value: median(best), Unit: "images/s", Ratio: ratio(best, theirs), Peer: fmt.Sprintf("the best of PyTorch's %.5g", median(theirs))})
}
