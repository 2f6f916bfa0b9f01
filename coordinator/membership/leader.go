package membership

import "time"

// LeaderConfig is what a leader is told.
type LeaderConfig struct {
	Times      Times
	MinWorkers int    // below it a job waits, unless the job says otherwise; at least 1
	Protocol   uint32 // of the messages; workers of another are refused
	Version    string // of the program; workers of another are refused; empty: not compared
	Node       string // this coordinator's name, for the story
	Dismiss    bool   // let the workers go once no job is left (mp train)
}

// Phase is what a worker is doing; see mppb.Phase. The numbers are those of the protocol.
type Phase int32

// The phases.
const (
	Loading Phase = iota
	Ready
	Forming
	Copying
	Computing
	Reducing
	Validating
	Saving
	Paused
)

// Status is a worker's word about itself; see mppb.Status.
type Status struct {
	Job             string
	View            uint64
	Phase           Phase
	Update          uint64
	Progress        uint64
	CaughtUp        bool
	ShardSeconds    float64
	StepSeconds     float64
	ImagesPerSecond float64
	MemoryBytes     uint64
	Validated       uint32
	Ledger          []LedgerEntry // kept until the worker's next Status
	Fault           *Fault
	Leaving         bool
	Finished        bool
	Outcome         *Outcome
	Failure         string
	ArrivalSkew     float64
}

// Fault is a worker's word that its view cannot go on; see mppb.Fault.
type Fault struct {
	View    uint64
	Suspect uint64
	Kind    string
	Text    string
}

// Leader is what only the leading coordinator knows. Make a new one each time a node becomes leader, after it has applied
// everything in its log; drop it when the node is leader no more. Not safe for concurrent use, and no method blocks. `now` is
// one monotonic clock of this process, in every call the same or later.
type Leader struct{}

// NewLeader returns a leader that knows nothing but the state. Workers that are in have Times.Grace to come back.
func NewLeader(c LeaderConfig, s *State, now time.Duration) *Leader { return &Leader{} }

// Arrival is the answer to a Hello: exactly one of the three.
type Arrival struct {
	Resume   uint64    // it is this worker, which is in already (the leader changed): no command, call Connected
	Commands []Command // propose them in order; the last is the Join, whose Result has the identity: then call Connected
	Refusal  *Refusal  // end the session with it
}

// Arrive says what to do with a worker that says Hello.
func (l *Leader) Arrive(now time.Duration, s *State, h Hello) Arrival { return Arrival{} }

// Connected says that a session of the worker is open, replacing any before. The number it returns names the session.
func (l *Leader) Connected(now time.Duration, worker uint64) (session uint64) { return 0 }

// Heard takes in a Status. It returns true when Decide should be called at once instead of at NextDeadline. Cheap: some
// hundred nanoseconds, for 1,000 workers with ten a second each.
func (l *Leader) Heard(now time.Duration, worker uint64, st Status) (urgent bool) { return false }

// Disconnected says that a session ended, and why ("connection reset"). One that was replaced is ignored.
func (l *Leader) Disconnected(now time.Duration, worker, session uint64, reason string) {}

// Decide returns what to propose next, in this order. Every command must have been applied, or be known not to be, before
// Decide is called again; after commands were applied, call it again at once: it returns none when all is as it should be.
func (l *Leader) Decide(now time.Duration, s *State) []Command { return nil }

// NextDeadline is when to call Decide at the latest although nothing was heard.
func (l *Leader) NextDeadline() time.Duration { return 0 }

// Seen is what the leader knows of a worker, for people.
type Seen struct {
	Connected bool
	LastHeard time.Duration
	Status    Status
	State     string // "ready", "in view 7", "leaving", "quarantined", "silent"
}

// Seen returns what is known of a worker that is in.
func (l *Leader) Seen(s *State, worker uint64) Seen { return Seen{} }
