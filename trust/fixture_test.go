package trust

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"sync"
	"testing"
	"time"
)

// clock is a time that tests move.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func newClock() *clock { return &clock{t: time.Date(2030, 1, 1, 12, 0, 0, 0, time.UTC)} }

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) move(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

const secret = "a secret of the tests, long enough"

func authority(t *testing.T, secret string, c *clock) *Authority {
	t.Helper()
	a, err := NewAuthority(secret, c.now)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func identity(t *testing.T, a *Authority, role Role) *Identity {
	t.Helper()
	i, err := a.Identity(Party{role, "test"})
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// station is a server for one configuration: it says "hello" to whom it lets in, and serves joins at its desk.
type station struct {
	address string
	got     chan error // of every connection, what the handshake or the desk came to
}

func serve(t *testing.T, config *tls.Config, desk *Desk) *station {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &station{l.Addr().String(), make(chan error, 1000)}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			raw, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				conn := tls.Server(raw, config)
				defer conn.Close()
				conn.SetDeadline(time.Now().Add(20 * time.Second))
				err := conn.HandshakeContext(context.Background())
				switch {
				case err != nil:
				case Joining(conn.ConnectionState()):
					_, err = desk.Serve(conn)
				default:
					_, err = io.WriteString(conn, "hello")
				}
				s.got <- err
			})
		}
	})
	t.Cleanup(func() { l.Close(); wg.Wait() })
	return s
}

// hello connects and returns what both sides came to.
func (s *station) hello(t *testing.T, dial Dialer) (here, there error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	conn, err := dial(ctx, s.address)
	if err != nil {
		return err, <-s.got
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	_, err = io.ReadFull(conn, make([]byte, 5))
	return err, <-s.got
}

// joiner has a token of a role for a station.
func joiner(s *station, token Token, c *clock) Joiner {
	return Joiner{Token: token, Name: "joiner", Addresses: []string{s.address}, Dial: DialTCP, Now: c.now}
}
