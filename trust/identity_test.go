package trust

import (
	"context"
	"crypto/tls"
	"net"
	"strings"
	"testing"
	"time"
)

// bare is a Dialer without a certificate.
func bare(ctx context.Context, address string) (net.Conn, error) {
	return handshake(ctx, DialTCP, address, &tls.Config{InsecureSkipVerify: true})
}

func TestOnlyTheRightCertificatesAreLetIn(t *testing.T) {
	now := newClock()
	a, other := authority(t, secret, now), authority(t, secret+"!", now)
	s := serve(t, identity(t, a, Coordinator).Server(Coordinator, Worker), nil)
	late := newClock() // somebody whose certificate was made long ago
	late.move(-2 * Life)
	old := identity(t, authority(t, secret, late), Worker)
	forged := identity(t, other, Worker) // trusts us, but we do not trust it
	forged.roots = a.roots()
	old.now = now.now
	expired := func(ctx context.Context, address string) (net.Conn, error) { // the guard of its own side left out
		return handshake(ctx, DialTCP, address, old.Dialing(Coordinator))
	}
	for _, c := range []struct {
		name string
		dial Dialer
		want string // of the server; empty: let in
	}{
		{"a worker", identity(t, a, Worker).Over(DialTCP, Coordinator), ""},
		{"a coordinator", identity(t, a, Coordinator).Over(DialTCP, Coordinator), ""},
		{"no certificate", bare, "didn't provide a certificate"},
		{"an expired certificate", expired, "has expired"},
		{"another authority's", forged.Over(DialTCP, Coordinator), "another cluster's"},
		{"a role without business", identity(t, a, Client).Over(DialTCP, Coordinator), "certificate is that of a client"},
		{"a viewer", identity(t, a, Viewer).Over(DialTCP, Coordinator), "certificate is that of a viewer"},
		{"no TLS", DialTCP, "first record does not look like a TLS handshake"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.name == "no TLS" {
				conn, err := net.Dial("tcp", s.address)
				if err != nil {
					t.Fatal(err)
				}
				conn.Write([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"))
				defer conn.Close()
				if err := <-s.got; err == nil || !strings.Contains(err.Error(), c.want) {
					t.Errorf("the server says %v, want %q", err, c.want)
				}
				return
			}
			here, there := s.hello(t, c.dial)
			if c.want == "" {
				if here != nil || there != nil {
					t.Errorf("got %v here and %v there", here, there)
				}
				return
			}
			if here == nil || there == nil || !strings.Contains(there.Error(), c.want) {
				t.Errorf("got %v here and %v there, want %q", here, there, c.want)
			}
		})
	}
}

func TestOnlyTheRightServersAreSpokenTo(t *testing.T) {
	now := newClock()
	a, other := authority(t, secret, now), authority(t, secret+"!", now)
	worker := identity(t, a, Worker)
	for _, c := range []struct {
		name   string
		server *Identity
		want   string
	}{
		{"another authority's", identity(t, other, Coordinator), "another cluster's"},
		{"a worker for a coordinator", worker, "certificate is that of a worker"},
		{"a client that serves", identity(t, a, Client), "certificate is no good"}, // its use is not to serve
	} {
		s := serve(t, c.server.Server(Roles()...), nil)
		if here, _ := s.hello(t, worker.Over(DialTCP, Coordinator)); here == nil || !strings.Contains(here.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", c.name, here, c.want)
		}
	}
}

func TestAPlainServerIsNotSpokenTo(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		c.Write([]byte("HTTP/1.1 400 Bad Request\r\n\r\n"))
		c.Close()
	}()
	i := identity(t, authority(t, secret, newClock()), Worker)
	if _, err := i.Over(DialTCP, Coordinator)(t.Context(), l.Addr().String()); err == nil || !strings.Contains(err.Error(), "speaks no TLS") {
		t.Errorf("got %v, want that it speaks no TLS", err)
	}
}

func TestCertificatesOfItsOwnAuthorityRenewThemselves(t *testing.T) {
	now := newClock()
	a := authority(t, secret, now)
	c, w := identity(t, a, Coordinator), identity(t, a, Worker)
	s := serve(t, c.Server(Worker), nil)
	first, _ := w.current()
	now.move(Life / 4)
	if again, _ := w.current(); again != first {
		t.Error("renewed before half of its life was over")
	}
	for range 10 { // ten lives, without a restart
		now.move(Life)
		if here, there := s.hello(t, w.Over(DialTCP, Coordinator)); here != nil || there != nil {
			t.Fatalf("got %v here and %v there", here, there)
		}
	}
	if second, _ := w.current(); second.Leaf.SerialNumber.Cmp(first.Leaf.SerialNumber) == 0 || !w.Due().IsZero() {
		t.Errorf("the same certificate after ten lives, or somebody has to renew it (%v)", w.Due())
	}
}

func TestTheSameSecretIsTheSameAuthority(t *testing.T) {
	now := newClock()
	a, b := authority(t, secret, now), authority(t, secret, now)
	if a.fingerprint() != b.fingerprint() {
		t.Error("two authorities of one secret have different certificates")
	}
	if a.fingerprint() == authority(t, secret+"!", now).fingerprint() {
		t.Error("two secrets have one authority")
	}
	if _, err := NewAuthority("too short", now.now); err != ErrSecret {
		t.Errorf("a short secret got %v, want ErrSecret", err)
	}
	if x, y := NewSecret(), NewSecret(); x == y || len(x) != 43 || IsToken(x) {
		t.Errorf("secrets %d and %d characters long, equal %v", len(x), len(y), x == y)
	}
	now.move(24 * 365 * 10 * time.Hour)
	if a.fingerprint() != authority(t, secret, now).fingerprint() {
		t.Error("another authority ten years later")
	}
}
