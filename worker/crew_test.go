package worker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

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
	job  string
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
	saves   bool // views save and do no more
	network bool // hands meet by gRPC
	onGPU   bool // those hired now have vectors as on a GPU
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
	door    *door // nil: they meet in memory

	// of crew.mu
	status *mppb.Status
	shards []uint32
	dead   bool
	away   bool   // it lives, but the chief thinks it does not
	fault  uint64 // view of the last fault heard
	group  allreduce.Group

	// other changes the job as this hand reads it: on its machine a path may lead to another file. nil: nothing is changed.
	other func(*job.Spec)
	// at is called before and after what a group does: see moment. Set it before the hand joins.
	at func(h *hand, m moment)
	// beats is called at each sign of life. Set it before the hand joins.
	beats func(h *hand)
	// part is called for each part of a state that this hand gives.
	part func(h *hand, p *mppb.StatePart) error
}

// moment is a point in a view at which a test may break something.
type moment struct {
	phase  string // "agree", "before", "during", "after" a step's sum, "signs", "validate", "validated"
	update int    // updates done by then in the whole run, when the sums of the view began to be counted
}

func newCrew(t *testing.T, s job.Spec, p packPair) *crew {
	t.Helper()
	text, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	c := &crew{t: t, job: "j", spec: text, dir: t.TempDir(), p: p, halls: map[uint64][]allreduce.Group{}}
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
	if c.network {
		h.door, err = listen(NodeConfig{Listen: "127.0.0.1:0", Machine: "m", Scratch: h.scratch, Token: "secret", Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			c.t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	h.cancel = cancel
	h.engine = newEngine(ctx, engineConfig{
		device: device, onDevice: c.onGPU, train: c.p[0], val: c.p[1], control: h, ring: h, donors: h, library: h, bucket: 1 << 16,
		sink: func(string, metrics.Sink) metrics.Sink { return nowhereSink{} }, kernels: kernels(), log: slog.New(slog.NewTextHandler(testWriter{c.t}, nil)),
	})
	if c.network {
		h.door.serve(h.engine.donor, nil)
	}
	go func() {
		err := h.engine.run(ctx)
		if c.network {
			h.door.close()
		}
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
	switch {
	case c.network:
		go h.door.server.Stop() // all its connections end
	case h.group != nil:
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
		if h.dead || h.away {
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
	v := &mppb.View{Job: c.job, Save: c.saves, Number: c.number, Spec: c.spec, Directory: "run", Reason: why, Committed: committed, Checkpoint: c.newest, CheckpointUpdate: c.update}
	for _, h := range members {
		m := &mppb.Member{Worker: h.id, Name: fmt.Sprintf("worker %d", h.id), Shards: h.shards, ValShards: h.shards}
		if h.door != nil {
			m.Address, m.UnixSocket, m.Machine = h.door.address, h.door.socket, "m"
			if h.id == 2 { // one that only TCP leads to
				m.UnixSocket = ""
			}
		}
		v.Members = append(v.Members, m)
	}
	c.halls[c.number] = inproc.New(max(len(members), 1))
	c.views = append(c.views, fmt.Sprintf("%d: %s (%d members)", c.number, why, len(members)))
	for _, h := range c.hands {
		if h.dead || h.away {
			continue
		}
		select {
		case <-h.views:
		default:
		}
		h.views <- order{view: h.read(v), rank: slices.Index(members, h)}
	}
	c.changed.Broadcast()
}

// read is a view as this hand reads it.
func (h *hand) read(v *mppb.View) *mppb.View {
	if h.other == nil {
		return v
	}
	var s job.Spec
	if err := json.Unmarshal(v.Spec, &s); err != nil {
		panic(err)
	}
	h.other(&s)
	v = proto.CloneOf(v)
	var err error
	if v.Spec, err = json.Marshal(s); err != nil {
		panic(err)
	}
	return v
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
func (h *hand) beat() {
	if h.beats != nil {
		h.beats(h)
	}
}

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
	c.changed.Broadcast()
	return checkpoint.SetLatest(c.dir, name)
}

func (h *hand) fetch(_ context.Context, _ *mppb.View, name string) (string, error) {
	return filepath.Join(h.crew.dir, name), nil
}
