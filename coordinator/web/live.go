package web

import (
	"sync"
	"sync/atomic"

	"mp/metrics"
)

// live wakes the streams of a run when something is written to it, and keeps what is shown and never written: the newest
// progress. It holds no events: streams read them from the run's files, each at its own pace, so that a browser that does
// not keep up costs nothing here.
type live struct {
	streams atomic.Int64 // that browsers hold open

	mu       sync.Mutex
	watchers map[string]map[*watcher]bool // by run
	progress map[string]metrics.Progressed
}

// watcher is one stream that waits.
type watcher struct {
	woken chan struct{} // holds one
}

func newLive() *live {
	return &live{watchers: map[string]map[*watcher]bool{}, progress: map[string]metrics.Progressed{}}
}

// Sink is told of a run's events after its files have them. Emit does not block.
func (s *Server) Sink(run string) metrics.Sink { return runSink{s.live, run} }

type runSink struct {
	live *live
	run  string
}

func (r runSink) Emit(e metrics.Event) {
	if e.Progress != nil {
		r.live.mu.Lock()
		r.live.progress[r.run] = *e.Progress
		r.live.mu.Unlock()
	}
	r.live.wake(r.run)
}

// Close forgets the run's progress.
func (r runSink) Close() error {
	r.live.mu.Lock()
	defer r.live.mu.Unlock()
	delete(r.live.progress, r.run)
	return nil
}

// wake lets all streams of a run look.
func (l *live) wake(run string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for w := range l.watchers[run] {
		select {
		case w.woken <- struct{}{}:
		default: // it will look anyway
		}
	}
}

// watch begins to wake a stream; the caller calls leave.
func (l *live) watch(run string) (w *watcher, leave func()) {
	w = &watcher{woken: make(chan struct{}, 1)}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.watchers[run] == nil {
		l.watchers[run] = map[*watcher]bool{}
	}
	l.watchers[run][w] = true
	return w, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.watchers[run], w)
		if len(l.watchers[run]) == 0 {
			delete(l.watchers, run)
		}
	}
}

// at is how far a run's present work has come, if it told.
func (l *live) at(run string) (metrics.Progressed, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	p, ok := l.progress[run]
	return p, ok
}
