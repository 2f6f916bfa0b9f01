package cmd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"mp/data"
	"mp/job"
	"mp/mppb"
)

// drillOptions is what `mp drill` is asked for.
type drillOptions struct {
	data      string
	model     string
	seed      uint64
	failAfter time.Duration
	keep      string // folder that stays; empty: a temporary one that goes
}

func (o *drillOptions) add(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&o.data, "data", "", "folder of MiniPlaces or of packs; empty: a few painted images")
	f.StringVar(&o.model, "model", job.ModelSceneNet, "what to train meanwhile: simplenet, simplevit, resnet18, scenenet")
	f.Uint64Var(&o.seed, "seed", 1, "start of what is random: which worker, when")
	f.DurationVar(&o.failAfter, "fail-after", time.Second, "how long silence may last in the cluster that is hurt")
	f.StringVar(&o.keep, "keep", "", "folder for everything that the cluster writes; empty: a temporary one, kept only when a drill fails")
}

// newDrillCommand returns `mp drill`.
func newDrillCommand(e *env) *cobra.Command {
	var o drillOptions
	c := &cobra.Command{
		Use:   "drill [NAME|all]",
		Short: "Hurt a cluster of real processes on this machine, and say whether it held",
		Long: "Start a small cluster of processes on this machine, train on it, inject a fault, and compare what must hold: how soon the\n" +
			"fault is noticed and the next step follows, that no sample is lost or seen twice, and that the final weights are those of an\n" +
			"undisturbed run, bit for bit. Without NAME the drills are listed.",
		Example: "  mp drill kill\n  mp drill all --json\n  mp drill soak --minutes 30 --every 15s",
		Args:    atMostOneArg("NAME"),
	}
	o.add(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		if len(args) == 0 {
			return listDrills(e)
		}
		var chosen []drill
		for _, d := range drills() {
			if args[0] == "all" || args[0] == d.name || args[0] == strconv.Itoa(d.number) {
				chosen = append(chosen, d)
			}
		}
		if len(chosen) == 0 {
			return fmt.Errorf("%w: no drill %q: `mp drill` lists them", job.ErrConfig, args[0])
		}
		return runDrills(c.Context(), e, o, chosen)
	}
	c.AddCommand(newSoakCommand(e))
	return c
}

func listDrills(e *env) error {
	var rows [][]string
	for _, d := range drills() {
		rows = append(rows, []string{strconv.Itoa(d.number), d.name, d.what})
	}
	return writeTable(e.stdout, []string{">", "drill", "what is done to the cluster"}, rows)
}

// drill is a fault, and what must hold.
type drill struct {
	number       int // of the list of faults to survive
	name         string
	what         string
	coordinators int // 0: one
	minWorkers   int
	nats         bool          // with a NATS server of its own
	failAfter    time.Duration // 0: as asked for
	lasts        time.Duration // how long the job must last, about; 0: 20 s
	spec         func(*job.Spec)
	run          func(ctx context.Context, r *rehearsal) error
}

// drilled is the verdict of one drill.
type drilled struct {
	Drill   string       `json:"drill"`
	Number  int          `json:"number"`
	Held    bool         `json:"held"`
	Seconds float64      `json:"seconds"`
	Error   string       `json:"error,omitempty"`
	Checks  []drillCheck `json:"checks"`
}

// drillCheck is one thing that must hold.
type drillCheck struct {
	What string `json:"what"`
	Got  string `json:"got"`
	Want string `json:"want"`
	Held bool   `json:"held"`
}

// rehearsal is one drill under way.
type rehearsal struct {
	*fleet
	server *natsProcess // nil: the drill needs none
	spec   job.Spec
	random *rand.Rand
	out    io.Writer
	checks []drillCheck
}

// check notes something that must hold.
func (r *rehearsal) check(held bool, what, got, want string) {
	r.checks = append(r.checks, drillCheck{what, got, want, held})
}

// within notes a time that must not be longer than a limit. 0 stands for never.
func (r *rehearsal) within(what string, got, limit time.Duration) {
	text := span(got)
	if got <= 0 {
		text = "never"
	}
	r.check(got > 0 && got <= limit, what, text, "at most "+span(limit))
}

// errNotHeld is returned when a drill has failed.
var errNotHeld = errors.New("did not hold")

// theatre is where drills are run: images, the undisturbed runs to compare with, and a folder.
type theatre struct {
	drillOptions
	env     *env
	program string
	dir     string
	calm    map[job.Spec]*mppb.Outcome // by specification: what an undisturbed run ends with
	epoch   time.Duration              // of one epoch by one worker; 0: not measured yet
}

// newTheatre prepares images and a folder. leave removes the folder unless something there may be of use.
func newTheatre(ctx context.Context, e *env, o drillOptions) (t *theatre, leave func(keep bool), err error) {
	t = &theatre{drillOptions: o, env: e, calm: map[job.Spec]*mppb.Outcome{}}
	if t.program, err = os.Executable(); err != nil {
		return nil, nil, fmt.Errorf("find this program: %w", err)
	}
	leave = func(bool) {}
	if t.dir = o.keep; t.dir == "" {
		if t.dir, err = os.MkdirTemp("", "mp-drill-"); err != nil {
			return nil, nil, fmt.Errorf("make a folder for the drill: %w", err)
		}
		leave = func(keep bool) {
			if keep {
				fmt.Fprintf(e.human(), "logs and runs are in %s\n", t.dir)
				return
			}
			_ = os.RemoveAll(t.dir)
		}
	} else if err := os.MkdirAll(t.dir, 0o755); err != nil {
		return nil, nil, fmt.Errorf("make a folder for the drill: %w", err)
	}
	if t.data == "" {
		t.data = filepath.Join(t.dir, "images")
		if !exists(t.data) {
			err = data.Synth(ctx, data.SynthConfig{Dir: t.data, Classes: 8, Train: 320, Val: 64, Seed: 1})
		}
	}
	if err == nil {
		_, err = dataset(ctx, e, job.Spec{Data: t.data}) // packs are made once, before workers race for it
	}
	if err != nil {
		leave(false)
		return nil, nil, err
	}
	return t, leave, nil
}

// spec is a job of short steps that lasts about as long as is wanted, with everything in it that could tell one run from
// another: batch norm, averages, augmentation.
func (t *theatre) spec(ctx context.Context, lasts time.Duration) (job.Spec, error) {
	const calibration = 2
	if t.epoch == 0 {
		s, err := t.specOf(calibration)
		if err != nil {
			return s, err
		}
		if _, err := t.undisturbed(ctx, s); err != nil {
			return s, err
		}
	}
	// Several workers are faster than the one that was measured, by as many as there are cores at most.
	faster := min(cores(), 3)
	return t.specOf(max(calibration, int(lasts*time.Duration(faster)/t.epoch)+1))
}

func (t *theatre) specOf(epochs int) (job.Spec, error) {
	s, err := job.Default(job.Spec{Model: t.model, Epochs: epochs})
	if err != nil {
		return s, err
	}
	s.Data, s.Device, s.BatchSize, s.Shards, s.Threads, s.PrintFreq, s.CheckpointEvery = imagesOfTheCluster, job.DeviceCPU, 16, fewShards, 1, 5, 10
	if s.Model != job.ModelSimpleViT {
		s.ImageSize = "32"
	}
	return s, s.Validate()
}

// undisturbed is what a run of the specification by one worker ends with.
func (t *theatre) undisturbed(ctx context.Context, s job.Spec) (*mppb.Outcome, error) {
	key := s
	key.CheckpointEvery = 0
	if o := t.calm[key]; o != nil {
		return o, nil
	}
	fmt.Fprintf(t.env.human(), "an undisturbed run of %d epochs by one worker, to compare with\n", s.Epochs)
	dir, err := os.MkdirTemp(t.dir, "undisturbed-")
	if err != nil {
		return nil, err
	}
	f, err := newFleet(ctx, fleetConfig{program: t.program, dir: dir, data: t.data, coordinators: 1, failAfter: t.failAfter, nats: natsNone})
	if err != nil {
		return nil, err
	}
	defer f.close()
	if _, err := f.startWorker(1); err != nil {
		return nil, err
	}
	if err := f.submit(ctx, s); err != nil {
		return nil, err
	}
	if err := f.untilUpdate(ctx, 1); err != nil {
		return nil, f.errLines(fmt.Errorf("undisturbed run: %w", err))
	}
	began := time.Now()
	j, err := f.untilEnd(ctx, time.Hour)
	if err != nil {
		return nil, f.errLines(fmt.Errorf("undisturbed run: %w", err))
	}
	t.epoch = time.Since(began) / time.Duration(s.Epochs)
	t.calm[key] = j.Outcome
	return j.Outcome, nil
}

// rehearse runs one drill.
func (t *theatre) rehearse(ctx context.Context, d drill) drilled {
	began := time.Now()
	v := drilled{Drill: d.name, Number: d.number, Checks: []drillCheck{}}
	r, err := t.stage(ctx, d)
	if r != nil {
		v.Checks = r.checks
	}
	v.Seconds = time.Since(began).Seconds()
	v.Held = err == nil
	for _, c := range v.Checks {
		v.Held = v.Held && c.Held
	}
	if err != nil {
		v.Error = err.Error()
	}
	return v
}

func (t *theatre) stage(ctx context.Context, d drill) (*rehearsal, error) {
	if d.lasts == 0 {
		d.lasts = 20 * time.Second
	}
	s, err := t.spec(ctx, d.lasts)
	if err != nil {
		return nil, err
	}
	if d.spec != nil {
		d.spec(&s)
	}
	calm, err := t.undisturbed(ctx, s)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(t.dir, d.name+"-")
	if err != nil {
		return nil, err
	}
	c := fleetConfig{program: t.program, dir: dir, data: t.data, coordinators: max(d.coordinators, 1), minWorkers: d.minWorkers, failAfter: t.failAfter, nats: natsNone}
	if d.failAfter > 0 {
		c.failAfter = d.failAfter
	}
	var server *natsProcess
	if d.nats {
		if server, err = startNATSProcess(ctx, c); err != nil {
			return nil, err
		}
		defer server.kill()
		c.nats = server.url
	}
	f, err := newFleet(ctx, c)
	if err != nil {
		return nil, err
	}
	defer f.close()
	r := &rehearsal{fleet: f, server: server, spec: s, random: rand.New(rand.NewPCG(t.seed, uint64(d.number))), out: t.env.human()}
	if err := d.run(ctx, r); err != nil {
		return r, f.errLines(err)
	}
	j, err := f.untilEnd(ctx, 5*time.Minute)
	if err != nil {
		return r, f.errLines(err)
	}
	return r, r.verify(ctx, j, calm)
}

// verify checks what must hold after every drill: no sample lost or repeated, and the bits of the undisturbed run.
func (r *rehearsal) verify(ctx context.Context, j *mppb.Job, calm *mppb.Outcome) error {
	if err := r.until(ctx, 10*time.Second, "the ledger of the last epoch", func() bool { return r.ledgerOf(int(j.Outcome.GetEpochs())) != nil }); err != nil {
		return err
	}
	missing, repeated, unproven := uint64(0), uint64(0), 0
	for _, l := range r.ledgerOf(0) {
		i := newLedgerInfo(l)
		missing, repeated = missing+i.Missing, repeated+i.Repeated
		if !i.Proven {
			unproven++
		}
	}
	r.check(missing == 0 && repeated == 0 && unproven == 0, "samples lost, samples repeated, epochs without proof", fmt.Sprintf("%d, %d, %d", missing, repeated, unproven), "0, 0, 0")
	got, want := j.Outcome, calm
	r.check(got.GetSha256() != "" && got.GetSha256() == want.GetSha256(), "SHA-256 of the weights", short(got.GetSha256()), short(want.GetSha256()))
	r.check(got.GetOptimizerSha256() == want.GetOptimizerSha256(), "SHA-256 of the optimizer", short(got.GetOptimizerSha256()), short(want.GetOptimizerSha256()))
	r.check(got.GetBestEpoch() == want.GetBestEpoch() && got.GetBestTop1() == want.GetBestTop1(), "best epoch and its top-1",
		fmt.Sprintf("%d, %.4f %%", got.GetBestEpoch(), got.GetBestTop1()), fmt.Sprintf("%d, %.4f %%", want.GetBestEpoch(), want.GetBestTop1()))
	return nil
}

// ledgerOf is the ledger when it tells of at least n epochs, else nil.
func (r *rehearsal) ledgerOf(n int) []*mppb.Ledger {
	r.mu.Lock()
	defer r.mu.Unlock()
	whole := 0
	for _, l := range r.detail.GetLedger() {
		if l.Whole {
			whole++
		}
	}
	if whole < n {
		return nil
	}
	return r.detail.GetLedger()
}

// short is the beginning of a hash.
func short(hash string) string { return hash[:min(len(hash), 16)] }

// runDrills runs drills one after another and prints a verdict for each.
func runDrills(ctx context.Context, e *env, o drillOptions, chosen []drill) error {
	t, leave, err := newTheatre(ctx, e, o)
	if err != nil {
		return err
	}
	failed := 0
	verdicts := []drilled{}
	for _, d := range chosen {
		fmt.Fprintf(e.human(), "%d %s: %s\n", d.number, d.name, d.what)
		v := t.rehearse(ctx, d)
		if ctx.Err() != nil {
			leave(false)
			return ctx.Err()
		}
		verdicts = append(verdicts, v)
		if !v.Held {
			failed++
		}
		if !e.json {
			fmt.Fprint(e.stdout, v.text())
		}
	}
	leave(failed > 0)
	if e.json {
		if err := e.printJSON(map[string][]drilled{"drills": verdicts}); err != nil {
			return err
		}
	}
	if failed > 0 {
		return fmt.Errorf("%d of %s %w", failed, count(len(chosen), "drill", "drills"), errNotHeld)
	}
	return nil
}

// text is the verdict for people.
func (v drilled) text() string {
	var b strings.Builder
	var rows [][]string
	for _, c := range v.Checks {
		mark := "held"
		if !c.Held {
			mark = "FAILED"
		}
		rows = append(rows, []string{"  " + mark, c.What, c.Got, c.Want})
	}
	_ = writeTable(&b, []string{"", "what", "got", "want"}, rows)
	verdict := "held"
	if !v.Held {
		verdict = "DID NOT HOLD"
	}
	fmt.Fprintf(&b, "  %s: %s in %s", v.Drill, verdict, span(time.Duration(v.Seconds*float64(time.Second))))
	if v.Error != "" {
		fmt.Fprintf(&b, ": %s", v.Error)
	}
	b.WriteString("\n\n")
	return b.String()
}
