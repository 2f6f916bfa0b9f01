package cmd

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"mp/job"
	"mp/metrics"
	"mp/mppb"
)

// soakOptions is what `mp drill soak` is asked for.
type soakOptions struct {
	drillOptions
	minutes      float64
	every        time.Duration
	workers      int
	coordinators int
	verify       bool
	faults       []string
}

// Kinds of faults of a soak.
const (
	faultKill   = "kill"   // kill -9 of a worker, which is started again
	faultStop   = "stop"   // SIGSTOP of a worker, SIGCONT three times --fail-after later
	faultTerm   = "term"   // SIGTERM of a worker, which is started again
	faultLeader = "leader" // kill -9 of the leading coordinator, which is started again
)

// newSoakCommand returns `mp drill soak`.
func newSoakCommand(e *env) *cobra.Command {
	var o soakOptions
	c := &cobra.Command{
		Use:   "soak",
		Short: "Inject random faults for a long time and say what they cost",
		Long: "Train on a cluster of processes on this machine and inject a random fault at random moments, --every on average. It ends with\n" +
			"the committed steps, the goodput (the time that the committed steps would have taken undisturbed, over the time that passed),\n" +
			"samples lost, and how soon faults were noticed and the next step followed. An undisturbed step's time is that of the median\n" +
			"undisturbed epoch, with its validation and its checkpoint, per step.",
		Example: "  mp drill soak --minutes 30 --every 15s\n  mp drill soak --minutes 30 --every 60s --verify",
		Args:    cobra.NoArgs,
	}
	o.add(c)
	f := c.Flags()
	f.Float64Var(&o.minutes, "minutes", 30, "minutes in which faults are injected")
	f.DurationVar(&o.every, "every", 15*time.Second, "mean time between two faults")
	f.IntVar(&o.workers, "workers", 3, "workers")
	f.IntVar(&o.coordinators, "coordinators", 3, "coordinators: 1, 3 or 5")
	f.BoolVar(&o.verify, "verify", false, "train on to the end of the job, and once more undisturbed by one worker, and compare the bits")
	f.StringSliceVar(&o.faults, "faults", []string{faultKill, faultStop, faultTerm, faultLeader}, "kinds of faults: kill, stop, term, leader")
	c.RunE = func(c *cobra.Command, _ []string) error {
		if err := o.check(); err != nil {
			return err
		}
		return soak(c.Context(), e, o)
	}
	return c
}

func (o soakOptions) check() error {
	if err := o.drillOptions.check(); err != nil {
		return err
	}
	if o.minutes <= 0 || o.every < time.Second || o.workers < 1 || o.workers > 64 {
		return fmt.Errorf("%w: --minutes %g, --every %s, --workers %d: choose above 0, at least 1s, 1 to 64", job.ErrConfig, o.minutes, o.every, o.workers)
	}
	for _, f := range o.faults {
		if !slices.Contains([]string{faultKill, faultStop, faultTerm, faultLeader}, f) {
			return fmt.Errorf("%w: --faults %s: choose kill, stop, term, leader", job.ErrConfig, f)
		}
		if f == faultLeader && o.coordinators < 3 {
			return fmt.Errorf("%w: --faults leader needs --coordinators 3 or 5", job.ErrConfig)
		}
	}
	if len(o.faults) == 0 {
		return fmt.Errorf("%w: --faults names none: choose kill, stop, term, leader", job.ErrConfig)
	}
	return nil
}

// soaked is the result of `mp drill soak` as JSON.
type soaked struct {
	metrics.GoodputReport
	Injected      map[string]int `json:"injected"`
	Unrecoverable int            `json:"unrecoverable"` // faults after which no step followed within a minute
	SamplesLost   uint64         `json:"samples_lost"`
	SamplesTwice  uint64         `json:"samples_repeated"`
	EpochsProven  int            `json:"epochs_proven"`
	EpochsWhole   int            `json:"epochs_whole"`
	SHA256        string         `json:"sha256,omitempty"`      // with --verify
	Undisturbed   string         `json:"undisturbed,omitempty"` // with --verify
	SameBits      bool           `json:"same_bits"`             // with --verify
}

// soak hurts a cluster for a while.
func soak(ctx context.Context, e *env, o soakOptions) error {
	t, leave, err := newTheatre(ctx, e, o.drillOptions)
	if err != nil {
		return err
	}
	result, err := t.soak(ctx, o)
	good := err == nil && result.SamplesLost == 0 && result.SamplesTwice == 0 && result.Unrecoverable == 0 && result.EpochsProven == result.EpochsWhole &&
		(!o.verify || result.SameBits)
	leave(!good && ctx.Err() == nil)
	if err != nil {
		return err
	}
	if e.json {
		err = e.printJSON(result)
	} else {
		err = result.print(e, o)
	}
	if err == nil && !good {
		err = fmt.Errorf("the soak %w", errNotHeld)
	}
	return err
}

func (s soaked) print(e *env, o soakOptions) error {
	var injected []string
	for _, f := range o.faults {
		injected = append(injected, fmt.Sprintf("%d %s", s.Injected[f], f))
	}
	goodput := "not known: faults left no epoch undisturbed; give it more --minutes, or more time between faults (--every)"
	if s.StepSeconds > 0 {
		goodput = fmt.Sprintf("%.1f %%: %s of %s, at %s a step of an undisturbed epoch", 100*s.Share, span(seconds(s.UsefulSeconds)), span(seconds(s.WallSeconds)), milliseconds(s.StepSeconds))
	}
	rows := [][]string{
		{"faults injected", fmt.Sprintf("%s; one every %s on average", strings.Join(injected, ", "), o.every)},
		{"committed steps", thousands(uint64(s.CommittedSteps))},
		{"goodput", goodput},
		{"noticed after", fmt.Sprintf("median %s, p99 %s", span(seconds(s.DetectMedian)), span(seconds(s.DetectP99)))},
		{"next step after", fmt.Sprintf("median %s, p99 %s", span(seconds(s.RecoverMedian)), span(seconds(s.RecoverP99)))},
		{"unrecoverable", fmt.Sprint(s.Unrecoverable)},
		{"samples lost", fmt.Sprintf("%d, repeated %d; %d of %d whole epochs proven", s.SamplesLost, s.SamplesTwice, s.EpochsProven, s.EpochsWhole)},
	}
	if o.verify {
		same := "DIFFERENT"
		if s.SameBits {
			same = "the same"
		}
		rows = append(rows, []string{"SHA-256", fmt.Sprintf("%s, undisturbed %s: %s", short(s.SHA256), short(s.Undisturbed), same)})
	}
	return writeTable(e.stdout, []string{"soak", ""}, rows)
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

func (t *theatre) soak(ctx context.Context, o soakOptions) (soaked, error) {
	s, err := t.specOf(t.model, 100_000) // ends when it is told to
	if o.verify {
		s, err = t.spec(ctx, t.model, time.Duration(o.minutes*float64(time.Minute)))
	}
	if err != nil {
		return soaked{}, err
	}
	s.CheckpointEvery = 0
	dir, err := os.MkdirTemp(t.dir, "soak-")
	if err != nil {
		return soaked{}, err
	}
	f, err := newFleet(ctx, fleetConfig{program: t.program, dir: dir, data: t.data, coordinators: o.coordinators, failAfter: t.failAfter, nats: natsNone, secret: t.secret})
	if err != nil {
		return soaked{}, err
	}
	defer f.close()
	r := &rehearsal{fleet: f, spec: s, random: rand.New(rand.NewPCG(o.seed, 0)), out: t.env.human()}
	b := bath{rehearsal: r, o: o, injected: map[string]int{}}
	if err := b.run(ctx); err != nil {
		return soaked{}, f.errLines(err)
	}
	result := soaked{GoodputReport: b.goodput.Report(time.Now()), Injected: b.injected, Unrecoverable: b.unrecoverable}
	if o.verify {
		j, err := f.untilEnd(ctx, time.Hour)
		if err != nil {
			return soaked{}, f.errLines(err)
		}
		calm, err := t.undisturbed(ctx, s)
		if err != nil {
			return soaked{}, err
		}
		result.SHA256, result.Undisturbed = j.Outcome.GetSha256(), calm.GetSha256()
		result.SameBits = result.SHA256 == result.Undisturbed && j.Outcome.GetOptimizerSha256() == calm.GetOptimizerSha256()
	}
	for _, l := range r.ledgerOf(0) {
		i := newLedgerInfo(l)
		result.SamplesLost, result.SamplesTwice = result.SamplesLost+i.Missing, result.SamplesTwice+i.Repeated
		if i.Whole {
			result.EpochsWhole++
		}
		if i.Proven {
			result.EpochsProven++
		}
	}
	return result, nil
}

// bath is a soak under way.
type bath struct {
	*rehearsal
	o             soakOptions
	goodput       metrics.Goodput
	injected      map[string]int
	unrecoverable int
	measured      int    // commits already looked at
	epoch         uint64 // of the newest commit given to goodput
	heard         int    // events already given to goodput
}

// run injects faults until the time is over.
func (b *bath) run(ctx context.Context) error {
	if err := b.crew(ctx, b.o.workers); err != nil {
		return err
	}
	end := time.Now().Add(time.Duration(b.o.minutes * float64(time.Minute)))
	next := time.Now().Add(b.pause())
	for time.Now().Before(end) && goesOn(b.now().GetState()) {
		if time.Now().After(next) {
			if err := b.inject(ctx); err != nil {
				return err
			}
			next = time.Now().Add(b.pause())
		}
		if err := b.restart(); err != nil {
			return err
		}
		b.measure()
		select {
		case <-time.After(glance):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	b.measure()
	return nil
}

// pause is the time to the next fault: faults come independently of each other.
func (b *bath) pause() time.Duration {
	return time.Duration(b.random.ExpFloat64() * float64(b.o.every))
}

// restart starts what has died, as a supervisor does.
func (b *bath) restart() error {
	for i := 1; i <= b.o.workers; i++ {
		p := b.workers[workerName(i)]
		select {
		case <-p.done:
		default:
			continue
		}
		if p.code == exitBadInput {
			return fmt.Errorf("%s ended with %d: %s", p.name, p.code, lastWord(p.log, p.name))
		}
		if _, err := b.startWorker(i); err != nil {
			return err
		}
	}
	for _, n := range b.nodes {
		select {
		case <-n.done:
			if err := b.startNode(n); err != nil {
				return err
			}
		default:
		}
	}
	return nil
}

// inject hurts something and waits for the next step.
func (b *bath) inject(ctx context.Context) error {
	kind := b.o.faults[b.random.IntN(len(b.o.faults))]
	victim := b.workers[workerName(1+b.random.IntN(b.o.workers))]
	name := victim.name
	at, stood := time.Now(), b.now().GetUpdate()
	switch kind {
	case faultKill:
		victim.signal(syscall.SIGKILL)
	case faultTerm:
		victim.signal(syscall.SIGTERM)
	case faultStop:
		victim.signal(syscall.SIGSTOP)
		defer func() { victim.signal(syscall.SIGCONT) }()
	case faultLeader:
		asking, cancel := context.WithTimeout(ctx, 5*b.failAfter)
		n, err := b.leader(asking)
		cancel()
		if err != nil {
			return nil // it is still being chosen after the last one died
		}
		n.signal(syscall.SIGKILL)
		name = n.id
	}
	b.injected[kind]++
	if kind == faultStop {
		if err := rest(ctx, 3*b.failAfter); err != nil {
			return err
		}
	}
	err := b.until(ctx, time.Minute, "a step after "+kind, func() bool {
		return b.restart() == nil && b.now().GetUpdate() > stood && b.nextCommit(at) > 0 || !goesOn(b.now().GetState())
	})
	if err != nil {
		b.unrecoverable++
		return err
	}
	fmt.Fprintf(b.out, "%s  %-6s %-14s update %d, next step after %s\n", at.Format(time.TimeOnly), kind, name, stood, span(b.nextCommit(at)))
	return nil
}

// measure gives what was seen since the last time to the goodput: of the commits the first of each epoch, so that what comes
// with every epoch, validation and a checkpoint, is no cost of faults.
func (b *bath) measure() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for ; b.heard < len(b.events); b.heard++ {
		b.tell(b.events[b.heard])
	}
	per := b.job.GetUpdates() / uint64(b.spec.Epochs)
	for ; per > 0 && b.measured < len(b.steps); b.measured++ {
		s := b.steps[b.measured]
		if epoch := s.update / per; epoch != b.epoch {
			b.epoch = epoch
			b.goodput.Step(int(s.update), b.o.workers, s.at)
		}
	}
}

func (b *bath) tell(e *mppb.Event) {
	switch {
	case e.RecoverSeconds > 0:
		b.goodput.Recovered(seconds(e.RecoverSeconds))
	case e.Topic == "view" && e.Warning, e.Topic == "leader":
		b.goodput.Fault(seconds(e.DetectSeconds))
	case e.Topic == "view":
		b.goodput.Disturb()
	}
}
