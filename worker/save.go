package worker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"mp/checkpoint"
	"mp/mppb"
)

// kept is a checkpoint that was written to this machine's disk.
type kept struct {
	view *mppb.View
	path string // of its folder
	best bool   // it becomes the best; else the newest
}

// saver writes checkpoints and hands them to the library in the background, one at a time, so that training goes on
// meanwhile. Its methods may be called from any goroutine.
type saver struct {
	library library
	failed  func(error) // hears of a checkpoint that could not be saved; the next one may

	mu      sync.Mutex // guards what follows
	waiting []saving
	busy    bool
	broken  error         // of the newest saving that ended
	idle    chan struct{} // closed while nothing waits and nothing is under way
	running sync.WaitGroup
}

// saving is a checkpoint to be written.
type saving struct {
	view  *mppb.View
	name  string
	state *checkpoint.State
	best  bool
}

func newSaver(l library, failed func(error)) *saver {
	s := &saver{library: l, failed: failed, idle: make(chan struct{})}
	close(s.idle)
	return s
}

// put lets a state be saved, in the order of the calls. Of those that wait only the newest of each kind is written.
func (s *saver) put(ctx context.Context, x saving) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waiting = slices.DeleteFunc(s.waiting, func(w saving) bool { return w.best == x.best && w.view.Job == x.view.Job })
	s.waiting = append(s.waiting, x)
	if s.busy {
		return
	}
	s.busy, s.idle = true, make(chan struct{})
	s.running.Go(func() { s.run(ctx) })
}

// run saves until nothing waits or ctx ends.
func (s *saver) run(ctx context.Context) {
	for {
		s.mu.Lock()
		if len(s.waiting) == 0 || ctx.Err() != nil {
			s.busy = false
			close(s.idle)
			s.mu.Unlock()
			return
		}
		next := s.waiting[0]
		s.waiting = s.waiting[1:]
		s.mu.Unlock()
		err := s.save(ctx, next)
		s.mu.Lock()
		s.broken = err
		s.mu.Unlock()
		if err != nil && ctx.Err() == nil {
			s.failed(err)
		}
	}
}

// save writes one checkpoint.
func (s *saver) save(ctx context.Context, x saving) error {
	path, err := checkpoint.Write(s.library.folder(x.view), x.name, x.state)
	if err != nil {
		return err
	}
	return s.library.keep(ctx, kept{view: x.view, path: path, best: x.best})
}

// flush blocks until nothing is left to save or ctx ends, and returns why the newest could not be saved.
func (s *saver) flush(ctx context.Context) error {
	s.mu.Lock()
	idle := s.idle
	s.mu.Unlock()
	select {
	case <-idle:
	case <-ctx.Done():
		return ctx.Err()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.broken != nil {
		return fmt.Errorf("save: %w", s.broken)
	}
	if len(s.waiting) > 0 {
		return errors.New("save: stopped before everything was saved")
	}
	return nil
}

// wait blocks until what put started has ended: after the end of its context.
func (s *saver) wait() { s.running.Wait() }

// checkpointName and bestName name checkpoints by the update after which they stand. A state that a job has once has a name
// of its own, so whoever saves it and however often, a name stands for the same state.
func checkpointName(at position, validationDue bool) string {
	switch {
	case at.Replay > 0:
		return fmt.Sprintf("update-%08d-%d", at.Done, at.Replay)
	case validationDue:
		return fmt.Sprintf("update-%08d-unvalidated", at.Done)
	}
	return fmt.Sprintf("update-%08d", at.Done)
}

func bestName(done int) string { return fmt.Sprintf("best-%08d", done) }

// shelf is the library of a lone worker: the run's own directory.
type shelf struct {
	directory string
	keeping   int // newest checkpoints kept beside the best
}

func (s shelf) folder(*mppb.View) string { return filepath.Join(s.directory, "checkpoints") }

func (s shelf) keep(_ context.Context, k kept) error {
	dir := filepath.Dir(k.path)
	point := checkpoint.SetLatest
	if k.best {
		point = checkpoint.SetBest
	}
	if err := point(dir, filepath.Base(k.path)); err != nil {
		return err
	}
	_, err := checkpoint.Prune(dir, s.keeping)
	return err
}

func (s shelf) fetch(_ context.Context, v *mppb.View, name string) (string, error) {
	path := filepath.Join(s.folder(v), name)
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("fetch checkpoint: %w", err)
	}
	return path, nil
}
