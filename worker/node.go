package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"mp/data"
	"mp/job"
	"mp/metrics"
	"mp/ops"
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

	Device     *ops.Device
	Train, Val *data.Pack // of the same classes
	Scratch    string     // folder of its own for checkpoints on their way and sockets; made if it is not there

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
	case len(c.Train.Classes()) != len(c.Val.Classes()):
		return bad("%s has %d classes and %s has %d; pack both from the same folder",
			c.Train.Path(), len(c.Train.Classes()), c.Val.Path(), len(c.Val.Classes()))
	}
	return nil
}

// Node is a worker of a cluster: it belongs to a coordinator, computes what its views say, and serves one job after
// another.
type Node struct {
	c NodeConfig
}

// NewNode checks the configuration.
func NewNode(c NodeConfig) (*Node, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	return &Node{c: c}, nil
}

// Drain asks the node to leave in peace: it goes on computing until the coordinator has given its shards to others, 8
// seconds at most, and Run returns ErrDrained. It returns at once; a second call does nothing. Safe for concurrent use.
func (n *Node) Drain() {}

// Run belongs to the cluster until the coordinator has nothing left to do (nil), Drain (ErrDrained), a refusal
// (ErrRefused), something that only this worker can be blamed for, or the end of ctx, at which it stops at once as if it
// had been killed. It blocks, and everything that it started has ended when it returns. Call it once.
func (n *Node) Run(ctx context.Context) error {
	return fmt.Errorf("run worker %s: not built yet", n.c.Name)
}
