package coordinator

import (
	"encoding/json"
	"fmt"
	"io"
	"sync"

	"github.com/hashicorp/raft"

	"mp/coordinator/membership"
)

// fsm is what raft keeps the same on every coordinator: a membership.State behind a lock, and nothing else. Entries of the
// log are Commands in JSON, a snapshot is the State in JSON.
type fsm struct {
	applied func(applied) // called after each entry, from raft's goroutine, without the lock

	mu      sync.RWMutex
	state   *membership.State
	changed chan struct{} // closed when the state changes, and replaced
}

// applied is what one entry did.
type applied struct {
	index  uint64
	job    string // that the command names, if any
	fault  string // why a worker was lost; empty: none was
	result membership.Result
}

func newFSM(tell func(applied)) *fsm {
	return &fsm{applied: tell, state: membership.New(), changed: make(chan struct{})}
}

// Apply executes one entry. What cannot be decoded changes nothing: an entry of a later version must not stop this one.
func (f *fsm) Apply(l *raft.Log) any {
	var c membership.Command
	if err := json.Unmarshal(l.Data, &c); err != nil {
		return membership.Result{Err: fmt.Errorf("decode entry %d of the log: %w", l.Index, err)}
	}
	f.mu.Lock()
	r := f.state.Apply(l.Index, c)
	close(f.changed)
	f.changed = make(chan struct{})
	f.mu.Unlock()
	a := applied{index: l.Index, result: r}
	if c.Checkpoint != nil {
		a.job = c.Checkpoint.Job
	}
	if c.Leave != nil && c.Leave.Cause.Fault() && r.Err == nil {
		a.fault = string(c.Leave.Cause)
	}
	f.applied(a)
	return r
}

// read calls look with the state, which must not be kept or changed.
func (f *fsm) read(look func(*membership.State)) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	look(f.state)
}

// wait returns a channel that is closed when the state is another than now.
func (f *fsm) wait() <-chan struct{} {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.changed
}

// Snapshot copies the state as the bytes that a snapshot is.
func (f *fsm) Snapshot() (raft.FSMSnapshot, error) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	text, err := json.Marshal(f.state)
	return snapshot(text), err
}

// Restore replaces the state.
func (f *fsm) Restore(r io.ReadCloser) error {
	defer r.Close()
	s := membership.New()
	if err := json.NewDecoder(r).Decode(s); err != nil {
		return fmt.Errorf("decode a snapshot: %w", err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.state = s
	close(f.changed)
	f.changed = make(chan struct{})
	return nil
}

type snapshot []byte

func (s snapshot) Persist(sink raft.SnapshotSink) error {
	if _, err := sink.Write(s); err != nil {
		sink.Cancel()
		return err
	}
	return sink.Close()
}

func (snapshot) Release() {}
