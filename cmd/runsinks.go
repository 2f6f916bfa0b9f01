package cmd

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"mp/metrics"
	"mp/mppb"
)

// runSinks hands out what keeps the events of jobs: the files of their run directories and, for what happens while this
// process runs, the console. A job has one writer at a time: the recorder or, without NATS, the storyteller. It is safe for
// concurrent use.
type runSinks struct {
	runs    string // folder of run directories
	about   func(job string) (*mppb.Job, error)
	console metrics.Sink // nil: none
	began   time.Time

	mu    sync.Mutex
	known map[string]bool // jobs of which something was written
}

func newRunSinks(c hubConfig) *runSinks {
	return &runSinks{runs: c.coordinator.RunsDir, console: c.console, began: time.Now(), known: map[string]bool{}}
}

// sink returns the sink of a job; it is what a recorder wants: an event is in the files when Emit returns, or Err says why
// not. The first use makes the run's directory.
func (r *runSinks) sink(job string) (metrics.Sink, error) {
	j, err := r.about(job)
	if errors.Is(err, errCluster) { // a job of a cluster that is no more: nobody will ask for its run
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("find the run of %s: %w", job, err)
	}
	if j.Directory == "" || !filepath.IsLocal(j.Directory) {
		return nil, fmt.Errorf("find the run of %s: %q is no name of a directory", job, j.Directory)
	}
	dir := filepath.Join(r.runs, j.Directory)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("make the run's directory: %w", err)
	}
	if spec := newJobInfo(j).spec; !exists(filepath.Join(dir, jobFile)) {
		if err := writeJob(dir, spec); err != nil {
			return nil, err
		}
	}
	files, err := metrics.NewJSONL(dir)
	if err != nil {
		return nil, err
	}
	all := metrics.Tee{metrics.NewPictures(dir, files)}
	if r.console != nil {
		all = append(all, newest{sink: r.console, since: r.began})
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.known[job] = true
	return all, nil
}

// touched lists the jobs of which something was written and that were not forgotten.
func (r *runSinks) touched() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Sorted(maps.Keys(r.known))
}

// forget says that a job will not be written to.
func (r *runSinks) forget(job string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.known, job)
}

// newest passes on what is not older than since.
type newest struct {
	sink  metrics.Sink
	since time.Time
}

func (n newest) Emit(e metrics.Event) {
	if !e.Time.Before(n.since) {
		n.sink.Emit(e)
	}
}
