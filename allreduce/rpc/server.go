package rpc

import (
	"encoding/json"
	"fmt"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Server accepts the streams of this process's left neighbours, for one group after another.
type Server struct {
	mu      sync.Mutex // guards what follows
	group   *group     // of the newest view
	changed chan struct{}
}

// NewServer returns a server that belongs to no group yet.
func NewServer() *Server { return &Server{changed: make(chan struct{})} }

// ServerOptions are the options that a grpc.Server needs to carry a ring: its codec, which leaves the messages of other
// services to the usual one, and buffers of a size that fits.
func ServerOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.ForceServerCodecV2(codec{}),
		grpc.InitialWindowSize(windowSize), grpc.InitialConnWindowSize(windowSize),
		grpc.ReadBufferSize(bufferSize), grpc.WriteBufferSize(bufferSize),
	}
}

// linker is what grpc asks a service to have a type for.
type linker interface{ handle(grpc.ServerStream) error }

// Register adds the ring's service to a server that was made with ServerOptions.
func (s *Server) Register(r grpc.ServiceRegistrar) {
	r.RegisterService(&grpc.ServiceDesc{
		ServiceName: "mp.allreduce.Ring", HandlerType: (*linker)(nil),
		Streams: []grpc.StreamDesc{{
			StreamName: "Link", ServerStreams: true, ClientStreams: true,
			Handler: func(srv any, stream grpc.ServerStream) error { return srv.(linker).handle(stream) },
		}},
	}, s)
}

// Close leaves the group that is formed, if one is, and waits until all that it started has ended.
func (s *Server) Close() error {
	s.mu.Lock()
	g := s.group
	s.mu.Unlock()
	if g == nil {
		return nil
	}
	return g.Close()
}

// enter makes g the group that neighbours find.
func (s *Server) enter(g *group) error {
	s.mu.Lock()
	before := s.group
	if before != nil && (before.View > g.View || before.View == g.View && before.Job != g.Job) {
		s.mu.Unlock()
		return fmt.Errorf("%w: view %d of job %q was formed before", ErrConfig, before.View, before.Job)
	}
	s.group = g
	close(s.changed)
	s.changed = make(chan struct{})
	s.mu.Unlock()
	if before != nil {
		before.Close()
	}
	return nil
}

// handle serves one stream of a left neighbour until the group ends.
func (s *Server) handle(stream grpc.ServerStream) error {
	var f incoming
	if err := stream.RecvMsg(&f); err != nil {
		return err
	}
	var h hello
	kind, text := f.kind, f.bytes()
	f.free()
	if kind != frameHello {
		return status.Errorf(codes.InvalidArgument, "a ring's stream begins with hello, not with a frame of kind %q", kind)
	}
	if err := json.Unmarshal(text, &h); err != nil {
		return status.Errorf(codes.InvalidArgument, "read hello: %v", err)
	}
	if h.Protocol != protocol {
		return status.Errorf(codes.FailedPrecondition, "ring protocol %d here, %d there: run the same version everywhere", protocol, h.Protocol)
	}
	g, err := s.find(stream, h)
	if err != nil {
		return err
	}
	return g.accept(h, stream)
}

// find waits for the group that h belongs to.
func (s *Server) find(stream grpc.ServerStream, h hello) (*group, error) {
	for {
		s.mu.Lock()
		g, changed := s.group, s.changed
		s.mu.Unlock()
		if g != nil {
			switch {
			case h.View < g.View || h.View == g.View && h.Job != g.Job:
				return nil, status.Errorf(codes.FailedPrecondition, "view %d of job %q is under way here, not %d of %q", g.View, g.Job, h.View, h.Job)
			case h.View > g.View || g.broken(): // this process will follow, or form the view again
			case h.Size != g.Size() || h.Rank != g.left.rank || h.Connections != g.Connections || h.Piece != g.Piece:
				return nil, status.Errorf(codes.FailedPrecondition, "view %d has %d members and rank %d to the left here (%d connections, pieces of %d); there %d and %d (%d, %d)",
					h.View, g.Size(), g.left.rank, g.Connections, g.Piece, h.Size, h.Rank, h.Connections, h.Piece)
			default:
				return g, nil
			}
		}
		select {
		case <-changed:
		case <-stream.Context().Done():
			return nil, stream.Context().Err()
		}
	}
}

func (g *group) broken() bool {
	select {
	case <-g.done:
		return true
	default:
		return false
	}
}

// accept takes a stream into the group and holds it until the group ends.
func (g *group) accept(h hello, stream grpc.ServerStream) error {
	var l *lane
	switch {
	case h.Lane == laneControl && h.Index == 0:
	case h.Lane == laneMax && h.Index == 0:
		l = g.max
	case h.Lane == laneSum && h.Index >= 0 && h.Index < g.Connections:
		l = g.sum
	default:
		return status.Errorf(codes.InvalidArgument, "no stream %d of kind %q", h.Index, h.Lane)
	}
	if err := g.admit(h, l, stream); err != nil {
		return err
	}
	<-g.told
	if l == nil {
		<-g.heard
	}
	return nil
}

// admit answers a stream and puts it to use.
func (g *group) admit(h hello, l *lane, stream grpc.ServerStream) error {
	if !g.use() {
		return status.Error(codes.AlreadyExists, "the group is broken")
	}
	defer g.release()
	name := fmt.Sprint(h.Lane, h.Index)
	g.mu.Lock()
	taken := g.taken[name]
	g.taken[name] = true
	g.mu.Unlock()
	if taken {
		return status.Errorf(codes.AlreadyExists, "rank %d has this stream already", h.Rank)
	}
	var answer welcome
	if h.Outbox != nil && l == g.sum {
		theirs, err := h.Outbox.open()
		if err != nil && g.Logger != nil {
			g.Logger.Debug("ring goes without shared memory", "why", err)
		}
		l.theirs, answer.Shared = theirs, err == nil
	}
	if err := stream.SendMsg(encode(frameWelcome, answer)); err != nil {
		g.fail(g.left.gone(err))
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.err != nil {
		return nil
	}
	if l == nil {
		g.left.start(stream)
	} else {
		l.back[h.Index] = stream
		g.running.Go(func() { l.read(h.Index, stream) })
	}
	if g.missing--; g.missing == 0 {
		close(g.whole)
	}
	return nil
}
