package cmd

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	"mp/coordinator/membership"
	"mp/coordinator/membership/sim"
	"mp/job"
	"mp/mppb"
)

// benchControlOptions is what `mp bench control` is asked for.
type benchControlOptions struct {
	sequences, workers, repetitions int
	seed                            uint64
}

// newBenchControlCommand returns `mp bench control`.
func newBenchControlCommand(e *env) *cobra.Command {
	var o benchControlOptions
	var live liveOptions
	c := &cobra.Command{
		Use:   "control",
		Short: "Simulated faults by the hundred thousand, and what a thousand workers cost the coordinator",
		Long: "control plays sequences of faults (workers and leaders killed, stopped, cut off, slow; messages lost, late, twice) against\n" +
			"the rules of membership in virtual time, on one core, and checks after every event: no sample lost or repeated, no two\n" +
			"views at once, one result for every step, progress when the faults are over. A sequence that fails is printed with the\n" +
			"command that plays it again. Then it measures the control plane for --workers: processor time without network and disk,\n" +
			"and a view change as modelled for 1 Gb/s, 0.2 ms between two workers and 20 ms for the raft log.\n\n" +
			"With --live N it measures the real thing instead: a coordinator in a process of its own, with its log on disk, and N workers\n" +
			"that compute nothing but speak the protocol over real connections, in this process. They join a job, report updates every\n" +
			"100 ms, are killed, alone and by the hundredth, and replaced. Both sides share this machine.",
		Example: "  mp bench control\n  mp bench control --sequences 1 --seed 4711\n  mp bench control --live 1000",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, args []string) error {
			if c.Flags().Changed("live") {
				return benchControlLive(c.Context(), e, live)
			}
			return benchControl(c.Context(), e, o)
		},
	}
	c.Flags().IntVar(&o.sequences, "sequences", 300_000, "sequences of faults")
	c.Flags().Uint64Var(&o.seed, "seed", 0, "seed of the first one")
	c.Flags().IntVar(&o.workers, "workers", 1000, "workers of the measurement")
	c.Flags().IntVar(&o.repetitions, "repetitions", 9, "measurements, of which the median counts")
	c.Flags().IntVar(&live.workers, "live", 0, "measure a real coordinator under so many workers instead, over the network of this machine")
	c.Flags().IntVar(&live.rounds, "rounds", 20, "with --live: how often some are killed and replaced")
	c.Flags().DurationVar(&live.rest, "rest", 10*time.Second, "with --live: how long to look at steps without faults")
	c.Flags().DurationVar(&live.failAfter, "fail-after", time.Second, "with --live: how long silence may last, as of mp coordinator")
	return c
}

func benchControl(ctx context.Context, e *env, o benchControlOptions) error {
	if o.sequences < 1 || o.repetitions < 1 || o.workers < 2 || o.workers > 10_000 {
		return fmt.Errorf("%w: --sequences and --repetitions: at least 1; --workers: 2 to 10000", job.ErrConfig)
	}
	rows, err := playFaults(ctx, o)
	if err != nil {
		return err
	}
	more, err := measureControl(o)
	if err != nil {
		return err
	}
	return printBench(e, append(rows, more...))
}

// playFaults runs the simulation.
func playFaults(ctx context.Context, o benchControlOptions) ([]benchRow, error) {
	var all sim.Result
	recoveries := map[sim.FaultKind][]float64{}
	took, err := cpuSeconds(false, func() error {
		for i := range o.sequences {
			if i%64 == 0 && ctx.Err() != nil {
				return ctx.Err()
			}
			c := sim.DefaultConfig()
			c.Replay = i%100 == 0
			r := sim.Run(o.seed+uint64(i), c)
			if r.Violation != "" {
				return fmt.Errorf("sequence %d: %s; this is a fault of mp, please report it with its replay: mp bench control --sequences 1 --seed %d", r.Seed, r.Violation, r.Seed)
			}
			for k, n := range r.Faults {
				all.Faults[k] += n
			}
			all.Steps += r.Steps
			all.Views += r.Views
			all.Leaders += r.Leaders
			all.RollBacks += r.RollBacks
			all.Strays += r.Strays
			all.Virtual += r.Virtual
			for _, x := range r.Recover {
				if x.Alone {
					recoveries[x.Kind] = append(recoveries[x.Kind], x.Time.Seconds())
				}
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	rows := []benchRow{
		{Name: "sequences of faults", Value: float64(o.sequences), Unit: "sequences"},
		{Name: "violations", Value: 0, Unit: "sequences"},
		{Name: "sequences a second", Value: float64(o.sequences) / took, Unit: "1/s/core"},
		{Name: "virtual time", Value: all.Virtual.Hours(), Unit: "h"},
	}
	total := 0
	for k, n := range all.Faults {
		total += n
		rows = append(rows, benchRow{Name: "fault: " + sim.FaultKind(k).String(), Value: float64(n), Unit: "faults"})
	}
	rows = append(rows,
		benchRow{Name: "faults", Value: float64(total), Unit: "faults"},
		benchRow{Name: "steps committed", Value: float64(all.Steps), Unit: "steps"},
		benchRow{Name: "views", Value: float64(all.Views), Unit: "views"},
		benchRow{Name: "leaders", Value: float64(all.Leaders), Unit: "leaders"},
		benchRow{Name: "back to a checkpoint, nobody had the state", Value: float64(all.RollBacks), Unit: "times"},
		benchRow{Name: "steps of who was taken for dead, not recorded", Value: float64(all.Strays), Unit: "steps"})
	for _, kind := range []sim.FaultKind{sim.Kill, sim.RingBreak, sim.PowerOff, sim.KillMany} {
		if x := recoveries[kind]; len(x) > 0 {
			slices.Sort(x)
			rows = append(rows,
				benchRow{Name: "next step after " + kind.String() + ", median", Value: x[len(x)/2], Unit: "s, virtual"},
				benchRow{Name: "next step after " + kind.String() + ", 99th percentile", Value: x[len(x)*99/100], Unit: "s, virtual"})
		}
	}
	return rows, nil
}

// What a view change waits for besides the processor: the model of a cluster's network and disk.
const (
	modelLog     = 20 * time.Millisecond  // raft: a round trip and an fsync at a majority
	modelHop     = 200 * time.Microsecond // between two workers; a new ring goes round once
	modelRate    = 125e6                  // bytes a second out of the coordinator: 1 Gb/s
	modelNotice  = 10 * time.Millisecond  // a connection's reset
	stepOfThe100 = 100 * float64(time.Millisecond) / float64(time.Second)
)

// measureControl measures what many workers cost the coordinator.
func measureControl(o benchControlOptions) ([]benchRow, error) {
	crowd, err := sim.NewCrowd(o.workers)
	if err != nil {
		return nil, err
	}
	const steps = 20
	var step, change []float64
	for i := range o.repetitions + 1 {
		t, err := cpuSeconds(true, func() error {
			for range steps {
				if err := crowd.Step(); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		c, err := cpuSeconds(true, func() error { return crowd.Lose(i % o.workers) })
		if err != nil {
			return nil, err
		}
		for range 25 { // whoever took its place catches up
			if err := crowd.Step(); err != nil {
				return nil, err
			}
		}
		if i > 0 { // the first warms up
			step, change = append(step, t/steps), append(change, c)
		}
	}
	slices.Sort(step)
	slices.Sort(change)
	state, err := json.Marshal(crowd.State)
	if err != nil {
		return nil, fmt.Errorf("encode state: %w", err)
	}
	view := proto.Size(viewMessage(crowd.State))
	cpu, n := change[len(change)/2], float64(o.workers)
	modelled := (modelNotice + modelLog).Seconds() + cpu + n*float64(view)/modelRate + n*modelHop.Seconds()
	name := func(what string) string { return fmt.Sprintf("%d workers: %s", o.workers, what) }
	return []benchRow{
		{Name: name("view change, processor"), Value: cpu * 1000, Unit: "ms"},
		{Name: name("view message"), Value: float64(view), Unit: "bytes"},
		{Name: name("view change, modelled"), Value: modelled, Unit: "s", Ratio: modelled / 2, Peer: "goal of 2 s"},
		{Name: name("control plane of a 100 ms step"), Value: step[len(step)/2] / stepOfThe100 * 100, Unit: "% of a core", Ratio: step[len(step)/2] / stepOfThe100 * 100, Peer: "goal of 1 %"},
		{Name: name("state"), Value: float64(len(state)), Unit: "bytes"},
		{Name: name("events in it"), Value: float64(len(crowd.State.Events)), Unit: "events"},
	}, nil
}

// viewMessage is the view in force as it goes to every member.
func viewMessage(s *membership.State) *mppb.ToWorker {
	v := &mppb.View{Job: s.View.Job, Number: s.View.Number, Reason: s.View.Reason, Spec: s.Jobs[0].Spec, Directory: s.Jobs[0].Directory, Committed: s.View.Committed}
	for _, m := range s.View.Members {
		w := s.Worker(m.Worker)
		v.Members = append(v.Members, &mppb.Member{Worker: m.Worker, Name: s.Name(m.Worker), Address: w.Hello.Address, Machine: w.Hello.Machine, UnixSocket: w.Hello.UnixSocket,
			Shards: m.Shards, ValShards: m.ValShards})
	}
	return &mppb.ToWorker{Message: &mppb.ToWorker_View{View: v}}
}
