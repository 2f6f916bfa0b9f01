package cmd

import (
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"
)

// drilled is the verdict of one drill.
type drilled struct {
	Drill    string       `json:"drill"`
	Number   int          `json:"number"`
	Held     bool         `json:"held"`
	NotRun   string       `json:"not_run,omitempty"` // why it could not be; then nothing is known
	Seconds  float64      `json:"seconds"`           // that it took
	Detect   float64      `json:"detect_seconds"`    // until the slowest fault was noticed; 0: nobody noticed any
	Recover  float64      `json:"recover_seconds"`   // until the next step after the slowest; 0: no fault stopped the steps
	Steps    uint64       `json:"steps"`             // committed
	Lost     uint64       `json:"samples_lost"`
	Repeated uint64       `json:"samples_repeated"`
	SameBits bool         `json:"same_bits"`
	Error    string       `json:"error,omitempty"`
	Checks   []drillCheck `json:"checks"`
}

// drillCheck is one thing that must hold.
type drillCheck struct {
	What string `json:"what"`
	Got  string `json:"got"`
	Want string `json:"want"`
	Held bool   `json:"held"`
}

// drillReport is the result of `mp drill` as JSON.
type drillReport struct {
	Time    time.Time `json:"time"`
	TLS     bool      `json:"tls"`
	Cores   int       `json:"cores"`
	Load    float64   `json:"load"` // the greatest of the averages over a minute, of all that the machine did
	Held    int       `json:"held"`
	Failed  int       `json:"failed"`
	NotRun  int       `json:"not_run"`
	Seconds float64   `json:"seconds"`
	Drills  []drilled `json:"drills"`
}

func newDrillReport(o drillOptions) *drillReport {
	return &drillReport{Time: time.Now(), TLS: o.tls == tlsOn, Cores: runtime.NumCPU(), Load: load(), Drills: []drilled{}}
}

// load is the machine's load average over the last minute, 0 where it is not known.
func load() float64 {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return 0
	}
	word, _, _ := strings.Cut(string(text), " ")
	x, _ := strconv.ParseFloat(word, 64)
	return x
}

func (r *drillReport) add(v drilled) {
	r.Drills = append(r.Drills, v)
	r.Load, r.Seconds = max(r.Load, load()), time.Since(r.Time).Seconds()
	switch {
	case v.NotRun != "":
		r.NotRun++
	case v.Held:
		r.Held++
	default:
		r.Failed++
	}
}

// failed names the drills that have not held.
func (r *drillReport) failed() []string {
	var names []string
	for _, v := range r.Drills {
		if !v.Held && v.NotRun == "" {
			names = append(names, v.Drill)
		}
	}
	return names
}

// write writes the report to a file; without a name nowhere.
func (r *drillReport) write(path string) error {
	if path == "" {
		return nil
	}
	text, err := json.MarshalIndent(r, "", "  ")
	if err == nil {
		err = os.WriteFile(path, append(text, '\n'), 0o644)
	}
	if err != nil {
		return fmt.Errorf("write the verdicts to %s: %w", path, err)
	}
	return nil
}

// print prints a row for each drill.
func (r *drillReport) print(e *env) error {
	var rows [][]string
	for _, v := range r.Drills {
		rows = append(rows, v.row())
	}
	if err := writeTable(e.stdout, []string{">", "drill", "verdict", "noticed", "next step", "steps", "lost, repeated", "bits", "took"}, rows); err != nil {
		return err
	}
	tls := "without TLS"
	if r.TLS {
		tls = "with TLS"
	}
	_, err := fmt.Fprintf(e.stdout, "%d held, %d did not, %d not run, in %s %s; %s, load average up to %.1f\n",
		r.Held, r.Failed, r.NotRun, span(seconds(r.Seconds)), tls, count(r.Cores, "core", "cores"), r.Load)
	return err
}

func (v drilled) verdict() string {
	switch {
	case v.NotRun != "":
		return "not run"
	case v.Held:
		return "held"
	}
	return "DID NOT HOLD"
}

func (v drilled) row() []string {
	row := []string{strconv.Itoa(v.Number), v.Drill, v.verdict(), "-", "-", "-", "-", "-", span(seconds(v.Seconds))}
	if v.NotRun != "" {
		return row
	}
	if v.Detect > 0 {
		row[3] = span(seconds(v.Detect))
	}
	if v.Recover > 0 {
		row[4] = span(seconds(v.Recover))
	}
	row[5], row[6], row[7] = thousands(v.Steps), fmt.Sprintf("%d, %d", v.Lost, v.Repeated), "DIFFERENT"
	if v.SameBits {
		row[7] = "same"
	}
	return row
}

// text is the verdict for people.
func (v drilled) text() string {
	var b strings.Builder
	if v.NotRun != "" {
		fmt.Fprintf(&b, "  %s: not run: %s\n\n", v.Drill, v.NotRun)
		return b.String()
	}
	var rows [][]string
	for _, c := range v.Checks {
		mark := "held"
		if !c.Held {
			mark = "FAILED"
		}
		rows = append(rows, []string{"  " + mark, folded(c.What, 60), folded(c.Got, 50), folded(c.Want, 40)})
	}
	_ = writeTable(&b, []string{"", "what", "got", "want"}, rows)
	fmt.Fprintf(&b, "  %s: %s in %s", v.Drill, v.verdict(), span(seconds(v.Seconds)))
	if v.Error != "" {
		fmt.Fprintf(&b, ": %s", v.Error)
	}
	b.WriteString("\n\n")
	return b.String()
}
