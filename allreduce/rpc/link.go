package rpc

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	grpcpeer "google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"mp/allreduce"
)

// pipe is one stream, seen from either end.
type pipe interface {
	SendMsg(any) error
	RecvMsg(any) error
}

// control is the stream to one neighbour on which signs of life and last words go.
type control struct {
	group *group
	rank  int // of the neighbour

	mu    sync.Mutex // guards sending
	pipe  pipe
	said  chan struct{} // closed when it said its last word
	ended chan struct{} // closed when nothing more comes

	heard atomic.Int64 // when anything last came from the neighbour, nanoseconds of the group's clock
}

func newControl(g *group, rank int) *control {
	return &control{group: g, rank: rank, said: make(chan struct{}), ended: make(chan struct{})}
}

// start begins to read and to give signs of life, in goroutines of the group.
func (c *control) start(p pipe) {
	c.pipe = p
	c.hear()
	c.group.running.Go(c.read)
	c.group.running.Go(c.live)
}

func (c *control) hear() { c.heard.Store(int64(time.Since(c.group.born))) }

// silence is for how long nothing came.
func (c *control) silence() time.Duration {
	return time.Since(c.group.born) - time.Duration(c.heard.Load())
}

func (c *control) send(f *outgoing) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.pipe.SendMsg(f)
}

// live sends a sign of life every quarter of FailAfter.
func (c *control) live() {
	t := time.NewTicker(c.group.FailAfter / 4)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			if c.send(&outgoing{header: header{kind: frameAlive}}) != nil {
				return // read knows why
			}
		case <-c.group.done:
			return
		}
	}
}

// broken is the last word of a member whose group broke.
type broken struct {
	Rank int    // thought to be at fault
	Kind string // of allreduce.PeerError, or kindLength
	Text string
}

const kindLength = "length"

// wordOf is what to tell the neighbours of err.
func (g *group) wordOf(err error) broken {
	var peer *allreduce.PeerError
	switch {
	case errors.Is(err, allreduce.ErrLength):
		return broken{Rank: g.Rank(), Kind: kindLength, Text: err.Error()}
	case errors.As(err, &peer):
		return broken{Rank: peer.Rank, Kind: peer.Kind, Text: peer.Err.Error()}
	default:
		return broken{Rank: g.Rank(), Kind: allreduce.KindConnection, Text: "it gave up: " + err.Error()}
	}
}

// err is what a neighbour's word means to this member.
func (b broken) err(from int) error {
	if b.Kind == kindLength {
		return fmt.Errorf("rank %d: %s: %w", from, b.Text, allreduce.ErrLength)
	}
	return &allreduce.PeerError{Rank: b.Rank, Kind: b.Kind, Err: errors.New(b.Text)}
}

var errLeft = errors.New("it left the group")

// read hears the neighbour until its stream ends.
func (c *control) read() {
	defer close(c.ended)
	g := c.group
	for {
		var f incoming
		if err := c.pipe.RecvMsg(&f); err != nil {
			if !c.spoke() {
				g.fail(c.gone(err))
			}
			return
		}
		c.hear()
		kind, text := f.kind, f.bytes()
		f.free()
		var word broken
		switch {
		case kind == frameAlive:
		case kind != frameBye && kind != frameBroken:
			g.fail(&allreduce.PeerError{Rank: c.rank, Kind: allreduce.KindProtocol, Err: fmt.Errorf("frame of kind %q where signs of life are expected", kind)})
		case c.spoke():
		case json.Unmarshal(text, &word) != nil:
			g.fail(&allreduce.PeerError{Rank: c.rank, Kind: allreduce.KindProtocol, Err: fmt.Errorf("its last word makes no sense: %.100q", text)})
		case kind == frameBye:
			g.leave(word.err(c.rank))
			close(c.said)
		default:
			g.fail(word.err(c.rank))
			close(c.said)
		}
	}
}

func (c *control) spoke() bool {
	select {
	case <-c.said:
		return true
	default:
		return false
	}
}

// gone says what the end of a stream means.
func (c *control) gone(err error) *allreduce.PeerError {
	e := &allreduce.PeerError{Rank: c.rank, Kind: allreduce.KindConnection}
	switch s := status.Convert(err); {
	case errors.Is(err, io.EOF):
		e.Err = errors.New("it ended its stream without a word")
	case s.Code() == codes.Internal || s.Code() == codes.ResourceExhausted || s.Code() == codes.Unimplemented:
		e.Kind, e.Err = allreduce.KindProtocol, errors.New(s.Message())
	case s.Code() == codes.Canceled:
		e.Err = errors.New("connection reset")
		if why := broke(c.pipe); why != nil {
			e.Err = fmt.Errorf("connection reset (%w)", why)
		}
	default:
		e.Err = fmt.Errorf("connection reset (%s)", s.Message())
	}
	return e
}

// broke is what was wrong with the connection under a stream that the neighbour opened, where its credentials keep that.
func broke(p pipe) error {
	s, ok := p.(grpc.ServerStream)
	if !ok {
		return nil
	}
	if from, ok := grpcpeer.FromContext(s.Context()); ok {
		if kept, ok := from.AuthInfo.(interface{ Broke() error }); ok {
			return kept.Broke()
		}
	}
	return nil
}

// say sends a last word, after which nothing more comes.
func (c *control) say(kind byte, word broken) {
	c.send(encode(kind, word)) // whoever cannot be told is gone
	if s, ok := c.pipe.(grpc.ClientStream); ok {
		c.mu.Lock()
		defer c.mu.Unlock()
		s.CloseSend()
	}
}

// watch breaks the group when a neighbour is silent for too long. Time in which this process itself stood still counts
// for nobody.
func (g *group) watch() {
	every := g.FailAfter / 8
	t := time.NewTicker(every)
	defer t.Stop()
	last := time.Now()
	for {
		select {
		case <-g.done:
			return
		case <-t.C:
		}
		if now := time.Now(); now.Sub(last) > g.FailAfter/2 {
			g.left.hear()
			g.right.hear()
		}
		last = time.Now()
		for _, c := range []*control{g.left, g.right} {
			if s := c.silence(); s > g.FailAfter {
				g.fail(&allreduce.PeerError{Rank: c.rank, Kind: allreduce.KindSilence, Err: fmt.Errorf("no sign of life for %.1f s", s.Seconds())})
			}
		}
	}
}
