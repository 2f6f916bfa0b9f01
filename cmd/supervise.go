package cmd

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// Pauses between a crash and the next start: the first is short, since most crashes are of the moment, and each further
// one twice as long, since a worker that cannot live must not keep the others from theirs. A child that has lived for
// steadyAfter starts the count anew; one that never did is given up after giveUpAfter crashes.
const (
	firstPause  = 200 * time.Millisecond
	longPause   = 30 * time.Second
	steadyAfter = 10 * time.Second
	giveUpAfter = 6
)

// stopGrace is how long a child may take to end after SIGTERM: a worker hands its shards back within 10 s.
const stopGrace = 12 * time.Second

// fate is what to do with a child that has ended.
type fate struct {
	again bool
	pause time.Duration // before it starts again
	lost  bool          // it will not start again although it did not end well
}

// crashes counts what decides a child's fate.
type crashes struct {
	row   int  // crashes without a steady life between them
	lived bool // it once had a steady life: it can run here
}

// ended decides by how the child ended and how long it had lived.
func (c *crashes) ended(code int, lived time.Duration) fate {
	switch code {
	case exitDone, exitDrained:
		return fate{}
	case exitBadInput:
		return fate{lost: true}
	}
	if lived >= steadyAfter {
		c.row, c.lived = 0, true
	}
	c.row++
	if c.row >= giveUpAfter && !c.lived {
		return fate{lost: true}
	}
	return fate{again: true, pause: min(firstPause<<min(c.row-1, 16), longPause)}
}

// supervisor keeps one child running. Run it in a goroutine of its own; current and stop are for others.
type supervisor struct {
	config processConfig
	say    func(text string, lines []string) // told of every unwanted end, with the child's last words; may be nil

	mu      sync.Mutex
	child   *process
	started int
}

// current is the running child, nil between two lives.
func (s *supervisor) current() *process {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.child
}

// starts counts how often the child was started.
func (s *supervisor) starts() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.started
}

// run starts the child again whenever it crashes, until it ends for good or ctx ends, which stops it. It returns how the
// child ended last; lost says that it ended badly and is not started again.
func (s *supervisor) run(ctx context.Context) (last *process, lost bool, err error) {
	var count crashes
	for {
		p, err := startProcess(s.config)
		if err != nil {
			return nil, true, err
		}
		s.set(p, 1)
		select {
		case <-p.done:
		case <-ctx.Done():
			p.stop(stopGrace)
		}
		s.set(nil, 0)
		if ctx.Err() != nil {
			return p, false, nil
		}
		f := count.ended(p.code, p.lived)
		if p.code != exitDone && p.code != exitDrained {
			s.tell(p, f)
		}
		if !f.again {
			return p, f.lost, nil
		}
		timer := time.NewTimer(f.pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return p, false, nil
		}
	}
}

func (s *supervisor) set(p *process, starts int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.child = p
	s.started += starts
}

// lastWords is the number of a child's last lines shown with its end.
const lastWords = 6

func (s *supervisor) tell(p *process, f fate) {
	if s.say == nil {
		return
	}
	next := fmt.Sprintf("starting it again in %s", f.pause)
	if f.lost {
		next = "it is not started again"
	}
	var lines []string
	if f.lost || p.lived < steadyAfter && p.code >= 0 {
		lines = lastLines(p.log, lastWords)
	}
	s.say(fmt.Sprintf("%s (pid %d) ended after %.1f s: %s; %s", p.name, p.pid, p.lived.Seconds(), p.cause, next), lines)
}
