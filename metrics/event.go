// Package metrics carries what happens in a run to whoever wants to know: the console, files, and later others. It owns
// the events, the Sink interface, the fan-out and the sinks that need no server; it must never import another package of
// the module, nor decide anything about a run. Start reading at Event, then at Fanout.
package metrics

import (
	"encoding/json"
	"math"
	"time"
)

// Kind says which payload an Event has.
type Kind string

// Kinds of events.
const (
	KindStart      Kind = "start"      // a run begins or goes on
	KindStep       Kind = "step"       // a reported step of training
	KindEpoch      Kind = "epoch"      // an epoch of training has ended
	KindValidation Kind = "validation" // a validation has ended
	KindStory      Kind = "story"      // something a person should know
	KindSummary    Kind = "summary"    // the run has ended
	KindProgress   Kind = "progress"   // work goes on; shown, never kept
	KindWorker     Kind = "worker"     // how one worker of a view is doing
	KindView       Kind = "view"       // a view replaced another, or completed its first step after a fault
	KindFault      Kind = "fault"      // something broke, or is about to
	KindLeader     Kind = "leader"     // another coordinator leads
	KindGoodput    Kind = "goodput"    // what faults have cost so far
	KindPicture    Kind = "picture"    // a picture made during training
	KindHistograms Kind = "histograms" // distributions of weights and gradients
)

// Event is one thing that happened. Exactly the payload that Kind names is set. Its JSON is a file format: names and
// units never change.
type Event struct {
	Time time.Time `json:"time"`
	Kind Kind      `json:"kind"`

	Origin *Origin `json:"origin,omitempty"`

	Start      *Start      `json:"start,omitempty"`
	Step       *Step       `json:"step,omitempty"`
	Epoch      *Epoch      `json:"epoch,omitempty"`
	Validation *Validation `json:"validation,omitempty"`
	Story      *Story      `json:"story,omitempty"`
	Summary    *Summary    `json:"summary,omitempty"`
	Progress   *Progressed `json:"progress,omitempty"`

	Worker  *Worker        `json:"worker,omitempty"`
	View    *View          `json:"view,omitempty"`
	Fault   *Fault         `json:"fault,omitempty"`
	Leader  *Leader        `json:"leader,omitempty"`
	Goodput *GoodputReport `json:"goodput,omitempty"`

	Picture    *Picture    `json:"picture,omitempty"`
	Histograms *Histograms `json:"histograms,omitempty"`
}

// Origin says where a recorder read an event, so that a sink that keeps events keeps each once. Whoever emits an event
// leaves it nil.
type Origin struct {
	Worker   string    `json:"worker"`   // who emitted it
	Stream   time.Time `json:"stream"`   // when the stream was made: a new stream counts from 1 again
	Sequence uint64    `json:"sequence"` // in the stream
}

// Start opens a run, or opens it again after a stop.
type Start struct {
	Directory string          `json:"directory"`
	Device    string          `json:"device"`            // in words
	Update    int             `json:"update"`            // updates done before; more than 0 in a resumed run
	Updates   int             `json:"updates"`           // of the whole run
	Job       json.RawMessage `json:"job,omitempty"`     // the whole specification
	Version   string          `json:"version,omitempty"` // of the program
}

// Step is a reported step. Epochs and steps count from 1.
type Step struct {
	Epoch           int     `json:"epoch"`
	Epochs          int     `json:"epochs"`
	Step            int     `json:"step"`  // in the epoch
	Steps           int     `json:"steps"` // of the epoch
	Update          int     `json:"update"`
	Loss            Value   `json:"loss"` // mean since the last reported step
	Top1            float64 `json:"top1"` // per cent, likewise
	Top5            float64 `json:"top5"`
	ImagesPerSecond float64 `json:"images_per_second"`
	LearningRate    float64 `json:"learning_rate"`
	GradientNorm    Value   `json:"gradient_norm"` // before clipping; 0 when not measured
	DataWait        float64 `json:"data_wait"`     // share of the time spent waiting for images, 0 to 1
	MemoryBytes     int64   `json:"memory_bytes"`  // resident on a CPU, allocated on a GPU
	ETASeconds      float64 `json:"eta_seconds"`   // to the end of the run
}

// Epoch is the training side of an epoch that has ended.
type Epoch struct {
	Epoch           int     `json:"epoch"`
	Epochs          int     `json:"epochs"`
	Update          int     `json:"update"`
	Loss            Value   `json:"loss"`
	Top1            float64 `json:"top1"`
	Top5            float64 `json:"top5"`
	ImagesPerSecond float64 `json:"images_per_second"`
	Seconds         float64 `json:"seconds"`
}

// Validation is one pass over the validation images.
type Validation struct {
	Epoch           int     `json:"epoch"`
	Epochs          int     `json:"epochs"`
	Update          int     `json:"update"`
	Images          int     `json:"images"`
	Loss            Value   `json:"loss"`
	Top1            float64 `json:"top1"`
	Top5            float64 `json:"top5"`
	ImagesPerSecond float64 `json:"images_per_second"`
	Seconds         float64 `json:"seconds"`
	Best            bool    `json:"best"`             // the best of the run so far, by top-1 or, where there is Robust, by its top-1
	Robust          *Robust `json:"robust,omitempty"` // of the training images that are held out, if any are
}

// Robust is how the network did after an epoch on training images that are held out, attacked.
type Robust struct {
	Images    int      `json:"images"`
	Loss      Value    `json:"loss"`
	Top1      float64  `json:"top1"` // per cent
	Top5      float64  `json:"top5"`
	CleanTop1 *float64 `json:"clean_top1,omitempty"` // of the same images, unattacked; nil: not measured
}

// Story is one sentence for people.
type Story struct {
	Topic   string `json:"topic"` // one word for machines: resume, checkpoint, drain, ...
	Text    string `json:"text"`
	Advice  string `json:"advice,omitempty"` // what to do, if anything
	Warning bool   `json:"warning,omitempty"`
	Detail  bool   `json:"detail,omitempty"` // of interest to few: shown in verbose mode only
}

// Summary closes a run.
type Summary struct {
	Title           string   `json:"title"` // what ran, in a few words
	BestTop1        float64  `json:"best_top1"`
	BestTop5        float64  `json:"best_top5"` // of the same epoch
	BestEpoch       int      `json:"best_epoch"`
	Epochs          int      `json:"epochs"`
	Seconds         float64  `json:"seconds"`
	ImagesPerSecond float64  `json:"images_per_second"` // in training
	Directory       string   `json:"directory"`
	Checkpoint      string   `json:"checkpoint"` // of the best epoch
	SHA256          string   `json:"sha256"`     // of the final weights
	Next            []string `json:"next"`       // commands to try

	Goodput *GoodputReport `json:"goodput,omitempty"` // nil: nobody kept account of faults
}

// Progressed says how far a piece of work has come.
type Progressed struct {
	Title string `json:"title"`
	Done  int64  `json:"done"`
	Total int64  `json:"total"`
}

// Value is a number that may be no number when training diverges: NaN and infinities are null in JSON.
type Value float64

// MarshalJSON writes v, or null when JSON has no number for it.
func (v Value) MarshalJSON() ([]byte, error) {
	if f := float64(v); math.IsNaN(f) || math.IsInf(f, 0) {
		return []byte("null"), nil
	}
	return json.Marshal(float64(v))
}

// UnmarshalJSON reads what MarshalJSON writes; null becomes NaN.
func (v *Value) UnmarshalJSON(text []byte) error {
	if string(text) == "null" {
		*v = Value(math.NaN())
		return nil
	}
	return json.Unmarshal(text, (*float64)(v))
}
