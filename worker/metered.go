package worker

import (
	"context"
	"sync/atomic"
	"time"

	"mp/allreduce"
)

// meteredGroup is a Group that tells of its progress and measures: every bucket is a sign of life, so that a worker that
// waits can be told from one that hangs.
type meteredGroup struct {
	allreduce.Group
	beat func()
	busy atomic.Int64 // nanoseconds in Max and Sum since the last step

	skew time.Duration // for how long the group had waited for this member at the last step
	late mean          // seconds a step that it waited
}

func (g *meteredGroup) Max(ctx context.Context, data []byte) error {
	defer g.measure(time.Now())
	return g.Group.Max(ctx, data)
}

func (g *meteredGroup) Sum(ctx context.Context, data []int32) error {
	defer g.measure(time.Now())
	return g.Group.Sum(ctx, data)
}

func (g *meteredGroup) measure(began time.Time) {
	g.busy.Add(int64(time.Since(began)))
	g.beat()
}

// stepped ends the measurements of a step and returns for how long the group was at work in it.
func (g *meteredGroup) stepped() time.Duration {
	if skew := g.Skew(); g.Rank() < len(skew) {
		g.late.add(skew[g.Rank()] - g.skew)
		g.skew = skew[g.Rank()]
	}
	return time.Duration(g.busy.Swap(0))
}
