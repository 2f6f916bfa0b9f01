package cmd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"mp/job"
	"mp/model"
	"mp/report"
)

// reportOptions is what `mp report` is asked for.
type reportOptions struct {
	out, bundle, code string
	data              string
	noCompute         bool
	images, batch     int
	device            string
	threads           int
}

// newReportCommand returns `mp report`.
func newReportCommand(e *env) *cobra.Command {
	var o reportOptions
	c := &cobra.Command{
		Use:   "report RUN...",
		Short: "Write up one run or compare several, as HTML and PDF",
		Long: "Write up runs: what was run and why, curves, tables, mistakes with pictures, where networks look, attacks, comparisons, and how\n" +
			"to repeat it. The best checkpoint of each run is asked about the validation images first; the answers stay in RUN/report and are\n" +
			"used again until the weights change. Results of other verbs in RUN/report are taken in: `mp attack DATA --checkpoint RUN --out\n" +
			"RUN/report/attack`, `mp explain ... --scores --out RUN/report/explain`, `mp bench conv --json > RUN/report/bench-conv.json`.\n" +
			"What is not there is named in the report, with the command that makes it.",
		Example: "  mp report runs/20260102-030405-scenenet\n  mp report runs/20260102-030405-simplenet runs/20260102-040506-simplenet-own --out comparison\n" +
			"  mp report runs/* --no-compute --bundle hand-in.zip",
		Args: cobra.ArbitraryArgs,
		RunE: func(c *cobra.Command, args []string) error { return writeReport(c.Context(), e, args, o) },
	}
	f := c.Flags()
	f.StringVar(&o.out, "out", "", "folder for report.html and report.pdf, made if it is not there; default: RUN/report, of several report-<time>")
	f.StringVar(&o.bundle, "bundle", "", "also write this .zip to hand in: code/, writeup/ and results/, without data, logs and models; default: none")
	f.StringVar(&o.code, "code", ".", "folder of the program's source, for --bundle")
	f.StringVar(&o.data, "data", "", "folder of images; default: the one that each run's job names")
	f.BoolVar(&o.noCompute, "no-compute", false, "ask no network: make the report from what is there")
	f.IntVar(&o.images, "images", 0, "ask about the first so many validation images; 0: all")
	f.IntVarP(&o.batch, "batch-size", "b", 100, "images a batch")
	f.StringVar(&o.device, "device", job.DeviceAuto, "cpu, the number of a GPU, or auto")
	f.IntVar(&o.threads, "threads", 0, "CPU threads of one operation; 0: as many as cores")
	return c
}

// check refuses what cannot be before anything is opened.
func (o reportOptions) check(runs []string) error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%w: "+format, append([]any{job.ErrConfig}, args...)...)
	}
	switch {
	case len(runs) == 0:
		return bad("no run: give one run directory or more, such as runs/20260102-030405-scenenet")
	case o.images < 0 || o.batch < 1 || o.threads < 0:
		return bad("--images %d, --batch-size %d, --threads %d: choose a batch of at least 1 and nothing negative", o.images, o.batch, o.threads)
	case o.bundle != "" && !strings.HasSuffix(o.bundle, ".zip"):
		return bad("--bundle %s: the name must end in .zip", o.bundle)
	case o.bundle != "" && !exists(filepath.Join(o.code, "go.mod")):
		return bad("--code %s holds no go.mod: name the folder of the program's source", o.code)
	}
	if info, err := os.Stat(o.out); o.out != "" && err == nil && !info.IsDir() {
		return bad("--out %s is a file: name a folder", o.out)
	}
	return nil
}

// reported is the result of `mp report` as JSON.
type reported struct {
	HTML    string        `json:"html"`
	PDF     string        `json:"pdf"`
	Bundle  string        `json:"bundle,omitempty"`
	Runs    []reportedRun `json:"runs"`
	Missing []string      `json:"missing"` // parts that could not be made, and how to make them
	Remarks []string      `json:"remarks"` // what was wrong with the runs' files
}

// reportedRun is a run's figures.
type reportedRun struct {
	Name string `json:"name"`
	Path string `json:"path"`
	report.Figures
}

func writeReport(ctx context.Context, e *env, runs []string, o reportOptions) error {
	if err := o.check(runs); err != nil {
		return err
	}
	r := report.Request{Made: time.Now(), Machine: reportMachine()}
	for _, dir := range slices.Compact(slices.Clone(runs)) {
		in := report.Input{Directory: filepath.Clean(dir)}
		if err := o.describe(ctx, e, &in); err != nil {
			return err
		}
		r.Runs = append(r.Runs, in)
	}
	document, read, bad := report.Make(r)
	if document == nil {
		return bad
	}
	result := reported{Runs: []reportedRun{}, Missing: append([]string{}, document.Missing...), Remarks: []string{}}
	for _, run := range read {
		result.Runs = append(result.Runs, reportedRun{run.Name, run.Directory, run.Figures()})
		result.Remarks = append(result.Remarks, run.Remarks...)
	}
	out := o.out
	switch {
	case out != "":
	case len(runs) == 1:
		out = filepath.Join(runs[0], report.Folder)
	default:
		out = "report-" + r.Made.Format("20060102-150405")
	}
	if err := os.MkdirAll(out, 0o755); err != nil {
		return fmt.Errorf("make the report's folder: %w", err)
	}
	result.HTML, result.PDF, result.Bundle = filepath.Join(out, "report.html"), filepath.Join(out, "report.pdf"), o.bundle
	if err := errors.Join(writeForm(result.HTML, document.HTML), writeForm(result.PDF, document.PDF)); err != nil {
		return err
	}
	if o.bundle != "" {
		if err := writeBundle(r, o); err != nil {
			return err
		}
	}
	if err := printReport(e, result); err != nil {
		return err
	}
	return bad // a path that is no run: the report of the others is there
}

// writeForm writes a document in one form: the file appears complete or not at all.
func writeForm(path string, form func(io.Writer) error) error {
	var b bytes.Buffer
	if err := form(&b); err != nil {
		return err
	}
	return writeWhole(path, b.Bytes())
}

// writeBundle writes the zip to hand in, whose report names no folder of this machine.
func writeBundle(r report.Request, o reportOptions) error {
	r.Portable = true
	document, read, _ := report.Make(r) // what is wrong was said of the report itself
	b := report.Bundle{Code: os.DirFS(o.code), Document: document, Runs: read, Made: r.Made}
	return writeForm(o.bundle, b.Write)
}

// describe adds to a run what only this program knows, and computes what only the network can tell. What cannot be computed is
// a remark in the report; an error is a wish to stop.
func (o reportOptions) describe(ctx context.Context, e *env, in *report.Input) error {
	path := filepath.Join(in.Directory, jobFile)
	if !exists(path) {
		return nil
	}
	content, err := readJobFile(path)
	var spec job.Spec
	if err == nil {
		spec, err = job.Resolve(job.File(path, content))
	}
	if err != nil {
		in.Remarks = append(in.Remarks, fmt.Sprintf("The network was not asked: %v.", err))
		return nil
	}
	in.Design, in.Command = model.Design(spec.Model), trainCommand(spec)
	if o.noCompute {
		return nil
	}
	err = o.compute(ctx, e, *in, spec)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		in.Remarks = append(in.Remarks, fmt.Sprintf("The network was not asked: %v.", err))
	}
	return nil
}

// trainCommand is the command line that trains a job again: what its recipe does not say.
func trainCommand(s job.Spec) string {
	words := []string{"mp", "train", quoted(s.Data)}
	plain, err1 := job.Default(job.Spec{Recipe: s.Recipe, Model: s.Model})
	chosen, err2 := job.Default(s) // its choices, with what follows from them
	known := err1 == nil && err2 == nil
	for _, o := range job.Options() {
		value := o.Value(s)
		switch {
		case o.Hidden, o.Name == "resume": // it began there, and ended where it says now
			continue
		case slices.Contains([]string{"model", "recipe", "epochs", "shards", "threads"}, o.Name): // those that name it, or count in the result
		case s.Attacked() && (o.Name == "adv-eps" || o.Name == "adv-steps"):
		case slices.Contains([]string{"conv", "optimizer", "augment", "adversarial"}, o.Name): // those that others follow from
			if known && value == o.Value(plain) {
				continue
			}
		case known && value == o.Value(chosen):
			continue
		}
		if _, flag := o.Field(&s).(*bool); flag {
			words = append(words, "--"+o.Name+"="+value)
		} else {
			words = append(words, "--"+o.Name, quoted(value))
		}
	}
	return strings.Join(words, " ")
}

// quoted is a word as a shell takes it.
func quoted(word string) string {
	if word != "" && !strings.ContainsAny(word, " \t\n'\"\\$&|;<>()*?[]#~`!{}") {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}

// reportMachine says what makes the report.
func reportMachine() []report.Fact {
	facts := []report.Fact{{Name: "program", Value: "mp " + version()}, {Name: "Go", Value: runtime.Version() + ", " + runtime.GOOS + "/" + runtime.GOARCH}}
	text, err := os.ReadFile("/proc/cpuinfo")
	if name, _ := cpuinfo(string(text)); err == nil && name != "" {
		facts = append(facts, report.Fact{Name: "processor", Value: fmt.Sprintf("%s, %d threads", name, cores())})
	}
	return append(facts, report.Fact{Name: "libtorch", Value: torchVersion})
}

func printReport(e *env, result reported) error {
	if e.json {
		return e.printJSON(result)
	}
	for _, r := range result.Remarks {
		fmt.Fprintln(e.stderr, "note: "+r)
	}
	if n := len(result.Missing); n > 0 {
		fmt.Fprintf(e.human(), "%d parts are missing; the report's last chapter says how to make them\n", n)
	}
	for _, path := range []string{result.HTML, result.PDF, result.Bundle} {
		if path != "" {
			fmt.Fprintln(e.stdout, path)
		}
	}
	return nil
}
