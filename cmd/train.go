package cmd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"mp/coordinator"
	"mp/data"
	"mp/job"
	"mp/metrics"
	"mp/ops"
	"mp/worker"
)

// jobFile is the name of a run's specification in its directory.
const jobFile = "job.yaml"

// Folders of a run's directory that only `mp train` makes: the embedded coordinator's memory, and a log and a folder of
// temporary files for each worker. `mp coordinator` has the first one's in its --data-dir.
const (
	clusterFolder = "cluster"
	raftFolder    = "raft" // in clusterFolder
	natsFolder    = "nats" // likewise
	workersFolder = "workers"
)

// trainOptions is what `mp train` is asked for beside the job itself.
type trainOptions struct {
	runs      string // folder of run directories
	dryRun    bool
	workers   int
	gpus      string
	failAfter time.Duration
	copies    string
	web       webOptions
}

// newTrainCommand returns `mp train`.
func newTrainCommand(e *env) *cobra.Command {
	var o trainOptions
	var page webFlags
	var token, address string
	c := &cobra.Command{
		Use:   "train DATA",
		Short: "Train a network on this machine",
		Long: "Train a network on this machine, with one process for each worker: a crash costs one of them, which is started again.\n" +
			"DATA is a MiniPlaces folder (its images are decoded once, into train.pack and val.pack beside them) or a folder of packs.\n" +
			"The run's files go to a new directory under --runs; an interrupted run goes on with --resume DIRECTORY and ends with the\n" +
			"same weights, bit for bit, as it does with any number of workers at the same --shards.",
		Example: "  mp train miniplaces --model scenenet\n  mp train miniplaces --recipe course --model simplenet --workers 4\n  mp train miniplaces --gpus all\n" +
			"  mp train --resume runs/20260102-030405-scenenet",
		Args: atMostOneArg("DATA"),
	}
	flags, err := addJobFlags(c)
	if err != nil {
		panic(err) // the table of options is wrong
	}
	f := c.Flags()
	f.IntVar(&o.workers, "workers", 0, "workers on the CPU; 0: as many as is fastest here. Without --shards a batch is then cut into 4, or more for more workers")
	f.StringVar(&o.gpus, "gpus", "", "GPUs with a worker each: all, or numbers such as 0,1; empty: --workers and --device decide")
	f.DurationVar(&o.failAfter, "fail-after", coordinator.DefaultConfig().FailAfter, "how long a worker may be silent before the others go on without it")
	f.StringVar(&o.runs, "runs", "runs", "folder for the directories of runs")
	f.StringVar(&o.copies, "checkpoints", "", copiesHelp)
	page.add(c)
	f.StringVar(&token, "token", "", "secret that the web page asks for; empty: none")
	f.BoolVar(&o.dryRun, "dry-run", false, "show configuration, layers, memory and schedule without training")
	f.StringVar(&address, "monitor", "", monitorHelp)
	c.RunE = func(c *cobra.Command, args []string) error {
		dir := ""
		if len(args) > 0 {
			dir = args[0]
		}
		var err error
		if o.web, err = page.options(token); err != nil {
			return err
		}
		if o.web, err = o.web.ofSecret(); err != nil {
			return err
		}
		fetch := func(url string) (string, error) {
			f, err := bringBack(c.Context(), e, url, "", o.runs)
			return f.Directory, err
		}
		r, err := resolveRun(flags, dir, o, fetch)
		if err != nil {
			return err
		}
		return withMonitor(c.Context(), monitorOptions{address: address}, e.logger(slog.LevelInfo), func(ctx context.Context, m *monitor) error {
			r.monitor = m
			return train(ctx, e, r)
		})
	}
	return c
}

// run is one call of `mp train`.
type run struct {
	trainOptions
	spec      job.Spec
	layout    layout
	directory string // of the run that goes on; empty: a new one
	fresh     bool   // its directory was made by this call
	monitor   *monitor
	copying   copying // of the checkpoints, elsewhere
}

// resolveRun finds what to train: the flags over, where --resume names a run of ours, that run's own job. Fetch makes a
// directory of a run of which there are copies elsewhere.
func resolveRun(flags *jobFlags, dir string, o trainOptions, fetch func(url string) (string, error)) (run, error) {
	r := run{trainOptions: o}
	if err := flags.flags(dir)(&r.spec); err != nil {
		return r, err
	}
	resume := r.spec.Resume
	var err error
	if inStore(resume) {
		if resume, err = fetch(resume); err != nil {
			return r, err
		}
	}
	if resume != "" && !exists(resume) {
		return r, fmt.Errorf("%w: --resume %s: there is no such run or checkpoint", job.ErrConfig, resume)
	}
	var base []job.Layer
	if path := filepath.Join(resume, jobFile); resume != "" && exists(path) {
		content, err := readJobFile(path)
		if err != nil {
			return r, err
		}
		start := func(s *job.Spec) error { s.Init, s.InitPartial, s.Resume = "", false, ""; return nil }
		base, r.directory = append(base, job.File(path, content), start), filepath.Clean(resume)
	}
	if r.spec, err = flags.resolve(dir, base...); err != nil {
		return r, err
	}
	if inStore(r.spec.Resume) {
		r.spec.Resume = resume
	}
	if o.workers < 0 {
		return r, fmt.Errorf("%w: --workers %d: choose 1 or more", job.ErrConfig, o.workers)
	}
	request := layoutRequest{workers: o.workers, gpus: o.gpus, machineGPUs: machineGPUs(), machineCores: cores(), machineBF16: cpuPrefersBF16()}
	if request.said, err = flags.said(base...); err != nil {
		return r, err
	}
	if r.layout, err = request.choose(&r.spec); err != nil {
		return r, err
	}
	return r, r.spec.Validate()
}

// train runs the job to its end, or until ctx ends.
func train(ctx context.Context, e *env, r run) error {
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
	if r.copying, err = newCopying(e, r.copies); err != nil {
		return err
	}
	if err := r.canBegin(ctx, trainPack, valPack); err != nil {
		return err
	}
	if r.fresh = r.directory == ""; r.fresh {
		if r.directory, err = newRunDirectory(r.runs, r.spec); err != nil {
			return err
		}
	} else if err := writeJob(r.directory, r.spec); err != nil {
		return err
	}
	fmt.Fprint(e.human(), r.spec.Table(e.width(e.stdout)))
	fmt.Fprintf(e.human(), "\n%s\n%s\n", r.directory, r.layout.why)
	t := trainer{run: r, env: e, data: describe(trainPack, valPack, r.spec.Data)}
	result, err := t.train(ctx)
	if errors.Is(err, errNotBegun) && r.fresh { // a run that cannot begin leaves nothing
		err = errors.Join(err, os.RemoveAll(r.directory))
	}
	if err != nil {
		return err
	}
	if e.json {
		return e.printJSON(result)
	}
	return nil
}

// canBegin refuses what no worker could begin with, before there is a run: it builds the model here, and lets it take what
// --init or --resume names.
func (r run) canBegin(ctx context.Context, trainPack, valPack *data.Pack) error {
	device, err := ops.OpenDevice(ops.DeviceConfig{GPU: ops.CPU, Threads: 1})
	if err != nil {
		return err
	}
	defer device.Close()
	spec := r.spec
	if r.directory != "" && exists(filepath.Join(r.directory, clusterFolder, raftFolder)) {
		spec.Resume = "" // the coordinator remembers how far the run has come, even if that is not to its first checkpoint
	}
	w, err := worker.New(ctx, worker.Config{
		Spec: spec, Train: trainPack, Val: valPack, Directory: r.directory, Device: device, Sink: metrics.Tee(nil), Version: version(),
	})
	if err != nil {
		return err
	}
	w.Close()
	return nil
}

// trained is the result of `mp train` as JSON.
type trained struct {
	BestTop1        float64 `json:"best_top1"` // per cent
	BestTop5        float64 `json:"best_top5"`
	Epochs          int     `json:"epochs"`
	Seconds         float64 `json:"seconds"`
	Checkpoint      string  `json:"checkpoint"`
	SHA256          string  `json:"sha256"`
	OptimizerSHA256 string  `json:"optimizer_sha256,omitempty"`
	Directory       string  `json:"directory"`
	Goodput         float64 `json:"goodput,omitempty"` // share of the time that committed steps took, 0 to 1; 0: too short to tell
	Faults          int     `json:"faults"`            // survived by this call
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

// audience is a Sink before the console of `mp train`: it leaves out what only people with clusters ask for, and learns how
// fast the run trains and what faults cost it. It is safe for concurrent use if what it passes events on to is.
type audience struct {
	metrics.Sink

	mu              sync.Mutex
	images, seconds float64
	account         metrics.Account
}

// Emit passes e on.
func (a *audience) Emit(e metrics.Event) {
	a.mu.Lock()
	if e.Epoch != nil {
		a.images += e.Epoch.ImagesPerSecond * e.Epoch.Seconds
		a.seconds += e.Epoch.Seconds
	}
	a.account.Hear(e)
	a.mu.Unlock()
	if e.View != nil && len(e.View.Members) == 0 && strings.Contains(e.View.Reason, "has ended (done)") {
		return // the summary says so
	}
	if e.Story != nil && !worthTelling(*e.Story) {
		quiet := *e.Story
		quiet.Detail, e.Story = true, &quiet
	}
	if e.View != nil && strings.Contains(e.View.Advice, "mp worker") {
		view := *e.View
		view.Advice, e.View = "", &view // here workers are started again without anybody's doing
	}
	a.Sink.Emit(e)
}

// worthTelling says whether a story is news to somebody who trains on one machine: who comes and goes is told again by the
// views that follow from it, and checkpoints and the job's way from state to state are a matter of course.
func worthTelling(s metrics.Story) bool {
	switch s.Topic {
	case "leave":
		return false
	case "join", "checkpoint", "job":
		return s.Warning
	}
	return true
}

// rate is in images a second.
func (a *audience) rate() float64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.seconds == 0 {
		return 0
	}
	return a.images / a.seconds
}

// survived is what faults have cost.
func (a *audience) survived() metrics.GoodputReport {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.account.Report()
}
