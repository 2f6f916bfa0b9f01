package rpc

import (
	"sync"
	"time"
)

// flight tells how much longer than it could the left neighbour's pieces are on their way: a slow cable, or a slow way out of
// its machine. No common clock is needed: the least difference between arrival here and sending there is the clocks' offset
// and the shortest flight, and what a piece takes beyond that is its delay.
type flight struct {
	mu     sync.Mutex // guards what follows
	least  time.Duration
	at     time.Time     // when least was last looked at; zero: never
	behind time.Duration // added up over operations
}

// drift is by how much two clocks may run apart: the least difference is forgotten so fast.
const drift = 200e-6

// over is the delay of a piece that took so long, by the difference of two clocks, and came at a moment.
func (f *flight) over(took time.Duration, at time.Time) time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.at.IsZero() {
		f.least += time.Duration(drift * float64(at.Sub(f.at)))
	}
	if f.at.IsZero() || took < f.least {
		f.least = took
	}
	f.at = at
	return took - f.least
}

// add notes the greatest delay of an operation.
func (f *flight) add(d time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.behind += d
}

// Behind implements allreduce.Timed.
func (g *group) Behind() time.Duration {
	g.flight.mu.Lock()
	defer g.flight.mu.Unlock()
	return g.flight.behind
}
