package worker

import (
	"context"
	"sync"
	"time"

	"mp/allreduce"
)

// meteredGroup is a Group that tells of its progress and measures: every bucket is a sign of life, so that a worker that
// waits can be told from one that hangs.
type meteredGroup struct {
	allreduce.Group
	beat func()

	mu    sync.Mutex
	under int           // things at work
	since time.Time     // when the first of them began
	busy  time.Duration // for how long anything was at work since the last step

	skew time.Duration // for how long the group had waited for this member at the last step
	late mean          // seconds a step that it waited

	was    time.Duration // Behind at the last step
	behind mean          // seconds a step by which what comes from the left neighbour is slow
}

func (g *meteredGroup) Max(ctx context.Context, data []byte) error {
	defer g.measure()()
	return g.Group.Max(ctx, data)
}

func (g *meteredGroup) Sum(ctx context.Context, data []int32) error {
	defer g.measure()()
	return g.Group.Sum(ctx, data)
}

// measure begins an operation and returns what ends it.
func (g *meteredGroup) measure() (end func()) {
	g.change(1)
	return func() {
		g.change(-1)
		g.beat()
	}
}

// change notes that something begins to work (1) or ends (-1). Things overlap: what counts is whether anything works.
func (g *meteredGroup) change(by int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	was := g.under
	g.under += by
	switch {
	case was == 0:
		g.since = time.Now()
	case g.under == 0:
		g.busy += time.Since(g.since)
	}
}

// stepped ends the measurements of a step and returns for how long the sum was at work in it.
func (g *meteredGroup) stepped() time.Duration {
	if skew := g.Skew(); g.Rank() < len(skew) {
		g.late.add(skew[g.Rank()] - g.skew)
		g.skew = skew[g.Rank()]
	}
	if t, ok := g.Group.(allreduce.Timed); ok {
		now := t.Behind()
		g.behind.add(now - g.was)
		g.was = now
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	busy := g.busy
	g.busy = 0
	return busy
}

// metered returns loops that count as work of the sum.
func (g *meteredGroup) metered(k allreduce.Kernels) allreduce.Kernels {
	plain := k.WithDefaults()
	k.Exponents = func(exponents []byte, x []float32) {
		g.change(1)
		plain.Exponents(exponents, x)
		g.change(-1)
	}
	k.Quantize = func(q []int32, x []float32, exponents []byte, bits int, add bool) {
		g.change(1)
		plain.Quantize(q, x, exponents, bits, add)
		g.change(-1)
	}
	k.Dequantize = func(x []float32, q []int32, exponents []byte, bits int) {
		g.change(1)
		plain.Dequantize(x, q, exponents, bits)
		g.change(-1)
	}
	return k
}

// forSums is the group as sums over shards use it: one that streams where the mechanism does.
func (g *meteredGroup) forSums() allreduce.Group {
	if s, ok := g.Group.(allreduce.Streamer); ok {
		return meteredStreamer{g, s}
	}
	return g
}

// meteredStreamer is a meteredGroup whose mechanism streams.
type meteredStreamer struct {
	*meteredGroup
	streamer allreduce.Streamer
}

// SumStream counts as work but for Load, in which it may wait for gradients. Every piece is a sign of life.
func (g meteredStreamer) SumStream(ctx context.Context, n int, s allreduce.Stream) error {
	defer g.measure()()
	load, store := s.Load, s.Store
	s.Load = func(q []int32, at int) error {
		g.change(-1)
		defer g.change(1)
		g.beat()
		return load(q, at)
	}
	s.Store = func(q []int32, at int) {
		store(q, at)
		g.beat()
	}
	return g.streamer.SumStream(ctx, n, s)
}
