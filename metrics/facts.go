package metrics

import "time"

// ClusterFacts is what one coordinator knows of its cluster at a moment. Another that does not lead may be behind.
type ClusterFacts struct {
	Leads         bool              // this one leads, and decides
	Term          uint64            // of raft
	Applied       uint64            // entries of raft's log that this one has applied
	Committed     uint64            // entries that it knows to be committed
	LeaderChanges uint64            // since this one's process began
	Failures      map[string]uint64 // workers lost while this one led, by cause, since its process began
	Workers       map[string]int    // how many there are, by state: see WorkerStates
	Jobs          []JobFacts        // those that have ended are the newest
}

// WorkerStates are what ClusterFacts tells workers apart by: computing in the view; in the view and copying the state; waiting
// for a place in one; without a connection, as the leader sees it; and devices that failed so often that they must rest.
func WorkerStates() []string {
	return []string{WorkerComputing, WorkerCopying, WorkerWaiting, WorkerAway, WorkerQuarantined}
}

// States of workers.
const (
	WorkerComputing   = "computing"
	WorkerCopying     = "copying"
	WorkerWaiting     = "waiting"
	WorkerAway        = "away"
	WorkerQuarantined = "quarantined"
)

// JobFacts is one job.
type JobFacts struct {
	ID       string
	State    string // queued, running, paused, draining, done, failed, cancelled
	Update   uint64 // updates committed
	Updates  uint64 // of the whole job; 0: not known yet
	Epochs   uint32 // wholly done
	Lost     uint64 // samples that the ledger misses in the updates done
	Repeated uint64 // samples that it has twice
	Saved    time.Time
	Ended    bool
}

// WorkerFacts is what one worker knows of itself at a moment.
type WorkerFacts struct {
	Joined  bool   // a coordinator has taken it in, and their session is open
	Worker  uint64 // its identity; 0: none yet
	Phase   string // what it does: ready, computing, copying, ...
	Job     string // empty: none
	Update  uint64 // updates done of it
	View    uint64
	Beats   uint64 // pieces of work done since its process began
	Memory  uint64 // bytes, as last told
	Shard   float64
	Skew    float64 // seconds that the others waited for it in a step, recent mean
	PerStep float64 // seconds between two updates, recent mean
	GPU     *GPU    // nil: it has none, or its driver does not say
}
