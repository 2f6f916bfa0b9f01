package coordinator

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

func contextOf(t *testing.T) (context.Context, context.CancelFunc) {
	return context.WithCancel(context.WithoutCancel(t.Context()))
}

// faultyLogs is a disk that can be full or slow.
type faultyLogs struct {
	logs
	full  *atomic.Bool
	block *atomic.Pointer[chan struct{}] // writing waits until it is closed
	worst *atomic.Int64                  // the longest write, in nanoseconds
}

func newFaultyLogs() *faultyLogs {
	return &faultyLogs{full: &atomic.Bool{}, block: &atomic.Pointer[chan struct{}]{}, worst: &atomic.Int64{}}
}

// over returns the same disk's faults over another log.
func (f *faultyLogs) over(inner logs) logs {
	return &faultyLogs{logs: inner, full: f.full, block: f.block, worst: f.worst}
}

func (f *faultyLogs) try(write func() error) error {
	if wait := f.block.Load(); wait != nil {
		<-*wait
	}
	if f.full.Load() {
		return &errFull{}
	}
	began := time.Now()
	defer func() { atLeast(f.worst, time.Since(began)) }()
	return write()
}

func atLeast(worst *atomic.Int64, d time.Duration) {
	for old := worst.Load(); int64(d) > old && !worst.CompareAndSwap(old, int64(d)); old = worst.Load() {
	}
}

type errFull struct{}

func (*errFull) Error() string { return "write raft.db: no space left on device" }
func (*errFull) Unwrap() error { return syscall.ENOSPC }

func (f *faultyLogs) StoreLog(l *raft.Log) error {
	return f.try(func() error { return f.logs.StoreLog(l) })
}
func (f *faultyLogs) StoreLogs(l []*raft.Log) error {
	return f.try(func() error { return f.logs.StoreLogs(l) })
}
func (f *faultyLogs) Set(k, v []byte) error { return f.try(func() error { return f.logs.Set(k, v) }) }
func (f *faultyLogs) SetUint64(k []byte, v uint64) error {
	return f.try(func() error { return f.logs.SetUint64(k, v) })
}
func (f *faultyLogs) DeleteRange(a, b uint64) error {
	return f.try(func() error { return f.logs.DeleteRange(a, b) })
}

func TestAFullDiskIsWaitedFor(t *testing.T) {
	inner, err := openLogs(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer inner.Close()
	faults := newFaultyLogs()
	p := newPatientLogs(faults.over(inner), Config{FailAfter: 100 * time.Millisecond})
	faults.full.Store(true)
	if err := p.StoreLogs([]*raft.Log{{Index: 1}}); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("entries: %v, want ENOSPC", err)
	}
	if err := p.SetUint64([]byte("LastVoteTerm"), 1); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("a vote: %v, want ENOSPC", err)
	}
	if got := p.trouble(); got != "no space left on device" {
		t.Errorf("trouble is %q", got)
	}
	// Raft ends the process when this fails: its goroutine ends instead.
	ended := make(chan bool, 1)
	go func() {
		returned := false
		defer func() { ended <- !returned }()
		p.SetUint64([]byte(currentTerm), 7)
		returned = true
	}()
	if !<-ended {
		t.Error("raft would have ended the process")
	}
	select {
	case <-p.lost:
	default:
		t.Error("nobody is told to start raft again")
	}
	ctx, cancel := contextOf(t)
	cancel()
	if p.await(ctx) {
		t.Error("a full disk is waited for, not found good")
	}
	faults.full.Store(false)
	ctx, cancel = contextOf(t)
	defer cancel()
	if !p.await(ctx) || p.trouble() == "" || p.past() != "" {
		t.Error("a probe that fits is taken for entries that fit, or waited for without end")
	}
	if err := p.StoreLogs([]*raft.Log{{Index: 1}}); err != nil || p.trouble() != "" {
		t.Errorf("entries on a disk with space: %v; trouble %q", err, p.trouble())
	}
	if got := p.past(); !strings.Contains(got, "no space left on device") {
		t.Errorf("the story would be %q", got)
	}
}

func TestALogInUseIsRefused(t *testing.T) {
	dir := t.TempDir()
	first, err := openLogs(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	if _, err := openLogs(dir); !errors.Is(err, ErrConfig) {
		t.Fatalf("got %v, want ErrConfig", err)
	}
}
