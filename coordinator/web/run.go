package web

import (
	"bytes"
	"encoding/json"
	"strconv"
	"strings"
	"time"

	"mp/metrics"
)

// Run is what one look at a run tells. What is not known is left out.
type Run struct {
	Name   string `json:"name"`  // of its directory
	State  string `json:"state"` // those of Job, or "stopped": it was running by its files, and nothing was written for long; "unknown"
	Reason string `json:"reason,omitempty"`
	Job    string `json:"job,omitempty"` // its identity in the cluster behind the page, which can steer it

	Model   string     `json:"model,omitempty"`
	Recipe  string     `json:"recipe,omitempty"`
	Device  string     `json:"device,omitempty"` // in words, of the worker that speaks
	Version string     `json:"version,omitempty"`
	Began   *time.Time `json:"began,omitempty"`  // the first line
	Newest  *time.Time `json:"newest,omitempty"` // the last one

	Update     int                 `json:"update"`
	Updates    int                 `json:"updates"` // of the whole run; 0: not known yet
	Epoch      int                 `json:"epoch"`
	Epochs     int                 `json:"epochs"`
	Step       *metrics.Step       `json:"step,omitempty"` // the newest
	StepTime   *time.Time          `json:"step_time,omitempty"`
	Best       *metrics.Validation `json:"best,omitempty"`
	Validation *metrics.Validation `json:"validation,omitempty"` // the newest
	Workers    int                 `json:"workers"`              // that compute, by the newest view
	Faults     int                 `json:"faults"`               // that a view answered
	SHA256     string              `json:"sha256,omitempty"`     // of the final weights

	Problems []string `json:"problems,omitempty"` // what is wrong with its files, for people

	told string // state, by the files
}

// take notes an event.
func (r *Run) take(e metrics.Event) {
	if !e.Time.IsZero() {
		t := e.Time
		if r.Began == nil {
			r.Began = &t
		}
		if r.Newest == nil || t.After(*r.Newest) {
			r.Newest = &t
		}
	}
	switch {
	case e.Start != nil:
		r.Device, r.Updates, r.Version = e.Start.Device, e.Start.Updates, e.Start.Version
		r.Update = max(r.Update, e.Start.Update)
		r.told = "running"
		r.spec(e.Start.Job)
	case e.Step != nil:
		s, t := *e.Step, e.Time
		r.Step, r.StepTime, r.Update, r.Epoch, r.Epochs = &s, &t, s.Update, s.Epoch, s.Epochs
	case e.Epoch != nil:
		r.Update, r.Epoch, r.Epochs = e.Epoch.Update, e.Epoch.Epoch, e.Epoch.Epochs
	case e.Validation != nil:
		v := *e.Validation
		r.Validation = &v
		if v.Best {
			r.Best = &v
		}
	case e.View != nil:
		r.view(*e.View)
	case e.Story != nil:
		if state := stateOf(*e.Story); state != "" {
			r.told = state
		}
	case e.Summary != nil:
		r.told, r.SHA256 = "done", e.Summary.SHA256
	}
}

func (r *Run) view(v metrics.View) {
	if v.Warning && v.RecoverSeconds == 0 {
		r.Faults++
	}
	if len(v.Members) > 0 {
		r.Workers = 0
		for _, m := range v.Members {
			if len(m.Shards) > 0 {
				r.Workers++
			}
		}
	}
}

// spec reads what the list of runs shows of a job.
func (r *Run) spec(job json.RawMessage) {
	var s struct {
		Model, Recipe string
		Epochs        int
	}
	if json.Unmarshal(job, &s) == nil {
		r.Model, r.Recipe = s.Model, s.Recipe
		r.Epochs = max(r.Epochs, s.Epochs)
	}
}

// stateOf is the state that a story says a job to be in; empty where it says nothing of the kind. The coordinator's own words
// are "JOB submitted: ...", "JOB starts ...", "JOB is STATE: ...", "JOB, STATE before, is STATE: ..." and "JOB failed ...".
func stateOf(s metrics.Story) string {
	if s.Topic != "job" && s.Topic != "drain" {
		return ""
	}
	job, rest, _ := strings.Cut(s.Text, " ")
	if !strings.HasPrefix(job, "job-") {
		return ""
	}
	if _, after, ok := strings.Cut(rest, " before, "); ok && strings.HasSuffix(job, ",") {
		rest = after
	}
	word, rest, _ := strings.Cut(rest, " ")
	switch strings.TrimRight(word, ":") {
	case "submitted":
		return "queued"
	case "starts":
		return "running"
	case "failed":
		return "failed"
	case "is":
		state, _, _ := strings.Cut(rest, ":")
		switch state {
		case "queued", "running", "paused", "draining", "done", "failed", "cancelled":
			return state
		case "drained":
			return "paused"
		}
	}
	return ""
}

func ended(state string) bool { return state == "done" || state == "failed" || state == "cancelled" }

// staleAfter is the silence after which a run that its files call running counts as stopped, where no cluster knows better:
// more than validation or a long step takes.
const staleAfter = 3 * time.Minute

// settle decides the run's state: the cluster's word over the files', unless they know of an end that it had no time to tell.
func (r *Run) settle(j Job, known bool, now time.Time) {
	r.State, r.Reason, r.Job = r.told, "", ""
	switch {
	case known:
		r.State, r.Reason, r.Job = j.State, j.Reason, j.ID
		if !ended(j.State) && ended(r.told) {
			r.State, r.Reason = r.told, ""
		}
		r.Update, r.Updates = max(r.Update, int(j.Update)), max(r.Updates, int(j.Updates))
		if j.SHA256 != "" {
			r.SHA256 = j.SHA256
		}
	case r.told == "":
		r.State = "unknown"
		if r.Began != nil {
			r.State = "queued"
		}
	case (r.told == "running" || r.told == "draining" || r.told == "queued") && r.Newest != nil && now.Sub(*r.Newest) > staleAfter:
		r.State = "stopped"
		r.Reason = "nothing was written for long: it was stopped, or another coordinator records it"
	}
}

// Setting is one option of a job.
type Setting struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// settings lists a job's options in its own order, from its JSON or, without one, from the lines of its job.yaml, which are
// all of the form "name: value".
func settings(job json.RawMessage, yaml []byte) []Setting {
	all := []Setting{}
	d := json.NewDecoder(bytes.NewReader(job))
	d.UseNumber()
	if t, err := d.Token(); err == nil && t == json.Delim('{') {
		for d.More() {
			name, err := d.Token()
			var value any
			if err != nil || d.Decode(&value) != nil {
				break
			}
			key, _ := name.(string)
			all = append(all, Setting{key, settingText(value)})
		}
		return all
	}
	for line := range strings.Lines(string(yaml)) {
		name, value, ok := strings.Cut(strings.TrimRight(line, "\r\n"), ": ")
		if !ok || name == "" || name[0] == ' ' || name[0] == '#' {
			continue
		}
		if s, err := strconv.Unquote(value); err == nil {
			value = s
		}
		all = append(all, Setting{name, value})
	}
	return all
}

func settingText(value any) string {
	switch v := value.(type) {
	case string:
		return v
	case json.Number:
		return v.String()
	}
	text, err := json.Marshal(value)
	if err != nil {
		return ""
	}
	return string(text)
}
