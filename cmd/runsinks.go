package cmd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"mp/metrics"
	"mp/mppb"
)

// runSinks hands out what keeps the events of jobs: the files of their run directories and, for what happens while this
// process runs, the console. Whoever writes to a job shares one sink, so that the files have one writer. It is safe for
// concurrent use.
type runSinks struct {
	runs      string // folder of run directories
	directory func(ctx context.Context, job string) (name string, err error)
	console   metrics.Sink // nil: none
	began     time.Time

	mu   sync.Mutex
	open map[string]*runSink
}

// runSink is a job's sink, closed when nobody holds it any more.
type runSink struct {
	*metrics.Fanout
	owner  *runSinks
	job    string
	holder int
}

func newRunSinks(c hubConfig) *runSinks {
	return &runSinks{runs: c.coordinator.RunsDir, console: c.console, began: time.Now(), open: map[string]*runSink{}}
}

// sink returns the sink of a job; it is what a recorder wants. Close gives it back.
func (r *runSinks) sink(job string) (metrics.Sink, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s, ok := r.open[job]; ok {
		s.holder++
		return s, nil
	}
	name, err := r.directory(context.Background(), job)
	if err != nil {
		return nil, fmt.Errorf("find the run of job %s: %w", job, err)
	}
	if name == "" || !filepath.IsLocal(name) {
		return nil, fmt.Errorf("find the run of job %s: %q is no name of a directory", job, name)
	}
	dir := filepath.Join(r.runs, name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("make the run's directory: %w", err)
	}
	files, err := metrics.NewJSONL(dir)
	if err != nil {
		return nil, err
	}
	all := []metrics.Sink{files}
	if r.console != nil {
		all = append(all, newest{sink: r.console, since: r.began})
	}
	s := &runSink{Fanout: metrics.NewFanout(all...), owner: r, job: job, holder: 1}
	r.open[job] = s
	return s, nil
}

// Close gives the sink back.
func (s *runSink) Close() error {
	s.owner.mu.Lock()
	s.holder--
	last := s.holder == 0
	if last {
		delete(s.owner.open, s.job)
	}
	s.owner.mu.Unlock()
	if !last {
		return nil
	}
	return s.Fanout.Close()
}

// close closes what is still open. It is the end: nobody may ask or write afterwards.
func (r *runSinks) close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	var errs []error
	for _, s := range r.open {
		errs = append(errs, s.Fanout.Close())
	}
	r.open = nil
	return errors.Join(errs...)
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

// storyteller takes the cluster's events from the coordinator, which must not wait, and brings them to the runs they are
// about and to whoever else wants them.
type storyteller struct {
	runs  *runSinks
	story func(*mppb.Event) // may be nil
	began time.Time

	mu     sync.Mutex
	filled *sync.Cond
	queue  []*mppb.Event
	closed bool
}

func newStoryteller(r *runSinks, story func(*mppb.Event)) *storyteller {
	t := &storyteller{runs: r, story: story, began: r.began}
	t.filled = sync.NewCond(&t.mu)
	return t
}

// hear queues an event. It never blocks.
func (t *storyteller) hear(e *mppb.Event) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.queue = append(t.queue, e)
	t.filled.Signal()
}

// close makes run return once everything is told.
func (t *storyteller) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = true
	t.filled.Signal()
}

// run tells events until close.
func (t *storyteller) run() error {
	for {
		t.mu.Lock()
		for len(t.queue) == 0 && !t.closed {
			t.filled.Wait()
		}
		events := t.queue
		t.queue = nil
		t.mu.Unlock()
		if len(events) == 0 {
			return nil
		}
		for _, e := range events {
			if t.story != nil && !time.Unix(0, e.Time).Before(t.began) {
				t.story(e)
			}
			if err := t.keep(e); err != nil {
				return err
			}
		}
	}
}

// keep writes an event to the run that it is about.
func (t *storyteller) keep(e *mppb.Event) error {
	if e.Job == "" {
		return nil
	}
	s, err := t.runs.sink(e.Job)
	if err != nil {
		return err
	}
	s.Emit(storyEvent(e))
	return s.(*runSink).Close()
}

// storyEvent is an event of the cluster as the run's files and the console know it. Its origin is the raft log, which every
// start of a node tells again from the beginning.
func storyEvent(e *mppb.Event) metrics.Event {
	out := metrics.Event{Time: time.Unix(0, e.Time), Origin: &metrics.Origin{Worker: "coordinator", Sequence: e.Sequence}}
	switch e.Topic {
	case "view":
		out.Kind = metrics.KindView
		out.View = &metrics.View{Number: e.View, Reason: e.Text, Advice: e.Advice, Update: int(e.Update), DetectSeconds: e.DetectSeconds,
			RecoverSeconds: e.RecoverSeconds, Warning: e.Warning}
	case "fault", "slow", "quarantine":
		out.Kind = metrics.KindFault
		out.Fault = &metrics.Fault{Worker: e.Worker, Text: e.Text, Advice: e.Advice, View: e.View, DetectSeconds: e.DetectSeconds}
	default:
		out.Kind = metrics.KindStory
		out.Story = &metrics.Story{Topic: e.Topic, Text: e.Text, Advice: e.Advice, Warning: e.Warning}
	}
	return out
}
