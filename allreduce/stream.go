package allreduce

import "context"

// Streamer is a Group that can also sum integers while they are made, so that no vector of them need exist.
type Streamer interface {
	Group
	// SumStream sums n integers that s makes, and gives s the sums, roughly from the end of the vector to its beginning.
	// It is an operation of Sum's lane, and members may mix it with Sum: both are the same to the others.
	SumStream(ctx context.Context, n int, s Stream) error
}

// Stream is a vector of integers on its way through a sum. Its functions are called from one goroutine; at is a multiple of
// Block, and so is the length of q, but at the vector's end. q is theirs during the call.
type Stream struct {
	// Load sets q to this member's integers from element at on. Every element is loaded once, and before it is stored.
	// Load may block; what other members wait for meanwhile must not need this lane. Its error breaks the group.
	Load func(q []int32, at int) error
	// Store takes the sums from element at on. Every element is stored once.
	Store func(q []int32, at int)
}
