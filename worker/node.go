package worker

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"mp/data"
	"mp/job"
	"mp/metrics"
	"mp/mppb"
	"mp/ops"
	"mp/trust"
	"mp/worker/errand"
)

// ErrDrained is returned by Node.Run when the worker left as it was asked to: its shards are with others, or saved. Start
// it again to have it back.
var ErrDrained = errors.New("drained")

// ErrRefused is wrapped by Node.Run's error when the coordinator will not have this worker as it is: other images, another
// version, a device that is taken. Trying again does not help; the text says what to change.
var ErrRefused = errors.New("refused by the coordinator")

// NodeConfig is what a worker of a cluster needs.
type NodeConfig struct {
	Coordinators []string // host:port each; the first that answers tells who leads
	Listen       string   // host:port for peers; port 0 takes a free one
	Advertise    string   // host:port under which peers reach Listen; empty: Listen's own, with Host where it names none

	Host       string // this machine's name, for people
	Machine    string // the same for all workers of one machine and for no other; unix sockets are used within it
	DeviceName string // "cpu:0", "cuda:1"; two workers of a machine cannot have the same
	Name       string // "worker 3", for people; may be empty
	Version    string // of the program; workers of a job must agree
	Token      string // what the coordinators ask for; may be empty
	// Trust makes every connection to other machines TLS, in which certificates say who is who; there is no Token then. Nil: plain
	// TCP. Within a machine, sockets and memory stay as they are, for this user alone.
	Trust *trust.Identity

	Device     *ops.Device
	Train, Val *data.Pack // of the same classes
	Scratch    string     // folder of its own for checkpoints on their way and sockets; made if it is not there
	Fault      *Fault     // for drills; nil: none

	// Sinks makes the sink for the events of a job, closed (if it is an io.Closer) when the worker turns to another one.
	// natsURL is the coordinator's word, empty for none. nil: events go nowhere.
	Sinks func(natsURL, job string, worker uint64) (metrics.Sink, error)

	Logger *slog.Logger // nil: nothing is logged
}

// DefaultNodeConfig listens on a free port of every interface. Coordinators, Device, packs and Scratch are still missing.
func DefaultNodeConfig() NodeConfig {
	return NodeConfig{Listen: ":0", DeviceName: "cpu:0"}
}

// Validate reports what is missing or contradictory, as job.ErrConfig.
func (c NodeConfig) Validate() error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("configure worker: %s: %w", fmt.Sprintf(format, args...), job.ErrConfig)
	}
	switch {
	case len(c.Coordinators) == 0:
		return bad("no coordinator; give --coordinator HOST:PORT")
	case c.Device == nil || c.Train == nil || c.Val == nil:
		return bad("device or images are missing")
	case c.Scratch == "":
		return bad("no scratch folder")
	case c.Machine == "" || c.DeviceName == "":
		return bad("machine %q, device %q: both need a name", c.Machine, c.DeviceName)
	case c.Trust != nil && c.Token != "":
		return bad("a certificate and a token: one of the two is enough")
	case len(c.Train.Classes()) != len(c.Val.Classes()):
		return bad("%s has %d classes and %s has %d; pack both from the same folder",
			c.Train.Path(), len(c.Train.Classes()), c.Val.Path(), len(c.Val.Classes()))
	}
	return nil
}

// towards is how others of a role are reached; nil: by plain TCP.
func (c NodeConfig) towards(role trust.Role) func(context.Context, string) (net.Conn, error) {
	if c.Trust == nil {
		return nil
	}
	return c.Trust.Over(trust.DialTCP, role)
}

// Node is a worker of a cluster: it belongs to a coordinator, computes what its views say, and serves one job after
// another.
type Node struct {
	c        NodeConfig
	patience time.Duration // how long it waits for leave
	drain    chan struct{} // closed by Drain
	once     sync.Once
	session  atomic.Pointer[session] // nil before Run
	pulse    pulse
}

// NewNode checks the configuration.
func NewNode(c NodeConfig) (*Node, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return &Node{c: c, patience: drainPatience, drain: make(chan struct{})}, nil
}

// Drain asks the node to leave in peace: it goes on computing until the coordinator has given its shards to others, 8
// seconds at most, and Run returns ErrDrained. It returns at once; a second call does nothing. Safe for concurrent use.
func (n *Node) Drain() { n.once.Do(func() { close(n.drain) }) }

// Ready returns nil while the node belongs to a cluster, that is while a coordinator that leads hears it, and otherwise why it
// does not. Safe for concurrent use.
func (n *Node) Ready() error {
	s := n.session.Load()
	switch {
	case s == nil:
		return errors.New("the worker does not look for a coordinator yet")
	case s.me() == 0:
		return errors.New("no coordinator has taken the worker in yet")
	case !s.belongs():
		return errors.New("no coordinator that leads hears the worker")
	}
	return nil
}

// Times of a node that was asked to leave, so that it is gone within ten seconds: drainPatience for leave and for a
// checkpoint that is on its way, which has lastMoment even if leave took all of that; where no coordinator answers only
// awayPatience, because NATS may be away with it and the last metrics are waited for too.
const (
	drainPatience = 8 * time.Second
	awayPatience  = 5 * time.Second
	lastMoment    = time.Second
)

// Run belongs to the cluster until the coordinator has nothing left to do (nil), Drain (ErrDrained), a refusal
// (ErrRefused), something that only this worker can be blamed for, or the end of ctx, at which it stops at once as if it
// had been killed. It blocks, and everything that it started has ended when it returns. Call it once.
func (n *Node) Run(ctx context.Context) (err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	client, err := mppb.NewClient(mppb.ClientConfig{Addresses: n.c.Coordinators, Token: n.c.Token, Dial: n.c.towards(trust.Coordinator), Logger: n.c.Logger})
	if err != nil {
		return fmt.Errorf("run worker: %w: %w", job.ErrConfig, err)
	}
	defer client.Close()
	d, err := listen(n.c)
	if err != nil {
		return err
	}
	var errands *errand.Server
	defer func() { // no errand begins any more, then the last one ends
		d.close()
		if errands != nil {
			errands.Close()
		}
	}()
	s := newSession(client, n.hello(d), n.c.Logger)
	n.session.Store(s)
	e := newEngine(ctx, engineConfig{
		device: n.c.Device, train: n.c.Train, val: n.c.Val, control: s, ring: rings{d, s.failAfter}, donors: d, library: depot{client, n.c.Scratch},
		sink: n.sink(s), version: n.c.Version, kernels: kernels(), log: n.c.Logger, injected: n.c.Fault,
	})
	errands = errand.NewServer(errand.ServerConfig{
		Device: n.c.Device, Train: n.c.Train, Val: n.c.Val, Version: n.c.Version, FailAfter: s.failAfter, Progress: s.progress.Load, Logger: n.c.Logger,
	})
	d.serve(e.donor, errands)
	computed := make(chan error, 1)
	go func() { computed <- e.run(ctx) }()
	belonged := make(chan error, 1)
	go func() { belonged <- s.run(ctx) }()
	defer func() { // in this order: the engine hears that the session has ended, and lets go of the ring and the device
		cancel()
		<-belonged
		<-computed
		e.close()
		n.closeSink(e.sinks)
	}()
	drain := n.drain
	var patience <-chan time.Time
	asked := time.Now()
	for {
		select {
		case err := <-belonged:
			belonged <- err
			if errors.Is(err, ErrDrained) {
				n.bringAway(ctx, e, max(n.patience-time.Since(asked), lastMoment))
			}
			return n.left(ctx, err)
		case err := <-computed:
			computed <- err
			if err != nil && ctx.Err() == nil {
				within, cancel := context.WithTimeout(ctx, lastMoment)
				s.confess(within, err)
				cancel()
				return fmt.Errorf("run worker %s: %w", n.c.Name, err)
			}
			return ctx.Err()
		case <-drain:
			drain, asked = nil, time.Now()
			if s.me() == 0 {
				return fmt.Errorf("leave before anybody had need of this worker: %w", ErrDrained)
			}
			if !s.belongs() { // the leader may be changing, and this worker alone may have the state
				n.patience = min(n.patience, awayPatience)
			}
			s.post(func(st *mppb.Status) { st.Leaving = true })
			patience = time.After(n.patience)
		case <-patience:
			return fmt.Errorf("nobody gave this worker leave within %s: %w", n.patience, ErrDrained)
		}
	}
}

// bringAway lets a checkpoint that is on its way arrive: nobody else may have the state.
func (n *Node) bringAway(ctx context.Context, e *engine, within time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	if err := e.saver.flush(ctx); err != nil {
		n.c.Logger.Warn("left before a checkpoint was brought away", "reason", err)
	}
}

// left is what the end of a membership means to whoever started the node.
func (n *Node) left(ctx context.Context, err error) error {
	switch {
	case errors.Is(err, errFinished):
		return nil
	case errors.Is(err, ErrDrained), errors.Is(err, ErrRefused):
		return err
	case errors.Is(err, mppb.ErrForeign):
		return fmt.Errorf("%w: %w", job.ErrConfig, err)
	case ctx.Err() != nil:
		return ctx.Err()
	}
	return fmt.Errorf("belong to the cluster: %w", err)
}

func (n *Node) hello(d *door) *mppb.Hello {
	train, val := n.c.Train.Hash(), n.c.Val.Hash()
	return &mppb.Hello{
		Protocol: mppb.Protocol, Version: n.c.Version, Host: n.c.Host, Machine: n.c.Machine, Device: n.c.DeviceName,
		Address: d.address, UnixSocket: d.socket, Token: n.c.Token, Pid: uint32(os.Getpid()), Name: n.c.Name,
		Data: &mppb.Dataset{
			TrainSha256: hex.EncodeToString(train[:]), ValSha256: hex.EncodeToString(val[:]),
			TrainImages: uint32(n.c.Train.Len()), ValImages: uint32(n.c.Val.Len()), Classes: uint32(len(n.c.Train.Classes())),
			Directory: filepath.Dir(n.c.Train.Path()),
		},
	}
}

// sink returns what makes an engine's sinks.
func (n *Node) sink(s *session) func(job string, before metrics.Sink) metrics.Sink {
	return func(job string, before metrics.Sink) metrics.Sink {
		n.closeSink(before)
		if n.c.Sinks == nil {
			return nowhereSink{}
		}
		made, err := n.c.Sinks(s.natsURL(), job, s.me())
		if err != nil {
			n.c.Logger.Warn("metrics of this worker go nowhere", "job", job, "reason", err)
			return nowhereSink{}
		}
		return made
	}
}

func (n *Node) closeSink(s metrics.Sink) {
	c, ok := s.(io.Closer)
	if !ok {
		return
	}
	if err := c.Close(); err != nil {
		n.c.Logger.Warn("metrics were lost", "reason", err)
	}
}

// nowhereSink forgets events.
type nowhereSink struct{}

func (nowhereSink) Emit(metrics.Event) {}
