package rpc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strings"
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

// LinkMethod is the full name of the call that carries a ring, for interceptors.
const LinkMethod = "/mp.allreduce.Ring/Link"

// Buffers and windows of a connection in bytes.
const (
	windowSize = 4 << 20
	bufferSize = 128 << 10
)

// Form connects to the neighbours and blocks until both are there: one that forms the view later is waited for until ctx
// ends, and one whose machine cannot be reached for twice FailAfter is an error that names it. A neighbour of an older view or of another job is refused, which that one's Form
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
	stop := context.AfterFunc(ctx, func() { g.fail(g.unformed(context.Cause(ctx))) })
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

// unformed adds to why forming ended whom it waited for.
func (g *group) unformed(cause error) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	var waited []string
	if g.right.pipe == nil {
		refusal := g.refusal
		if refusal == "" {
			refusal = "it says nothing"
		}
		waited = append(waited, fmt.Sprintf("rank %d at %s does not answer as a ring does (%s)", g.right.rank, g.Members[g.right.rank].Address, refusal))
	}
	if g.missing > 0 {
		waited = append(waited, fmt.Sprintf("rank %d has not connected", g.left.rank))
	}
	if len(waited) == 0 {
		return cause
	}
	return fmt.Errorf("%s: %w", strings.Join(waited, ", "), cause)
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
	since := time.Now()
	for pause := 5 * time.Millisecond; ; pause = min(2*pause, 100*time.Millisecond) {
		s, _, err := g.open(client, hello{Lane: laneControl})
		if away, tries := g.unreached(since); err != nil && away > 2*g.FailAfter && tries > 1 && !g.broken() {
			return nil, &allreduce.PeerError{Rank: g.right.rank, Kind: allreduce.KindConnection, Err: fmt.Errorf("not reached for %.1f s: %s", away.Seconds(), status.Convert(err).Message())}
		}
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
		g.mu.Lock()
		g.refusal = status.Convert(err).Message()
		g.mu.Unlock()
		select {
		case <-time.After(pause):
		case <-g.done:
			return nil, ctx.Err()
		}
	}
}

// unreached is for how long, and in how many tries, no connection to the right neighbour could be made: since a moment, or since
// the last one.
func (g *group) unreached(since time.Time) (time.Duration, int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.reached.After(since) {
		since = g.reached
	}
	return time.Since(since), g.missed
}

// open opens a stream and waits until the neighbour takes it.
func (g *group) open(client *grpc.ClientConn, h hello) (grpc.ClientStream, welcome, error) {
	h.Protocol, h.Job, h.View, h.Rank, h.Size = protocol, g.Job, g.View, g.Rank(), g.Size()
	h.Connections, h.Piece = g.Connections, g.Piece
	var answer welcome
	s, err := client.NewStream(g.streams, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, LinkMethod)
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

// askForLife lets the kernel find out that a neighbour's machine has gone while nothing is said: the ring's own signs of life begin
// when it is formed.
func (g *group) askForLife(s net.Conn) {
	if t, ok := s.(interface{ NetConn() net.Conn }); ok {
		s = t.NetConn()
	}
	if t, ok := s.(*net.TCPConn); ok { // where it is refused, the coordinator finds out later
		_ = t.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: g.FailAfter, Interval: g.FailAfter, Count: 2})
	}
}

// dial makes a connection to the right neighbour.
func (g *group) dial(address string) (*grpc.ClientConn, error) {
	connect := g.Dial
	if path, ok := strings.CutPrefix(address, "unix:"); ok {
		connect = func(ctx context.Context, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", path)
		}
	} else if connect == nil {
		connect = func(ctx context.Context, a string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", a)
		}
	}
	client, err := grpc.NewClient("passthrough:///ring",
		grpc.WithTransportCredentials(insecure.NewCredentials()), // TLS is a matter of who dials
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(codec{})),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			s, err := connect(ctx, address)
			g.mu.Lock()
			defer g.mu.Unlock()
			if err != nil {
				g.missed++
				return nil, err
			}
			if g.err != nil {
				s.Close()
				return nil, errors.New("the group is broken")
			}
			g.sockets, g.reached, g.missed = append(g.sockets, s), time.Now(), 0
			g.askForLife(s)
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
