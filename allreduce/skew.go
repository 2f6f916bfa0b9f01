package allreduce

import "time"

// Timed is a Group that knows how long messages take to reach this member.
type Timed interface {
	Group
	// Behind returns by how much longer than the shortest time messages of the left neighbour were on their way since the group was
	// formed: the slowest of each operation, added up over the operations of both lanes. It only grows, and may be called from
	// any goroutine at any time. A member that cannot take what comes sees it too. Use it for diagnosis only.
	Behind() time.Duration
}

// Lateness tells how much later than the first each member came to an operation, from durations alone: lead[r] is how much
// earlier than member r its left neighbour came (negative where the neighbour came later), as r saw it. The true leads of
// a ring add up to zero; what these add up to beyond that is the time of flight, which is taken off evenly.
func Lateness(lead []time.Duration) []time.Duration {
	n := len(lead)
	var flight time.Duration
	for _, d := range lead {
		flight += d
	}
	came := make([]time.Duration, n) // against member 0
	first := time.Duration(0)
	for r := 1; r < n; r++ {
		came[r] = came[r-1] + lead[r] - flight/time.Duration(n)
		first = min(first, came[r])
	}
	for r := range came {
		came[r] -= first
	}
	return came
}
