package inproc

import (
	"testing"

	"mp/allreduce"
	"mp/allreduce/allreducetest"
)

func TestConformance(t *testing.T) {
	allreducetest.Run(t, func(t testing.TB, n int) []allreduce.Group {
		g := New(n)
		t.Cleanup(func() {
			for _, m := range g {
				m.Close()
			}
		})
		return g
	})
}
