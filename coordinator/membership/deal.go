package membership

import (
	"container/heap"
	"slices"
)

// hand is a worker to whom shards are dealt.
type hand struct {
	may     bool     // it can compute
	seconds float64  // it takes for one shard, more than 0
	had     []uint32 // ascending, nobody else's
	gets    []uint32 // ascending
}

// dealShards gives every shard to somebody who may compute: so many to each that the slowest is done as early as can be,
// and, given how many, each keeps as many of its own as it can. At least one hand may compute.
func dealShards(shards int, hands []hand) {
	count := countShards(shards, hands)
	owned := make([]bool, shards)
	for i := range hands {
		h := &hands[i]
		keep := min(count[i], len(h.had))
		h.gets = slices.Clone(h.had[:keep])
		for _, s := range h.gets {
			owned[s] = true
		}
	}
	next := 0
	for i := range hands {
		h := &hands[i]
		for len(h.gets) < count[i] {
			for owned[next] {
				next++
			}
			owned[next] = true
			h.gets = append(h.gets, uint32(next))
		}
		slices.Sort(h.gets)
	}
}

// countShards says how many each gets. Handing one shard after another to whoever would be done with it first makes the
// latest end as early as possible, because all shards are equal. Of two who would be done at the same time it is the one who
// had more than it has got so far, else the lower rank.
func countShards(shards int, hands []hand) []int {
	q := &queue{hands: hands, count: make([]int, len(hands))}
	for i := range hands {
		if hands[i].may {
			q.order = append(q.order, i)
		}
	}
	if len(q.order) == 0 {
		panic("membership: shards and nobody to compute them")
	}
	heap.Init(q)
	for range shards {
		q.count[q.order[0]]++
		heap.Fix(q, 0)
	}
	return q.count
}

// queue orders hands by when they would be done with one more shard.
type queue struct {
	hands []hand
	count []int
	order []int
}

func (q *queue) Len() int      { return len(q.order) }
func (q *queue) Swap(i, j int) { q.order[i], q.order[j] = q.order[j], q.order[i] }
func (q *queue) Push(any)      { panic("membership: hands do not come while dealing") }
func (q *queue) Pop() any      { panic("membership: hands do not go while dealing") }

func (q *queue) Less(i, j int) bool {
	a, b := q.order[i], q.order[j]
	if x, y := q.done(a), q.done(b); x != y {
		return x < y
	}
	if x, y := len(q.hands[a].had) > q.count[a], len(q.hands[b].had) > q.count[b]; x != y {
		return x
	}
	return a < b
}

func (q *queue) done(i int) float64 { return float64(q.count[i]+1) * q.hands[i].seconds }

// slowestTime is when the last of them is done, each with as many shards as of returns.
func slowestTime(hands []hand, of func(h *hand) int) float64 {
	latest := 0.0
	for i := range hands {
		latest = max(latest, float64(of(&hands[i]))*hands[i].seconds)
	}
	return latest
}
