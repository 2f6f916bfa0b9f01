// Package rpc is the all-reduce between processes: a ring over gRPC streams, in which every member connects to its right
// neighbour. Between processes of one machine the vectors' bytes go through shared memory, and the streams say where they lie.
//
// It owns the frames, the handshake, the signs of life and the ring's traffic. It must never import the protocol's messages,
// tensors or a worker: frames are bytes of its own. Start reading at Server.Form (form.go), then group.go, then sum.go; DESIGN.md
// of the parent says why it is a ring.
package rpc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"mp/allreduce"
)

// ErrConfig is wrapped by the error of Form for a Config that cannot be.
var ErrConfig = errors.New("bad ring configuration")

// Config says which group to form. All members give the same Job, View, Members, Piece and Connections.
type Config struct {
	Job     string
	View    uint64 // numbers grow over the life of a Server
	Rank    int    // this member's index in Members
	Members []Member
	// FailAfter is how long a neighbour may be silent; a peer that computes is not silent, one that is stopped is.
	FailAfter time.Duration
	// Dial opens connections to host:port, with TLS where the ring shall have it: the listener of whoever made the Server goes
	// with it. Nil: plain TCP.
	Dial    func(ctx context.Context, address string) (net.Conn, error)
	Kernels allreduce.Kernels // Add is used; nil: plain Go
	Logger  *slog.Logger      // nil: silent

	// Piece is the greatest number of bytes of a vector in one message, a multiple of 4 allreduce.Block;
	// 0: chosen by the vector's length.
	Piece int
	// Connections carry the sums to the right neighbour; 0: one. Shared memory needs one.
	Connections int
	// Inline sends the vectors' bytes in the streams even where shared memory would do, to measure that way.
	Inline bool
}

// Member is where a member of the group is reached.
type Member struct {
	Address string // host:port, or unix:/path for one of the same machine
}

// Validate reports what is wrong with c; its error wraps ErrConfig.
func (c Config) Validate() error {
	n := len(c.Members)
	switch {
	case n == 0 || c.Rank < 0 || c.Rank >= n:
		return fmt.Errorf("%w: rank %d of %d members", ErrConfig, c.Rank, n)
	case c.FailAfter <= 0:
		return fmt.Errorf("%w: FailAfter must be positive, it is %v", ErrConfig, c.FailAfter)
	case c.Piece < 0 || c.Piece > slotSize || c.Piece%(4*allreduce.Block) != 0:
		return fmt.Errorf("%w: a piece of %d bytes: want a multiple of %d up to %d", ErrConfig, c.Piece, 4*allreduce.Block, slotSize)
	case c.Connections < 0 || c.Connections > 64:
		return fmt.Errorf("%w: %d connections: want up to 64", ErrConfig, c.Connections)
	}
	if n > 1 && c.Members[(c.Rank+1)%n].Address == "" {
		return fmt.Errorf("%w: rank %d has no address", ErrConfig, (c.Rank+1)%n)
	}
	return nil
}
