package cmd

import (
	"context"
	_ "embed"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"mp/mppb"
)

//go:embed drill/clock.c
var clockSource []byte

// errNoClock is wrapped where no clock can be put under a process.
var errNoClock = errors.New("a wall clock that jumps needs Linux on amd64 and a C compiler, cc")

// wallClock is the wall clock of one process: see drill/clock.c.
type wallClock struct{ path string }

// newClock makes a clock that is right so far, and the environment of the process whose clock it is.
func newClock(ctx context.Context, dir, name string) (wallClock, []string, error) {
	if runtime.GOARCH != "amd64" {
		return wallClock{}, nil, errNoClock
	}
	source, library := filepath.Join(dir, "clock.c"), filepath.Join(dir, "clock.so")
	if !exists(library) {
		if err := os.WriteFile(source, clockSource, 0o644); err != nil {
			return wallClock{}, nil, err
		}
		if out, err := exec.CommandContext(ctx, "cc", "-O2", "-shared", "-fPIC", "-fno-stack-protector", "-o", library, source).CombinedOutput(); err != nil {
			return wallClock{}, nil, fmt.Errorf("compile clock.c: %w: %s: %w", err, out, errNoClock)
		}
	}
	c := wallClock{filepath.Join(dir, name+".clock")}
	if err := os.WriteFile(c.path, make([]byte, 16), 0o644); err != nil {
		return wallClock{}, nil, err
	}
	return c, []string{"LD_PRELOAD=" + library, "DRILL_CLOCK=" + c.path}, nil
}

// jump sets the clock off by d from now on.
func (c wallClock) jump(d time.Duration) error {
	f, err := os.OpenFile(c.path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(binary.NativeEndian.AppendUint64(nil, uint64(d/time.Second)), 0)
	return errors.Join(err, f.Close())
}

// readings is how often the process has read the clock while it was off.
func (c wallClock) readings() uint64 {
	b, err := os.ReadFile(c.path)
	if err != nil || len(b) < 16 {
		return 0
	}
	return binary.NativeEndian.Uint64(b[8:])
}

func drillClock(ctx context.Context, r *rehearsal) error {
	n := r.nodes[0]
	host, environ, err := newClock(ctx, r.dir, n.id)
	if err != nil {
		return err
	}
	n.signal(9)
	<-n.done
	n.environ = environ
	if err := r.startNode(n); err != nil {
		return err
	}
	other, environ, err := newClock(ctx, r.dir, "worker-2")
	if err != nil {
		return err
	}
	if _, err := r.startWorker(1); err != nil {
		return err
	}
	if _, err := r.startWorkerIn(2, environ); err != nil {
		return err
	}
	if err := r.submit(ctx, r.spec); err != nil {
		return err
	}
	if err := r.untilWorkers(ctx, 2); err != nil {
		return err
	}
	if err := r.more(ctx, 5); err != nil {
		return err
	}
	for _, jump := range []struct {
		who   string
		clock wallClock
		by    time.Duration
	}{{"worker 2", other, time.Hour}, {"worker 2", other, -time.Hour}, {n.id, host, time.Hour}, {n.id, host, -time.Hour}} {
		at, before := time.Now(), r.heard()
		if err := jump.clock.jump(jump.by); err != nil {
			return err
		}
		read := jump.clock.readings()
		if err := rest(ctx, 3*r.failAfter); err != nil {
			return err
		}
		if err := r.more(ctx, 5); err != nil {
			return err
		}
		what := fmt.Sprintf("%s, by %s: ", jump.who, span(jump.by))
		read = jump.clock.readings() - read
		r.check(read > 0, what+"readings of the wrong clock", thousands(read), "some")
		r.within(what+"longest time without a step", r.longestPause(at), 2*time.Second)
		var said []string
		for _, e := range r.since(before) {
			if isWarning(e) || e.Topic == "leader" || e.Topic == "join" {
				said = append(said, e.Text)
			}
		}
		r.check(len(said) == 0, what+"warnings, leaders and joiners", strings.Join(said, "; "), "none")
	}
	return nil
}

// heard is how many events have come.
func (f *fleet) heard() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.events)
}

// since are the events after the first n.
func (f *fleet) since(n int) []*mppb.Event {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.events[n:]
}
