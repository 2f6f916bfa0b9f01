// Package rpc is the all-reduce between processes: a ring over gRPC streams.
//
// It owns the frames, the handshake and the ring's order of work. It must never import the protocol's messages, tensors or
// a worker: frames are bytes of its own. Start reading at Server.Form, then ring.go.
package rpc

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"google.golang.org/grpc"

	"mp/allreduce"
)

// ErrConfig is wrapped by the error of Form for a Config that cannot be.
var ErrConfig = errors.New("bad ring configuration")

// Config says which group to form. All members give the same Job, View and number of Members.
type Config struct {
	Job     string
	View    uint64
	Rank    int // this member's index in Members
	Members []Member
	// FailAfter is how long a neighbour may be silent; a peer that computes is not silent, one that is stopped is.
	FailAfter time.Duration
	Kernels   allreduce.Kernels // Add is used; nil: plain Go
	Logger    *slog.Logger      // nil: silent
}

// Member is where a member of the group is reached.
type Member struct {
	Address string // host:port, or unix:/path for one of the same machine
}

// Server accepts the streams of this process's neighbours, for one group after another.
type Server struct{}

// NewServer returns a server that belongs to no group yet.
func NewServer() *Server { return &Server{} }

// ServerOptions are the options that a grpc.Server needs to carry a ring: its codec (which leaves the messages of other
// services to the usual one) and buffers of a size that fits.
func ServerOptions() []grpc.ServerOption { return nil }

// Register adds the ring's service to a server that was made with ServerOptions.
func (s *Server) Register(r grpc.ServiceRegistrar) {}

// Form connects to the neighbours and blocks until both are there: a neighbour that forms the view later is waited for
// until ctx ends. A neighbour of another view is refused, which it sees as codes.FailedPrecondition; one of a newer view
// waits until this process forms that view. The group of an older view is closed. ctx is for forming only.
func (s *Server) Form(ctx context.Context, c Config) (allreduce.Group, error) {
	return nil, errors.New("not yet")
}
