package coordinator

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"

	"mp/mppb"
	"mp/trust"
)

const (
	failAfter = 2 * time.Second // twice the default: tests share their processors
	patience  = time.Minute     // for what must happen
)

// testNode is a coordinator that can be killed and started again.
type testNode struct {
	*Coordinator
	cfg    Config
	faults *faultyLogs
	stop   context.CancelCauseFunc // nil: it does not run
	done   chan error
}

// testCluster is some coordinators in this process.
type testCluster struct {
	t     *testing.T
	trust *trust.Authority // nil: plain TCP
	nodes []*testNode

	mu      sync.Mutex
	events  []string
	clients map[string]*mppb.Client // by address; "" asks whoever leads

	late atomic.Int64 // the most that a goroutine had to wait for a processor, in nanoseconds
}

// starved says that this machine was too busy to judge times, and who is in because of them.
func (c *testCluster) starved() bool {
	late, written := time.Duration(c.late.Load()), time.Duration(0)
	for _, n := range c.nodes {
		written = max(written, time.Duration(n.faults.worst.Load()))
	}
	if late < failAfter/20 && written < failAfter/10 {
		return false
	}
	c.t.Logf("this machine is busy: goroutines ran up to %s late, writes took up to %s; times are not judged", late.Round(time.Millisecond), written.Round(time.Millisecond))
	return true
}

// watch measures how late goroutines run.
func (c *testCluster) watch(ctx context.Context) {
	const step = 10 * time.Millisecond
	tick := time.NewTicker(step)
	defer tick.Stop()
	for last := time.Now(); ; {
		select {
		case <-tick.C:
			atLeast(&c.late, time.Since(last)-step)
			last = time.Now()
		case <-ctx.Done():
			return
		}
	}
}

func newCluster(t *testing.T, size int, change func(*Config)) *testCluster {
	t.Helper()
	c := &testCluster{t: t, clients: map[string]*mppb.Client{}}
	var listeners []net.Listener
	var peers []Peer
	for i := range size {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		listeners = append(listeners, l)
		peers = append(peers, Peer{ID: string(rune('a' + i)), Address: l.Addr().String()})
	}
	for i, l := range listeners {
		dir := t.TempDir()
		cfg := DefaultConfig()
		cfg.ID, cfg.Listen, cfg.Listener = peers[i].ID, peers[i].Address, l
		cfg.DataDir, cfg.RunsDir, cfg.FailAfter = filepath.Join(dir, "raft"), filepath.Join(dir, "runs"), failAfter
		if size > 1 {
			cfg.Peers = peers
		}
		if os.Getenv("MP_TEST_LOG") != "" {
			cfg.Logger = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug})).With("on", cfg.ID)
		}
		cfg.OnEvent = c.hear
		n := &testNode{cfg: cfg, faults: newFaultyLogs()}
		n.cfg.hooks.logs = n.faults.over
		if change != nil {
			change(&n.cfg)
		}
		c.nodes = append(c.nodes, n)
	}
	for _, n := range c.nodes {
		c.start(n)
	}
	ctx, cancel := contextOf(t)
	watched := make(chan struct{})
	go func() { defer close(watched); c.watch(ctx) }()
	t.Cleanup(func() {
		for _, n := range c.nodes {
			c.end(n, nil)
		}
		cancel()
		<-watched
	})
	return c
}

func (c *testCluster) hear(e *mppb.Event) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.events = append(c.events, fmt.Sprintf("%s: %s", e.Topic, e.Text))
}

func (c *testCluster) start(n *testNode) {
	c.t.Helper()
	node, err := New(n.cfg)
	if err != nil {
		c.t.Fatal(err)
	}
	n.cfg.Listener = nil // the next start listens at the same address
	ctx, cancel := context.WithCancelCause(context.Background())
	n.Coordinator, n.stop, n.done = node, cancel, make(chan error, 1)
	go func() { n.done <- node.Run(ctx) }()
}

// end stops a node; with ErrCrash as a crash does.
func (c *testCluster) end(n *testNode, cause error) {
	c.t.Helper()
	if n.stop == nil {
		return
	}
	n.stop(cause)
	n.stop = nil
	select {
	case err := <-n.done:
		if err != nil {
			c.t.Errorf("coordinator %s: %v", n.cfg.ID, err)
		}
	case <-time.After(patience):
		c.t.Fatalf("coordinator %s does not stop", n.cfg.ID)
	}
}

// leader waits for a node that leads, other than the given ones.
func (c *testCluster) leader(except ...*testNode) *testNode {
	c.t.Helper()
	var leader *testNode
	c.until("a coordinator leads", func() bool {
		for _, n := range c.nodes {
			if n.stop != nil && n.Leads() && !slices.Contains(except, n) {
				leader = n
				return true
			}
		}
		return false
	})
	return leader
}

// until polls for a condition.
func (c *testCluster) until(what string, is func() bool) {
	c.t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !is() {
		select {
		case <-tick.C:
		case <-deadline.C:
			c.mu.Lock()
			defer c.mu.Unlock()
			c.t.Fatalf("waited %s for this in vain: %s; the story: %q", patience, what, c.events)
		}
	}
}

func (c *testCluster) addresses() []string {
	var all []string
	for _, n := range c.nodes {
		all = append(all, n.cfg.Listen)
	}
	return all
}

// client asks whoever leads.
func (c *testCluster) client() *mppb.Client { return c.clientOf("", c.addresses()...) }

// clientAt asks one node.
func (c *testCluster) clientAt(address string) *mppb.Client { return c.clientOf(address, address) }

func (c *testCluster) clientOf(key string, addresses ...string) *mppb.Client {
	c.t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	if client := c.clients[key]; client != nil {
		return client
	}
	client := c.newClient(addresses...)
	c.clients[key] = client
	return client
}

func (c *testCluster) newClient(addresses ...string) *mppb.Client {
	return c.newClientAs(trust.Client, addresses...)
}

func (c *testCluster) newClientAs(role trust.Role, addresses ...string) *mppb.Client {
	c.t.Helper()
	client, err := mppb.NewClient(mppb.ClientConfig{Addresses: addresses, FailAfter: failAfter, Token: c.nodes[0].cfg.Token, Dial: c.dial(role)})
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { client.Close() })
	return client
}

// dial is how somebody of a role connects.
func (c *testCluster) dial(role trust.Role) func(context.Context, string) (net.Conn, error) {
	c.t.Helper()
	if c.trust == nil {
		return trust.DialTCP
	}
	i, err := c.trust.Identity(trust.Party{Role: role, Name: "test"})
	if err != nil {
		c.t.Fatal(err)
	}
	return i.Over(trust.DialTCP, trust.Coordinator)
}

func (c *testCluster) context() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	c.t.Cleanup(cancel)
	return ctx
}

// ask calls f at the leader.
func (c *testCluster) ask(f func(context.Context, mppb.ClusterClient) error) error {
	return c.client().Do(c.context(), func(ctx context.Context, conn grpc.ClientConnInterface) error {
		return f(ctx, mppb.NewClusterClient(conn))
	})
}

const testSpec = `{"name": "test", "shards": 4, "batch-size": 4, "epochs": 1000, "keep-checkpoints": 2}`

var testData = mppb.Dataset{TrainSha256: "train", ValSha256: "val", TrainImages: 4000, ValImages: 10, Classes: 3}

func (c *testCluster) submit(spec string) *mppb.Job {
	c.t.Helper()
	var job *mppb.Job
	err := c.ask(func(ctx context.Context, cluster mppb.ClusterClient) (err error) {
		job, err = cluster.Submit(ctx, &mppb.SubmitRequest{Spec: []byte(spec), Directory: "run"})
		return err
	})
	if err != nil {
		c.t.Fatal(err)
	}
	return job
}

func (c *testCluster) show(id string) *mppb.JobDetail {
	c.t.Helper()
	var detail *mppb.JobDetail
	err := c.ask(func(ctx context.Context, cluster mppb.ClusterClient) (err error) {
		detail, err = cluster.Show(ctx, &mppb.JobName{Id: id})
		return err
	})
	if err != nil {
		c.t.Fatal(err)
	}
	return detail
}

// testWorker speaks as a worker does and computes nothing.
type testWorker struct {
	hello  *mppb.Hello
	cancel context.CancelFunc
	done   chan error
	client *mppb.Client
	cut    chan struct{} // breaks the connection, once

	mu       sync.Mutex
	silent   bool
	status   *mppb.Status
	view     *mppb.View
	seen     []*mppb.View
	identity []uint64
	refusal  *mppb.Refusal
	welcomed time.Time
}

func (c *testCluster) worker(device string, change ...func(*mppb.Hello)) *testWorker {
	w := &testWorker{
		hello: &mppb.Hello{
			Protocol: mppb.Protocol, Host: "host", Machine: "machine", Device: device, Address: "127.0.0.1:1" + device[len(device)-1:],
			Data: &testData, Name: "worker " + device, Pid: 1, Token: c.nodes[0].cfg.Token,
		},
		done: make(chan error, 1), client: c.newClientAs(trust.Worker, c.addresses()...), cut: make(chan struct{}, 1), status: &mppb.Status{Phase: mppb.Phase_READY},
	}
	for _, f := range change {
		f(w.hello)
	}
	ctx, cancel := context.WithCancel(context.Background())
	w.cancel = cancel
	go func() { w.done <- w.run(ctx) }()
	c.t.Cleanup(func() {
		cancel()
		<-w.done
	})
	return w
}

// twoWorkers start, and compute the job that was submitted when it returns.
func (c *testCluster) twoWorkers() (a, b *testWorker) {
	a, b = c.worker("cpu:0"), c.worker("cpu:1")
	c.until("both compute", func() bool { return a.in(2) && b.in(2) })
	return a, b
}

// run lives until it is refused or ctx ends.
func (w *testWorker) run(ctx context.Context) error {
	for {
		err := w.client.Do(ctx, w.session)
		if err == errAgain {
			continue
		}
		return err
	}
}

var errAgain = fmt.Errorf("refused, and tries again")

func (w *testWorker) session(ctx context.Context, conn grpc.ClientConnInterface) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := mppb.NewControlClient(conn).Session(ctx)
	if err != nil {
		return err
	}
	if err := stream.Send(&mppb.FromWorker{Message: &mppb.FromWorker_Hello{Hello: w.hello}}); err != nil && err != io.EOF {
		return err
	}
	welcome := make(chan struct{})
	talked := make(chan struct{})
	defer func() { cancel(); <-talked }()
	go func() {
		defer close(talked)
		select {
		case <-welcome:
		case <-ctx.Done():
			return
		}
		tick := time.NewTicker(failAfter / 40)
		defer tick.Stop()
		for {
			if s := w.step(); s != nil && stream.Send(&mppb.FromWorker{Message: &mppb.FromWorker_Status{Status: s}}) != nil {
				return
			}
			select {
			case <-tick.C:
			case <-w.cut:
				cancel()
				return
			case <-ctx.Done():
				return
			}
		}
	}()
	for {
		m, err := stream.Recv()
		if err != nil {
			return err
		}
		w.mu.Lock()
		switch {
		case m.GetWelcome() != nil:
			w.identity = append(w.identity, m.GetWelcome().Worker)
			w.hello.Previous = m.GetWelcome().Worker
			w.welcomed = time.Now()
			close(welcome)
		case m.GetView() != nil:
			v, err := m.GetView().After(w.view)
			if err != nil {
				w.mu.Unlock()
				return err
			}
			w.view, w.seen = v, append(w.seen, v)
		case m.GetRefusal() != nil:
			w.refusal = m.GetRefusal()
			w.mu.Unlock()
			return io.EOF
		}
		w.mu.Unlock()
	}
}

// step does one update of the view in force and says so; nil when the worker is silent.
func (w *testWorker) step() *mppb.Status {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.silent {
		return nil
	}
	s := w.status
	if v := w.view; v != nil && len(v.Members) > 0 {
		if s.View != v.Number {
			s.Job, s.View, s.CaughtUp = v.Job, v.Number, true
			s.Update = max(s.Update, v.Committed)
		}
		s.Phase = mppb.Phase_COMPUTING
		s.Update++
		s.Progress++
	}
	return &mppb.Status{
		Job: s.Job, View: s.View, Phase: s.Phase, Update: s.Update, Progress: s.Progress, CaughtUp: s.CaughtUp, ShardSeconds: 0.01, StepSeconds: 0.05,
		Leaving: s.Leaving, Finished: s.Finished, Outcome: s.Outcome, Fault: s.Fault,
	}
}

func (w *testWorker) change(f func(w *testWorker)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f(w)
}

// now returns the newest identity and view.
func (w *testWorker) now() (uint64, *mppb.View) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.identity) == 0 {
		return 0, w.view
	}
	return w.identity[len(w.identity)-1], w.view
}

// in says whether the worker knows of a view with so many members, itself among them and every shard dealt.
func (w *testWorker) in(members int) bool {
	id, v := w.now()
	if v == nil || len(v.Members) != members {
		return false
	}
	shards, member := 0, false
	for _, m := range v.Members {
		shards += len(m.Shards)
		member = member || m.Worker == id
	}
	return member && shards == 4
}
