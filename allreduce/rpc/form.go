package rpc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"

	"mp/allreduce"
)

// hello opens every stream to the right neighbour.
type hello struct {
	Protocol    int
	Job         string
	View        uint64
	Rank, Size  int
	Lane        string // which of the streams this is
	Index       int    // of the sum's streams
	Connections int
	Piece       int
	Outbox      *offer // of the sum; nil: pieces come in the stream
}

// welcome answers.
type welcome struct {
	Shared bool // the outbox is open
}

// The streams between two neighbours.
const (
	laneControl = "control"
	laneMax     = "max"
	laneSum     = "sum"
)

const method = "/mp.allreduce.Ring/Link"

// Buffers and windows of a connection in bytes.
const (
	windowSize = 4 << 20
	bufferSize = 128 << 10
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

// Form connects to the neighbours and blocks until both are there: one that cannot be reached yet, or forms the view
// later, is waited for until ctx ends. A neighbour of an older view or of another job is refused, which that one's Form
// returns as an error with codes.FailedPrecondition; one of a newer view waits until this process forms that view too. The
// group before is closed. ctx is for forming only. Close the group.
func (s *Server) Form(ctx context.Context, c Config) (allreduce.Group, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	g := newGroup(c)
	if err := s.enter(g); err != nil {
		return nil, fmt.Errorf("form view %d: %w", c.View, err)
	}
	if g.Size() == 1 {
		return g, nil
	}
	if err := g.join(ctx); err != nil {
		g.Close()
		return nil, fmt.Errorf("form view %d as rank %d of %d: %w", c.View, c.Rank, g.Size(), err)
	}
	if c.Logger != nil {
		c.Logger.Debug("ring formed", "view", c.View, "rank", c.Rank, "size", g.Size(), "shared", g.sum.box != nil)
	}
	return g, nil
}

// join connects to both neighbours.
func (g *group) join(ctx context.Context) error {
	if !g.use() {
		return g.failed()
	}
	defer g.release()
	stop := context.AfterFunc(ctx, func() { g.fail(context.Cause(ctx)) })
	if err := g.connect(ctx); err != nil {
		stop()
		g.fail(err)
		return g.failed()
	}
	select {
	case <-g.whole:
	case <-g.done:
	}
	if !stop() || g.broken() {
		return g.failed()
	}
	g.running.Go(g.watch)
	return nil
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

func encode(kind byte, body any) *outgoing {
	text, err := json.Marshal(body)
	if err != nil {
		panic(fmt.Sprintf("a frame's body is no JSON: %v", err))
	}
	return &outgoing{header: header{kind: kind, length: uint32(len(text))}, body: mem.SliceBuffer(text)}
}

// connect opens all streams to the right neighbour.
func (g *group) connect(ctx context.Context) error {
	address := g.Members[g.right.rank].Address
	control, err := g.patiently(ctx, address)
	if err != nil {
		return err
	}
	g.mu.Lock()
	if g.err == nil {
		g.right.start(control)
	}
	g.mu.Unlock()
	h := hello{Lane: laneMax}
	s, _, err := g.open(g.clients[0], h)
	if err != nil {
		return g.right.gone(err)
	}
	g.max.out = []grpc.ClientStream{s}

	var box *slots
	if strings.HasPrefix(address, "unix:") && !g.Inline && g.Connections == 1 {
		if box, err = newSlots(g, 2*min(2*(g.Size()-1), allreduce.MostUnderWay)); err != nil && g.Logger != nil {
			g.Logger.Debug("ring goes without shared memory", "why", err)
		}
	}
	for i := range g.Connections {
		client := g.clients[0]
		if i > 0 {
			if client, err = g.dial(address); err != nil {
				return err
			}
		}
		h := hello{Lane: laneSum, Index: i}
		if box != nil {
			h.Outbox = box.offer()
		}
		s, answer, err := g.open(client, h)
		if err != nil || !answer.Shared {
			if box != nil {
				box.close()
			}
			box = nil
		}
		if err != nil {
			return g.right.gone(err)
		}
		g.sum.out = append(g.sum.out, s)
		if box != nil {
			g.sum.box = box
			g.running.Go(func() { box.credits(s) })
		}
	}
	return nil
}

// patiently opens the control stream, again and again until the neighbour is there.
func (g *group) patiently(ctx context.Context, address string) (grpc.ClientStream, error) {
	client, err := g.dial(address)
	if err != nil {
		return nil, err
	}
	for pause := 5 * time.Millisecond; ; pause = min(2*pause, 100*time.Millisecond) {
		s, _, err := g.open(client, hello{Lane: laneControl})
		switch code := status.Code(err); {
		case err == nil:
			return s, nil
		case g.broken():
			return nil, ctx.Err()
		case code == codes.Unavailable, code == codes.AlreadyExists: // not there yet, or still busy with an old attempt of ours
		case code == codes.FailedPrecondition:
			return nil, &allreduce.PeerError{Rank: g.right.rank, Kind: allreduce.KindProtocol, Err: err}
		default:
			return nil, g.right.gone(err)
		}
		select {
		case <-time.After(pause):
		case <-g.done:
			return nil, ctx.Err()
		}
	}
}

// open opens a stream and waits until the neighbour takes it.
func (g *group) open(client *grpc.ClientConn, h hello) (grpc.ClientStream, welcome, error) {
	h.Protocol, h.Job, h.View, h.Rank, h.Size = protocol, g.Job, g.View, g.Rank(), g.Size()
	h.Connections, h.Piece = g.Connections, g.Piece
	var answer welcome
	s, err := client.NewStream(g.streams, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, method, grpc.WaitForReady(true))
	if err != nil {
		return nil, answer, err
	}
	s.SendMsg(encode(frameHello, h)) // where it fails, RecvMsg says why
	var f incoming
	if err := s.RecvMsg(&f); err != nil {
		return nil, answer, err
	}
	kind, text := f.kind, f.bytes()
	f.free()
	if kind != frameWelcome {
		return nil, answer, status.Errorf(codes.Internal, "frame of kind %q where a welcome is expected", kind)
	}
	if err := json.Unmarshal(text, &answer); err != nil {
		return nil, answer, status.Errorf(codes.Internal, "read welcome: %v", err)
	}
	return s, answer, nil
}

// dial makes a connection to the right neighbour.
func (g *group) dial(address string) (*grpc.ClientConn, error) {
	network, path := "tcp", address
	if p, ok := strings.CutPrefix(address, "unix:"); ok {
		network, path = "unix", p
	}
	client, err := grpc.NewClient("passthrough:///ring",
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(codec{})),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			s, err := new(net.Dialer).DialContext(ctx, network, path)
			if err != nil {
				return nil, err
			}
			g.mu.Lock()
			defer g.mu.Unlock()
			if g.err != nil {
				s.Close()
				return nil, errors.New("the group is broken")
			}
			g.sockets = append(g.sockets, s)
			return s, nil
		}),
		grpc.WithConnectParams(grpc.ConnectParams{MinConnectTimeout: g.FailAfter,
			Backoff: backoff.Config{BaseDelay: 5 * time.Millisecond, Multiplier: 2, Jitter: 0.2, MaxDelay: 100 * time.Millisecond}}),
		grpc.WithInitialWindowSize(windowSize), grpc.WithInitialConnWindowSize(windowSize),
		grpc.WithReadBufferSize(bufferSize), grpc.WithWriteBufferSize(bufferSize),
	)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", address, err)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.clients = append(g.clients, client)
	return client, nil
}
