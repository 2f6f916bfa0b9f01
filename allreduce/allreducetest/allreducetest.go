// Package allreducetest is the suite that every all-reduce mechanism passes.
package allreducetest

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"mp/allreduce"
)

// Run tests the groups that newGroup makes: one Group for each of n members.
func Run(t *testing.T, newGroup func(n int) []allreduce.Group) {
	for _, n := range []int{1, 2, 3, 4, 7} {
		for _, length := range []int{0, 1, 10, 10007} {
			t.Run(fmt.Sprintf("%d members sum %d elements", n, length), func(t *testing.T) { sums(t, newGroup(n), length) })
		}
	}
}

// sums checks three rounds on one group.
func sums(t *testing.T, g []allreduce.Group, length int) {
	for round := range 3 {
		vectors := make([][]int32, len(g))
		want := make([]int32, length)
		for r := range vectors {
			vectors[r] = make([]int32, length)
			for i := range vectors[r] {
				vectors[r][i] = int32((r + 1) * (i + round*7 + 3))
				want[i] += vectors[r][i]
			}
		}
		for i, err := range all(g, func(m allreduce.Group) error { return m.Sum(context.Background(), vectors[m.Rank()]) }) {
			if err != nil {
				t.Fatalf("round %d, member %d: %v", round, i, err)
			}
		}
		for r := range vectors {
			for i := range want {
				if vectors[r][i] != want[i] {
					t.Fatalf("round %d, member %d, element %d: got %d, want %d", round, r, i, vectors[r][i], want[i])
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
