package web

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"
)

// ErrRefused is in the chain of an error of Jobs by which the cluster says that what was asked cannot be: asking again does
// not help.
var ErrRefused = errors.New("refused")

// Verb is what can be done with a job.
type Verb string

// Verbs.
const (
	Pause  Verb = "pause"  // workers rest, the state stays with them
	Resume Verb = "resume" // goes on, paused or drained
	Drain  Verb = "drain"  // saves, and gives the workers away
	Cancel Verb = "cancel" // ends for good
)

// Jobs is a cluster as the page sees it. Its methods may be called from any goroutine, block until the cluster answers or
// ctx ends, and may be called again after every error.
type Jobs interface {
	// List returns all jobs that the cluster remembers, oldest first.
	List(ctx context.Context) ([]Job, error)
	// Show returns one of them with its workers, ledger and checkpoints.
	Show(ctx context.Context, id string) (Detail, error)
	// Steer changes what becomes of a job.
	Steer(ctx context.Context, id string, v Verb) (Job, error)
}

// Job is a job of a cluster.
type Job struct {
	ID        string `json:"id"`
	State     string `json:"state"` // queued, running, paused, draining, done, failed, cancelled
	Reason    string `json:"reason,omitempty"`
	Directory string `json:"directory"` // its run's, in the folder of runs
	Update    uint64 `json:"update"`
	Updates   uint64 `json:"updates"` // of the whole job; 0: not known yet
	SHA256    string `json:"sha256,omitempty"`
}

// The rest of what a cluster tells of a job.
type (
	// Detail is a job with everything that belongs to it.
	Detail struct {
		Job         Job
		Workers     []Member
		Ledger      []Ledger
		Checkpoints []Checkpoint
	}
	// Member is a worker as the cluster knows it.
	Member struct {
		Worker uint64
		Name   string
		Host   string
		Device string
		State  string // in words
		Phase  string // one word
	}
	// Ledger is the proof of one epoch.
	Ledger struct {
		Epoch          uint32 `json:"epoch"` // from 1
		Images         uint64 `json:"images"`
		ExpectedImages uint64 `json:"expected_images"`
		Missing        uint64 `json:"missing"`
		Repeated       uint64 `json:"repeated"`
		Hash           string `json:"hash"`
		ExpectedHash   string `json:"expected_hash"` // empty while the epoch is under way
		HeldOut        uint64 `json:"held_out"`      // images that the job never trains on: none of them is among Images
		Whole          bool   `json:"whole"`
		Proven         bool   `json:"proven"` // whole, nothing missing or repeated, hashes equal
	}
	// Checkpoint is a saved state.
	Checkpoint struct {
		Name   string    `json:"name"`
		Update uint64    `json:"update"`
		Time   time.Time `json:"time"`
		Best   bool      `json:"best"`
		Bytes  uint64    `json:"bytes"`
		Whole  bool      `json:"whole"`
	}
)

// askWithin bounds a question to the cluster: without a leader files still tell.
const askWithin = 2 * time.Second

// jobCache asks the cluster at most once in a while, however many people look.
type jobCache struct {
	jobs  Jobs // nil: no cluster
	every time.Duration

	mu      sync.Mutex // held while the cluster is asked: others wait for the same answer
	listed  time.Time
	list    []Job
	trouble error
	shown   map[string]shown
	frozen  bool // the cluster is no more; what it said last stands
}

type shown struct {
	at     time.Time
	detail Detail
	err    error
}

func newJobCache(jobs Jobs, every time.Duration) *jobCache {
	return &jobCache{jobs: jobs, every: every, shown: map[string]shown{}}
}

// all lists the cluster's jobs; with an error, as they were when it last answered.
func (c *jobCache) all(ctx context.Context) ([]Job, error) {
	if c.jobs == nil {
		return nil, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.frozen {
		return c.list, nil
	}
	if time.Since(c.listed) < c.every {
		return c.list, c.trouble
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), askWithin) // the answer is others' too
	defer cancel()
	list, err := c.jobs.List(ctx)
	c.listed, c.trouble = time.Now(), err
	if err == nil {
		c.list = list
	}
	return c.list, err
}

// of finds the newest job of a run directory.
func (c *jobCache) of(ctx context.Context, run string) (Job, bool, error) {
	list, err := c.all(ctx)
	for _, j := range slices.Backward(list) {
		if j.Directory == run {
			return j, true, err
		}
	}
	return Job{}, false, err
}

// show is a job with its details; with an error, as it was when the cluster last answered.
func (c *jobCache) show(ctx context.Context, id string) (Detail, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	last := c.shown[id]
	if c.frozen {
		return last.detail, nil
	}
	if time.Since(last.at) < c.every {
		return last.detail, last.err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), askWithin) // the answer is others' too
	defer cancel()
	d, err := c.jobs.Show(ctx, id)
	if err != nil {
		d = last.detail
	}
	if len(c.shown) > maxBooks {
		clear(c.shown)
	}
	c.shown[id] = shown{at: time.Now(), detail: d, err: err}
	return d, err
}

// remember asks again about everything that was asked.
func (c *jobCache) remember(ctx context.Context) {
	c.mu.Lock()
	var ids []string
	for id := range c.shown {
		ids = append(ids, id)
	}
	c.mu.Unlock()
	if len(ids) == 0 {
		return
	}
	c.forget()
	_, err := c.all(ctx)
	for i := 0; i < len(ids) && err == nil; i++ { // what it cannot say now is not known
		_, err = c.show(ctx, ids[i])
	}
}

func (c *jobCache) freeze() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.frozen = true
}

// forget makes the next question reach the cluster.
func (c *jobCache) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.listed = time.Time{}
	for id, s := range c.shown {
		s.at = time.Time{}
		c.shown[id] = s
	}
}

// serveSteer pauses, resumes, drains or cancels a job.
func (s *Server) serveSteer(w http.ResponseWriter, r *http.Request) {
	id, verb := r.PathValue("id"), Verb(r.PathValue("verb"))
	if !slices.Contains([]Verb{Pause, Resume, Drain, Cancel}, verb) {
		fail(w, http.StatusNotFound, "%q is nothing that can be done with a job: pause, resume, drain or cancel", verb)
		return
	}
	if s.cfg.Jobs == nil {
		fail(w, http.StatusConflict, "%s %s: no cluster stands behind this page", verb, id)
		return
	}
	j, err := s.cfg.Jobs.Steer(r.Context(), id, verb)
	s.jobs.forget()
	switch {
	case errors.Is(err, ErrRefused):
		fail(w, http.StatusConflict, "%v", fmt.Errorf("%s %s: %w", verb, id, err))
	case err != nil:
		s.log.Warn("a job was not steered from the page", "verb", string(verb), "job", id, "error", err)
		fail(w, http.StatusServiceUnavailable, "%v; try again when a coordinator leads", fmt.Errorf("%s %s: %w", verb, id, err))
	default:
		s.live.wake(j.Directory)
		reply(w, j)
	}
}
