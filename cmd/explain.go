package cmd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"mp/checkpoint"
	"mp/data"
	"mp/explain"
	"mp/job"
	"mp/worker/errand"
)

// explainOptions is what `mp explain` is asked for.
type explainOptions struct {
	checkpoint, against string
	model, split        string
	precision, device   string
	methods             []string
	config              explain.Config
	images, batch       int
	threads             int
	seed                uint64
	out, maps           string
	scores              bool
}

// fp64 is the precision of `mp explain` for comparisons with other programs: in float32 a few rectifiers switch by rounding.
const fp64 = errand.FP64

// newExplainCommand returns `mp explain`.
func newExplainCommand(e *env) *cobra.Command {
	o := explainOptions{config: explain.DefaultConfig()}
	var lines []string
	for _, m := range explain.Methods() {
		lines = append(lines, fmt.Sprintf("  %-20s %s", m.Name, m.Summary))
	}
	c := &cobra.Command{
		Use:   "explain DATA --checkpoint F",
		Short: "Show which pixels made a network decide as it does",
		Long: "Draw contact sheets: each image, where the network looked, both together, what it says and what is true. DATA is a\n" +
			"MiniPlaces folder, a pack or a folder of JPEGs. Each map explains the network's own choice. --against shows a second\n" +
			"network beside the first, such as one trained to resist attacks. Methods, several with commas, or all:\n" + strings.Join(lines, "\n"),
		Example: "  mp explain miniplaces --checkpoint model_best.pth.tar --images 48 --out maps\n" +
			"  mp explain miniplaces --checkpoint natural --against robust --method saliency,gradcam --out beside\n" +
			"  mp explain miniplaces --checkpoint model_best.pth.tar --method all --scores --images 100 --json",
		Args: exactArgs("DATA"),
		RunE: func(c *cobra.Command, args []string) error { return explainData(c.Context(), e, args[0], o) },
	}
	f := c.Flags()
	f.StringVar(&o.checkpoint, "checkpoint", "", "run directory, checkpoint, .safetensors or PyTorch file; needed")
	f.StringVar(&o.against, "against", "", "a second network to show beside the first; empty: none")
	f.StringVar(&o.model, "model", "", "architecture, for files that do not name theirs: simplenet, simplevit, resnet18, scenenet; empty: the file's")
	f.StringVar(&o.split, "split", string(data.Val), "images of a MiniPlaces folder to explain: train, val, test")
	f.StringSliceVar(&o.methods, "method", []string{"saliency"}, "methods, see above")
	f.IntVar(&o.images, "images", 48, "explain the first so many images; 0: all")
	f.StringVar(&o.config.Layer, "layer", "", "gradcam: the layer to look at; default: the last")
	f.StringVar(&o.out, "out", "", "folder for the contact sheets and explain.json, made if it is not there; empty: none are written")
	f.StringVar(&o.maps, "maps", "", "also write every attribution to this .safetensors file, held in memory until then; empty: to none")
	f.BoolVar(&o.scores, "scores", false, "measure how far to believe the maps: deletion, insertion, infidelity, randomised weights")
	f.IntVar(&o.config.Samples, "samples", o.config.Samples, "smoothgrad: noisy copies of an image")
	f.Float64Var(&o.config.Noise, "noise", o.config.Noise, "smoothgrad: deviation of the noise, as a part of the image's range")
	f.IntVar(&o.config.Steps, "steps", o.config.Steps, "integratedgradients: points between the mean colour and the image")
	f.Int64Var(&o.config.Window, "window", o.config.Window, "occlusion: side of the hidden square in pixels")
	f.Int64Var(&o.config.Stride, "stride", o.config.Stride, "occlusion: pixels from one square to the next")
	f.IntVar(&o.config.Masks, "masks", o.config.Masks, "rise: masks of an image")
	f.StringVar(&o.precision, "precision", job.FP32, "numbers: fp32, fp64")
	f.IntVarP(&o.batch, "batch-size", "b", 32, "images explained together")
	f.Uint64Var(&o.seed, "seed", 0, "start of what random methods draw")
	f.StringVar(&o.device, "device", job.DeviceAuto, "cpu, the number of a GPU, or auto")
	f.IntVar(&o.threads, "threads", 0, "CPU threads of one operation; 0: as many as cores")
	return c
}

// check refuses what cannot be before anything is opened.
func (o explainOptions) check() error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%w: "+format, append([]any{job.ErrConfig}, args...)...)
	}
	switch {
	case o.checkpoint == "":
		return bad("no network: give --checkpoint a run directory or a file of weights")
	case o.out == "" && o.maps == "" && !o.scores:
		return bad("nothing to do: give --out a folder for pictures, or ask for --scores, or --maps F.safetensors")
	case o.precision != job.FP32 && o.precision != fp64:
		return bad("--precision %q: choose %s or %s", o.precision, job.FP32, fp64)
	case o.images < 0 || o.batch < 1 || o.threads < 0:
		return bad("--images %d, --batch-size %d, --threads %d: choose a batch of at least 1 and nothing negative", o.images, o.batch, o.threads)
	case o.maps != "" && !strings.HasSuffix(o.maps, ".safetensors"):
		return bad("--maps %s: the name must end in .safetensors", o.maps)
	case !slices.Contains([]data.Split{data.Train, data.Val, data.Test}, data.Split(o.split)):
		return bad("--split %q: choose train, val or test", o.split)
	}
	if o.out != "" {
		if info, err := os.Stat(o.out); err == nil && !info.IsDir() {
			return bad("--out %s is a file: name a folder", o.out)
		}
	}
	return o.config.Validate()
}

// explained is the result of `mp explain` as JSON.
type explained struct {
	Images  int            `json:"images"`  // explained
	Skipped []string       `json:"skipped"` // images that could not be read, with the reason
	Sheets  []string       `json:"sheets"`  // files
	Rows    []explainedRow `json:"rows"`
}

// explainedRow is what is known of one method and network. Scores are means over images; those not measured are left out.
type explainedRow struct {
	Checkpoint   string            `json:"checkpoint"`
	Method       string            `json:"method"`
	Images       int               `json:"images"`
	Seconds      float64           `json:"seconds"` // to make the maps
	Completeness *float64          `json:"completeness_gap,omitempty"`
	Deletion     *float64          `json:"deletion_auc,omitempty"`
	Insertion    *float64          `json:"insertion_auc,omitempty"`
	Infidelity   *float64          `json:"infidelity,omitempty"`
	Randomised   []randomisedLayer `json:"randomised,omitempty"`
}

// randomisedLayer says how alike maps stay when a layer and all after it have random weights.
type randomisedLayer struct {
	Layer       string   `json:"layer"`
	Correlation *float64 `json:"rank_correlation"` // of the maps; null where one is flat
}

func explainData(ctx context.Context, e *env, dir string, o explainOptions) (err error) {
	if err := o.check(); err != nil {
		return err
	}
	images, closeImages, err := openPictures(dir, data.Split(o.split))
	if err != nil {
		return err
	}
	defer closeImages()
	x, err := newExplainer(ctx, o, len(images.Classes()))
	if err != nil {
		return err
	}
	defer x.close()
	total := images.Len()
	if o.images > 0 {
		total = min(total, o.images)
	}
	var sheets *sheetWriter
	if o.out != "" {
		if err := os.MkdirAll(o.out, 0o755); err != nil {
			return fmt.Errorf("make folder for pictures: %w", err)
		}
		sheets = newSheetWriter(o.out, x.columns())
	}
	bar := e.progress("explain", int64(total)*x.passes())
	x.progress = bar.Add
	result := explained{Skipped: []string{}, Sheets: []string{}}
	unreadable, err := x.each(ctx, images, total, func(b *pictures, found []sighting) error {
		result.Images += len(b.ids)
		if sheets == nil {
			return nil
		}
		return sheets.add(b, found)
	})
	if err == nil && sheets != nil {
		err = sheets.flush()
	}
	bar.Finish()
	if err != nil {
		return err
	}
	for _, u := range unreadable {
		result.Skipped = append(result.Skipped, u.Error())
	}
	if sheets != nil {
		result.Sheets = sheets.files
	}
	if result.Rows, err = x.rows(); err != nil {
		return err
	}
	if err := x.write(o, result); err != nil {
		return err
	}
	if err := printExplained(e, o, result); err != nil {
		return err
	}
	if len(unreadable) > 0 {
		return fmt.Errorf("%d of %d images could not be read, the others are done: %w", len(unreadable), total, errors.Join(unreadable[:min(len(unreadable), 20)]...))
	}
	return nil
}

// write leaves the results beside the pictures, and the maps where they are asked for.
func (x *explainer) write(o explainOptions, result explained) error {
	if o.out != "" {
		text, err := json.MarshalIndent(result, "", "  ")
		if err != nil {
			return fmt.Errorf("write results: %w", err)
		}
		path := filepath.Join(o.out, "explain.json")
		if err := errors.Join(os.WriteFile(path+".new", append(text, '\n'), 0o644), os.Rename(path+".new", path)); err != nil {
			return fmt.Errorf("write results: %w", err)
		}
	}
	if o.maps != "" {
		return checkpoint.Export(o.maps, &checkpoint.State{Model: x.kept(), Meta: checkpoint.Meta{Arch: x.networks[0].model.Arch, Seed: o.seed}})
	}
	return nil
}

func printExplained(e *env, o explainOptions, result explained) error {
	if e.json {
		return e.printJSON(result)
	}
	heading := []string{"network", "method", ">images", ">seconds"}
	if o.scores {
		heading = append(heading, ">deletion", ">insertion", ">infidelity", ">randomised")
	}
	heading = append(heading, ">completeness gap")
	var rows [][]string
	number := func(v *float64) string {
		if v == nil {
			return "-"
		}
		return fmt.Sprintf("%.3g", *v)
	}
	for _, r := range result.Rows {
		row := []string{r.Checkpoint, r.Method, fmt.Sprint(r.Images), fmt.Sprintf("%.1f", r.Seconds)}
		if o.scores {
			var last *float64
			if n := len(r.Randomised); n > 0 {
				last = r.Randomised[n-1].Correlation
			}
			row = append(row, number(r.Deletion), number(r.Insertion), number(r.Infidelity), number(last))
		}
		rows = append(rows, append(row, number(r.Completeness)))
	}
	if err := writeTable(e.stdout, heading, rows); err != nil {
		return err
	}
	if o.scores {
		fmt.Fprintln(e.human(), "deletion: area under the label's probability as pixels go, small is good; insertion: as they come, large is good;\n"+
			"infidelity: squared error of what small noise does to the logit, at the best scale, small is good; randomised: rank\n"+
			"correlation with the maps of the same network with random weights, near 0 is good, near 1 explains no network")
	}
	if n := len(result.Sheets); n > 0 {
		what := "1 picture: " + result.Sheets[0]
		if n > 1 {
			what = fmt.Sprintf("%d pictures: %s ...", n, result.Sheets[0])
		}
		fmt.Fprintln(e.human(), what)
	}
	return nil
}
