// Package coordinator is the control plane: it says who works in a cluster, on what, and keeps what must not be lost. It owns
// the raft log and its snapshots, the sessions of workers, the answers to clients and the files of runs; what to do when
// something happens is decided in package membership, which has no I/O. It must never import the worker or anything that
// needs libtorch: both meet in mppb only, and a coordinator is not on the data path.
//
// Start reading at Config and Run, then at fsm (what raft keeps), reign (the one loop that decides) and session (a worker's
// membership). DESIGN.md says why and what happens when something fails.
package coordinator

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
	"google.golang.org/grpc"

	"mp/coordinator/membership"
	"mp/mppb"
	"mp/trust"
)

// ErrCrash, as the cause of the end of Run's context, makes Run end as a crash does: without handing over the leadership and
// without a word to anybody. For tests of clusters.
var ErrCrash = errors.New("crash on request")

// Coordinator is one node. Its methods may be called from any goroutine.
type Coordinator struct {
	cfg      Config
	times    membership.Times
	log      *slog.Logger
	listener net.Listener
	address  string
	started  time.Time // elapsed counts from here

	door   *door
	logs   *patientLogs
	fsm    *fsm
	mirror *mirror
	shelf  *shelf
	told   chan membership.Event // to OnEvent
	counts counts

	core       atomic.Pointer[core]  // nil: before Run, or while the disk is full
	reigns     atomic.Pointer[reign] // nil: another leads, or none
	stopping   chan struct{}
	background sync.WaitGroup // what ends by itself once raft and the server have stopped

	connsMu sync.Mutex
	conns   map[string]*grpc.ClientConn // to other coordinators, by ID
}

// hooks replace the world in tests.
type hooks struct {
	logs func(logs) logs
	dial func(ctx context.Context, address string) (net.Conn, error)
	sync func(*os.File) error // of files of runs
}

// New checks the configuration, takes the address and the data directory. Run must follow, and gives them back.
func New(cfg Config) (_ *Coordinator, err error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg.Peers = slices.Clone(cfg.Peers)
	if cfg.hooks.dial == nil {
		cfg.hooks.dial = trust.DialTCP
	}
	if cfg.Trust != nil {
		cfg.hooks.dial = cfg.Trust.Over(cfg.hooks.dial, trust.Coordinator)
	}
	c := &Coordinator{
		cfg: cfg, times: membership.Timeouts(cfg.FailAfter), log: cfg.logger(), started: time.Now(), listener: cfg.Listener,
		stopping: make(chan struct{}), told: make(chan membership.Event, 4096), conns: map[string]*grpc.ClientConn{},
	}
	if err := makeDir(cfg.DataDir, "data directory"); err != nil {
		return nil, err
	}
	if err := makeDir(cfg.RunsDir, "directory of runs"); err != nil {
		return nil, err
	}
	if c.listener == nil {
		if c.listener, err = mppb.Listen(cfg.Listen, cfg.FailAfter); err != nil {
			return nil, fmt.Errorf("listen at %s: %w", cfg.Listen, err)
		}
	}
	defer func() {
		if err != nil {
			c.listener.Close()
		}
	}()
	if c.address = cfg.Advertised(); c.address == "" {
		c.address = c.listener.Addr().String()
	}
	inner, err := openLogs(cfg.DataDir)
	if err != nil {
		return nil, err
	}
	if cfg.hooks.logs != nil {
		inner = cfg.hooks.logs(inner)
	}
	c.logs = newPatientLogs(inner, cfg)
	c.door = newDoor(c.listener, cfg)
	c.shelf = newShelf(cfg.RunsDir)
	if cfg.hooks.sync != nil {
		c.shelf.sync = cfg.hooks.sync
	}
	c.mirror = newMirror(c)
	c.fsm = newFSM(c.applied)
	return c, nil
}

// Address is the host:port by which others reach this node, from New on.
func (c *Coordinator) Address() string { return c.address }

// Leader returns the ID and address of the coordinator that leads, as far as this node knows; "" and "" while none does.
func (c *Coordinator) Leader() (id, address string) {
	k := c.core.Load()
	if k == nil {
		return "", ""
	}
	where, who := k.raft.LeaderWithID()
	for _, p := range c.peers() {
		if p.ID == string(who) {
			return p.ID, p.Address
		}
	}
	return string(who), string(where)
}

// Leads says whether this node leads and has begun to decide.
func (c *Coordinator) Leads() bool { return c.reigns.Load() != nil }

// peers are all nodes, this one included.
func (c *Coordinator) peers() []Peer {
	if len(c.cfg.Peers) == 0 {
		return []Peer{{ID: c.cfg.ID, Address: c.address}}
	}
	return c.cfg.Peers
}

// elapsed is the clock that decides: monotonic, since New.
func (c *Coordinator) elapsed() time.Duration { return time.Since(c.started) }

// applied is told of every entry of the log, by raft's goroutine.
func (c *Coordinator) applied(a applied) {
	if len(a.result.Dropped) > 0 {
		c.mirror.drop(a.job, a.result.Dropped)
	}
	if k := c.core.Load(); k != nil && a.index > k.replay && k.raft.State() == raft.Leader {
		for _, e := range a.result.Events {
			c.told <- e
		}
		c.counts.lost(a.fault)
	}
	if r := c.reigns.Load(); r != nil {
		r.nudge()
	}
}

// tell hands the events to whoever wants them, or else to the log, until told is closed.
func (c *Coordinator) tell() {
	for e := range c.told {
		if c.cfg.OnEvent != nil {
			c.cfg.OnEvent(fromEvent(e))
			continue
		}
		level := slog.LevelInfo
		if e.Warning {
			level = slog.LevelWarn
		}
		attributes := []any{keyTopic, e.Topic, keyEvent, e.Sequence}
		if e.Advice != "" {
			attributes = append(attributes, keyAdvice, e.Advice)
		}
		c.log.Log(context.Background(), level, e.Text, attributes...)
	}
}

// Run serves until ctx ends, then hands the leadership over if it has it, and returns nil when all that it started has
// stopped. Another error says what broke.
func (c *Coordinator) Run(ctx context.Context) error {
	inner, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	var parts sync.WaitGroup
	broken := make(chan error, 2)
	report := func(what string, err error) {
		if err != nil && inner.Err() == nil {
			broken <- fmt.Errorf("%s at %s: %w", what, c.address, err)
		}
	}
	server := c.newServer()
	parts.Go(func() { report("accept connections", c.door.run(inner)) })
	parts.Go(func() { report("serve", server.Serve(c.door.grpc)) })
	parts.Go(func() { c.mirror.run(inner) })
	teller := make(chan struct{})
	go func() { defer close(teller); c.tell() }()
	c.log.Info("a coordinator listens", keyNode, c.cfg.ID, "address", c.address, "cluster", len(c.peers()))

	err := c.live(ctx, broken)

	// Stop, the reverse of the start: the last life of raft has ended, and its reigns before it.
	close(c.stopping)
	if errors.Is(context.Cause(ctx), ErrCrash) {
		server.Stop()
	} else {
		c.stopServer(server)
	}
	cancel()
	parts.Wait()
	c.background.Wait()
	close(c.told) // nobody applies entries any more
	<-teller
	c.connsMu.Lock()
	for _, conn := range c.conns {
		conn.Close()
	}
	c.connsMu.Unlock()
	if e := c.logs.Close(); e != nil && err == nil {
		err = fmt.Errorf("close the raft log: %w", e)
	}
	return err
}

// live runs one life of raft after the other until ctx ends or something breaks.
func (c *Coordinator) live(ctx context.Context, broken <-chan error) error {
	for first := true; ; first = false {
		k, err := c.startCore()
		switch {
		case err == nil:
			again, err := c.liveOnce(ctx, k, broken)
			if !again {
				return err
			}
		case first || errors.Is(err, ErrConfig):
			return err
		default:
			c.log.Error("cannot start raft again; trying on", "error", err)
		}
		if !c.logs.await(ctx) {
			return nil
		}
	}
}

// liveOnce is one life of raft. It returns true when raft has lost its disk and should begin again.
func (c *Coordinator) liveOnce(ctx context.Context, k *core, broken <-chan error) (again bool, err error) {
	c.core.Store(k)
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	done := make(chan struct{})
	go func() { defer close(done); k.run(life, c) }()
	select {
	case <-ctx.Done():
		// The leadership goes to another node first, so that sessions are told whom to ask instead.
		if c.Leads() && len(c.peers()) > 1 && !errors.Is(context.Cause(ctx), ErrCrash) {
			if err := k.raft.LeadershipTransfer().Error(); err != nil {
				c.log.Debug("no other coordinator takes the leadership", "error", err)
			}
		}
	case err = <-broken:
	case <-c.logs.lost:
		again = true
	}
	end()
	if !again {
		<-done // the reign ends before sessions do: their end must not look like the workers'
	}
	k.stop(c)
	<-done
	c.core.Store(nil)
	return again, err
}

// stopServer lets calls end, for a moment.
func (c *Coordinator) stopServer(server *grpc.Server) {
	force := time.AfterFunc(c.times.FailAfter/2, server.Stop)
	defer force.Stop()
	server.GracefulStop()
}
