package membership

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// dumbCounts tries every way to share shards out and returns when the slowest of the best is done.
func dumbCounts(shards int, hands []hand) float64 {
	best := -1.0
	var try func(i, left int, latest float64)
	try = func(i, left int, latest float64) {
		if i == len(hands) {
			if left == 0 && (best < 0 || latest < best) {
				best = latest
			}
			return
		}
		for n := 0; n <= left && (n == 0 || hands[i].may); n++ {
			try(i+1, left-n, max(latest, float64(n)*hands[i].seconds))
		}
	}
	try(0, shards, 0)
	return best
}

// dumbKept counts how many shards can stay where they are, given how many each gets: no more than it had, no more than it gets.
func dumbKept(hands []hand) int {
	kept := 0
	for _, h := range hands {
		for n := range h.had {
			if n < len(h.gets) {
				kept++
			}
		}
	}
	return kept
}

func TestDealingIsAsGoodAsTryingEverything(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for round := range 5_000 {
		shards := 1 + r.IntN(7)
		hands := make([]hand, 1+r.IntN(4))
		for i := range hands {
			hands[i] = hand{may: r.IntN(4) > 0, seconds: float64(1+r.IntN(8)) / 4}
		}
		hands[r.IntN(len(hands))].may = true
		for s := range shards { // who had which before; some are nobody's, some of who may compute no more
			if i := r.IntN(len(hands) + 1); i < len(hands) {
				hands[i].had = append(hands[i].had, uint32(s))
			}
		}
		dealShards(shards, hands)
		owner := make([]int, shards)
		kept := 0
		for i, h := range hands {
			if !h.may && len(h.gets) > 0 || !slices.IsSorted(h.gets) {
				t.Fatalf("round %d: hand %d gets %v of %+v", round, i, h.gets, hands)
			}
			for _, s := range h.gets {
				owner[s]++
				if slices.Contains(h.had, s) {
					kept++
				}
			}
		}
		for s, n := range owner {
			if n != 1 {
				t.Fatalf("round %d: shard %d has %d owners: %+v", round, s, n, hands)
			}
		}
		if got, want := slowestTime(hands, func(h *hand) int { return len(h.gets) }), dumbCounts(shards, hands); got != want {
			t.Fatalf("round %d: the slowest takes %v, could be %v: %+v", round, got, want, hands)
		}
		if want := dumbKept(hands); kept != want {
			t.Fatalf("round %d: %d shards stay, %d could: %+v", round, kept, want, hands)
		}
	}
}

func TestDealingIsStable(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for range 2_000 {
		hands := make([]hand, 1+r.IntN(9))
		for i := range hands {
			hands[i] = hand{may: true, seconds: float64(1 + r.IntN(3))}
		}
		shards := 1 + r.IntN(40)
		dealShards(shards, hands)
		again := slices.Clone(hands)
		for i := range again {
			again[i].had, again[i].gets = hands[i].gets, nil
		}
		dealShards(shards, again)
		for i := range again {
			if !slices.Equal(again[i].gets, hands[i].gets) {
				t.Fatalf("dealt again with the same speeds, hand %d gets %v instead of %v", i, again[i].gets, hands[i].gets)
			}
		}
		// One goes: only its shards move, if all are equally fast.
		if len(hands) < 2 {
			continue
		}
		for i := range again {
			again[i].seconds = 1
		}
		dealShards(shards, again)
		rest := slices.Clone(again[1:])
		for i := range rest {
			rest[i].had = rest[i].gets
		}
		dealShards(shards, rest)
		for i := range rest {
			for _, s := range rest[i].had {
				if !slices.Contains(rest[i].gets, s) {
					t.Fatalf("hand 0 of %d went, and shard %d of hand %d moved: %v -> %v", len(hands), s, i+1, rest[i].had, rest[i].gets)
				}
			}
		}
	}
}

func TestAMuchSlowerWorkerGetsNothing(t *testing.T) {
	hands := []hand{{may: true, seconds: 1}, {may: true, seconds: 1}, {may: true, seconds: 10}}
	dealShards(8, hands)
	if len(hands[2].gets) != 0 || len(hands[0].gets) != 4 {
		t.Errorf("got %v, want the slow one to have none", hands)
	}
}
