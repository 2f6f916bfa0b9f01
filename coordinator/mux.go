package coordinator

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"mp/mppb"
	"mp/trust"
)

// One port serves everybody. What a connection is for is said by its first bytes: gRPC's begin with HTTP/2's preface, raft's
// with a greeting of ours. The rest of the connection is handed on as it is. With Config.Trust all of that goes through TLS,
// and a connection may also be there to exchange a join token: see secure.go.
//
// The greeting is raftMagic, one byte mppb.Protocol, the SHA-256 of a word and the token, one byte with the length of an ID,
// and the ID of the node that the caller means. The answer is one byte, of the verdicts below.
const (
	http2Preface = "PRI * HTTP/2.0"
	raftMagic    = "mp-raft\n"
	greetingSize = len(raftMagic) + 1 + sha256.Size + 1
)

type verdict byte

const (
	accepted verdict = iota
	wrongProtocol
	wrongToken
	wrongNode
	wrongRole

	saidInTLS = verdict(tlsAlert) // by somebody who does not understand a greeting in plain
)

func (v verdict) err() error {
	switch v {
	case accepted:
		return nil
	case wrongProtocol:
		return errors.New("it is a coordinator of another version: use the same mp everywhere")
	case wrongToken:
		return errors.New("it has another token: give all coordinators the same")
	case wrongNode:
		return errors.New("it is another coordinator than the list says: give all coordinators the same --peers, and each its own ID")
	case wrongRole:
		return errors.New("it wants a coordinator's certificate")
	case saidInTLS:
		return errors.New("it speaks TLS and this one does not: give all coordinators the same --tls and --token")
	}
	return errors.New("it is not a coordinator of mp")
}

// badRequest begins an answer that a browser can show.
const badRequest = "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n"

// door hands the connections of one listener to two.
type door struct {
	listener net.Listener
	id       string // of this node
	token    [sha256.Size]byte
	patience time.Duration // for the first bytes
	log      *slog.Logger
	trust    *tls.Config // nil: plain TCP
	desk     *trust.Desk // nil: nobody can join here
	waiting  chan struct{}

	grpc, raft *lane
}

// mostWaiting is how many connections may be between their arrival and being handed on; others wait in the system's queue. None
// is there for longer than the door's patience, a second or two.
const mostWaiting = 512

func newDoor(l net.Listener, cfg Config) *door {
	d := &door{
		listener: l, id: cfg.ID, token: hideToken(cfg.Token), patience: max(cfg.FailAfter, time.Second), log: cfg.logger(),
		desk: cfg.Desk, waiting: make(chan struct{}, mostWaiting), grpc: newLane(l.Addr()), raft: newLane(l.Addr()),
	}
	switch {
	case cfg.Desk != nil:
		d.trust = cfg.Trust.ServerWithDesk(trust.Roles()...) // what each may do is admitCall's matter
	case cfg.Trust != nil:
		d.trust = cfg.Trust.Server(trust.Roles()...)
	}
	return d
}

func hideToken(token string) [sha256.Size]byte { return sha256.Sum256([]byte("mp raft " + token)) }

// run accepts until ctx ends, and returns when every connection is handed on or closed.
func (d *door) run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { d.listener.Close() })
	defer stop()
	defer d.grpc.Close()
	defer d.raft.Close()
	pause := time.Duration(0)
	for {
		conn, err := d.listener.Accept()
		if ctx.Err() != nil {
			if err == nil {
				conn.Close()
			}
			return nil
		}
		if errors.Is(err, net.ErrClosed) {
			return fmt.Errorf("accept connections at %s: %w", d.listener.Addr(), err)
		}
		if err != nil { // too many open files, for one: it passes
			if pause == 0 {
				d.log.Warn("cannot accept a connection; trying on", "address", d.listener.Addr().String(), "error", err)
			}
			pause = min(max(pause*2, 5*time.Millisecond), time.Second)
			select {
			case <-time.After(pause):
			case <-ctx.Done():
			}
			continue
		}
		pause = 0
		d.waiting <- struct{}{}
		wg.Go(func() {
			defer func() { <-d.waiting }()
			d.admit(ctx, conn)
		})
	}
}

// admit reads the first bytes of a connection and hands it on, or closes it.
func (d *door) admit(ctx context.Context, conn net.Conn) {
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	handed := false
	defer func() {
		stop()
		if !handed {
			conn.Close()
		}
	}()
	conn.SetDeadline(time.Now().Add(d.patience))
	if d.trust != nil {
		secure := d.secure(ctx, conn)
		if secure == nil {
			return
		}
		conn = secure
	}
	first := make([]byte, len(raftMagic))
	n, err := io.ReadFull(conn, first)
	switch {
	case err == nil && string(first) == http2Preface[:len(first)]:
		stop()
		conn.SetDeadline(time.Time{})
		handed = d.grpc.put(ctx, &prefixed{Conn: conn, first: first})
	case err == nil && string(first) == raftMagic:
		v := d.greet(conn)
		if v != accepted {
			d.log.Warn("refused another coordinator", "remote", conn.RemoteAddr().String(), "error", v.err())
		}
		if _, err := conn.Write([]byte{byte(v)}); err != nil || v != accepted {
			return
		}
		stop()
		conn.SetDeadline(time.Time{})
		handed = d.raft.put(ctx, conn)
	case n > 0:
		d.log.Warn("refused a connection that speaks another protocol", "remote", conn.RemoteAddr().String(), "first", fmt.Sprintf("%q", first[:n]))
		// A browser or curl gets an answer that it can show.
		io.WriteString(conn, badRequest+"This is a coordinator of mp: it speaks gRPC (mppb/mp.proto). Use mp jobs --coordinator.\n")
	}
}

// greet reads the rest of a raft connection's greeting.
func (d *door) greet(conn net.Conn) verdict {
	rest := make([]byte, greetingSize-len(raftMagic))
	if _, err := io.ReadFull(conn, rest); err != nil || rest[0] != mppb.Protocol {
		return wrongProtocol
	}
	id := make([]byte, rest[len(rest)-1])
	if _, err := io.ReadFull(conn, id); err != nil {
		return wrongProtocol
	}
	if subtle.ConstantTimeCompare(rest[1:1+sha256.Size], d.token[:]) != 1 {
		return wrongToken
	}
	if string(id) != d.id {
		return wrongNode
	}
	if d.trust != nil && !isCoordinator(conn) {
		return wrongRole
	}
	return accepted
}

// introduce is the caller's side of greet. It leaves no deadline behind.
func introduce(conn net.Conn, id string, token [sha256.Size]byte, timeout time.Duration) error {
	conn.SetDeadline(time.Now().Add(timeout))
	greeting := append([]byte(raftMagic), mppb.Protocol)
	greeting = append(greeting, token[:]...)
	greeting = append(append(greeting, byte(len(id))), id...)
	if _, err := conn.Write(greeting); err != nil {
		return err
	}
	answer := make([]byte, 1)
	if _, err := io.ReadFull(conn, answer); err != nil {
		return fmt.Errorf("read the answer to a greeting: %w", err)
	}
	conn.SetDeadline(time.Time{})
	return verdict(answer[0]).err()
}

// prefixed gives back bytes that were read to look at them.
type prefixed struct {
	net.Conn
	first []byte
}

// NetConn is what the bytes come from.
func (p *prefixed) NetConn() net.Conn { return p.Conn }

func (p *prefixed) Read(b []byte) (int, error) {
	if len(p.first) > 0 {
		n := copy(b, p.first)
		p.first = p.first[n:]
		return n, nil
	}
	return p.Conn.Read(b)
}

// lane is a net.Listener that gets its connections from a door.
type lane struct {
	address net.Addr
	conns   chan net.Conn
	once    sync.Once
	closed  chan struct{}
}

// takeWithin is how long a connection waits for somebody who accepts it: raft pauses while its disk is full.
const takeWithin = time.Second

func newLane(a net.Addr) *lane {
	return &lane{address: a, conns: make(chan net.Conn), closed: make(chan struct{})}
}

// put hands a connection to whoever accepts, and says whether somebody took it.
func (l *lane) put(ctx context.Context, c net.Conn) bool {
	timer := time.NewTimer(takeWithin)
	defer timer.Stop()
	select {
	case l.conns <- c:
		return true
	case <-l.closed:
	case <-ctx.Done():
	case <-timer.C:
	}
	return false
}

func (l *lane) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *lane) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *lane) Addr() net.Addr { return l.address }
