package allreduce

// Plan is one member's order of work in a sum round a ring of Size members: a reduce-scatter of Size-1 steps, after which
// each member has one segment of the sum, and an all-gather of Size-1 steps, in which the segments go round. In every step
// a member sends one segment to its right neighbour, rank+1, and receives one from its left; what it sends in a step is what
// it received in the step before, so that pieces can follow one another through the steps. A member sends and receives
// 2(Size-1)/Size of the vector in all.
type Plan struct {
	Rank, Size int
	Length     int // elements of the vector
	Piece      int // most elements of one message
}

// Steps is the number of steps.
func (p Plan) Steps() int { return 2 * (p.Size - 1) }

// Gather reports whether the step belongs to the all-gather: what it receives replaces, and is not added.
func (p Plan) Gather(step int) bool { return step >= p.Size-1 }

// Send is the segment that the member sends in a step.
func (p Plan) Send(step int) int { return mod(p.Rank-step, p.Size) }

// Receive is the segment that the member receives in a step.
func (p Plan) Receive(step int) int { return mod(p.Rank-step-1, p.Size) }

// Owner is the rank that completed the segment which arrives in a step of the all-gather.
func (p Plan) Owner(step int) int { return mod(p.Receive(step)-1, p.Size) }

// alignment of the segments' bounds in elements: a cache line of int32.
const alignment = 16

// Segment returns the bounds [lo, hi) of a segment in elements.
func (p Plan) Segment(i int) (lo, hi int) {
	return p.bound(i), p.bound(i + 1)
}

func (p Plan) bound(i int) int {
	if i == p.Size {
		return p.Length
	}
	return p.Length / p.Size * i / alignment * alignment
}

// Pieces is the number of messages in which a segment travels: at least one, which may be empty.
func (p Plan) Pieces(segment int) int {
	lo, hi := p.Segment(segment)
	return max(1, (hi-lo+p.Piece-1)/p.Piece)
}

// Bounds returns the bounds [lo, hi) of a piece of a segment in elements.
func (p Plan) Bounds(segment, piece int) (lo, hi int) {
	from, to := p.Segment(segment)
	lo = from + piece*p.Piece
	return lo, min(lo+p.Piece, to)
}

func mod(a, n int) int { return (a%n + n) % n }
