package metrics

import (
	"errors"
	"io"
	"sync"
)

// Sink takes events one after another. Emit may block and must not keep the payload's slices; it is called from one
// goroutine at a time. A sink that fails keeps its error for Close, if it has one (io.Closer), and drops what follows.
type Sink interface {
	Emit(Event)
}

// Tee hands every event to several sinks, one after another, before Emit returns.
type Tee []Sink

// Emit hands e to every sink.
func (t Tee) Emit(e Event) {
	for _, s := range t {
		s.Emit(e)
	}
}

// Err joins the errors of the sinks that say whether they kept what they took, as JSONL does.
func (t Tee) Err() error {
	var errs []error
	for _, s := range t {
		if s, ok := s.(interface{ Err() error }); ok {
			errs = append(errs, s.Err())
		}
	}
	return errors.Join(errs...)
}

// Close closes the sinks that can be closed, in reverse order, and returns their errors.
func (t Tee) Close() error {
	var errs []error
	for i := len(t) - 1; i >= 0; i-- {
		if c, ok := t[i].(io.Closer); ok {
			errs = append(errs, c.Close())
		}
	}
	return errors.Join(errs...)
}

// Fanout hands every event to several sinks, each at its own pace: Emit never blocks, so that training never waits for
// a slow terminal or disk. It is safe for concurrent use.
type Fanout struct {
	queues []*queue
	wait   sync.WaitGroup
}

// queue is what one sink has not taken yet.
type queue struct {
	sink Sink

	mu     sync.Mutex
	filled *sync.Cond
	events []Event
	closed bool
}

// NewFanout starts one goroutine a sink; Close stops them.
func NewFanout(sinks ...Sink) *Fanout {
	f := &Fanout{}
	for _, s := range sinks {
		q := &queue{sink: s}
		q.filled = sync.NewCond(&q.mu)
		f.queues = append(f.queues, q)
		f.wait.Go(q.run)
	}
	return f
}

// Emit queues the event for every sink. After Close it does nothing.
func (f *Fanout) Emit(e Event) {
	for _, q := range f.queues {
		q.push(e)
	}
}

// Close waits until every sink has taken every event, then closes the sinks that can be closed, in reverse order, and
// returns their errors. A second Close does nothing.
func (f *Fanout) Close() error {
	var open Tee
	for _, q := range f.queues {
		if q.close() {
			open = append(open, q.sink)
		}
	}
	f.wait.Wait()
	return open.Close()
}

// push appends e. Of progress only the newest counts, so a sink that does not keep up does not fill the memory.
func (q *queue) push(e Event) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return
	}
	if n := len(q.events); n > 0 && e.Kind == KindProgress && q.events[n-1].Kind == KindProgress {
		q.events[n-1] = e
	} else {
		q.events = append(q.events, e)
	}
	q.filled.Signal()
}

// close makes run return once the queue is empty; it says whether this was the first time.
func (q *queue) close() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	first := !q.closed
	q.closed = true
	q.filled.Signal()
	return first
}

// run hands the queue to the sink until close.
func (q *queue) run() {
	for {
		q.mu.Lock()
		for len(q.events) == 0 && !q.closed {
			q.filled.Wait()
		}
		events := q.events
		q.events = nil
		q.mu.Unlock()
		if len(events) == 0 {
			return
		}
		for _, e := range events {
			q.sink.Emit(e)
		}
	}
}
