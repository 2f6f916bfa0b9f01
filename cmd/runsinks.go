package cmd

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"mp/metrics"
	"mp/metrics/tensorboard"
	"mp/mppb"
)

// runSinks hands out what keeps the events of jobs: the files of their run directories and, for what happens while this
// process runs, the console. A job has one writer at a time: the recorder or, without NATS, the storyteller. It is safe for
// concurrent use.
type runSinks struct {
	runs    string // folder of run directories
	writer  string // who writes, in names of files
	about   func(job string) (*mppb.Job, error)
	console metrics.Sink                  // nil: none
	live    func(run string) metrics.Sink // of the web page; nil: there is none
	began   time.Time
	numbers func(job string) metrics.Sink // nil: none

	mu    sync.Mutex
	known map[string]bool // jobs of which something was written
}

func newRunSinks(c hubConfig) *runSinks {
	return &runSinks{runs: c.coordinator.RunsDir, writer: plainName(c.coordinator.ID), console: c.console, began: time.Now(), known: map[string]bool{}}
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
	curves, err := tensorboard.New(tensorboard.Config{Dir: dir, Name: r.writer}, history(dir))
	if err != nil {
		return nil, errors.Join(err, all.Close())
	}
	all = append(all, curves)
	if r.live != nil {
		all = append(all, r.live(j.Directory)) // after the files, which it makes the page read
	}
	if r.numbers != nil {
		all = append(all, r.numbers(job))
	}
	if r.console != nil {
		all = append(all, newest{sink: r.console, since: r.began})
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.known[job] = true
	return all, nil
}

// plainName is an identity that may stand in a file's name.
func plainName(id string) string {
	return strings.Map(func(c rune) rune {
		if c == '-' || c == '_' || '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' {
			return c
		}
		return '-'
	}, id)
}

// history is what has been told of a run so far, in the order of time. What cannot be read is no reason not to go on: then
// the run's goodput counts from now on.
func history(dir string) []metrics.Event {
	var all []metrics.Event
	for _, name := range recordedFiles() {
		f, err := os.Open(filepath.Join(dir, name))
		if err != nil {
			continue
		}
		events, err := metrics.Read(f)
		f.Close()
		if err == nil {
			all = append(all, events...)
		}
	}
	slices.SortStableFunc(all, func(a, b metrics.Event) int { return a.Time.Compare(b.Time) })
	return all
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
