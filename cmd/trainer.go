package cmd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"mp/checkpoint"
	"mp/coordinator"
	"mp/job"
	"mp/metrics"
	"mp/mppb"
)

// errNotBegun is in the chain of the error of a run that ended before its first update.
var errNotBegun = errors.New("the run did not begin")

// trainer is a cluster in one command: a coordinator in this process, and a child process for each worker.
type trainer struct {
	run
	env    *env
	data   *mppb.Dataset
	began  time.Time
	people *audience
	client *mppb.Client
	id     string // of the job
}

// train runs the job to its end, or until ctx ends: then everything is saved.
func (t *trainer) train(ctx context.Context) (trained, error) {
	t.began = time.Now()
	console := t.env.console()
	shown := metrics.NewFanout(console)
	t.people = &audience{Sink: shown}
	c := coordinator.DefaultConfig()
	c.Listen, c.FailAfter, c.Version, c.Dismiss = "127.0.0.1:0", t.failAfter, version(), true
	c.DataDir = filepath.Join(t.directory, clusterFolder, raftFolder)
	c.RunsDir = filepath.Dir(t.directory)
	log, closeLog, err := t.log()
	if err != nil {
		return trained{}, err
	}
	defer closeLog()
	t.copying.last, t.copying.trouble = saveWithin, func(text string) { t.sayWarning(text, nil) }
	var result trained
	err = withHub(ctx, hubConfig{
		coordinator: c, nats: natsEmbedded, natsDir: filepath.Join(t.directory, clusterFolder, natsFolder), log: log, console: t.people,
		story: t.general, web: t.web, copies: t.copying,
	}, func(hubCtx context.Context, h *hub) error {
		var err error
		result, err = t.lead(ctx, hubCtx, h)
		return err
	})
	if err != nil && t.id == "" { // nothing was handed in
		err = fmt.Errorf("%w: %w", errNotBegun, err)
	}
	return result, errors.Join(err, shown.Close())
}

// general shows what the cluster tells of no job.
func (t *trainer) general(e *mppb.Event) {
	if e.Job == "" && e.Topic != "leader" {
		t.people.Emit(storyEvent(e))
	}
}

// lead starts the workers, hands in the job and waits for its end. asked ends when a person wants the run to stop, ctx when
// the coordinator is broken too.
func (t *trainer) lead(asked, ctx context.Context, h *hub) (trained, error) {
	t.monitor.show(h.coordinator.Alive, h.numbers.Handler())
	t.monitor.watch(h.coordinator.Ready)
	var err error
	if h.page != "" {
		fmt.Fprintln(t.env.human(), "web page: "+h.page+t.web.known())
	}
	if t.client, err = h.client(""); err != nil {
		return trained{}, err
	}
	defer t.client.Close()
	t.people.Emit(metrics.Event{Time: time.Now(), Kind: metrics.KindStory, Story: &metrics.Story{
		Topic: "watch", Detail: true, Text: "from another terminal: mp watch --coordinator " + h.coordinator.Address()}})
	crew, err := t.hire(h.coordinator.Address())
	if err != nil {
		return trained{}, err
	}
	defer crew.dismiss()
	if err := t.handIn(ctx); err != nil {
		return trained{}, fmt.Errorf("hand in the job: %w", err)
	}
	last, err := t.follow(asked, ctx, crew)
	if err != nil {
		return trained{}, err
	}
	return t.conclude(last)
}

// crew is the workers' processes.
type crew struct {
	workers []*supervisor
	cancel  context.CancelFunc
	wait    sync.WaitGroup

	mu    sync.Mutex
	alive int
	worst error // of those that will not start again
}

// hire starts the workers.
func (t *trainer) hire(address string) (*crew, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program: %w", err)
	}
	folder := filepath.Join(t.directory, workersFolder)
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return nil, fmt.Errorf("make the workers' folder: %w", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	c := &crew{cancel: cancel, alive: len(t.layout.devices)}
	for i, device := range t.layout.devices {
		number := strconv.Itoa(i + 1)
		args := []string{"worker", "--coordinator", address, "--data", t.spec.Data, "--listen", "127.0.0.1:0", "--name", "worker " + number,
			"--threads", strconv.Itoa(t.spec.Threads), "--scratch", filepath.Join(folder, number)}
		if device == job.DeviceCPU {
			args = append(args, "--cpu", "--slot", strconv.Itoa(i))
		} else {
			args = append(args, "--gpu", device)
		}
		s := &supervisor{
			config: processConfig{name: "worker " + number, program: program, args: args, log: filepath.Join(folder, number+".log")},
			say:    t.sayWarning,
		}
		c.workers = append(c.workers, s)
		c.wait.Go(func() {
			last, lost, err := s.run(ctx)
			c.ended(s, last, lost, err)
		})
	}
	return c, nil
}

// sayWarning tells people of a child that ended.
func (t *trainer) sayWarning(text string, lines []string) {
	advice := ""
	for _, line := range lines {
		advice += "\n    " + line
	}
	t.people.Emit(metrics.Event{Time: time.Now(), Kind: metrics.KindStory, Story: &metrics.Story{
		Topic: "process", Text: text, Warning: true, Advice: strings.TrimPrefix(advice, "\n    ")}})
}

func (c *crew) ended(s *supervisor, last *process, lost bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.alive--
	switch {
	case err != nil:
		c.worst = err
	case lost && last.code == exitBadInput:
		c.worst = fmt.Errorf("%w: %s", job.ErrConfig, lastWord(last.log, s.config.name))
	case lost && c.worst == nil:
		c.worst = fmt.Errorf("%s: %s", last.cause, lastWord(last.log, s.config.name))
	}
}

// lastWord is the last line that a child wrote, without the name of its verb.
func lastWord(log, name string) string {
	lines := lastLines(log, 1)
	if len(lines) == 0 {
		return name + " said nothing; see " + log
	}
	return strings.TrimPrefix(lines[0], "mp worker: ")
}

// gone says whether no worker is left and none will start again, and why.
func (c *crew) gone() (bool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.alive == 0, c.worst
}

// dismiss ends the workers and waits for them.
func (c *crew) dismiss() {
	c.cancel()
	c.wait.Wait()
}

// handIn submits the job, unless the coordinator remembers it from before: then it goes on where it was.
func (t *trainer) handIn(ctx context.Context) error {
	spec := t.spec
	if spec.Resume != "" {
		absolute, err := filepath.Abs(spec.Resume)
		if err != nil {
			return err
		}
		spec.Resume = absolute
	}
	text, err := json.Marshal(spec)
	if err != nil {
		return fmt.Errorf("write job as JSON: %w", err)
	}
	name := filepath.Base(t.directory)
	return askLeader(ctx, t.client, func(ctx context.Context, c mppb.ClusterClient) error {
		known, err := c.Jobs(ctx, &mppb.JobsRequest{})
		if err != nil {
			return err
		}
		for _, j := range slices.Backward(known.Jobs) {
			if j.Directory != name {
				continue
			}
			same := sameJob(j.Spec, spec)
			switch {
			case same && j.State == mppb.Job_DONE, same && goesOn(j.State):
				t.id = j.Id
				if j.State == mppb.Job_PAUSED || j.State == mppb.Job_DRAINING {
					_, err = c.Steer(ctx, &mppb.SteerRequest{Id: j.Id, Verb: mppb.SteerRequest_RESUME})
				}
				return err
			case goesOn(j.State): // its options have changed: another job takes over from its last checkpoint
				if _, err := c.Steer(ctx, &mppb.SteerRequest{Id: j.Id, Verb: mppb.SteerRequest_CANCEL}); err != nil {
					return err
				}
			}
		}
		j, err := c.Submit(ctx, &mppb.SubmitRequest{Spec: text, Directory: name, Data: t.data})
		t.id = j.GetId()
		return err
	})
}

// goesOn says whether a job is not at its end.
func goesOn(s mppb.Job_State) bool {
	return s != mppb.Job_DONE && s != mppb.Job_FAILED && s != mppb.Job_CANCELLED
}

// sameJob says whether a job that the coordinator remembers is the one that is asked for. Where it began does not count:
// by now it has gone on.
func sameJob(known []byte, s job.Spec) bool {
	var k job.Spec
	if json.Unmarshal(known, &k) != nil {
		return false
	}
	k.Resume, s.Resume = "", ""
	k.Init, k.InitPartial, s.Init, s.InitPartial = "", false, "", false // a run begins once: who resumes it does not say from what
	return k == s
}

// Times of following a job.
const (
	lookEvery  = 100 * time.Millisecond
	saveWithin = time.Minute
)

// follow waits for the job's end, or, when a person asks, until it is saved.
func (t *trainer) follow(asked, ctx context.Context, crew *crew) (*mppb.Job, error) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		j, err := t.look(ctx)
		if err != nil && asked.Err() == nil {
			return nil, err
		}
		switch {
		case asked.Err() != nil:
			return nil, t.drain(crew)
		case !goesOn(j.State):
			return j, nil
		}
		if gone, why := crew.gone(); gone {
			if j.Update == 0 && t.fresh {
				why = fmt.Errorf("%w: %w", errNotBegun, why)
			}
			return nil, fmt.Errorf("no worker is left: %w", why)
		}
		select {
		case <-tick.C:
		case <-asked.Done():
		case <-ctx.Done():
		}
	}
}

// look asks how the job is.
func (t *trainer) look(ctx context.Context) (*mppb.Job, error) {
	var j *mppb.Job
	err := askLeader(ctx, t.client, func(ctx context.Context, c mppb.ClusterClient) error {
		d, err := c.Show(ctx, &mppb.JobName{Id: t.id})
		j = d.GetJob()
		return err
	})
	return j, err
}

// drain lets the workers finish their step and save, and returns how to go on.
func (t *trainer) drain(crew *crew) error {
	ctx, cancel := context.WithTimeout(context.Background(), saveWithin)
	defer cancel()
	fmt.Fprintln(t.env.human(), "stopping after the step in hand, and saving; once more ends at once")
	err := askLeader(ctx, t.client, func(ctx context.Context, c mppb.ClusterClient) error {
		_, err := c.Steer(ctx, &mppb.SteerRequest{Id: t.id, Verb: mppb.SteerRequest_DRAIN})
		return err
	})
	for err == nil {
		var j *mppb.Job
		if j, err = t.look(ctx); err != nil {
			break
		}
		if j.State == mppb.Job_PAUSED || !goesOn(j.State) {
			break
		}
		if gone, _ := crew.gone(); gone {
			err = errors.New("no worker is left to save")
			break
		}
		select {
		case <-time.After(lookEvery):
		case <-ctx.Done():
			err = ctx.Err()
		}
	}
	if err != nil {
		t.sayWarning("the run goes on from its last checkpoint: "+err.Error(), nil)
	}
	return fmt.Errorf("%w: mp train --resume %s", errDrained, t.directory)
}

// conclude tells what a job that has ended amounts to.
func (t *trainer) conclude(j *mppb.Job) (trained, error) {
	if j.State != mppb.Job_DONE {
		err := fmt.Errorf("the run is %s: %s", strings.ToLower(j.State.String()), j.Reason)
		if j.Update == 0 && t.fresh {
			return trained{}, fmt.Errorf("%w: %w", errNotBegun, err)
		}
		return trained{}, fmt.Errorf("%w; go on with: mp train --resume %s", err, t.directory)
	}
	o := j.Outcome
	best, _, err := checkpoint.Best(t.directory)
	if err != nil {
		return trained{}, err
	}
	took, survived := time.Since(t.began), t.people.survived()
	t.people.Emit(metrics.Event{Time: time.Now(), Kind: metrics.KindSummary, Summary: &metrics.Summary{
		Title: t.spec.Model, BestTop1: o.GetBestTop1(), BestTop5: o.GetBestTop5(), BestEpoch: int(o.GetBestEpoch()), Epochs: int(o.GetEpochs()),
		Seconds: took.Seconds(), ImagesPerSecond: t.people.rate(), Directory: t.directory, Checkpoint: best, SHA256: o.GetSha256(),
		Goodput: &survived,
		Next: []string{
			fmt.Sprintf("mp evaluate %s --checkpoint %s --mirror", t.spec.Data, t.directory),
			fmt.Sprintf("mp report %s", t.directory),
			fmt.Sprintf("mp checkpoint show %s", best),
		},
	}})
	return trained{
		BestTop1: o.GetBestTop1(), BestTop5: o.GetBestTop5(), Epochs: int(o.GetEpochs()), Seconds: took.Seconds(), Checkpoint: best,
		SHA256: o.GetSha256(), OptimizerSHA256: o.GetOptimizerSha256(), Directory: t.directory,
		Goodput: survived.Share, Faults: survived.Faults,
	}, nil
}

// log opens the log of the coordinator in this process, which is of interest only when something is wrong.
func (t *trainer) log() (*slog.Logger, func(), error) {
	folder := filepath.Join(t.directory, clusterFolder)
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return nil, nil, fmt.Errorf("make the cluster's folder: %w", err)
	}
	f, err := openLog(filepath.Join(folder, "coordinator.log"))
	if err != nil {
		return nil, nil, fmt.Errorf("open the coordinator's log: %w", err)
	}
	level := slog.LevelInfo
	if t.env.verbose {
		level = slog.LevelDebug
	}
	return slog.New(&lineHandler{out: f, level: level, mu: new(sync.Mutex)}), func() { f.Close() }, nil
}
