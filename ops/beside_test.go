package ops

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	torch "github.com/wangkuiyi/gotorch"
)

// Work that others ask for runs between a guest's steps, as if the guest were not: with the device's threads, and with graphs
// recorded even where the guest records none.
func TestAGuestGivesWay(t *testing.T) {
	d, err := OpenDevice(DeviceConfig{GPU: CPU, Threads: 2})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	ctx := t.Context()
	asked, done := make(chan struct{}), make(chan error, 1)
	var within, threads, ran atomic.Int64
	err = d.DoBeside(ctx, 1, func(s *Scope, g *Guest) error {
		if d.now != 1 {
			t.Errorf("the guest computes with %d threads, want 1", d.now)
		}
		g.GiveWay() // nobody waits
		within.Store(1)
		go func() {
			close(asked)
			err := d.Do(ctx, func(s *Scope) error {
				ran.Store(within.Load())
				threads.Store(int64(d.now))
				x := s.Leaf(From(s, []float32{3}, 1))
				if got := Values[float32](s, s.Grad(s.Sum(s.Mul(x, x)), x)[0]); len(got) != 1 || got[0] != 6 {
					t.Errorf("beside a guest the gradient is %v, want 6", got)
				}
				return s.Err()
			})
			if err == nil {
				err = d.SetThreads(ctx, 3)
			}
			done <- err
		}()
		<-asked
		s.NoGrad(func() {
			for len(done) == 0 { // the other one asks whenever its goroutine runs
				g.GiveWay()
			}
			x := s.Leaf(From(s, []float32{3}, 1))
			if y := s.Mul(x, x); Defined(y) && requiresGrad(s, y) {
				t.Error("after others had the device, the guest records a graph where it wants none")
			}
		})
		if d.now != 1 {
			t.Errorf("after others had the device the guest computes with %d threads, want 1", d.now)
		}
		within.Store(2)
		return nil
	})
	if err := errors.Join(err, <-done); err != nil {
		t.Fatal(err)
	}
	if ran.Load() != 1 || threads.Load() != 2 {
		t.Errorf("the other work ran at %d with %d threads, want at 1, within the guest's, with 2", ran.Load(), threads.Load())
	}
	if err := d.Do(ctx, func(*Scope) error { threads.Store(int64(d.now)); return nil }); err != nil || threads.Load() != 3 || d.Threads() != 3 {
		t.Errorf("afterwards there are %d threads, want 3, as was asked for meanwhile; %v", threads.Load(), err)
	}
}

// requiresGrad says whether a gradient can be asked for.
func requiresGrad(s *Scope, y torch.Tensor) bool {
	c := s.Child()
	c.Grad(c.Sum(y), y)
	failed := c.err != nil
	c.err = nil
	c.Close()
	return !failed
}

// While others use the device, they have it for as long as the guest's step took, not for one call alone.
func TestAGuestSharesEvenly(t *testing.T) {
	d, err := OpenDevice(DeviceConfig{GPU: CPU, Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	ctx, cancel := context.WithCancel(t.Context())
	calls, ended := 0, make(chan struct{})
	go func() { // asks again as soon as it has been served
		defer close(ended)
		for d.Do(ctx, func(*Scope) error { calls++; return nil }) == nil {
		}
	}()
	before, after := 0, 0
	err = d.DoBeside(ctx, 1, func(_ *Scope, g *Guest) error {
		for calls == before { // until the other one is there
			g.GiveWay()
		}
		before = calls
		for after = calls; after == before; after = calls { // it may not have asked again yet
			g.since = time.Now().Add(-20 * time.Millisecond) // a step of that length
			g.GiveWay()
		}
		return nil
	})
	cancel()
	<-ended
	if err != nil || after-before < 2 {
		t.Errorf("others were served %d times in the time of a step, want many times; %v", after-before, err)
	}
}
