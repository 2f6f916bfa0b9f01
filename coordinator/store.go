package coordinator

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// logs is what raft keeps on disk, except snapshots.
type logs interface {
	raft.LogStore
	raft.StableStore
	Close() error
}

// openLogs opens or makes the log in dir. A second process that holds it is an error within a second.
func openLogs(dir string) (logs, error) {
	path := filepath.Join(dir, "raft.db")
	s, err := raftboltdb.New(raftboltdb.Options{Path: path, BoltOptions: &bbolt.Options{Timeout: time.Second, FreelistType: bbolt.FreelistMapType}, MsgpackUseNewTimeFormat: true})
	switch {
	case errors.Is(err, bolterrors.ErrTimeout):
		return nil, fmt.Errorf("%w: %s is in use: another coordinator runs with this data directory", ErrConfig, path)
	case errors.Is(err, bolterrors.ErrInvalid), errors.Is(err, bolterrors.ErrChecksum), errors.Is(err, bolterrors.ErrVersionMismatch):
		return nil, fmt.Errorf("%w: %s is damaged or not a raft log (%v): move the directory away; this node then copies everything from the others, or starts anew if it is alone", ErrConfig, path, err)
	case err != nil:
		return nil, fmt.Errorf("open raft's log %s: %w", path, err)
	}
	return s, nil
}

// patientLogs tells a person when the log cannot be written, and ends this life of raft where raft would end the process.
//
// When entries or votes cannot be stored, raft steps down or refuses what it is asked, and tries again when there is a
// reason to: that is right. When the current term cannot be stored it panics: here the goroutine ends instead, which is as
// safe as a crash, and lost says that raft must be started again on the same log once it can be written.
type patientLogs struct {
	logs
	dir   string
	log   *slog.Logger
	retry time.Duration
	lost  chan struct{} // gets one when raft cannot go on

	mu      sync.Mutex
	failing time.Time // since when entries or votes could not be stored; zero: it works
	why     string
	last    string    // the last trouble that is over, not yet told to the cluster
	writing time.Time // since when entries are being written; zero: none are
}

func newPatientLogs(inner logs, cfg Config) *patientLogs {
	return &patientLogs{logs: inner, dir: cfg.DataDir, log: cfg.logger(), retry: cfg.FailAfter / 4, lost: make(chan struct{}, 1)}
}

func (p *patientLogs) StoreLog(l *raft.Log) error { return p.StoreLogs([]*raft.Log{l}) }

func (p *patientLogs) StoreLogs(all []*raft.Log) error {
	p.mark(time.Now())
	err := p.logs.StoreLogs(all)
	p.mark(time.Time{})
	if err == nil {
		p.recovered()
	}
	return p.note(err)
}

func (p *patientLogs) mark(t time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.writing = t
}

// hanging is for how long the disk has not answered.
func (p *patientLogs) hanging() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.writing.IsZero() {
		return 0
	}
	return time.Since(p.writing)
}

func (p *patientLogs) DeleteRange(from, to uint64) error {
	return p.note(p.logs.DeleteRange(from, to))
}

// Set stores votes: a vote that is not stored is not given.
func (p *patientLogs) Set(key, value []byte) error { return p.note(p.logs.Set(key, value)) }

// currentTerm is raft's key of the one number that it must be able to store.
const currentTerm = "CurrentTerm"

func (p *patientLogs) SetUint64(key []byte, value uint64) error {
	err := p.note(p.logs.SetUint64(key, value))
	if err == nil || !bytes.Equal(key, []byte(currentTerm)) {
		return err
	}
	select {
	case p.lost <- struct{}{}:
	default:
	}
	runtime.Goexit() // one of raft's goroutines; its deferred calls run, so that raft can be shut down
	panic("unreachable")
}

// await returns true once the log can be written, false when ctx ends before.
func (p *patientLogs) await(ctx context.Context) bool {
	tick := time.NewTicker(p.retry)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return false
		}
		if p.note(p.logs.SetUint64([]byte("mp probe"), 1)) == nil {
			select {
			case <-p.lost: // of the life that has ended
			default:
			}
			return true
		}
	}
}

// note tells the log when writing begins to fail, and hands the error on.
func (p *patientLogs) note(err error) error {
	if err == nil {
		return nil
	}
	p.mu.Lock()
	first := p.failing.IsZero()
	if first {
		p.failing, p.why = time.Now(), diskError(err)
	}
	p.mu.Unlock()
	if first {
		p.log.Error("cannot write the raft log: this node does not lead until it can; workers go on stepping meanwhile",
			"directory", p.dir, "error", diskError(err), "advice", diskAdvice(err, p.dir))
	}
	return err
}

// recovered tells the log that entries can be written again. A vote or a probe says less: on a full disk one may still fit.
func (p *patientLogs) recovered() {
	p.mu.Lock()
	since := p.failing
	if !since.IsZero() {
		p.failing = time.Time{}
		p.last = fmt.Sprintf("could not write its log for %s: %s", time.Since(since).Round(time.Millisecond), p.why)
	}
	p.mu.Unlock()
	if !since.IsZero() {
		p.log.Info("the raft log can be written again", "directory", p.dir, "after", time.Since(since).Round(time.Millisecond))
	}
}

// trouble returns why the log cannot be written now; empty: it can.
func (p *patientLogs) trouble() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.failing.IsZero() {
		return ""
	}
	return p.why
}

// past returns, once, a trouble that is over.
func (p *patientLogs) past() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	last := p.last
	p.last = ""
	return last
}

// diskError is the shortest text that says what a disk did.
func diskError(err error) string {
	var number syscall.Errno
	if errors.As(err, &number) {
		return number.Error()
	}
	return err.Error()
}

func diskAdvice(err error, dir string) string {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return "free space under " + dir
	}
	return "look at the disk under " + dir
}

// makeDir makes a directory that must be writable.
func makeDir(dir, what string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("%w: make the %s: %v", ErrConfig, what, err)
	}
	f, err := os.CreateTemp(dir, ".writable-")
	if err != nil {
		return fmt.Errorf("%w: the %s %s cannot be written: %v", ErrConfig, what, dir, err)
	}
	f.Close()
	return os.Remove(f.Name())
}
