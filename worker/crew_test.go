package worker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"mp/allreduce"
	"mp/allreduce/inproc"
	"mp/checkpoint"
	"mp/job"
	"mp/metrics"
	"mp/mppb"
	"mp/ops"
)

// crew is a cluster in one process without a coordinator: engines that meet in memory, and a chief that makes a view
// whenever somebody joins, dies, catches up or reports a fault.
type crew struct {
	t    *testing.T
	spec []byte
	dir  string // what a coordinator keeps
	p    packPair

	mu      sync.Mutex
	changed *sync.Cond
	number  uint64
	next    uint64
	hands   []*hand // in order of joining, dead ones too
	halls   map[uint64][]allreduce.Group
	newest  string // checkpoint
	update  uint64 // of it
	views   []string
	strict  bool // views are made by the test alone
}

// hand is one engine of a crew.
type hand struct {
	crew    *crew
	id      uint64
	engine  *engine
	cancel  context.CancelFunc
	ended   chan error
	views   chan order
	scratch string

	// of crew.mu
	status *mppb.Status
	shards []uint32
	dead   bool
	fault  uint64 // view of the last fault heard
	group  allreduce.Group

	// at is called before and after what a group does: see moment. Set it before the hand joins.
	at func(h *hand, m moment)
	// part is called for each part of a state that this hand gives.
	part func(h *hand, p *mppb.StatePart) error
}

// moment is a point in a view at which a test may break something.
type moment struct {
	phase  string // "agree", "before", "during", "after" a step's sum, "validate", "end"
	update int    // updates done by then in the whole run, when the sums of the view began to be counted
}

func newCrew(t *testing.T, s job.Spec, p packPair) *crew {
	t.Helper()
	text, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	c := &crew{t: t, spec: text, dir: t.TempDir(), p: p, halls: map[uint64][]allreduce.Group{}}
	c.changed = sync.NewCond(&c.mu)
	t.Cleanup(c.stop)
	return c
}

// hire starts an engine, which is in no view yet.
func (c *crew) hire(at func(*hand, moment)) *hand {
	c.t.Helper()
	device, err := ops.OpenDevice(ops.DeviceConfig{GPU: ops.CPU, Threads: 1})
	if err != nil {
		c.t.Fatal(err)
	}
	c.mu.Lock()
	c.next++
	h := &hand{crew: c, id: c.next, ended: make(chan error, 1), views: make(chan order, 1), scratch: c.t.TempDir(), status: &mppb.Status{}, at: at}
	c.hands = append(c.hands, h)
	c.mu.Unlock()
	ctx, cancel := context.WithCancel(context.Background())
	h.cancel = cancel
	h.engine = newEngine(ctx, engineConfig{
		device: device, train: c.p[0], val: c.p[1], control: h, ring: h, donors: h, library: h, bucket: 1 << 16,
		sink: func(string, metrics.Sink) metrics.Sink { return nowhereSink{} }, kernels: kernels(), log: slog.New(slog.NewTextHandler(testWriter{c.t}, nil)),
	})
	go func() {
		err := h.engine.run(ctx)
		h.engine.close()
		device.Close()
		h.ended <- err
	}()
	return h
}

type testWriter struct{ t *testing.T }

func (w testWriter) Write(b []byte) (int, error) {
	if testing.Verbose() {
		fmt.Fprint(os.Stderr, string(b))
	}
	return len(b), nil
}

// stop ends all engines.
func (c *crew) stop() {
	c.mu.Lock()
	hands := c.hands
	c.mu.Unlock()
	for _, h := range hands {
		h.cancel()
	}
	for _, h := range hands {
		if err := <-h.ended; err != nil && !errors.Is(err, context.Canceled) {
			c.t.Errorf("worker %d: %v", h.id, err)
		}
	}
}

// join takes hands into a view.
func (c *crew) join(hands ...*hand) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.arrange("join")
}

// kill lets a hand die at once, as kill -9 does, and makes a view of the others.
func (c *crew) kill(h *hand) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if h.dead {
		return
	}
	h.dead = true
	h.cancel()
	if h.group != nil {
		h.group.Close()
	}
	if !c.strict {
		c.arrange(fmt.Sprintf("worker %d died", h.id))
	}
}

// arrange makes a view of all who live: shards for those who have the state, or for all when nobody has. c.mu is held.
func (c *crew) arrange(why string) {
	var alive, able []*hand
	for _, h := range c.hands {
		if h.dead {
			continue
		}
		alive = append(alive, h)
		if h.status.CaughtUp {
			able = append(able, h)
		}
	}
	if len(able) == 0 {
		able = alive
	}
	var s job.Spec
	if err := json.Unmarshal(c.spec, &s); err != nil {
		panic(err)
	}
	for _, h := range alive {
		h.shards = nil
	}
	for i := range s.Shards {
		h := able[i%len(able)]
		h.shards = append(h.shards, uint32(i))
	}
	c.issue(alive, why)
}

// issue sends a view of these members to everybody. c.mu is held.
func (c *crew) issue(members []*hand, why string) {
	c.number++
	committed := uint64(0)
	for _, h := range members {
		if h.status.CaughtUp {
			committed = max(committed, min(h.status.Update, c.least(members)))
		}
	}
	v := &mppb.View{Job: "j", Number: c.number, Spec: c.spec, Directory: "run", Reason: why, Committed: committed, Checkpoint: c.newest, CheckpointUpdate: c.update}
	for _, h := range members {
		v.Members = append(v.Members, &mppb.Member{Worker: h.id, Name: fmt.Sprintf("worker %d", h.id), Shards: h.shards, ValShards: h.shards})
	}
	c.halls[c.number] = inproc.New(max(len(members), 1))
	c.views = append(c.views, fmt.Sprintf("%d: %s (%d members)", c.number, why, len(members)))
	for _, h := range c.hands {
		if h.dead {
			continue
		}
		select {
		case <-h.views:
		default:
		}
		h.views <- order{view: v, rank: slices.Index(members, h)}
	}
	c.changed.Broadcast()
}

// least is the update that every caught-up member has done.
func (c *crew) least(members []*hand) uint64 {
	out := ^uint64(0)
	for _, h := range members {
		if h.status.CaughtUp {
			out = min(out, h.status.Update)
		}
	}
	return out
}

// await blocks until what holds, or fails the test after a while.
func (c *crew) await(what string, holds func() bool) {
	c.t.Helper()
	late := time.AfterFunc(2*time.Minute, func() {
		c.mu.Lock()
		c.strict = true
		c.changed.Broadcast()
		c.mu.Unlock()
	})
	defer late.Stop()
	deadline := time.Now().Add(2 * time.Minute)
	c.mu.Lock()
	defer c.mu.Unlock()
	for !holds() {
		if time.Now().After(deadline) {
			c.t.Fatalf("%s did not happen; views: %s", what, strings.Join(c.views, "; "))
		}
		c.changed.Wait()
	}
}

// outcome waits for the end of the job and returns what all who live agree on.
func (c *crew) outcome() *mppb.Outcome {
	c.t.Helper()
	c.await("the end of the job", func() bool {
		for _, h := range c.hands {
			if h.status.Failure != "" {
				return true
			}
			if !h.dead && !h.status.Finished {
				return false
			}
		}
		return true
	})
	c.mu.Lock()
	defer c.mu.Unlock()
	var all []*mppb.Outcome
	for _, h := range c.hands {
		if h.status.Failure != "" {
			c.t.Fatalf("worker %d: the job failed: %s", h.id, h.status.Failure)
		}
		if !h.dead {
			all = append(all, h.status.Outcome)
		}
	}
	for _, o := range all[1:] {
		if !proto.Equal(o, all[0]) {
			c.t.Errorf("outcomes differ: %v and %v", o, all[0])
		}
	}
	return all[0]
}

// control

func (h *hand) orders() <-chan order { return h.views }
func (h *hand) beat()                {}

func (h *hand) steady(ctx context.Context) error { return ctx.Err() }

func (h *hand) post(change func(*mppb.Status)) {
	c := h.crew
	c.mu.Lock()
	defer c.mu.Unlock()
	before := h.status.CaughtUp
	change(h.status)
	if !c.strict && !h.dead {
		f := h.status.Fault
		switch {
		case f != nil && f.View == c.number && h.fault != f.View:
			h.fault = f.View
			c.arrange(fmt.Sprintf("worker %d reports: %s", h.id, f.Text))
		case h.status.CaughtUp && !before && len(h.shards) == 0 && h.status.View == c.number:
			c.arrange(fmt.Sprintf("worker %d caught up", h.id))
		}
	}
	c.changed.Broadcast()
}

// ring

func (h *hand) form(ctx context.Context, o order) (allreduce.Group, error) {
	c := h.crew
	c.mu.Lock()
	defer c.mu.Unlock()
	h.group = c.halls[o.view.Number][o.rank]
	if h.dead {
		h.group.Close()
	}
	return &tapped{Group: h.group, hand: h}, nil
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
	if len(data) == tallyLimbs && g.hand.engine.replica.validationDue(g.hand.engine.replica.at) {
		g.tell("validate")
		err := g.Group.Sum(ctx, data)
		if err == nil {
			g.tell("validated")
		}
		return err
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

// donors

func (h *hand) dial(m *mppb.Member) (mppb.PeerClient, func() error, error) {
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

// library

func (h *hand) folder(*mppb.View) string { return h.scratch }

func (h *hand) keep(_ context.Context, k kept) error {
	c := h.crew
	c.mu.Lock()
	defer c.mu.Unlock()
	if h.dead {
		return errors.New("dead workers save nothing")
	}
	name := filepath.Base(k.path)
	to := filepath.Join(c.dir, name)
	if _, err := os.Stat(to); err == nil {
		if err := os.RemoveAll(k.path); err != nil {
			return err
		}
	} else if err := os.Rename(k.path, to); err != nil {
		return err
	}
	if k.best {
		return checkpoint.SetBest(c.dir, name)
	}
	s, err := checkpoint.Read(to)
	if err != nil {
		return err
	}
	c.newest, c.update = name, uint64(s.Meta.Step)
	return checkpoint.SetLatest(c.dir, name)
}

func (h *hand) fetch(_ context.Context, _ *mppb.View, name string) (string, error) {
	return filepath.Join(h.crew.dir, name), nil
}
