package cmd

import (
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"mp/attack"
	"mp/job"
	"mp/model"
	"mp/ops"
	"mp/worker/errand"
)

// torchAttack is torchattacks' side of the comparison.
//
//go:embed bench_attack.py
var torchAttack string

// modeCrew is one process a core, channels last: how mp would use a machine for many images.
const modeCrew = "crew"

// attackSpec says what one process measures; the same JSON goes to ours and to Python's.
type attackSpec struct {
	Mode    string  `json:"mode"`
	Batch   int     `json:"batch"`
	Steps   int     `json:"steps"`
	Threads int     `json:"threads"`
	Seconds float64 `json:"seconds"`
	CUDA    int     `json:"cuda"`
}

type benchAttackOptions struct {
	attackSpec
	modes       []string
	repetitions int
	device      string
	crewBF16    bool
	peer        benchPeer
	measure     string
}

// newBenchAttackCommand returns `mp bench attack`.
func newBenchAttackCommand(e *env) *cobra.Command {
	var o benchAttackOptions
	var training benchTraining
	c := &cobra.Command{
		Use:   "attack",
		Short: "Images a second of PGD on SimpleNet, beside torchattacks on the same libtorch in the same run",
		Long: "attack measures PGD with every step taken for every image (mp attack stops with images that err already), ours and\n" +
			"torchattacks' in turn, each a process of its own. Rows: the same precision and layout on both sides; then a worker a core\n" +
			"of ours, channels last, beside torchattacks in fp32 as it comes. `make attack-compare` fetches torchattacks.\n\n" +
			"--training measures instead how many times as long an update of adversarial training takes as one of natural training,\n" +
			"from a pack of painted images, channels last; it needs no Python.",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if training.on {
				return training.run(c.Context(), e, o)
			}
			if o.measure != "" {
				return measureAttack(c.Context(), e, o.measure)
			}
			return benchAttack(c.Context(), e, o)
		},
	}
	f := c.Flags()
	f.StringSliceVar(&o.modes, "mode", []string{modeFP32, modeChannelsLast, modeBF16, modeCrew}, "precisions and layouts, by commas; crew is a worker a core")
	f.IntVar(&o.Batch, "batch-size", 50, "images a batch")
	f.IntVar(&o.Steps, "steps", 20, "steps of PGD")
	f.IntVar(&o.Threads, "threads", 0, "CPU threads of both sides; 0: one a core")
	f.Float64Var(&o.Seconds, "seconds", 5, "seconds a measurement, at least one batch after the first")
	f.IntVar(&o.repetitions, "repetitions", 3, "pairs of measurements")
	f.BoolVar(&o.crewBF16, "crew-bf16", cpuPrefersBF16(), "a worker a core computes in bf16, for machines with instructions for it")
	f.StringVar(&o.device, "device", job.DeviceAuto, "cpu, auto or the number of a GPU")
	training.add(c)
	o.peer.add(c)
	addMeasure(c, &o.measure)
	return c
}

func benchAttack(ctx context.Context, e *env, o benchAttackOptions) error {
	if o.Batch < 1 || o.Steps < 1 || o.repetitions < 1 || o.Threads < 0 || !(o.Seconds >= 0) {
		return fmt.Errorf("%w: want --batch-size, --steps and --repetitions of at least 1, --threads and --seconds not negative", job.ErrConfig)
	}
	for _, mode := range o.modes {
		if !slices.Contains([]string{modeFP32, modeChannelsLast, modeBF16, modeCrew}, mode) {
			return fmt.Errorf("%w: --mode %q: choose %s, %s, %s or %s", job.ErrConfig, mode, modeFP32, modeChannelsLast, modeBF16, modeCrew)
		}
	}
	if o.Threads == 0 {
		o.Threads = defaultThreads()
	}
	word, err := pickDevice(o.device)
	if err != nil {
		return err
	}
	if o.CUDA, err = gpuIndex(word); err != nil {
		return err
	}
	program, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program, to measure in processes of its own: %w", err)
	}
	if err := o.peer.find(ctx, e); err != nil {
		return err
	}
	library := filepath.Join(filepath.Dir(program), "build", "torchattacks")
	if given, ok := e.lookup("TORCHATTACKS"); ok && given != "" {
		library = given
	}
	ours := func(s attackSpec) (float64, error) {
		return attackRate(s, func(text string) *exec.Cmd {
			return exec.CommandContext(ctx, program, "bench", "attack", "--measure", text)
		})
	}
	theirs := func(s attackSpec) (float64, error) {
		return attackRate(s, func(text string) *exec.Cmd {
			c := o.peer.runs(ctx, torchAttack, text)
			c.Env = append(os.Environ(), "TORCHATTACKS="+library)
			return c
		})
	}
	var rows []benchRow
	for _, mode := range o.modes {
		here, there := o.attackSpec, o.attackSpec
		here.Mode, there.Mode = mode, mode
		side := ours
		if mode == modeCrew {
			here.Mode, there.Mode, here.Threads = modeChannelsLast, modeFP32, 1
			if o.crewBF16 {
				here.Mode = modeBF16
			}
			side = func(s attackSpec) (float64, error) { return crewRate(s, o.Threads, ours) }
		}
		row, err := compareAttacks(o.repetitions, [2]func() (float64, error){
			func() (float64, error) { return side(here) }, func() (float64, error) { return theirs(there) }})
		if err != nil {
			return fmt.Errorf("measure pgd %s: %w", mode, err)
		}
		row.Name = fmt.Sprintf("pgd-%d %s", o.Steps, mode)
		if !e.quiet {
			fmt.Fprintf(e.stderr, "%-24s %8.1f images/s  %.2fx torchattacks\n", row.Name, row.Value, row.Ratio)
		}
		rows = append(rows, row)
	}
	return printBench(e, rows)
}

// attackRate is the images a second of one measuring process.
func attackRate(s attackSpec, process func(spec string) *exec.Cmd) (float64, error) {
	text, err := json.Marshal(s)
	if err != nil {
		return 0, err
	}
	seconds, err := stepSeconds(process(string(text)))
	if err != nil {
		return 0, err
	}
	return float64(s.Batch) / median(seconds), nil
}

// crewRate is that of several processes at once.
func crewRate(s attackSpec, workers int, rate func(attackSpec) (float64, error)) (float64, error) {
	rates, errs := make([]float64, workers), make([]error, workers)
	var wait sync.WaitGroup
	for i := range workers {
		wait.Add(1)
		go func() {
			defer wait.Done()
			rates[i], errs[i] = rate(s)
		}()
	}
	wait.Wait()
	var sum float64
	for i := range workers {
		if errs[i] != nil {
			return 0, errs[i]
		}
		sum += rates[i]
	}
	return sum, nil
}

// compareAttacks measures pairs and returns the medians. The side that goes first alternates.
func compareAttacks(pairs int, sides [2]func() (float64, error)) (benchRow, error) {
	var rates [2][]float64
	ratios := make([]float64, pairs)
	for pair := range pairs {
		for turn := range 2 {
			side := (pair + turn) % 2
			rate, err := sides[side]()
			if err != nil {
				return benchRow{}, err
			}
			rates[side] = append(rates[side], rate)
		}
		ratios[pair] = rates[0][pair] / rates[1][pair]
	}
	return benchRow{Value: median(rates[0]), Unit: "images/s", Ratio: median(ratios), Peer: fmt.Sprintf("torchattacks %.5g", median(rates[1]))}, nil
}

// measureAttack is a child process of `mp bench attack`: it prints the seconds of each batch as one JSON list.
func measureAttack(ctx context.Context, e *env, text string) error {
	var spec attackSpec
	if err := json.Unmarshal([]byte(text), &spec); err != nil {
		return fmt.Errorf("%w: --measure: %w", job.ErrConfig, err)
	}
	word := job.DeviceCPU
	if spec.CUDA >= 0 {
		word = strconv.Itoa(spec.CUDA)
	}
	device, err := openDevice(word, spec.Threads)
	if err != nil {
		return err
	}
	defer device.Close()
	o, err := attack.Defaults("pgd")
	if err != nil {
		return err
	}
	o.Steps, o.Leave = spec.Steps, false
	a, err := attack.New("pgd", o)
	if err != nil {
		return err
	}
	var m *model.Model
	var b attack.Batch
	err = device.Do(ctx, func(s *ops.Scope) (err error) {
		if m, err = model.New(s, job.ModelSimpleNet, model.Options{Classes: benchClasses, ChannelsLast: spec.Mode != modeFP32}); err != nil {
			return err
		}
		n := int64(spec.Batch)
		ids := make([]int32, n)
		for i := range ids {
			ids[i], b.Labels = int32(i), append(b.Labels, int64(i*37%benchClasses))
		}
		b.Keys = attack.Keys(0, 0, ids)
		x := s.Clamp(s.Offset(s.Scale(s.Uniform(s.Zeros(ops.Float32, n, 3, 128, 128), b.Keys), .5), .5), 0, 1)
		if spec.Mode != modeFP32 {
			x = s.ChannelsLast(x)
		}
		b.X = s.Release(x)
		return s.Err()
	})
	if err != nil {
		return err
	}
	defer func() {
		_ = device.Do(context.Background(), func(*ops.Scope) error { // the process ends: nothing is lost
			ops.Free(b.X)
			m.Free()
			return nil
		})
	}()
	precision := job.FP32
	if spec.Mode == modeBF16 {
		precision = job.BF16
	}
	victim := errand.Net(m, precision, nil)
	batch := func() (time.Duration, error) {
		began := time.Now()
		err := device.Do(ctx, func(s *ops.Scope) error {
			res, err := a.Perturb(ctx, s, victim, b)
			if err == nil {
				s.Item(s.Sum(res.X)) // waits for the device
			}
			return err
		})
		return time.Since(began), err
	}
	if _, err := batch(); err != nil { // the first one plans and allocates
		return err
	}
	var seconds []float64
	end := time.Now().Add(time.Duration(spec.Seconds * float64(time.Second)))
	for len(seconds) == 0 || time.Now().Before(end) {
		took, err := batch()
		if err != nil {
			return err
		}
		seconds = append(seconds, took.Seconds())
	}
	return e.printJSON(seconds)
}
