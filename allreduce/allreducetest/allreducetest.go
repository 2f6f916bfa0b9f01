// Package allreducetest is the suite that every all-reduce mechanism passes.
package allreducetest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"mp/allreduce"
)

// Run tests the groups that newGroup makes: one Group for each of n members.
func Run(t *testing.T, newGroup func(n int) []allreduce.Group) {
	for _, n := range []int{1, 2, 3, 4, 7} {
		for _, length := range []int{0, 1, 10, 10007} {
			t.Run(fmt.Sprintf("%d members sum %d elements", n, length), func(t *testing.T) { sums(t, newGroup(n), length) })
		}
	}
	t.Run("a member that leaves breaks the group", func(t *testing.T) {
		g := newGroup(3)
		g[2].Close()
		for i, err := range all(g[:2], func(m allreduce.Group) error { return m.AllReduce(context.Background(), make([]float32, 10)) }) {
			if !errors.Is(err, allreduce.ErrBroken) {
				t.Errorf("member %d got %v, want ErrBroken", i, err)
			}
		}
		if err := g[0].AllReduce(context.Background(), nil); !errors.Is(err, allreduce.ErrBroken) {
			t.Errorf("a later call got %v, want ErrBroken", err)
		}
	})
	t.Run("leaving after the last sum breaks nobody", func(t *testing.T) {
		for range 200 {
			errs := all(newGroup(3), func(m allreduce.Group) error {
				defer m.Close()
				return m.AllReduce(context.Background(), make([]float32, 3))
			})
			for i, err := range errs {
				if err != nil {
					t.Fatalf("member %d got %v", i, err)
				}
			}
		}
	})
	t.Run("a member that never comes", func(t *testing.T) {
		g := newGroup(2)
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
		defer cancel()
		if err := g[0].AllReduce(ctx, make([]float32, 10)); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the waiting member got %v, want its context's error", err)
		}
		if err := g[1].AllReduce(context.Background(), make([]float32, 10)); !errors.Is(err, allreduce.ErrBroken) {
			t.Errorf("the late member got %v, want ErrBroken", err)
		}
	})
	t.Run("lengths that differ", func(t *testing.T) {
		g := newGroup(2)
		errs := all(g, func(m allreduce.Group) error { return m.AllReduce(context.Background(), make([]float32, 10+m.Rank())) })
		for i, err := range errs {
			if !errors.Is(err, allreduce.ErrLength) && !errors.Is(err, allreduce.ErrBroken) {
				t.Errorf("member %d got %v, want ErrLength or ErrBroken", i, err)
			}
		}
	})
}

// sums checks three rounds on one group against a sum in the order of ranks.
func sums(t *testing.T, g []allreduce.Group, length int) {
	for round := range 3 {
		vectors := make([][]float32, len(g))
		want := make([]float32, length)
		for r := range vectors {
			vectors[r] = make([]float32, length)
			for i := range vectors[r] {
				vectors[r][i] = float32(r+1) / float32(i+round+3)
				if r == 0 {
					want[i] = vectors[r][i]
				} else {
					want[i] += vectors[r][i]
				}
			}
		}
		for i, err := range all(g, func(m allreduce.Group) error { return m.AllReduce(context.Background(), vectors[m.Rank()]) }) {
			if err != nil {
				t.Fatalf("round %d, member %d: %v", round, i, err)
			}
		}
		for r := range vectors {
			for i := range want {
				if vectors[r][i] != want[i] {
					t.Fatalf("round %d, member %d, element %d: got %g, want %g", round, r, i, vectors[r][i], want[i])
				}
			}
		}
	}
}

// all calls f for every member at once and returns their errors by rank.
func all(g []allreduce.Group, f func(allreduce.Group) error) []error {
	errs := make([]error, len(g))
	var wg sync.WaitGroup
	for i, m := range g {
		wg.Go(func() { errs[i] = f(m) })
	}
	wg.Wait()
	return errs
}
