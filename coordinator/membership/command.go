package membership

import "encoding/json"

// Command is one entry of the raft log: exactly one of the pointers is set. It is encoded as JSON.
type Command struct {
	// Time is the leader's wall clock in Unix nanoseconds, for people. Leader.Decide leaves it 0: whoever proposes stamps it.
	Time int64 `json:"time,omitempty"`

	Join       *Join       `json:"join,omitempty"`
	Leave      *Leave      `json:"leave,omitempty"`
	SetView    *SetView    `json:"setView,omitempty"`
	Progress   *Progress   `json:"progress,omitempty"`
	Submit     *Submit     `json:"submit,omitempty"`
	Steer      *Steer      `json:"steer,omitempty"`
	Start      *Start      `json:"start,omitempty"`
	End        *End        `json:"end,omitempty"`
	RollBack   *RollBack   `json:"rollBack,omitempty"`
	File       *File       `json:"file,omitempty"`
	Checkpoint *Checkpoint `json:"checkpoint,omitempty"`
	Quarantine *Quarantine `json:"quarantine,omitempty"`
	Release    *Release    `json:"release,omitempty"`
	Note       *Note       `json:"note,omitempty"`
}

// Join makes a worker a member of the cluster; Result.Worker is its identity. Refused with a Refusal when it does not fit.
type Join struct {
	Hello Hello `json:"hello"`
}

// Hello is what a worker says of itself; see mppb.Hello.
type Hello struct {
	Protocol   uint32  `json:"protocol"`
	Version    string  `json:"version"`
	Host       string  `json:"host"`
	Machine    string  `json:"machine"`
	Device     string  `json:"device"`
	Address    string  `json:"address"`
	UnixSocket string  `json:"unixSocket,omitempty"`
	Data       Dataset `json:"data"`
	Previous   uint64  `json:"previous,omitempty"`
	PID        uint32  `json:"pid,omitempty"`
	Name       string  `json:"name,omitempty"`
}

// Dataset identifies images by content; see mppb.Dataset. The zero value stands for any.
type Dataset struct {
	TrainSHA256 string `json:"trainSHA256,omitempty"`
	ValSHA256   string `json:"valSHA256,omitempty"`
	TrainImages uint32 `json:"trainImages,omitempty"`
	ValImages   uint32 `json:"valImages,omitempty"`
	Classes     uint32 `json:"classes,omitempty"`
	Directory   string `json:"directory,omitempty"`
}

// Cause says why a worker left.
type Cause string

// The causes. A fault is told as a warning, names the view after it, and counts towards quarantine.
const (
	Vanished Cause = "vanished" // its session broke: fault
	Failed   Cause = "failed"   // it said what went wrong, and its session ended: fault
	Silent   Cause = "silent"   // no sign of life for FailAfter: fault
	Stuck    Cause = "stuck"    // alive, but others waited for it too long: fault
	Accused  Cause = "accused"  // broke the view again and again: fault
	Absent   Cause = "absent"   // did not come back after a change of leader: fault
	Drained  Cause = "drained"  // asked to leave, and its shards are with others
	Finished Cause = "finished" // nothing is left to do
)

// Fault says whether leaving for this cause is somebody's misfortune.
func (c Cause) Fault() bool { return c != Drained && c != Finished }

// Leave ends a worker's membership. The coordinator that has its session answers with Refusal (see Cause.Refusal).
type Leave struct {
	Worker        uint64  `json:"worker"`
	Cause         Cause   `json:"cause"`
	Text          string  `json:"text"` // "connection reset", "no sign of life for 1.0 s"
	DetectSeconds float64 `json:"detectSeconds,omitempty"`
}

// SetView replaces the view. It is refused with ErrStale unless Base is the number of the view in force.
type SetView struct {
	Base    uint64   `json:"base"`
	Job     string   `json:"job,omitempty"` // empty: of no job, with no members
	Members []Member `json:"members,omitempty"`
	Reason  string   `json:"reason"` // after a worker was lost, State puts that, the first cause, in its place
	Advice  string   `json:"advice,omitempty"`
	Fault   bool     `json:"fault,omitempty"`   // it answers a fault
	Save    bool     `json:"save,omitempty"`    // see View.Save
	Waiting string   `json:"waiting,omitempty"` // without members: what it waits for, one word ("workers", "state", "paused", "idle")
}

// Member is a worker of a view; its rank is its place.
type Member struct {
	Worker    uint64   `json:"worker"`
	Shards    []uint32 `json:"shards,omitempty"`    // ascending; empty: it keeps up and computes nothing
	ValShards []uint32 `json:"valShards,omitempty"` // ascending; there are as many parts of validation as shards
}

// Progress records what every member of a view that has the state has done. Refused with ErrStale if View is not in force.
type Progress struct {
	Job             string        `json:"job"`
	View            uint64        `json:"view"`
	Update          uint64        `json:"update"`              // updates done by all of them
	Validated       uint32        `json:"validated,omitempty"` // epochs wholly done
	Ledger          []LedgerEntry `json:"ledger,omitempty"`    // of the member whose update this is
	ImagesPerSecond float64       `json:"imagesPerSecond,omitempty"`
	RecoverSeconds  float64       `json:"recoverSeconds,omitempty"` // the first after a fault: since it was noticed
}

// LedgerEntry counts the samples that updates [From, To) of an epoch consumed; see mppb.LedgerEntry.
type LedgerEntry struct {
	Epoch  uint32 `json:"epoch"`
	From   uint64 `json:"from"`
	To     uint64 `json:"to"`
	Images uint64 `json:"images"`
	Hash   uint64 `json:"hash"`
}

// Submit appends a job to the queue; Result.Job is its identity.
type Submit struct {
	Spec       json.RawMessage `json:"spec"`                 // a job.Spec; membership reads shards, batch-size, epochs, keep-checkpoints, resume, adv-watch-images, name and model
	Directory  string          `json:"directory,omitempty"`  // of the run; empty: made from the time and the specification
	Data       Dataset         `json:"data"`                 // zero: the images of the first worker
	MinWorkers uint32          `json:"minWorkers,omitempty"` // 0: the coordinator's
	Key        string          `json:"key,omitempty"`        // of the request: the same again is the same job
}

// Verb is what a person asks of a job.
type Verb string

// The verbs, as in mppb.SteerRequest.
const (
	Pause  Verb = "pause"  // stop between two updates; the job keeps its place and the workers their state
	Resume Verb = "resume" // go on after a pause, or queue again after a drain
	Drain  Verb = "drain"  // finish the step, save, let the next job run, and wait for resume
	Cancel Verb = "cancel"
)

// Steer changes a job's state as a person wishes. ErrUnknown for a job that is not there, ErrState if it makes no sense.
type Steer struct {
	Job  string `json:"job"`
	Verb Verb   `json:"verb"`
}

// Start makes a queued job the running one.
type Start struct {
	Job     string  `json:"job"`
	Data    Dataset `json:"data"`    // of its first workers
	Version string  `json:"version"` // of its first workers
}

// End ends a job, or its draining (State JobPaused).
type End struct {
	Job     string   `json:"job"`
	State   JobState `json:"state"` // JobDone, JobFailed, or JobPaused
	Reason  string   `json:"reason"`
	Advice  string   `json:"advice,omitempty"`
	Outcome *Outcome `json:"outcome,omitempty"`
	Worker  uint64   `json:"worker,omitempty"` // who said so
}

// Outcome is what a job came to; see mppb.Outcome.
type Outcome struct {
	BestTop1        float64 `json:"bestTop1"`
	BestTop5        float64 `json:"bestTop5"`
	BestEpoch       uint32  `json:"bestEpoch"`
	Epochs          uint32  `json:"epochs"`
	Checkpoint      string  `json:"checkpoint"`
	SHA256          string  `json:"sha256"`
	OptimizerSHA256 string  `json:"optimizerSHA256"`
}

// RollBack says that the state after Update updates is the newest that anybody has: everything later is done again, and
// forgotten by the ledger. Refused with ErrStale if View is not in force.
type RollBack struct {
	Job    string `json:"job"`
	View   uint64 `json:"view"`
	Update uint64 `json:"update"`
	Reason string `json:"reason"`
}

// File says that a node has the whole of a run's file. A file of another content replaces the one before.
type File struct {
	Job  string    `json:"job"`
	Node string    `json:"node"` // coordinator that has it; empty: nobody has it any more
	File FileState `json:"file"`
}

// FileState identifies a file of a run.
type FileState struct {
	Path   string   `json:"path"` // inside the run's directory
	Size   uint64   `json:"size"`
	SHA256 string   `json:"sha256"`
	Nodes  []string `json:"nodes,omitempty"` // coordinators that have it, sorted; filled in by State
}

// Checkpoint says that a checkpoint is whole: each of its files was recorded before. Older ones beyond the job's
// keep-checkpoints are forgotten, with their files in Result.Dropped; the newest best one always stays.
type Checkpoint struct {
	Job    string   `json:"job"`
	Name   string   `json:"name"` // "update-00000500"
	Update uint64   `json:"update"`
	Best   bool     `json:"best,omitempty"`
	Files  []string `json:"files"` // their paths
}

// Quarantine keeps a device out of views until it is released, unless there are too few workers without it.
type Quarantine struct {
	Machine string  `json:"machine"`
	Device  string  `json:"device"`
	Seconds float64 `json:"seconds"` // how long it is meant to last, for people
	Reason  string  `json:"reason"`
}

// Release ends a quarantine. With Forget the device's record is clean again.
type Release struct {
	Machine string `json:"machine"`
	Device  string `json:"device"`
	Forget  bool   `json:"forget,omitempty"`
}

// Note is an event that changes nothing else.
type Note struct {
	Topic   string `json:"topic"`
	Text    string `json:"text"`
	Advice  string `json:"advice,omitempty"`
	Warning bool   `json:"warning,omitempty"`
	Job     string `json:"job,omitempty"`
	Worker  uint64 `json:"worker,omitempty"`
	Waits   bool   `json:"waits,omitempty"` // Text is why Job, which is queued, does not start
}
