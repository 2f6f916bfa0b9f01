package membership

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
)

// State is what the coordinators replicate. Apply changes it and nothing else may; it is encoded as JSON for snapshots, and
// decoding gives the same State again. Not safe for concurrent use: the owner locks it, or reads it between two Applies.
type State struct {
	Index       uint64    `json:"index"`   // of the raft entry applied last
	Workers     []*Worker `json:"workers"` // who is in, by ID
	View        View      `json:"view"`
	Jobs        []*Job    `json:"jobs"` // in order of submission; of those that ended, the newest 100
	JobCount    uint64    `json:"jobCount"`
	Events      []Event   `json:"events"`   // the newest 10,000
	Sequence    uint64    `json:"sequence"` // of the newest event
	Quarantines []*Record `json:"quarantines"`
	// First is what broke the view in force, if anything did: by the log's order the first cause.
	First *Cut `json:"first,omitempty"`

	roster uint64 // changes of Workers since this value was made; for whoever caches them
}

// Worker is somebody who is in.
type Worker struct {
	ID     uint64 `json:"id"` // the index of its Join, never used twice
	Hello  Hello  `json:"hello"`
	Joined int64  `json:"joined"` // Unix nanoseconds
}

// View is who computes what; the zero value is the one before the first. See mppb.View.
type View struct {
	Number  uint64   `json:"number"`
	Job     string   `json:"job,omitempty"`
	Members []Member `json:"members,omitempty"` // in rank order
	Reason  string   `json:"reason,omitempty"`
	Advice  string   `json:"advice,omitempty"`
	Fault   bool     `json:"fault,omitempty"`
	Waiting string   `json:"waiting,omitempty"` // see SetView
	// Save: do no more steps; rank 0 saves the newest state and brings it to the coordinators, then all wait.
	Save bool `json:"save,omitempty"`
	// Committed, Checkpoint and CheckpointUpdate are as they were when the view was made. A state older than Committed is none.
	Committed        uint64 `json:"committed,omitempty"`
	Checkpoint       string `json:"checkpoint,omitempty"`
	CheckpointUpdate uint64 `json:"checkpointUpdate,omitempty"`
}

// JobState is where a job stands.
type JobState string

// The states, as in mppb.Job.
const (
	JobQueued    JobState = "queued"
	JobRunning   JobState = "running"
	JobPaused    JobState = "paused"
	JobDraining  JobState = "draining"
	JobDone      JobState = "done"
	JobFailed    JobState = "failed"
	JobCancelled JobState = "cancelled"
)

// Ended says whether nothing can happen to the job any more.
func (s JobState) Ended() bool { return s == JobDone || s == JobFailed || s == JobCancelled }

// Job is a specification on its way.
type Job struct {
	ID         string          `json:"id"` // "job-1", "job-2", ...
	State      JobState        `json:"state"`
	Parked     bool            `json:"parked,omitempty"` // paused without a place: another job may run
	Spec       json.RawMessage `json:"spec"`
	Directory  string          `json:"directory"`
	Data       Dataset         `json:"data"`
	Version    string          `json:"version,omitempty"` // of its workers
	MinWorkers uint32          `json:"minWorkers,omitempty"`
	Key        string          `json:"key,omitempty"` // of the request that made it
	Plan       Plan            `json:"plan"`
	Hash       uint64          `json:"hash,omitempty"` // sum of the fingerprints of all images that it trains on, from its start on

	Update          uint64  `json:"update"` // updates known to be done
	EpochsDone      uint32  `json:"epochsDone"`
	ImagesPerSecond float64 `json:"imagesPerSecond,omitempty"`

	Submitted int64    `json:"submitted"` // Unix nanoseconds
	Started   int64    `json:"started,omitempty"`
	Ended     int64    `json:"ended,omitempty"`
	Reason    string   `json:"reason"` // of its state
	Outcome   *Outcome `json:"outcome,omitempty"`

	Checkpoints []Saved     `json:"checkpoints,omitempty"` // by update, then name
	Files       []FileState `json:"files,omitempty"`       // by path
	Book        Book        `json:"book"`
}

// Saved is a checkpoint that is whole.
type Saved struct {
	Name   string   `json:"name"`
	Update uint64   `json:"update"`
	Time   int64    `json:"time"`
	Best   bool     `json:"best,omitempty"`
	Files  []string `json:"files"`
}

// Plan is what membership reads of a specification.
type Plan struct {
	Shards uint32 `json:"shards"`
	Batch  uint32 `json:"batch"`
	Epochs uint32 `json:"epochs"`
	Keep   uint32 `json:"keep"`           // checkpoints
	Held   uint32 `json:"held,omitempty"` // training images that it does not train on
	// Resumes: it goes on from a checkpoint of another run, so its ledger may begin with a later epoch than 0.
	Resumes bool `json:"resumes,omitempty"`
}

// Record is what is known of a device that failed again and again.
type Record struct {
	Machine string `json:"machine"`
	Device  string `json:"device"`
	Level   uint32 `json:"level"` // how often it was quarantined
	Active  bool   `json:"active"`
	Until   int64  `json:"until,omitempty"` // Unix nanoseconds, for people
	Reason  string `json:"reason"`
}

// Cut is the first cause that broke a view.
type Cut struct {
	Worker        uint64   `json:"worker"`
	Text          string   `json:"text"` // "worker 3 (host b, cuda:0) vanished at epoch 4 step 112: connection reset"
	Advice        string   `json:"advice,omitempty"`
	DetectSeconds float64  `json:"detectSeconds,omitempty"`
	More          []string `json:"more,omitempty"` // who went after it, at most 3
	Count         int      `json:"count"`          // how many went in all
}

// New returns the state of a cluster in which nothing has happened.
func New() *State { return &State{} }

func (s *State) find(id uint64) (int, bool) {
	return slices.BinarySearchFunc(s.Workers, id, func(w *Worker, id uint64) int { return cmp.Compare(w.ID, id) })
}

// Worker returns who has the ID, or nil.
func (s *State) Worker(id uint64) *Worker {
	if i, ok := s.find(id); ok {
		return s.Workers[i]
	}
	return nil
}

// Name is how people know a worker that is in: "worker 3 (host b, cuda:0)".
func (s *State) Name(id uint64) string {
	if w := s.Worker(id); w != nil {
		return w.name()
	}
	return "worker " + strconv.FormatUint(id, 10)
}

func (w *Worker) short() string {
	if w.Hello.Name != "" {
		return w.Hello.Name
	}
	return "worker " + strconv.FormatUint(w.ID, 10)
}

func (w *Worker) name() string {
	return w.short() + " (host " + w.Hello.Host + ", " + w.Hello.Device + ")"
}

// Job returns the job with the ID, or nil.
func (s *State) Job(id string) *Job {
	for _, j := range s.Jobs {
		if j.ID == id {
			return j
		}
	}
	return nil
}

// Running returns the job whose place it is, running, paused or draining, or nil.
func (s *State) Running() *Job {
	for _, j := range s.Jobs {
		if j.holds() {
			return j
		}
	}
	return nil
}

func (j *Job) holds() bool {
	return j.State == JobRunning || j.State == JobDraining || j.State == JobPaused && !j.Parked
}

// member returns the view's member with the ID, or nil.
func (v *View) member(id uint64) *Member {
	for i := range v.Members {
		if v.Members[i].Worker == id {
			return &v.Members[i]
		}
	}
	return nil
}

// trained is the number of images of an epoch; 0 before they are known.
func (j *Job) trained() uint64 {
	return uint64(j.Data.TrainImages - min(j.Data.TrainImages, j.Plan.Held))
}

// steps is the number of updates of an epoch; 0 before the images are known.
func (j *Job) steps() uint64 {
	return (j.trained() + uint64(j.Plan.Batch) - 1) / uint64(j.Plan.Batch)
}

// Updates is the number of updates of the whole job; 0 before its images are known.
func (j *Job) Updates() uint64 { return j.steps() * uint64(j.Plan.Epochs) }

// Newest returns the newest checkpoint from which training can go on, or nil. The best ones hold parameters only.
func (j *Job) Newest() *Saved {
	for i := len(j.Checkpoints) - 1; i >= 0; i-- {
		if !j.Checkpoints[i].Best {
			return &j.Checkpoints[i]
		}
	}
	return nil
}

// saved is the update of the newest whole checkpoint; 0: there is none.
func (j *Job) saved() uint64 {
	if n := j.Newest(); n != nil {
		return n.Update
	}
	return 0
}

// at is where the job stands, for people: epochs and steps count from 1.
func (j *Job) at() string {
	steps := j.steps()
	if steps == 0 {
		return "before the first step"
	}
	return fmt.Sprintf("at epoch %d step %d", j.Update/steps+1, j.Update%steps+1)
}
