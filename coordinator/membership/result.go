package membership

import "errors"

// Errors of State.Apply, in Result.Err; each is wrapped with what was asked and what to do.
var (
	// ErrCommand is a command that makes no sense: more or less than one thing, a number out of range.
	ErrCommand = errors.New("bad command")
	// ErrStale is a command made for a view that is no longer in force: decide again.
	ErrStale = errors.New("made for another view")
	// ErrUnknown names a job, worker or file that is not there.
	ErrUnknown = errors.New("not known")
	// ErrState is a wish that does not go with the state of its job.
	ErrState = errors.New("not possible now")
	// ErrJob is a specification that cannot be a job: trying again does not help.
	ErrJob = errors.New("bad job")
	// ErrRefused is a worker that does not fit; Result.Refusal says more.
	ErrRefused = errors.New("worker refused")
)

// Result is what State.Apply did.
type Result struct {
	Err     error    // nothing has changed, except that State.Index grew
	Worker  uint64   // of Join
	Job     string   // of Submit
	Refusal *Refusal // of Join with ErrRefused, and of Leave: what to tell the worker before its session ends
	View    bool     // the view changed: send State.View to its members and to those of the view before
	Events  []Event  // what it added to the story, in order; not to be changed
	Dropped []string // of Checkpoint: files of the job (paths inside its run) that are not needed any more
}

// RefusalKind says what a worker should do after its session ended.
type RefusalKind string

// The kinds, as in mppb.Refusal.
const (
	Configuration  RefusalKind = "configuration"
	Fenced         RefusalKind = "fenced"
	RefuseDrained  RefusalKind = "drained"
	RefuseFinished RefusalKind = "finished"
)

// Refusal ends a session.
type Refusal struct {
	Kind   RefusalKind
	Text   string
	Advice string
}

// Topics of events.
const (
	TopicView       = "view"
	TopicFault      = "fault"
	TopicJoin       = "join"
	TopicLeave      = "leave"
	TopicDrain      = "drain"
	TopicCheckpoint = "checkpoint"
	TopicLeader     = "leader"
	TopicJob        = "job"
	TopicSlow       = "slow"
	TopicQuarantine = "quarantine"
)

// Event is an entry of the cluster's story, in raft order; see mppb.Event.
type Event struct {
	Sequence       uint64  `json:"sequence"` // 1, 2, 3, ... without gaps
	Time           int64   `json:"time,omitempty"`
	Job            string  `json:"job,omitempty"`
	Topic          string  `json:"topic"`
	Text           string  `json:"text"`
	Advice         string  `json:"advice,omitempty"`
	Warning        bool    `json:"warning,omitempty"`
	View           uint64  `json:"view,omitempty"`
	Worker         uint64  `json:"worker,omitempty"`
	Update         uint64  `json:"update,omitempty"`
	DetectSeconds  float64 `json:"detectSeconds,omitempty"`
	RecoverSeconds float64 `json:"recoverSeconds,omitempty"`
}
