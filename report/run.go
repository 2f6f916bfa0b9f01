package report

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/goccy/go-yaml"

	"mp/metrics"
)

// jobFile is the name of a run's specification.
const jobFile = "job.yaml"

// Run is what a run's directory says.
type Run struct {
	Input
	Name        string // short, and its own among the runs of a report
	portable    bool
	options     yaml.MapSlice
	start       *metrics.Start // the newest
	began       time.Time      // zero: not known
	resumes     int
	steps       []metrics.Step
	epochs      []metrics.Epoch
	validations []metrics.Validation
	workers     []metrics.Worker
	summary     *metrics.Summary
	goodput     *metrics.GoodputReport
	told        []told // of interest to people, in order
	pictures    []metrics.Picture
	evaluation  *Evaluation
	saliency    *Saliency
	attacks     []attackFound
	explained   []explainedRow
	bench       []benchRow
}

// told is something that happened.
type told struct {
	at      time.Time
	text    string
	warning bool
}

// readRun reads all of a directory; only one that is no run is an error. What is damaged becomes a remark.
func readRun(in Input) (*Run, error) {
	r := &Run{Input: in}
	info, err := os.Stat(in.Directory)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("%w: %s: there is no such directory", ErrConfig, in.Directory)
	case err != nil:
		return nil, fmt.Errorf("read run: %w", err)
	case !info.IsDir():
		return nil, fmt.Errorf("%w: %s is a file: a run is a directory, as `mp train` makes it under runs", ErrConfig, in.Directory)
	}
	known := false
	for _, name := range []string{jobFile, metrics.MetricsFile, metrics.EventsFile} {
		if _, err := os.Stat(filepath.Join(in.Directory, name)); err == nil {
			known = true
		}
	}
	if !known {
		return nil, fmt.Errorf("%w: %s is no run: it has neither %s nor %s nor %s", ErrConfig, in.Directory, jobFile, metrics.MetricsFile, metrics.EventsFile)
	}
	r.readJob()
	for _, name := range []string{metrics.MetricsFile, metrics.EventsFile} {
		for _, e := range r.readEvents(name) {
			r.take(e)
		}
	}
	r.readComputed()
	return r, nil
}

// remark notes what is wrong with the directory.
func (r *Run) remark(format string, args ...any) {
	r.Remarks = append(r.Remarks, fmt.Sprintf(format, args...))
}

func (r *Run) readJob() {
	text, err := os.ReadFile(filepath.Join(r.Directory, jobFile))
	if errors.Is(err, fs.ErrNotExist) {
		r.remark("There is no `%s`: options are taken from the events.", jobFile)
		return
	}
	if err == nil {
		err = yaml.UnmarshalWithOptions(text, &r.options, yaml.UseOrderedMap())
	}
	if err != nil {
		first, _, _ := strings.Cut(err.Error(), "\n")
		r.remark("`%s` cannot be read (%s).", jobFile, first)
		r.options = nil
	}
}

// readEvents reads the events of a file, without lines that cannot be read: a program that is killed leaves a last line cut short.
func (r *Run) readEvents(name string) []metrics.Event {
	text, err := os.ReadFile(filepath.Join(r.Directory, name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		r.remark("`%s` cannot be read (%v).", name, err)
		return nil
	}
	var whole bytes.Buffer
	lines := bytes.SplitAfter(text, []byte("\n"))
	bad, first := 0, 0
	for i, line := range lines {
		switch {
		case len(line) == 0:
		case line[len(line)-1] != '\n':
			r.remark("The last line of `%s` is half-written and left out: the run was interrupted while it wrote.", name)
		case json.Unmarshal(line, &metrics.Event{}) != nil:
			if bad++; bad == 1 {
				first = i + 1
			}
		default:
			whole.Write(line)
		}
	}
	if bad > 0 {
		r.remark("%s of `%s` cannot be read and left out, the first is line %d.", count(bad, "line"), name, first)
	}
	events, err := metrics.Read(&whole)
	if err != nil {
		r.remark("`%s` cannot be read (%v).", name, err)
	}
	return events
}

// take sorts an event into the run.
func (r *Run) take(e metrics.Event) {
	if r.began.IsZero() || e.Time.Before(r.began) {
		r.began = e.Time
	}
	switch {
	case e.Start != nil:
		if r.start != nil {
			r.resumes++
		}
		r.start = e.Start
		if r.options == nil {
			r.optionsOf(e.Start.Job)
		}
	case e.Step != nil:
		r.steps = append(r.steps, *e.Step)
	case e.Epoch != nil:
		r.epochs = append(r.epochs, *e.Epoch)
	case e.Validation != nil:
		r.validations = append(r.validations, *e.Validation)
	case e.Worker != nil:
		r.workers = append(r.workers, *e.Worker)
	case e.Summary != nil:
		r.summary = e.Summary
	case e.Goodput != nil:
		r.goodput = e.Goodput
	case e.Picture != nil:
		r.pictures = append(r.pictures, *e.Picture)
	case e.View != nil && (e.View.Warning || e.View.RecoverSeconds > 0):
		text := e.View.Reason
		if e.View.RecoverSeconds > 0 {
			text += fmt.Sprintf(": the next update was committed after %s", span(e.View.RecoverSeconds))
		}
		r.told = append(r.told, told{e.Time, text, e.View.Warning})
	case e.Fault != nil && e.Fault.View == 0:
		r.told = append(r.told, told{e.Time, e.Fault.Text, true})
	case e.Story != nil && (e.Story.Warning || e.Story.Topic == "resume"):
		r.told = append(r.told, told{e.Time, e.Story.Text, e.Story.Warning})
	case e.Leader != nil && e.Leader.Previous != "":
		r.told = append(r.told, told{e.Time, fmt.Sprintf("coordinator %s leads after %s; nobody led for %s", e.Leader.ID, e.Leader.Previous, span(e.Leader.Seconds)), true})
	}
}

// optionsOf takes the options that a start says, in place of the job's file.
func (r *Run) optionsOf(job json.RawMessage) {
	if len(job) > 0 {
		if err := yaml.UnmarshalWithOptions(job, &r.options, yaml.UseOrderedMap()); err != nil {
			r.remark("The options in `%s` cannot be read (%v).", metrics.EventsFile, err)
		}
	}
}

// option is the value of an option of the job as a person would type it; empty where it is not known.
func (r *Run) option(name string) string {
	for _, item := range r.options {
		if fmt.Sprint(item.Key) != name {
			continue
		}
		value := valueText(item.Value)
		if r.portable && filepath.IsAbs(value) {
			value = filepath.Base(value)
		}
		return value
	}
	return ""
}

// carry leaves folders of this machine out of what others wrote about the run.
func (r *Run) carry() {
	folders := []string{r.Directory, r.place()}
	for _, item := range r.options {
		if value := valueText(item.Value); filepath.IsAbs(value) {
			folders = append(folders, value, filepath.Base(value))
		}
	}
	replace := strings.NewReplacer(folders...)
	r.Command = replace.Replace(r.Command)
	for i := range r.Remarks {
		r.Remarks[i] = replace.Replace(r.Remarks[i])
	}
}

func valueText(v any) string {
	switch v := v.(type) {
	case nil:
		return ""
	case float64:
		return strings.TrimSuffix(fmt.Sprintf("%g", v), ".0")
	}
	return fmt.Sprint(v)
}

// adversarial says whether the run trains on attacked images.
func (r *Run) adversarial() bool {
	a := r.option("adversarial")
	return a != "" && a != "none"
}

// best is the validation of the best checkpoint: the last that was the best of the run so far.
func (r *Run) best() *metrics.Validation {
	for i := range slices.Backward(r.validations) {
		if r.validations[i].Best {
			return &r.validations[i]
		}
	}
	return nil
}

// seconds is the time of training and validation; 0 where it is not known.
func (r *Run) seconds() float64 {
	if r.summary != nil {
		return r.summary.Seconds
	}
	sum := 0.
	for _, e := range r.epochs {
		sum += e.Seconds
	}
	for _, v := range r.validations {
		sum += v.Seconds
	}
	return sum
}

// speed is the images a second of training, over all epochs.
func (r *Run) speed() float64 {
	images, seconds := 0., 0.
	for _, e := range r.epochs {
		images, seconds = images+e.ImagesPerSecond*e.Seconds, seconds+e.Seconds
	}
	if seconds == 0 {
		return 0
	}
	return images / seconds
}

// epochSeconds is the median time of an epoch.
func (r *Run) epochSeconds() float64 {
	var all []float64
	for _, e := range r.epochs {
		all = append(all, e.Seconds)
	}
	return median(all)
}

// memory is the most that a reported step saw, in bytes.
func (r *Run) memory() int64 {
	most := int64(0)
	for _, s := range r.steps {
		most = max(most, s.MemoryBytes)
	}
	return most
}

func median(all []float64) float64 {
	if len(all) == 0 {
		return 0
	}
	slices.Sort(all)
	n := len(all)
	return (all[(n-1)/2] + all[n/2]) / 2
}

// nameRuns gives each run a name: that of its directory without the time, and where several are alike the whole.
func nameRuns(runs []*Run) {
	seen := map[string]int{}
	for _, r := range runs {
		absolute, err := filepath.Abs(r.Directory)
		if err != nil {
			absolute = r.Directory
		}
		r.Name = filepath.Base(absolute)
		if day, rest, ok := strings.Cut(r.Name, "-"); ok && len(day) == 8 && strings.Trim(day, "0123456789") == "" {
			if clock, name, ok := strings.Cut(rest, "-"); ok && len(clock) == 6 && strings.Trim(clock, "0123456789") == "" {
				r.Name = name
			}
		}
		seen[r.Name]++
	}
	for i, r := range runs {
		if seen[r.Name] > 1 {
			if base := filepath.Base(r.Directory); base != r.Name && !slices.ContainsFunc(runs[:i], func(o *Run) bool { return o.Name == base }) {
				r.Name = base
			} else {
				r.Name = fmt.Sprintf("%s (%d)", r.Name, i+1)
			}
		}
	}
}

// Figures are what a run amounts to; what is not known is left out of JSON.
type Figures struct {
	BestTop1   *float64 `json:"best_top1,omitempty"` // per cent
	BestTop5   *float64 `json:"best_top5,omitempty"`
	BestEpoch  int      `json:"best_epoch,omitempty"`
	Epochs     int      `json:"epochs,omitempty"` // done
	RobustTop1 *float64 `json:"robust_top1,omitempty"`
	Seconds    float64  `json:"seconds,omitempty"`
	Parameters int64    `json:"parameters,omitempty"`
}

// Figures returns the run's figures.
func (r *Run) Figures() Figures {
	f := Figures{Seconds: r.seconds()}
	if n := len(r.validations); n > 0 {
		f.Epochs = r.validations[n-1].Epoch
	}
	if v := r.best(); v != nil {
		f.BestTop1, f.BestTop5, f.BestEpoch = &v.Top1, &v.Top5, v.Epoch
		if v.Robust != nil {
			f.RobustTop1 = &v.Robust.Top1
		}
	}
	if r.evaluation != nil {
		f.Parameters = r.evaluation.Parameters
	}
	return f
}
