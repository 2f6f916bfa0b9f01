package coordinator

import (
	"context"
	"errors"
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
}

func newFaultyLogs() *faultyLogs {
	return &faultyLogs{full: &atomic.Bool{}, block: &atomic.Pointer[chan struct{}]{}}
}

// over returns the same disk's faults over another log.
func (f *faultyLogs) over(inner logs) logs {
	return &faultyLogs{logs: inner, full: f.full, block: f.block}
}

func (f *faultyLogs) try(write func() error) error {
	if wait := f.block.Load(); wait != nil {
		<-*wait
	}
	if f.full.Load() {
		return &errFull{}
	}
	return write()
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
	// Raft ends the process when this fails.
	done := make(chan error, 1)
	go func() { done <- p.SetUint64([]byte(currentTerm), 7) }()
	select {
	case err := <-done:
		t.Fatalf("the term was stored on a full disk: %v", err)
	case <-time.After(100 * time.Millisecond):
	}
	faults.full.Store(false)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if got, err := inner.GetUint64([]byte(currentTerm)); got != 7 || err != nil {
		t.Errorf("the term is %d, %v; want 7", got, err)
	}
	if p.trouble() != "" {
		t.Error("the trouble is over and not forgotten")
	}
	faults.full.Store(true)
	go func() { done <- p.SetUint64([]byte(currentTerm), 8) }()
	p.stop()
	if err := <-done; err != nil {
		t.Errorf("a node that ends: %v", err)
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
