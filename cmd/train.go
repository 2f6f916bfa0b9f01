package cmd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"mp/allreduce/inproc"
	"mp/data"
	"mp/job"
	"mp/metrics"
	"mp/worker"
)

// jobFile is the name of a run's specification in its directory.
const jobFile = "job.yaml"

// trainOptions is what `mp train` is asked for beside the job itself.
type trainOptions struct {
	runs   string // folder of run directories
	dryRun bool
}

// newTrainCommand returns `mp train`.
func newTrainCommand(e *env) *cobra.Command {
	var o trainOptions
	c := &cobra.Command{
		Use:   "train DATA",
		Short: "Train a network on this machine",
		Long: "Train a network on this machine. DATA is a MiniPlaces folder (its images are decoded once, into train.pack and\n" +
			"val.pack beside them) or a folder of packs. The run's files go to a new directory under --runs; an interrupted run\n" +
			"goes on with --resume DIRECTORY and ends with the same weights, bit for bit.",
		Example: "  mp train miniplaces --model scenenet\n  mp train miniplaces --recipe course --model simplenet\n  mp train --resume runs/20260102-030405-scenenet",
		Args:    atMostOneArg("DATA"),
	}
	flags, err := addJobFlags(c)
	if err != nil {
		panic(err) // the table of options is wrong
	}
	c.Flags().StringVar(&o.runs, "runs", "runs", "folder for the directories of runs")
	c.Flags().BoolVar(&o.dryRun, "dry-run", false, "show configuration, layers, memory and schedule without training")
	c.RunE = func(c *cobra.Command, args []string) error {
		dir := ""
		if len(args) > 0 {
			dir = args[0]
		}
		spec, directory, err := resolveRun(flags, dir)
		if err != nil {
			return err
		}
		return train(c.Context(), e, run{spec: spec, directory: directory, trainOptions: o})
	}
	return c
}

// run is one call of `mp train`.
type run struct {
	trainOptions
	spec      job.Spec
	directory string // of the run that goes on; empty: a new one
}

// resolveRun finds what to train: the flags over, where --resume names a run of ours, that run's own job.
func resolveRun(flags *jobFlags, dir string) (spec job.Spec, directory string, err error) {
	resume := ""
	if err := flags.flags(dir)(&spec); err != nil {
		return spec, "", err
	}
	resume = spec.Resume
	if resume != "" && !exists(resume) {
		return spec, "", fmt.Errorf("%w: --resume %s: there is no such run or checkpoint", job.ErrConfig, resume)
	}
	var base []job.Layer
	if path := filepath.Join(resume, jobFile); resume != "" && exists(path) {
		content, err := readJobFile(path)
		if err != nil {
			return spec, "", err
		}
		start := func(s *job.Spec) error { s.Init, s.InitPartial, s.Resume = "", false, ""; return nil }
		base, directory = append(base, job.File(path, content), start), resume
	}
	spec, err = flags.resolve(dir, base...)
	return spec, directory, err
}

// train runs the job to its end, or until ctx ends.
func train(ctx context.Context, e *env, r run) error {
	device, err := pickDevice(r.spec.Device)
	if err != nil {
		return err
	}
	if r.spec.Threads == 0 {
		r.spec.Threads = cores()
	}
	trainPack, err := openPack(ctx, e, r.spec.Data, data.Train)
	if err != nil {
		return err
	}
	defer trainPack.Close()
	valPack, err := openPack(ctx, e, r.spec.Data, data.Val)
	if err != nil {
		return err
	}
	defer valPack.Close()
	if r.dryRun {
		return dryRun(ctx, e, r.spec, trainPack, valPack)
	}
	opened, err := openDevice(device, r.spec.Threads)
	if err != nil {
		return err
	}
	defer opened.Close()
	fresh := r.directory == ""
	if fresh {
		if r.directory, err = newRunDirectory(r.runs, r.spec); err != nil {
			return err
		}
	} else if err := writeJob(r.directory, r.spec); err != nil {
		return err
	}
	sink, err := sinks(e, r.directory)
	if err != nil {
		return err
	}
	w, err := worker.New(ctx, worker.Config{
		Spec: r.spec, Train: trainPack, Val: valPack, Directory: r.directory, Device: opened, Group: inproc.New(1)[0], Sink: sink,
	})
	if err != nil {
		err = errors.Join(err, sink.Close())
		if fresh { // a run that cannot begin leaves nothing
			err = errors.Join(err, os.RemoveAll(r.directory))
		}
		return err
	}
	defer w.Close()
	result, err := trainOn(ctx, e, r, w)
	if err := errors.Join(err, sink.Close()); err != nil {
		if errors.Is(err, worker.ErrStopped) {
			return fmt.Errorf("%w: mp train --resume %s", errDrained, r.directory)
		}
		return err
	}
	if e.json {
		return e.printJSON(result)
	}
	return nil
}

// trained is the result of `mp train` as JSON.
type trained struct {
	BestTop1   float64 `json:"best_top1"` // per cent
	BestTop5   float64 `json:"best_top5"`
	Epochs     int     `json:"epochs"`
	Seconds    float64 `json:"seconds"`
	Checkpoint string  `json:"checkpoint"`
	SHA256     string  `json:"sha256"`
	Directory  string  `json:"directory"`
}

func trainOn(ctx context.Context, e *env, r run, w *worker.Worker) (trained, error) {
	fmt.Fprint(e.human(), r.spec.Table(e.width(e.stdout)))
	w.Sink.Emit(metrics.Event{Time: time.Now(), Kind: metrics.KindStart, Start: w.Begin(version())})
	result, err := w.Run(ctx)
	if err != nil {
		return trained{}, err
	}
	w.Sink.Emit(metrics.Event{Time: time.Now(), Kind: metrics.KindSummary, Summary: &metrics.Summary{
		Title: r.spec.Model, BestTop1: result.Best.Top1, BestTop5: result.Best.Top5, BestEpoch: result.BestEpoch, Epochs: result.Epochs,
		Seconds: result.Took.Seconds(), ImagesPerSecond: result.Rate, Directory: r.directory, Checkpoint: result.Checkpoint, SHA256: result.SHA256,
		Next: []string{
			fmt.Sprintf("mp evaluate %s --checkpoint %s --mirror", r.spec.Data, r.directory),
			fmt.Sprintf("mp checkpoint show %s", result.Checkpoint),
		},
	}})
	return trained{
		BestTop1: result.Best.Top1, BestTop5: result.Best.Top5, Epochs: result.Epochs, Seconds: result.Took.Seconds(),
		Checkpoint: result.Checkpoint, SHA256: result.SHA256, Directory: r.directory,
	}, nil
}

// newRunDirectory makes runs/<time>-<name> with the job's file in it.
func newRunDirectory(runs string, s job.Spec) (string, error) {
	base := filepath.Join(runs, s.RunName(time.Now()))
	for i := 1; ; i++ {
		dir := base
		if i > 1 {
			dir = fmt.Sprintf("%s-%d", base, i)
		}
		if err := os.MkdirAll(runs, 0o755); err != nil {
			return "", fmt.Errorf("make the folder of runs: %w", err)
		}
		err := os.Mkdir(dir, 0o755)
		if errors.Is(err, os.ErrExist) {
			continue
		}
		if err != nil {
			return "", fmt.Errorf("make the run's directory: %w", err)
		}
		return dir, writeJob(dir, s)
	}
}

// writeJob writes the run's specification, all of it or none.
func writeJob(dir string, s job.Spec) error {
	text, err := s.YAML()
	if err != nil {
		return err
	}
	path := filepath.Join(dir, jobFile)
	if err := os.WriteFile(path+".new", text, 0o644); err != nil {
		return fmt.Errorf("write the run's job: %w", err)
	}
	return os.Rename(path+".new", path)
}

// sinks sends a run's events to the console and to the files of its directory.
func sinks(e *env, dir string) (*metrics.Fanout, error) {
	files, err := metrics.NewJSONL(dir)
	if err != nil {
		return nil, err
	}
	return metrics.NewFanout(files, e.console()), nil
}
