package cmd

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"mp/job"
)

// glooRing is PyTorch's side of the comparison.
//
//go:embed bench_ring.py
var glooRing string

// What a measurement of the ring sums.
const (
	ringSum    = "sum"    // int32
	ringShards = "shards" // float32, independent of grouping: one shard a rank
	ringInt16  = "int16"  // as shards, in half the bytes
)

// ringSpec says what one rank measures; the same JSON goes to ours and to Python's.
type ringSpec struct {
	Rank        int    `json:"rank"`
	Size        int    `json:"size"`
	Dir         string `json:"dir"`     // where ranks find one another
	Lengths     []int  `json:"lengths"` // elements
	Rounds      int    `json:"rounds"`
	What        string `json:"what"` // ours
	TCP         bool   `json:"tcp"`
	Inline      bool   `json:"inline"`
	Connections int    `json:"connections"`
	Piece       int    `json:"piece"` // bytes of a message; 0: ours to choose
}

// benchRingOptions is what `mp bench ring` is asked for.
type benchRingOptions struct {
	ringSpec
	workers     []int
	sizes       []float64 // MB
	what        []string
	repetitions int
	peer        benchPeer
	measure     string // the ringSpec of a child process
}

// newBenchRingCommand returns `mp bench ring`.
func newBenchRingCommand(e *env) *cobra.Command {
	var o benchRingOptions
	c := &cobra.Command{
		Use:   "ring",
		Short: "The all-reduce between processes, beside gloo's in the same run",
		Long: "ring sums vectors over processes of this machine and does the same with gloo, PyTorch's own, which needs a Python with\n" +
			"torch: --venv makes one. Ours and gloo's alternate, so that a busy machine disturbs both alike; the ratio is the\n" +
			"median over the pairs. Bandwidth is the bus bandwidth that NCCL's tests define: 2(N-1)/N bytes of the vector a second.\n" +
			"sum adds integers as they are; shards is what a training step does, a sum of float32 that no grouping changes, with\n" +
			"one shard a process; int16 is the same in half the bytes, with error feedback.",
		Example: "  mp bench ring\n  mp bench ring --workers 4 --size 44 --what sum --tcp",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if o.measure != "" {
				return measureRing(c.Context(), e, o.measure)
			}
			return benchRing(c.Context(), e, o)
		},
	}
	f := c.Flags()
	f.IntSliceVar(&o.workers, "workers", []int{2, 4}, "numbers of processes, by commas")
	f.Float64SliceVar(&o.sizes, "size", []float64{1.4, 8, 44, 87}, "sizes of the vector in MB, by commas")
	f.StringSliceVar(&o.what, "what", []string{ringSum, ringShards, ringInt16}, "sums, by commas")
	f.IntVar(&o.Rounds, "rounds", 15, "sums a measurement")
	f.IntVar(&o.repetitions, "repetitions", 5, "pairs of measurements")
	f.BoolVar(&o.TCP, "tcp", false, "reach one another by TCP, as on two machines, instead of unix sockets and shared memory")
	f.BoolVar(&o.Inline, "inline", false, "do without shared memory")
	f.IntVar(&o.Connections, "connections", 1, "connections between two neighbours; more than one does without shared memory")
	f.IntVar(&o.Piece, "piece", 0, "bytes of a message, a multiple of 1024; 0: chosen by the size")
	o.peer.add(c)
	addMeasure(c, &o.measure)
	return c
}

// benchRing measures every number of processes, ours and gloo's in turn.
func benchRing(ctx context.Context, e *env, o benchRingOptions) error {
	program, err := o.prepare(ctx, e)
	if err != nil {
		return err
	}
	ours := func(spec string) *exec.Cmd {
		return exec.CommandContext(ctx, program, "bench", "ring", "--measure", spec)
	}
	gloo := func(spec string) *exec.Cmd { return o.peer.runs(ctx, glooRing, spec) }
	var rows []benchRow
	for _, n := range o.workers {
		spec := o.ringSpec
		spec.Size = n
		for _, mb := range o.sizes {
			spec.Lengths = append(spec.Lengths, int(mb*1e6/4))
		}
		sides := []ringSide{{name: "gloo", command: gloo}}
		for _, what := range o.what {
			sides = append(sides, ringSide{what, ours})
		}
		times, err := measureSides(spec, sides, o.repetitions)
		if err != nil {
			return err
		}
		spec.Lengths = nil
		more := ringRows(n, o.sizes, sides, times)
		if !e.quiet {
			for _, r := range more {
				fmt.Fprintf(e.stderr, "%-24s %6.2f %s  %.2fx gloo  %s\n", r.Name, r.Value, r.Unit, r.Ratio, r.Peer)
			}
		}
		rows = append(rows, more...)
	}
	return printBench(e, rows)
}

// prepare checks the options, fills in what was left open and returns this program's path.
func (o *benchRingOptions) prepare(ctx context.Context, e *env) (program string, err error) {
	for _, what := range o.what {
		if !slices.Contains([]string{ringSum, ringShards, ringInt16}, what) {
			return "", fmt.Errorf("%w: --what %q: choose %s, %s or %s", job.ErrConfig, what, ringSum, ringShards, ringInt16)
		}
	}
	few := func(n int) bool { return n < 2 || n > 64 }
	small := func(mb float64) bool { return !(mb > 0 && mb <= 1000) }
	if o.Rounds < 1 || o.repetitions < 1 || o.Connections < 1 || slices.ContainsFunc(o.workers, few) || slices.ContainsFunc(o.sizes, small) {
		return "", fmt.Errorf("%w: want --workers of 2 to 64, --size of at most 1000 MB, --rounds, --repetitions and --connections of at least 1", job.ErrConfig)
	}
	if program, err = os.Executable(); err != nil {
		return "", fmt.Errorf("find this program, to measure in processes of its own: %w", err)
	}
	return program, o.peer.find(ctx, e)
}

// ringSide is one of those that are compared; gloo comes first.
type ringSide struct {
	name    string // what it sums
	command func(spec string) *exec.Cmd
}

// measureSides returns the median seconds of a call, by repetition, side and length. The order of sides turns round.
func measureSides(spec ringSpec, sides []ringSide, repetitions int) ([][][]float64, error) {
	times := make([][][]float64, repetitions)
	for rep := range times {
		times[rep] = make([][]float64, len(sides))
		for turn := range sides {
			i := (rep + turn) % len(sides)
			spec.What = sides[i].name
			calls, err := ringSeconds(spec, sides[i].command)
			if err != nil {
				return nil, fmt.Errorf("measure %s with %d processes: %w", sides[i].name, spec.Size, err)
			}
			for _, seconds := range calls {
				times[rep][i] = append(times[rep][i], median(seconds))
			}
		}
	}
	return times, nil
}

// ringSeconds runs all ranks of one measurement and returns what rank 0 prints: the seconds of each call, by length.
func ringSeconds(spec ringSpec, command func(spec string) *exec.Cmd) ([][]float64, error) {
	dir, err := os.MkdirTemp("", "mp-bench-ring-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	spec.Dir = dir
	var group errgroup.Group
	var printed []byte
	var running []*exec.Cmd
	for rank := range spec.Size {
		spec.Rank = rank
		text, err := json.Marshal(spec)
		if err != nil {
			return nil, err
		}
		running = append(running, command(string(text)))
	}
	for rank, c := range running {
		group.Go(func() error {
			out, err := c.Output()
			if err != nil {
				for _, other := range running { // they would wait for this one
					if other.Process != nil {
						other.Process.Kill()
					}
				}
				return fmt.Errorf("rank %d: %w", rank, complaint(c, err))
			}
			if rank == 0 {
				printed = out
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	var seconds [][]float64
	if err := json.Unmarshal(printed, &seconds); err != nil || len(seconds) != len(spec.Lengths) || slices.ContainsFunc(seconds, func(s []float64) bool { return len(s) == 0 }) {
		return nil, fmt.Errorf("rank 0 prints no lists of seconds: %.100q", printed)
	}
	return seconds, nil
}

// complaint adds the last line that a process wrote to its error.
func complaint(c *exec.Cmd, err error) error {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		lines := bytes.Split(bytes.TrimSpace(exit.Stderr), []byte("\n"))
		return fmt.Errorf("%s: %w: %s", filepath.Base(c.Path), err, lines[len(lines)-1])
	}
	return err
}

// ringRows turns times into bus bandwidths beside gloo's.
func ringRows(n int, sizes []float64, sides []ringSide, times [][][]float64) []benchRow {
	var rows []benchRow
	for i := 1; i < len(sides); i++ {
		for k, mb := range sizes {
			var ours, gloo, ratios []float64
			for _, rep := range times {
				gloo, ours = append(gloo, rep[0][k]), append(ours, rep[i][k])
				ratios = append(ratios, rep[0][k]/rep[i][k])
			}
			bandwidth := func(seconds float64) float64 { return 2 * float64(n-1) / float64(n) * mb / 1e3 / seconds }
			rows = append(rows, benchRow{
				Name: fmt.Sprintf("%d x %g MB %s", n, mb, sides[i].name), Value: bandwidth(median(ours)), Unit: "GB/s", Ratio: median(ratios),
				Peer: fmt.Sprintf("gloo %.3g GB/s; %.4g ms, gloo %.4g ms", bandwidth(median(gloo)), 1e3*median(ours), 1e3*median(gloo)),
			})
		}
	}
	return rows
}

// peerAddresses waits until every rank has written where it listens.
func peerAddresses(ctx context.Context, dir string, n int) ([]string, error) {
	addresses := make([]string, n)
	for r := range addresses {
		for addresses[r] == "" {
			text, err := os.ReadFile(addressFile(dir, r))
			if err == nil {
				addresses[r] = strings.TrimSpace(string(text))
			} else if err := pause(ctx); err != nil {
				return nil, fmt.Errorf("wait for rank %d: %w", r, err)
			}
		}
	}
	return addresses, nil
}

func addressFile(dir string, rank int) string {
	return filepath.Join(dir, fmt.Sprint("address-", rank))
}
