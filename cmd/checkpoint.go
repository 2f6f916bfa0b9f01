package cmd

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"mp/checkpoint"
	"mp/job"
)

// newCheckpointCommand returns `mp checkpoint`.
func newCheckpointCommand(e *env) *cobra.Command {
	show := &cobra.Command{
		Use:   "show F",
		Short: "The tensors of a checkpoint and what it says about its run",
		Long: "show prints every tensor of a checkpoint with its shape, type, mean, standard deviation, minimum and maximum,\n" +
			"and what the checkpoint says about its run. F is a checkpoint's folder, a run's folder (its latest checkpoint),\n" +
			"a .safetensors file or a PyTorch file (.pth, .pth.tar). Checksums are compared; nothing in a file is executed.\n" +
			"With --verbose the optimizer's tensors are listed too.",
		Example: "  mp checkpoint show runs/2026-01-31-scenenet\n  mp checkpoint show model_best.pth.tar --json",
		Args:    exactArgs("F"),
		RunE:    func(_ *cobra.Command, args []string) error { return showCheckpoint(e, args[0]) },
	}
	convert := &cobra.Command{
		Use:   "convert F OUT",
		Short: "Write a checkpoint in another format",
		Long: "convert reads F, which is anything that show takes, and writes OUT: a .safetensors file (loads in Python with\n" +
			"safetensors.torch.load_file), a PyTorch file (.pth, .pt or .pth.tar; loads with torch.load), or, with any other\n" +
			"name, a checkpoint's folder, which alone keeps the optimizer's state. OUT must not exist.",
		Example: "  mp checkpoint convert checkpoint.pth.tar imported\n  mp checkpoint convert runs/2026-01-31-scenenet scenenet.safetensors",
		Args:    exactArgs("F", "OUT"),
		RunE:    func(_ *cobra.Command, args []string) error { return convertCheckpoint(e, args[0], args[1]) },
	}
	return newParent("checkpoint", "Look into and convert checkpoints, bring them back from copies", show, convert, newCheckpointFetchCommand(e))
}

// tensorRow is a tensor as `mp checkpoint show` prints it.
type tensorRow struct {
	Name      string  `json:"name"`
	Shape     []int64 `json:"shape"`
	DType     string  `json:"dtype"`
	Mean      float64 `json:"mean"`
	Std       float64 `json:"std"`
	Min       float64 `json:"min"`
	Max       float64 `json:"max"`
	NonFinite int     `json:"non_finite"`
}

// checkpointSummary is the result of `mp checkpoint show`.
type checkpointSummary struct {
	Checkpoint string `json:"checkpoint"`
	Format     string `json:"format"`
	checkpoint.Meta
	Parameters    int         `json:"parameters"`
	Bytes         int64       `json:"bytes"`
	SHA256        string      `json:"sha256"` // checkpoint.Digest of the model
	Tensors       []tensorRow `json:"tensors"`
	Optimizer     []tensorRow `json:"optimizer"`
	OptimizerNote string      `json:"optimizer_note,omitempty"`
}

func showCheckpoint(e *env, path string) error {
	s, err := checkpoint.Read(path)
	if err != nil {
		return err
	}
	sum := checkpointSummary{
		Checkpoint: path, Format: s.Meta.Source, Meta: s.Meta, Parameters: checkpoint.Parameters(s.Model),
		SHA256: checkpoint.Digest(s.Model), Tensors: tensorRows(s.Model), Optimizer: tensorRows(s.Optimizer), OptimizerNote: s.OptimizerNote,
	}
	for _, t := range s.Model {
		sum.Bytes += int64(len(t.Data))
	}
	if e.json {
		return e.printJSON(sum)
	}
	var b strings.Builder
	writeTensors(&b, s.Model, sum.Tensors)
	if e.verbose && len(s.Optimizer) > 0 {
		b.WriteByte('\n')
		writeTensors(&b, s.Optimizer, sum.Optimizer)
	}
	b.WriteByte('\n')
	writeFacts(&b, s, sum)
	_, err = io.WriteString(e.stdout, b.String())
	return err
}

func tensorRows(tensors []checkpoint.Tensor) []tensorRow {
	rows := make([]tensorRow, len(tensors))
	for i, t := range tensors {
		x := t.Stats()
		rows[i] = tensorRow{t.Name, append([]int64{}, t.Shape...), t.DType.String(), x.Mean, x.Std, x.Min, x.Max, x.NonFinite}
	}
	return rows
}

func writeTensors(out io.Writer, tensors []checkpoint.Tensor, rows []tensorRow) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "tensor\tshape\ttype\tmean\tstd\tmin\tmax\t")
	for i, r := range rows {
		warning := ""
		if r.NonFinite > 0 {
			warning = fmt.Sprintf("%d not finite", r.NonFinite)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t% .4g\t%.4g\t% .4g\t% .4g\t%s\n", printable(r.Name), tensors[i].ShapeString(), r.DType, r.Mean, r.Std, r.Min, r.Max, warning)
	}
	w.Flush()
}

// printable keeps a name from a file from moving the cursor or colouring the screen.
func printable(s string) string {
	if quoted := strconv.QuoteToGraphic(s); quoted != `"`+s+`"` {
		return quoted
	}
	return s
}

func writeFacts(out io.Writer, s *checkpoint.State, sum checkpointSummary) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fact := func(known bool, name, format string, args ...any) {
		if known {
			fmt.Fprintf(w, "%s\t%s\n", name, fmt.Sprintf(format, args...))
		}
	}
	m := s.Meta
	fact(true, "checkpoint", "%s (%s)", sum.Checkpoint, sum.Format)
	fact(m.Arch != "", "architecture", "%s", printable(m.Arch))
	fact(true, "tensors", "%d, %s parameters, %s bytes", len(s.Model), grouped(int64(sum.Parameters)), grouped(sum.Bytes))
	fact(m.Epoch > 0 || m.Step > 0, "epochs done", "%d", m.Epoch)
	fact(m.Step > 0, "steps done", "%s", grouped(int64(m.Step)))
	fact(m.BestTop1 > 0, "best top-1", "%.2f %%", m.BestTop1)
	fact(m.BestTop5 > 0, "best top-5", "%.2f %%", m.BestTop5)
	fact(m.BestEpoch > 0, "best epoch", "%d", m.BestEpoch)
	fact(m.LR > 0, "learning rate", "%.4g now, %.4g at the start of its schedule", m.LR, m.BaseLR)
	fact(m.Momentum > 0, "momentum", "%g", m.Momentum)
	fact(m.WeightDecay > 0, "weight decay", "%g", m.WeightDecay)
	fact(m.Source == "mp", "seed", "%d", m.Seed)
	fact(len(m.Job) > 0, "job", "%s", printable(compactJSON(m.Job)))
	for _, k := range optimizerKinds(s.Optimizer) {
		fact(true, "optimizer "+printable(k.name), "%d tensors, %s elements", k.tensors, grouped(int64(k.elements)))
	}
	fact(s.OptimizerNote != "", "optimizer", "left out: %s", s.OptimizerNote)
	fact(len(s.Optimizer) == 0 && s.OptimizerNote == "", "optimizer", "none in the file")
	fact(true, "sha256 of weights", "%s", sum.SHA256)
	w.Flush()
}

func compactJSON(raw json.RawMessage) string {
	var v any
	if err := json.Unmarshal(raw, &v); err != nil {
		return string(raw)
	}
	b, err := json.Marshal(v)
	if err != nil {
		return string(raw)
	}
	return string(b)
}

type optimizerKind struct {
	name              string
	tensors, elements int
}

// optimizerKinds sums the optimizer's tensors up by the first part of their names: momentum, exp_avg, ...
func optimizerKinds(tensors []checkpoint.Tensor) []optimizerKind {
	var kinds []optimizerKind
	for _, t := range tensors {
		name, _, _ := strings.Cut(t.Name, ".")
		if n := len(kinds); n == 0 || kinds[n-1].name != name {
			kinds = append(kinds, optimizerKind{name: name})
		}
		k := &kinds[len(kinds)-1]
		k.tensors++
		k.elements += t.Len()
	}
	return kinds
}

// grouped writes 365028 as 365,028.
func grouped(n int64) string {
	s := strconv.FormatInt(n, 10)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// convertResult is the result of `mp checkpoint convert`.
type convertResult struct {
	Checkpoint string `json:"checkpoint"`
	Tensors    int    `json:"tensors"`
	Parameters int    `json:"parameters"`
	Optimizer  int    `json:"optimizer_tensors"`
	SHA256     string `json:"sha256"`
}

func convertCheckpoint(e *env, from, to string) error {
	to = filepath.Clean(to)
	if _, err := os.Lstat(to); err == nil {
		return fmt.Errorf("%w: %s exists already: remove it or choose another name", job.ErrConfig, to)
	}
	if _, err := os.Stat(filepath.Dir(to)); err != nil {
		return fmt.Errorf("%w: no folder to write %s in: %w", job.ErrConfig, to, err)
	}
	s, err := checkpoint.Read(from)
	if err != nil {
		return err
	}
	if strings.HasSuffix(to, ".safetensors") || checkpoint.TorchName(to) {
		if err := checkpoint.Export(to, s); err != nil {
			return err
		}
	} else if _, err := checkpoint.Write(filepath.Dir(to), filepath.Base(to), s); err != nil {
		return err
	}
	written, err := checkpoint.Read(to)
	if err != nil {
		return fmt.Errorf("read back what was written: %w", err)
	}
	result := convertResult{to, len(written.Model), checkpoint.Parameters(written.Model), len(written.Optimizer), checkpoint.Digest(written.Model)}
	if want := checkpoint.Digest(s.Model); result.SHA256 != want {
		return fmt.Errorf("%s holds weights with digest %s, %s holds %s: the disk or memory is at fault", to, result.SHA256, from, want)
	}
	if s.OptimizerNote != "" {
		fmt.Fprintf(e.stderr, "the optimizer's state was left out: %s\n", s.OptimizerNote)
	} else if result.Optimizer < len(s.Optimizer) {
		fmt.Fprintf(e.stderr, "the optimizer's state (%d tensors) was left out: only a checkpoint's folder keeps it\n", len(s.Optimizer))
	}
	if e.json {
		return e.printJSON(result)
	}
	_, err = fmt.Fprintf(e.stdout, "%s: %d tensors, %s parameters, %d optimizer tensors, sha256 of weights %s\n",
		to, result.Tensors, grouped(int64(result.Parameters)), result.Optimizer, result.SHA256)
	return err
}
