package allreduce

// Plan is one member's order of work in a sum round a ring of Size members. The vector is cut into rounds of Size segments,
// a message each; they go from the vector's end to its beginning, as a backward pass does. A round is a reduce-scatter of
// Size-1 steps, after which each member has one segment of the sum, and an all-gather of Size-1 steps, in which the segments
// go round. In every step a member sends one segment to its right neighbour, rank+1, and receives one from its left; what
// it sends in a step is what it received in the step before. All in all it sends and receives 2(Size-1)/Size of the vector.
//
// Rounds follow one another like waves: in a wave every round under way does one step, and the next round may begin. So a
// member always has something to receive, and what it works on is small enough for a cache.
type Plan struct {
	Rank, Size int
	Length     int // elements of the vector
	Piece      int // most elements of a segment, a multiple of Block
}

// Steps is the number of steps of a round.
func (p Plan) Steps() int { return 2 * (p.Size - 1) }

// Gather reports whether the step belongs to the all-gather: what it receives is a sum.
func (p Plan) Gather(step int) bool { return step >= p.Size-1 }

// Send is the segment that the member sends in a step.
func (p Plan) Send(step int) int { return mod(p.Rank-step, p.Size) }

// Receive is the segment that the member receives in a step.
func (p Plan) Receive(step int) int { return mod(p.Rank-step-1, p.Size) }

// Owner is the rank that completed the segment which goes to the right in a step of the all-gather.
func (p Plan) Owner(step int) int { return mod(p.Send(step)-1, p.Size) }

// Rounds is the number of rounds, at least one.
func (p Plan) Rounds() int {
	all := p.Size * p.Piece
	return max(1, (p.Length+all-1)/all)
}

// Bounds returns the bounds [lo, hi) of a segment in elements. It may be empty.
func (p Plan) Bounds(round, segment int) (lo, hi int) {
	from := (p.Rounds() - 1 - round) * p.Size * p.Piece
	n := min(p.Size*p.Piece, p.Length-from)
	each := (n + p.Size*Block - 1) / (p.Size * Block) * Block // at most Piece, which is a multiple of Block
	return from + min(segment*each, n), from + min((segment+1)*each, n)
}

// MostUnderWay is the number of rounds that a plan has under way at most, and so the number of messages of a wave.
const MostUnderWay = 8

// delay is the number of waves between the beginnings of two rounds.
func (p Plan) delay() int { return max(1, (p.Steps()+MostUnderWay-1)/MostUnderWay) }

// Waves is the number of waves.
func (p Plan) Waves() int { return (p.Rounds()-1)*p.delay() + p.Steps() }

// Begins returns the round that begins with a wave, or -1.
func (p Plan) Begins(wave int) int {
	if d := p.delay(); wave%d == 0 && wave/d < p.Rounds() {
		return wave / d
	}
	return -1
}

// UnderWay returns the rounds that are under way in a wave, [first, last]; in a wave, messages go from the last round to the
// first. Round r is in step wave - Start(r).
func (p Plan) UnderWay(wave int) (first, last int) {
	d := p.delay()
	last = min(wave/d, p.Rounds()-1)
	for first = last; first > 0 && wave-p.Start(first-1) < p.Steps(); {
		first--
	}
	return first, last
}

// Start is the wave of a round's first step.
func (p Plan) Start(round int) int { return round * p.delay() }

func mod(a, n int) int { return (a%n + n) % n }
