package coordinator

import (
	"context"
	"fmt"
	"net"
	"time"

	"github.com/hashicorp/raft"
)

// wire is raft's connections to the other coordinators: TCP through their doors.
type wire struct {
	*lane // accepts
	door  *door
	peers []Peer
	self  string // address of this node
	dial  func(ctx context.Context, address string) (net.Conn, error)
}

// Dial connects to a coordinator and says which one is meant.
func (w *wire) Dial(address raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	conn, err := w.dial(ctx, string(address))
	if err != nil {
		return nil, err
	}
	if err := introduce(conn, w.idAt(string(address)), w.door.token, timeout); err != nil {
		conn.Close()
		return nil, fmt.Errorf("greet the coordinator at %s: %w", address, err)
	}
	return conn, nil
}

func (w *wire) idAt(address string) string {
	for _, p := range w.peers {
		if p.Address == address {
			return p.ID
		}
	}
	return ""
}

// ServerAddr gives raft the address that a node has now: the one in its log may be that of an earlier start.
func (w *wire) ServerAddr(id raft.ServerID) (raft.ServerAddress, error) {
	for _, p := range w.peers {
		if p.ID == string(id) {
			return raft.ServerAddress(p.Address), nil
		}
	}
	return "", fmt.Errorf("coordinator %s is not in this node's list", id)
}

// Addr is the address that the others know.
func (w *wire) Addr() net.Addr { return named(w.self) }

type named string

func (named) Network() string  { return "tcp" }
func (n named) String() string { return string(n) }
