package cmd

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"mp/job"
)

// drillOptions is what `mp drill` is asked for.
type drillOptions struct {
	data      string
	model     string
	seed      uint64
	failAfter time.Duration
	keep      string // folder that stays; empty: a temporary one that goes
	tls       string
	out       string // file for the verdicts; empty: none
}

func (o *drillOptions) add(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&o.data, "data", "", "folder of MiniPlaces or of packs; empty: a few painted images")
	f.StringVar(&o.model, "model", job.ModelSceneNet, "what to train meanwhile: simplenet, simplevit, resnet18, scenenet")
	f.Uint64Var(&o.seed, "seed", 1, "start of what is random: which worker, when")
	f.DurationVar(&o.failAfter, "fail-after", time.Second, "how long silence may last in the cluster that is hurt")
	f.StringVar(&o.keep, "keep", "", "folder for everything that the cluster writes; empty: a temporary one, kept only when a drill fails")
	f.StringVar(&o.tls, "tls", tlsOff, "on or off: whether the cluster that is hurt speaks TLS")
}

// newDrillCommand returns `mp drill`.
func newDrillCommand(e *env) *cobra.Command {
	var o drillOptions
	c := &cobra.Command{
		Use:   "drill [NAME|NUMBER|all]...",
		Short: "Hurt a cluster of real processes on this machine, and say whether it held",
		Long: "Start a small cluster of processes on this machine, train on it, inject a fault, and compare what must hold: how soon the\n" +
			"fault is noticed and the next step follows, that no sample is lost or seen twice, and that the final weights are those of an\n" +
			"undisturbed run, bit for bit. Without NAME the drills are listed, with about how long each takes. Faults of the network happen\n" +
			"between hosts of their own (namespaces of this machine) and faults of disks on file systems of their own: both need root, and\n" +
			"where that is not to be had the drill is not run and the verdict says so.",
		Example: "  mp drill kill\n  mp drill cut loss delay\n  mp drill all --out drills.json\n  mp drill all --tls on\n  mp drill soak --minutes 30 --every 15s",
		Args:    cobra.ArbitraryArgs,
	}
	o.add(c)
	c.Flags().StringVar(&o.out, "out", "", "file for the verdicts as JSON, what --json prints; empty: none")
	c.RunE = func(c *cobra.Command, args []string) error {
		if len(args) == 0 {
			return listDrills(e)
		}
		if err := o.check(); err != nil {
			return err
		}
		chosen, err := chooseDrills(args)
		if err != nil {
			return err
		}
		return runDrills(c.Context(), e, o, chosen)
	}
	c.AddCommand(newSoakCommand(e))
	return c
}

func (o drillOptions) check() error {
	if o.tls != tlsOn && o.tls != tlsOff {
		return fmt.Errorf("%w: --tls %q: choose on or off", job.ErrConfig, o.tls)
	}
	return nil
}

// chooseDrills are the drills with a name or a number among words, or all, in the list's order.
func chooseDrills(words []string) ([]drill, error) {
	var chosen []drill
	found := map[string]bool{}
	for _, d := range drills() {
		wanted := false
		for _, w := range words {
			if w == "all" || w == d.name || w == strconv.Itoa(d.number) {
				wanted, found[w] = true, true
			}
		}
		if wanted {
			chosen = append(chosen, d)
		}
	}
	for _, w := range words {
		if !found[w] {
			return nil, fmt.Errorf("%w: no drill %q: `mp drill` lists them", job.ErrConfig, w)
		}
	}
	return chosen, nil
}

func listDrills(e *env) error {
	var rows [][]string
	for _, d := range drills() {
		rows = append(rows, []string{strconv.Itoa(d.number), d.name, d.what, "about " + span(d.takes())})
	}
	rows = append(rows, []string{"29", "soak", "random faults, one every 15 s on average: a verb of its own, not among all", "as told"})
	return writeTable(e.stdout, []string{">", "drill", "what is done to the cluster", "takes"}, rows)
}

// drill is a fault, and what must hold.
type drill struct {
	number       int // of the list of faults to survive
	name         string
	what         string
	coordinators int // 0: one
	minWorkers   int
	nats         bool          // with a NATS server of its own
	hosts        bool          // with a host for each process
	small        string        // folder of the coordinators that is a small disk: data or runs; empty: none
	model        string        // empty: as asked for
	failAfter    time.Duration // 0: as asked for
	lasts        time.Duration // how long the job must last, about; 0: 20 s
	spec         func(*job.Spec)
	run          func(ctx context.Context, r *rehearsal) error
}

// job is how long the job must last, about.
func (d drill) job() time.Duration {
	if d.lasts == 0 {
		return 20 * time.Second
	}
	return d.lasts
}

// takes is about how long the drill does on an idle machine: processes start and end too.
func (d drill) takes() time.Duration { return d.job() + 10*time.Second }

// errNotHeld is returned when a drill has failed.
var errNotHeld = errors.New("did not hold")

// runDrills runs drills one after another, prints a verdict for each and a table of all.
func runDrills(ctx context.Context, e *env, o drillOptions, chosen []drill) error {
	t, leave, err := newTheatre(ctx, e, o)
	if err != nil {
		return err
	}
	result := newDrillReport(o)
	for i, d := range chosen {
		fmt.Fprintf(e.human(), "[%d/%d] %s  %d %s: %s (about %s)\n", i+1, len(chosen), time.Now().Format(time.TimeOnly), d.number, d.name, d.what, span(d.takes()))
		v := t.rehearse(ctx, d)
		if ctx.Err() != nil {
			leave(false)
			return ctx.Err()
		}
		result.add(v)
		if !e.json {
			fmt.Fprint(e.stdout, v.text())
		}
		if err := result.write(o.out); err != nil { // after each: what has been seen is not lost with the rest
			leave(true)
			return err
		}
	}
	leave(result.Failed > 0)
	if e.json {
		err = e.printJSON(result)
	} else if len(chosen) > 1 {
		err = result.print(e)
	}
	if err == nil && result.Failed > 0 {
		err = fmt.Errorf("%d of %s %w: %s", result.Failed, count(len(chosen), "drill", "drills"), errNotHeld, strings.Join(result.failed(), ", "))
	}
	return err
}
