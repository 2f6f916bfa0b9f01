package cmd

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

// processConfig says what program to run.
type processConfig struct {
	name    string    // for people: "worker 1"
	program string    // path
	args    []string  // without the program's name
	env     []string  // the whole environment; nil: childEnv of this process's
	log     string    // file to which both outputs are appended
	stdout  io.Writer // instead of log; nil: log
	// enter is called on the thread that starts the program and ends with it: in other namespaces. nil: here.
	enter func() error
}

// process is a running child. It has a process group of its own, so that a terminal's Ctrl-C reaches only its parent, and
// it dies with its parent, however that dies.
type process struct {
	processConfig
	pid   int
	began time.Time
	done  chan struct{} // closed when it has ended; the fields below are set then
	code  int           // exit code; -1: killed by a signal
	cause string        // "exit code 1", "signal: killed"
	lived time.Duration

	handle *os.Process
}

// startProcess starts a child. It ends by itself or by signal; wait for done.
func startProcess(c processConfig) (*process, error) {
	p := &process{processConfig: c, done: make(chan struct{})}
	started := make(chan error, 1)
	go p.run(started)
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", c.name, err)
	}
	return p, nil
}

// run holds its thread for as long as the child lives: Linux takes the end of the thread that started a child for the
// parent's death.
func (p *process) run(started chan<- error) {
	runtime.LockOSThread()
	if p.enter == nil {
		defer runtime.UnlockOSThread()
	} else if err := p.enter(); err != nil {
		started <- err
		return
	}
	log, err := openLog(p.log)
	if err != nil {
		started <- err
		return
	}
	defer log.Close()
	c := exec.Command(p.program, p.args...)
	c.Stdout, c.Stderr, c.Env = log, log, p.env
	if c.Env == nil {
		c.Env = childEnv(os.Environ())
	}
	if p.stdout != nil {
		c.Stdout = p.stdout
	}
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	p.began = time.Now()
	fmt.Fprintf(log, "-- %s %s\n", p.began.Format(time.DateTime), strings.Join(append([]string{filepath.Base(p.program)}, p.args...), " "))
	if err := c.Start(); err != nil {
		started <- err
		return
	}
	p.pid, p.handle = c.Process.Pid, c.Process
	started <- nil
	err = c.Wait()
	p.code, p.cause, p.lived = c.ProcessState.ExitCode(), c.ProcessState.String(), time.Since(p.began)
	if exit := (&exec.ExitError{}); err != nil && !errors.As(err, &exit) {
		p.code, p.cause = -1, err.Error()
	}
	fmt.Fprintf(log, "-- %s ended: %s\n", time.Now().Format(time.DateTime), p.cause)
	close(p.done)
}

// signal sends s to the child; a child that has ended does not mind.
func (p *process) signal(s syscall.Signal) { _ = p.handle.Signal(s) }

// stop asks the child to end, makes it end after grace, and returns when it has.
func (p *process) stop(grace time.Duration) {
	p.signal(syscall.SIGTERM)
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-p.done:
	case <-timer.C:
		p.signal(syscall.SIGKILL)
		<-p.done
	}
}

// Bounds of a child's log in bytes: above maxLog a new start moves it aside, and of its end at most tailLog are looked at.
const (
	maxLog  = 16 << 20
	tailLog = 1 << 16
)

// openLog opens a child's log to append to; one that has grown large makes way, and the one before that goes.
func openLog(path string) (*os.File, error) {
	if info, err := os.Stat(path); err == nil && info.Size() > maxLog {
		if err := os.Rename(path, path+".old"); err != nil {
			return nil, err
		}
	}
	return os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
}

// lastLines returns at most n last lines of what a child wrote since its last start, without our own marks.
func lastLines(path string, n int) []string {
	f, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer f.Close()
	if end, err := f.Seek(0, io.SeekEnd); err == nil {
		if _, err := f.Seek(max(0, end-tailLog), io.SeekStart); err != nil {
			return nil
		}
	}
	text, err := io.ReadAll(io.LimitReader(f, tailLog))
	if err != nil {
		return nil
	}
	var lines []string
	for line := range bytes.Lines(text) {
		switch s := strings.TrimRight(string(line), "\r\n"); {
		case strings.HasPrefix(s, "-- ") && strings.Contains(s, " ended: "):
		case strings.HasPrefix(s, "-- "):
			lines = nil
		case strings.TrimSpace(s) != "":
			lines = append(lines, s)
		}
	}
	return lines[max(0, len(lines)-n):]
}

// childEnv is an environment without the twins of flags: what was meant for this verb is not meant for its children.
func childEnv(environ []string) []string {
	return slices.DeleteFunc(slices.Clone(environ), func(s string) bool { return strings.HasPrefix(s, twinPrefix) })
}
