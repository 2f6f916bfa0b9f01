package cmd

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"mp/job"
)

// torchStep is PyTorch's side of the comparison.
//
//go:embed bench_step.py
var torchStep string

// Modes in which a step is measured: precision and layout in memory.
const (
	modeFP32         = "fp32"          // float32, N C H W
	modeChannelsLast = "channels_last" // float32, N H W C
	modeBF16         = "bf16"          // bfloat16 with float32 master weights, N H W C
)

// stepSpec says what one process measures; the same JSON goes to ours and to Python's.
type stepSpec struct {
	Model   string  `json:"model"`
	Mode    string  `json:"mode"`
	Batch   int     `json:"batch"`
	Size    int     `json:"size"`
	Threads int     `json:"threads"`
	Seconds float64 `json:"seconds"` // at least so long, and at least one step
	CUDA    int     `json:"cuda"`    // index of the GPU, -1 for the CPU
	Own     bool    `json:"own"`     // convolve by our own convolution; Python has none
	Compile bool    `json:"compile"` // by torch.compile; Python's alone

	// Of several processes that train together; 0 Workers: the step of one process, without the loop around it.
	Workers int    `json:"workers,omitempty"`
	Rank    int    `json:"rank"`
	Shards  int    `json:"shards,omitempty"` // into which ours cut the batch
	Dir     string `json:"dir,omitempty"`    // where ranks find one another
	Data    string `json:"data,omitempty"`   // of packs, for ours, and their records in one file, for Python
	Load    bool   `json:"load,omitempty"`   // batches come from there on both sides, varied as for training

	Strategy     string `json:"strategy,omitempty"`      // of adversarial training, or none, with images varied as in our recipe; empty: as they are
	Profile      bool   `json:"profile,omitempty"`       // instead of the speed: where the time goes
	AdvPrecision string `json:"adv_precision,omitempty"` // of the network while the strategy attacks; empty: as in the update
}

// benchStepOptions is what `mp bench step` is asked for.
type benchStepOptions struct {
	stepSpec
	models, modes []string
	repetitions   int
	device        string
	peer          benchPeer
	compiled      bool   // beside torch.compile too
	measure       string // the stepSpec of a child process
}

// newBenchStepCommand returns `mp bench step`.
func newBenchStepCommand(e *env) *cobra.Command {
	var o benchStepOptions
	c := &cobra.Command{
		Use:   "step",
		Short: "Training steps a second, beside PyTorch's own in the same run",
		Long: "step measures one training step (forward, loss, backward, clip, update of a batch in memory) and the same step in\n" +
			"eager PyTorch, which needs a Python with torch: --venv makes one. Every measurement is a process of its own; ours and\n" +
			"PyTorch's alternate, so that a busy machine disturbs both alike. The ratio is the median over the pairs. --profile says\n" +
			"instead what each operation of our step takes.\n\n" +
			"--workers N trains simplenet and resnet18 with a global batch of 64 in N processes of one thread, as N `mp worker` do\n" +
			"(images from a pack, shards, the ring, one update), beside N ranks of DistributedDataParallel on gloo with its batch in\n" +
			"memory, and beside one process of N threads of both. With --data-path PyTorch draws its batches from the same images too,\n" +
			"and both vary them: ours as its recipe does, PyTorch by crops and flips; with --compile the last rows are beside\n" +
			"torch.compile, and the best of ours beside the best of PyTorch's. \"hidden\" is 1 - waited/working, over all steps and\n" +
			"ranks. Working is the time during which the sum was at work: from when a rank has brought a part of its gradients\n" +
			"until it has their sum, overlaps counted once, waiting for a slower rank included, waiting for its own gradients not; ours counts the time in\n" +
			"fixed point's loops too. Waited is the time from the rank's last gradient to the whole sum. DistributedDataParallel's are\n" +
			"seen by a hook in steps of their own, after those that count for its speed. Hidden work takes a core's time all the same:\n" +
			"\"by processor time\" is images over the processor seconds of all ranks and their threads, which other processes disturb less.",
		Example: "  mp bench step\n  mp bench step --model resnet18 --mode bf16 --repetitions 5\n  mp bench step --workers 2 --seconds 5\n  mp bench step --workers 2 --data-path --compile\n  mp bench step --profile --model simplenet --mode channels_last",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if o.measure != "" {
				return measureStep(c.Context(), e, o.measure)
			}
			if o.Profile && c.Flags().Changed("workers") {
				return fmt.Errorf("%w: --profile looks at one process: leave --workers out", job.ErrConfig)
			}
			if o.Load && !c.Flags().Changed("workers") {
				return fmt.Errorf("%w: --data-path goes with --workers: without, a batch in memory is measured", job.ErrConfig)
			}
			if c.Flags().Changed("workers") {
				if err := o.prepareCrew(c); err != nil {
					return err
				}
				return benchCrew(c.Context(), e, o)
			}
			if o.Profile {
				program, err := o.check()
				if err != nil {
					return err
				}
				return benchProfile(c.Context(), e, o, program)
			}
			return benchStep(c.Context(), e, o)
		},
	}
	f := c.Flags()
	f.StringSliceVar(&o.models, "model", []string{job.ModelSimpleNet, job.ModelSimpleViT, job.ModelResNet18, job.ModelSceneNet}, "networks, by commas")
	f.StringSliceVar(&o.modes, "mode", []string{modeFP32, modeChannelsLast, modeBF16}, "precisions and layouts, by commas")
	f.IntVar(&o.Batch, "batch-size", 32, "images a step; with --workers 64 of all together")
	f.IntVar(&o.Size, "image-size", 128, "side of the images in pixels")
	f.IntVar(&o.Threads, "threads", 0, "CPU threads of both sides; 0: one a core, with --workers one each")
	f.IntVar(&o.Workers, "workers", 0, "processes that train together, beside DistributedDataParallel; without it one process")
	f.IntVar(&o.Shards, "shards", 0, "with --workers: shards that ours cut the batch into; 0: as mp train does")
	f.Float64Var(&o.Seconds, "seconds", 3, "seconds a measurement, at least one step after the first")
	f.IntVar(&o.repetitions, "repetitions", 3, "pairs of measurements")
	f.StringVar(&o.device, "device", job.DeviceAuto, "cpu, auto or the number of a GPU")
	f.BoolVar(&o.Profile, "profile", false, "show where the time of our step goes, by operation, instead")
	f.BoolVar(&o.compiled, "compile", false, "beside torch.compile too, which takes up to a minute for each network and mode; with --workers in one process")
	o.peer.add(c)
	f.BoolVar(&o.Load, "data-path", false, "with --workers: both sides draw, vary and normalise their batches from images in a file")
	addMeasure(c, &o.measure)
	return c
}

// benchStep measures every model in every mode, ours and PyTorch's in turn.
func benchStep(ctx context.Context, e *env, o benchStepOptions) error {
	program, err := o.prepare(ctx, e)
	if err != nil {
		return err
	}
	ours := func(spec string) *exec.Cmd {
		return exec.CommandContext(ctx, program, "bench", "step", "--measure", spec)
	}
	torchs := func(spec string) *exec.Cmd { return o.peer.runs(ctx, torchStep, spec) }
	sides := []stepSide{{"mp", false, ours}, {"PyTorch", false, torchs}}
	if o.compiled {
		sides = append(sides, stepSide{"torch.compile", true, torchs})
	}
	var rows []benchRow
	for _, model := range o.models {
		for _, mode := range o.modes {
			spec := o.stepSpec
			spec.Model, spec.Mode = model, mode
			found, err := compareSteps(spec, o.repetitions, sides)
			if err != nil {
				return err
			}
			for _, row := range found {
				if !e.quiet {
					fmt.Fprintf(e.stderr, "%-24s %8.1f images/s  %.2fx %s\n", row.Name, row.Value, row.Ratio, row.Peer)
				}
			}
			rows = append(rows, found...)
		}
	}
	return printBench(e, rows)
}

// stepSide is one of those that are compared; the first is ours.
type stepSide struct {
	name    string
	compile bool
	command func(spec string) *exec.Cmd
}

// prepare checks the options, fills in what was left open and returns this program's path.
func (o *benchStepOptions) prepare(ctx context.Context, e *env) (program string, err error) {
	if program, err = o.check(); err != nil {
		return "", err
	}
	return program, o.peer.find(ctx, e)
}

// check is prepare for a measurement without PyTorch.
func (o *benchStepOptions) check() (program string, err error) {
	for _, mode := range o.modes {
		if !slices.Contains([]string{modeFP32, modeChannelsLast, modeBF16}, mode) {
			return "", fmt.Errorf("%w: --mode %q: choose %s, %s or %s", job.ErrConfig, mode, modeFP32, modeChannelsLast, modeBF16)
		}
	}
	if o.Batch < 1 || o.Size < 32 || o.repetitions < 1 || o.Threads < 0 || !(o.Seconds >= 0) {
		return "", fmt.Errorf("%w: want --batch-size and --repetitions of at least 1, --image-size of at least 32, --threads and --seconds not negative", job.ErrConfig)
	}
	if o.Threads == 0 {
		o.Threads = defaultThreads()
	}
	word, err := pickDevice(o.device)
	if err != nil {
		return "", err
	}
	if o.CUDA, err = gpuIndex(word); err != nil {
		return "", err
	}
	if program, err = os.Executable(); err != nil {
		return "", fmt.Errorf("find this program, to measure in processes of its own: %w", err)
	}
	return program, nil
}

// compareSteps measures every side so many times, in processes of their own, and returns a row for each peer: medians. The side
// that goes first changes.
func compareSteps(spec stepSpec, times int, sides []stepSide) ([]benchRow, error) {
	rates := make([][]float64, len(sides))
	for round := range times {
		for turn := range sides {
			side := (round + turn) % len(sides)
			spec.Compile = sides[side].compile
			text, err := json.Marshal(spec)
			if err != nil {
				return nil, err
			}
			seconds, err := stepSeconds(sides[side].command(string(text)))
			if err != nil {
				return nil, fmt.Errorf("measure %s %s: %w", spec.Model, spec.Mode, err)
			}
			rates[side] = append(rates[side], float64(spec.Batch)/median(seconds))
		}
	}
	var rows []benchRow
	for side := 1; side < len(sides); side++ {
		ratios := make([]float64, times)
		for i := range ratios {
			ratios[i] = rates[0][i] / rates[side][i]
		}
		rows = append(rows, benchRow{
			Name: spec.Model + " " + spec.Mode, Value: median(rates[0]), Unit: "images/s", Ratio: median(ratios),
			Peer: fmt.Sprintf("%s %.5g", sides[side].name, median(rates[side])),
		})
	}
	return rows, nil
}

// stepSeconds runs a measuring process and returns what it prints: the seconds of each step.
func stepSeconds(c *exec.Cmd) ([]float64, error) {
	var complaint bytes.Buffer
	c.Stderr = &complaint
	out, err := c.Output()
	if err != nil {
		lines := strings.Split(strings.TrimSpace(complaint.String()), "\n")
		return nil, fmt.Errorf("%s: %w: %s", filepath.Base(c.Path), err, lines[len(lines)-1])
	}
	var seconds []float64
	if err := json.Unmarshal(out, &seconds); err != nil || len(seconds) == 0 {
		return nil, fmt.Errorf("%s prints no list of seconds: %.100q", filepath.Base(c.Path), out)
	}
	return seconds, nil
}

func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	if n := len(v); n%2 == 0 {
		return (v[n/2-1] + v[n/2]) / 2
	}
	return v[len(v)/2]
}
