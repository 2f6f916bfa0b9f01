package worker

import (
	"context"
	"errors"
	"testing"
	"time"

	"mp/allreduce"
	"mp/allreduce/inproc"
)

// slowGroup is a group whose operations take a while.
type slowGroup struct {
	allreduce.Group
	takes time.Duration
}

func (g slowGroup) Max(context.Context, []byte) error {
	<-time.After(g.takes)
	return nil
}

func (g slowGroup) SumStream(_ context.Context, n int, s allreduce.Stream) error {
	q := make([]int32, n)
	if err := s.Load(q, 0); err != nil {
		return err
	}
	<-time.After(g.takes)
	s.Store(q, 0)
	return nil
}

// What overlaps counts once, and to wait for gradients in Load is no work.
func TestWorkOfASumIsCountedOnce(t *testing.T) {
	const takes = 50 * time.Millisecond
	beats := 0
	g := &meteredGroup{Group: slowGroup{inproc.New(1)[0], takes}, beat: func() { beats++ }}
	streamer, ok := g.forSums().(allreduce.Streamer)
	if !ok {
		t.Fatal("a mechanism that streams does not when it is measured")
	}
	began := time.Now()
	end := g.measure() // another operation, around the first
	if err := g.Max(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	end()
	if busy, all := g.stepped(), time.Since(began); busy < takes || busy > all {
		t.Errorf("two that overlap worked for %v, want %v to the %v that passed", busy, takes, all)
	}
	load := 4 * takes
	began = time.Now()
	err := streamer.SumStream(t.Context(), 1, allreduce.Stream{
		Load:  func([]int32, int) error { <-time.After(load); return nil },
		Store: func([]int32, int) {},
	})
	if err != nil {
		t.Fatal(err)
	}
	if busy, all := g.stepped(), time.Since(began); busy < takes || busy > all-load {
		t.Errorf("a stream worked for %v of %v, want at least %v and not the %v that Load waited", busy, all, takes, load)
	}
	if beats < 4 {
		t.Errorf("%d signs of life, want one for each operation and piece", beats)
	}
	broken := errors.New("broken")
	if err := streamer.SumStream(t.Context(), 1, allreduce.Stream{Load: func([]int32, int) error { return broken }}); !errors.Is(err, broken) {
		t.Errorf("got %v, want Load's error", err)
	}
	if g.under != 0 {
		t.Errorf("%d things at work after all have ended", g.under)
	}
}

func TestAGroupThatDoesNotStreamIsLeftSo(t *testing.T) {
	g := &meteredGroup{Group: struct{ allreduce.Group }{inproc.New(1)[0]}, beat: func() {}}
	if _, ok := g.forSums().(allreduce.Streamer); ok {
		t.Error("it streams, want that it cannot")
	}
}
