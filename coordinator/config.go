package coordinator

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"time"

	"mp/mppb"
	"mp/trust"
)

// ErrConfig is matched (errors.Is) by what Validate and New return when the configuration, or what it finds in the data
// directory, cannot work: trying again does not help.
var ErrConfig = errors.New("unusable coordinator configuration")

// Config says what one coordinator is. New keeps a copy.
type Config struct {
	// ID is this node's name in the cluster, the same for as long as its DataDir lives.
	ID string
	// Listen is the host:port that accepts everything: workers, clients and other coordinators. Port 0 picks a free one,
	// which only a cluster of one node can use. Ignored with Listener.
	Listen string
	// Listener accepts instead of Listen when it is set. The coordinator closes it.
	Listener net.Listener
	// Advertise is the host:port by which others reach this node. Empty: its address in Peers or, for one node, the one
	// that it listens on.
	Advertise string
	// Peers are all nodes of the cluster, this one included: one, three or five. Empty: this node alone. Every node must be
	// given the same list; an address may change from one start to the next, an ID may not.
	Peers []Peer
	// DataDir holds the raft log and the snapshots of this node and nothing else. It is made when missing.
	DataDir string
	// RunsDir is where runs have their directories. It is made when missing.
	RunsDir string
	// FailAfter is how long silence may last before somebody counts as gone, from 100 ms. Every other time-out derives from
	// it: see membership.Timeouts.
	FailAfter time.Duration
	// MinWorkers is the number of workers below which a job waits, when the job itself says nothing; at least 1.
	MinWorkers int
	// Version is the program's; workers of another are refused. Empty: not compared.
	Version string
	// NATSURL is where workers shall send metrics; empty: nowhere.
	NATSURL string
	// Token is what workers, clients and other coordinators must know. Empty: nobody is asked.
	Token string
	// Trust makes every connection TLS, in which certificates say who calls; there is no Token then. Nil: plain TCP.
	Trust *trust.Identity
	// Desk exchanges join tokens for certificates, with Trust. Nil: nobody can.
	Desk *trust.Desk
	// Logger gets state changes that a person cares about at Info. Nil: nothing is logged.
	Logger *slog.Logger
	// OnEvent is called on the leader for every new event of the cluster's story, in raft order, from one goroutine. It must
	// not block for long: some thousand events are kept for it, then the state machine waits. The call Events has them all,
	// also those that a leader recorded in its last instant. Nil: they are logged.
	OnEvent func(*mppb.Event)
	// Dismiss lets the workers go once no job is left, as `mp train` wishes.
	Dismiss bool

	hooks hooks
}

// Peer is a coordinator node.
type Peer struct {
	ID      string
	Address string // host:port
}

// DefaultConfig is one node on this machine's port 7070.
func DefaultConfig() Config {
	return Config{
		ID:         "coordinator-1",
		Listen:     "127.0.0.1:7070",
		DataDir:    "coordinator",
		RunsDir:    "runs",
		FailAfter:  time.Second,
		MinWorkers: 1,
	}
}

// Validate returns what is wrong with the configuration, matching ErrConfig, or nil.
func (c Config) Validate() error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%w: %s", ErrConfig, fmt.Sprintf(format, args...))
	}
	switch {
	case c.ID == "":
		return bad("the node has no ID")
	case c.DataDir == "":
		return bad("no data directory: the raft log needs one")
	case c.RunsDir == "":
		return bad("no directory for runs")
	case c.FailAfter < 100*time.Millisecond || c.FailAfter > 10*time.Minute:
		return bad("fail-after is %s: choose from 100ms to 10m", c.FailAfter)
	case c.MinWorkers < 1:
		return bad("the minimum of workers is %d: choose 1 or more", c.MinWorkers)
	case c.Trust != nil && c.Token != "":
		return bad("certificates say who calls, and a token is asked for as well: one of the two is enough")
	case c.Trust == nil && c.Desk != nil:
		return bad("certificates are given out and not asked for")
	}
	if c.Listener == nil {
		if _, _, err := net.SplitHostPort(c.Listen); err != nil {
			return bad("listen address %q is not host:port", c.Listen)
		}
	}
	if c.Advertise != "" {
		if _, _, err := net.SplitHostPort(c.Advertise); err != nil {
			return bad("advertised address %q is not host:port", c.Advertise)
		}
	}
	if len(c.Peers) == 0 {
		if host, _, err := net.SplitHostPort(c.Listen); c.Listener == nil && err == nil && c.Advertise == "" && everywhere(host) {
			return bad("%s is every address of this machine: say by which one others reach it (--advertise HOST:PORT)", c.Listen)
		}
		return nil
	}
	if len(c.Peers)%2 == 0 || len(c.Peers) > 7 {
		return bad("%d coordinators: use 1, 3 or 5, an even number survives no more losses than one fewer", len(c.Peers))
	}
	for i, p := range c.Peers {
		host, port, err := net.SplitHostPort(p.Address)
		switch {
		case p.ID == "":
			return bad("the coordinator at %q has no ID", p.Address)
		case err != nil || host == "" || port == "0" || port == "":
			return bad("address %q of coordinator %s is not a host:port that others can reach", p.Address, p.ID)
		case slices.ContainsFunc(c.Peers[:i], func(o Peer) bool { return o.ID == p.ID || o.Address == p.Address }):
			return bad("coordinator %s at %s is listed twice", p.ID, p.Address)
		}
	}
	if !slices.ContainsFunc(c.Peers, func(p Peer) bool { return p.ID == c.ID }) {
		return bad("this node's ID %q is not among the coordinators: every node is given the whole list, itself included", c.ID)
	}
	return nil
}

// everywhere says whether a host to listen on means all addresses of the machine.
func everywhere(host string) bool { return host == "" || net.ParseIP(host).IsUnspecified() }

// Advertised is the host:port by which others reach this node, empty where that is the one that it listens on.
func (c Config) Advertised() string {
	if c.Advertise != "" {
		return c.Advertise
	}
	for _, p := range c.Peers {
		if p.ID == c.ID {
			return p.Address
		}
	}
	return ""
}

// logger is never nil.
func (c Config) logger() *slog.Logger {
	if c.Logger == nil {
		return slog.New(slog.DiscardHandler)
	}
	return c.Logger
}
