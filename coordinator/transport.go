package coordinator

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// wire is raft's connections to the other coordinators: TCP through their doors.
type wire struct {
	door  *door
	peers []Peer
	self  string // address of this node
	dial  func(ctx context.Context, address string) (net.Conn, error)

	once   sync.Once
	closed chan struct{}

	mu    sync.Mutex
	muted bool
	open  map[*tracked]bool
}

func newWire(c *Coordinator) *wire {
	return &wire{door: c.door, peers: c.peers(), self: c.address, dial: c.cfg.hooks.dial, closed: make(chan struct{}), open: map[*tracked]bool{}}
}

// Close ends Accept. The door goes on: the next life of raft accepts at it.
func (w *wire) Close() error {
	w.once.Do(func() { close(w.closed) })
	return nil
}

// tracked is a connection that mute can cut.
type tracked struct {
	net.Conn
	wire *wire
}

func (t *tracked) Close() error {
	t.wire.mu.Lock()
	delete(t.wire.open, t)
	t.wire.mu.Unlock()
	return t.Conn.Close()
}

var errMuted = errors.New("this coordinator keeps silent until its disk answers")

func (w *wire) track(c net.Conn) (net.Conn, error) {
	t := &tracked{c, w}
	w.mu.Lock()
	muted := w.muted
	if !muted {
		w.open[t] = true
	}
	w.mu.Unlock()
	if muted {
		c.Close()
		return nil, errMuted
	}
	return t, nil
}

// mute cuts this node off from the others, or lets it speak again. To raft it looks like a network that fails.
func (w *wire) mute(on bool) {
	w.mu.Lock()
	w.muted = on
	var cut []*tracked
	for t := range w.open {
		if on {
			cut = append(cut, t)
		}
	}
	w.mu.Unlock()
	for _, t := range cut {
		t.Close()
	}
}

// Accept returns the next connection of another coordinator.
func (w *wire) Accept() (net.Conn, error) {
	for {
		select {
		case c := <-w.door.raft.conns:
			if c, err := w.track(c); err == nil {
				return c, nil
			}
		case <-w.door.raft.closed:
			return nil, net.ErrClosed
		case <-w.closed:
			return nil, net.ErrClosed
		}
	}
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
	return w.track(conn)
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
