package worker

import (
	"context"
	"fmt"
	"io"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"mp/allreduce"
	"mp/mppb"
)

// form is the hand's ring.
func (h *hand) form(ctx context.Context, o order) (allreduce.Group, error) {
	c := h.crew
	var g allreduce.Group
	if h.door == nil {
		c.mu.Lock()
		g = c.halls[o.view.Number][o.rank]
		c.mu.Unlock()
	} else {
		var err error
		if g, err = (rings{h.door, func() time.Duration { return 10 * time.Second }}).form(ctx, o); err != nil {
			return nil, err
		}
	}
	c.mu.Lock()
	h.group = g
	dead := h.dead
	c.mu.Unlock()
	if dead {
		g.Close()
	}
	return &tapped{Group: g, hand: h}, nil
}

// tapped is a group in which a test listens.
type tapped struct {
	allreduce.Group
	hand   *hand
	mu     sync.Mutex
	steps  int  // sums of gradients that have ended
	inside bool // a sum of gradients has begun
	got    int  // elements of it that are summed
	ops    int
}

func (g *tapped) tell(phase string) {
	if g.hand.at != nil {
		g.hand.at(g.hand, moment{phase, g.steps})
	}
}

func (g *tapped) Exchange(ctx context.Context, mine []byte) ([][]byte, error) {
	g.tell("agree")
	return g.Group.Exchange(ctx, mine)
}

func (g *tapped) Max(ctx context.Context, data []byte) error {
	g.mu.Lock()
	first := !g.inside
	g.inside = true
	g.mu.Unlock()
	if first {
		g.tell("before")
	}
	return g.Group.Max(ctx, data)
}

func (g *tapped) Sum(ctx context.Context, data []int32) error {
	if len(data) == validationLimbs && g.hand.engine.replica.validationDue(g.hand.engine.replica.at) {
		g.tell("validate")
		err := g.Group.Sum(ctx, data)
		if err == nil {
			g.tell("validated")
		}
		return err
	}
	g.mu.Lock()
	signs := !g.inside // no exponents were agreed on: what free adversarial training sums beside
	g.mu.Unlock()
	if signs {
		g.tell("signs")
		return g.Group.Sum(ctx, data)
	}
	g.mu.Lock()
	g.ops++
	during := g.ops == 2
	g.mu.Unlock()
	if during {
		g.tell("during")
	}
	if err := g.Group.Sum(ctx, data); err != nil {
		return err
	}
	g.mu.Lock()
	g.got += len(data)
	ended := g.got == g.hand.engine.replica.layout.length
	if ended {
		g.got, g.ops, g.inside = 0, 0, false
		g.steps++
	}
	g.mu.Unlock()
	if ended {
		g.tell("after")
	}
	return nil
}

// dial is the hand's way to donors.
func (h *hand) dial(m *mppb.Member) (mppb.PeerClient, func() error, error) {
	if h.door != nil {
		return h.door.dial(m)
	}
	c := h.crew
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, o := range c.hands {
		if o.id == m.Worker {
			return local{o}, func() error { return nil }, nil
		}
	}
	return nil, nil, fmt.Errorf("no worker %d", m.Worker)
}

// local is a Peer in this process.
type local struct{ hand *hand }

func (l local) State(ctx context.Context, r *mppb.StateRequest, _ ...grpc.CallOption) (grpc.ServerStreamingClient[mppb.StatePart], error) {
	s := &pipe{ctx: ctx, hand: l.hand, parts: make(chan *mppb.StatePart), end: make(chan error, 1)}
	go func() { s.end <- l.hand.engine.donor.State(r, pipeServer{pipe: s}) }()
	return s, nil
}

type pipe struct {
	grpc.ClientStream
	ctx   context.Context
	hand  *hand
	parts chan *mppb.StatePart
	end   chan error
}

type pipeServer struct {
	grpc.ServerStream
	*pipe
}

func (p pipeServer) Context() context.Context { return p.ctx }

func (p pipeServer) Send(m *mppb.StatePart) error {
	m = proto.CloneOf(m)
	if f := p.hand.part; f != nil {
		if err := f(p.hand, m); err != nil {
			return err
		}
	}
	select {
	case p.parts <- m:
		return nil
	case <-p.ctx.Done():
		return p.ctx.Err()
	}
}

func (p *pipe) Context() context.Context { return p.ctx }

func (p *pipe) Recv() (*mppb.StatePart, error) {
	select {
	case m := <-p.parts:
		return m, nil
	case err := <-p.end:
		if err == nil {
			err = io.EOF
		}
		return nil, err
	case <-p.ctx.Done():
		return nil, p.ctx.Err()
	}
}
