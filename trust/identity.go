package trust

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"
)

// What a handshake is about, beside what its bytes say later.
const joinProtocol = "mp-join/1"

// handshakeWithin bounds a handshake on the side that connects; whoever accepts has a bound of its own.
const handshakeWithin = 10 * time.Second

// Identity is a process's certificate, the authority that it trusts, and the TLS configurations that follow. They use the
// newest certificate at every handshake; connections that are open stay. Safe for concurrent use.
type Identity struct {
	roots *x509.CertPool
	now   func() time.Time
	// local gives the certificate to use, given the one in use (nil at first); nil: certificates come from a Desk, by Renew.
	local func(held *tls.Certificate) (*tls.Certificate, error)
	// remote asks for another certificate; used by Renew only.
	remote func(ctx context.Context, held *tls.Certificate) (*tls.Certificate, error)

	mu   sync.Mutex
	held *tls.Certificate
}

// current is the certificate to show now.
func (i *Identity) current() (*tls.Certificate, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.local == nil {
		return i.held, nil
	}
	c, err := i.local(i.held)
	if err == nil {
		i.held = c
	} else if i.held == nil {
		return nil, err
	}
	return i.held, nil // the old one, where there is no other: it may still do
}

// Party is who this identity speaks for.
func (i *Identity) Party() Party {
	c, err := i.current()
	if err != nil {
		return Party{}
	}
	p, err := partyOf(c.Leaf)
	if err != nil {
		return Party{}
	}
	return p
}

// Due is when Renew should be called; zero: never, it renews by itself.
func (i *Identity) Due() time.Time {
	if i.remote == nil {
		return time.Time{}
	}
	c, err := i.current()
	if err != nil {
		return time.Time{}
	}
	return dueAt(c.Leaf)
}

// Renew replaces the certificate by another one of the same party.
func (i *Identity) Renew(ctx context.Context) error {
	held, err := i.current()
	if err != nil || i.remote == nil {
		return err
	}
	c, err := i.remote(ctx, held)
	if err != nil {
		return fmt.Errorf("renew the certificate, good until %s: %w", held.Leaf.NotAfter.UTC().Format(time.DateTime), err)
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.held = c
	return nil
}

// retryAfter is the pause after a renewal that did not work.
const retryAfter = time.Minute

// Run renews the certificate whenever that is due, until ctx ends. trouble is told when it does not work; it goes on trying.
func (i *Identity) Run(ctx context.Context, trouble func(error)) {
	for wait := time.Duration(0); ; {
		due := i.Due()
		if due.IsZero() {
			return
		}
		wait = max(wait, due.Sub(i.now()))
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		wait = 0
		if err := i.Renew(ctx); err != nil && ctx.Err() == nil {
			trouble(err)
			wait = retryAfter
		}
	}
}

// base is what every connection has in common.
func (i *Identity) base() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, Time: i.now,
		SessionTicketsDisabled: true, // every connection shows a certificate that is good now
		GetCertificate:         func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return i.current() },
		GetClientCertificate:   func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return i.current() },
	}
}

// Server is the configuration for accepting connections of some roles.
func (i *Identity) Server(roles ...Role) *tls.Config {
	c := i.base()
	c.ClientAuth = tls.RequireAnyClientCert // which VerifyConnection looks at, by our own clock
	c.VerifyConnection = func(s tls.ConnectionState) error { return i.check(s, x509.ExtKeyUsageClientAuth, roles) }
	return c
}

// ServerWithDesk is Server for a listener at which processes may also join, without a certificate or with one to be renewed:
// Joining tells those connections.
func (i *Identity) ServerWithDesk(roles ...Role) *tls.Config {
	c := i.Server(roles...)
	join := i.base()
	join.NextProtos, join.ClientAuth = []string{joinProtocol}, tls.RequestClientCert
	join.VerifyConnection = func(s tls.ConnectionState) error {
		if len(s.PeerCertificates) == 0 {
			return nil
		}
		return i.check(s, x509.ExtKeyUsageClientAuth, Roles())
	}
	c.GetConfigForClient = func(h *tls.ClientHelloInfo) (*tls.Config, error) {
		if slices.Contains(h.SupportedProtos, joinProtocol) {
			return join, nil
		}
		return nil, nil
	}
	return c
}

// Joining says whether a connection wants a certificate, and nothing else: it may have none.
func Joining(s tls.ConnectionState) bool { return s.NegotiatedProtocol == joinProtocol }

// Dialing is the configuration for connecting to a server of some roles. The server's name does not matter: who it is says
// its certificate, and that nobody but the authority gives out.
func (i *Identity) Dialing(roles ...Role) *tls.Config {
	c := i.base()
	c.InsecureSkipVerify = true // VerifyConnection does it
	c.VerifyConnection = func(s tls.ConnectionState) error { return i.check(s, x509.ExtKeyUsageServerAuth, roles) }
	return c
}

// check refuses a connection whose other side is nobody that the authority knows, or not of these roles.
func (i *Identity) check(s tls.ConnectionState, usage x509.ExtKeyUsage, roles []Role) error {
	p, err := verified(s.PeerCertificates, i.roots, usage, i.now())
	if err != nil {
		return err
	}
	if !slices.Contains(roles, p.Role) {
		return fmt.Errorf("the certificate is that of a %s, which has no business here", p.Role)
	}
	return nil
}

// verified is who a chain of certificates speaks for.
func verified(chain []*x509.Certificate, roots *x509.CertPool, usage x509.ExtKeyUsage, now time.Time) (Party, error) {
	if len(chain) == 0 {
		return Party{}, errors.New("no certificate was shown")
	}
	between := x509.NewCertPool()
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	if _, err := chain[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{usage}}); err != nil {
		var invalid x509.CertificateInvalidError
		var unknown x509.UnknownAuthorityError
		switch {
		case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
			return Party{}, fmt.Errorf("the certificate has expired or is not good yet (by a clock that says %s): %w", now.UTC().Format(time.DateTime), err)
		case errors.As(err, &unknown):
			return Party{}, fmt.Errorf("the certificate is another cluster's: %w", err)
		}
		return Party{}, fmt.Errorf("the certificate is no good: %w", err)
	}
	return partyOf(chain[0])
}

// PeerOf is who is on the other side of a connection whose handshake is over and was made with an Identity's configuration.
func PeerOf(s tls.ConnectionState) (Party, error) {
	if len(s.PeerCertificates) == 0 {
		return Party{}, errors.New("no certificate was shown")
	}
	return partyOf(s.PeerCertificates[0])
}

// Dialer opens connections.
type Dialer func(ctx context.Context, address string) (net.Conn, error)

// DialTCP is the Dialer without anything.
func DialTCP(ctx context.Context, address string) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, "tcp", address)
}

// Over makes a Dialer of connections to servers of some roles, over those of another. A connection is returned when its
// handshake is over.
func (i *Identity) Over(dial Dialer, roles ...Role) Dialer {
	config := i.Dialing(roles...)
	return func(ctx context.Context, address string) (net.Conn, error) {
		if c, err := i.current(); err == nil && i.now().After(c.Leaf.NotAfter) {
			return nil, fmt.Errorf("this side's certificate has expired at %s and could not be renewed: start again with a fresh --token", c.Leaf.NotAfter.UTC().Format(time.DateTime))
		}
		return handshake(ctx, dial, address, config)
	}
}

// handshake connects and shakes hands.
func handshake(ctx context.Context, dial Dialer, address string, config *tls.Config) (*tls.Conn, error) {
	conn, err := dial(ctx, address)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, handshakeWithin)
	defer cancel()
	secure := tls.Client(conn, config)
	if err := secure.HandshakeContext(ctx); err != nil {
		conn.Close()
		if _, ok := errors.AsType[tls.RecordHeaderError](err); ok {
			return nil, fmt.Errorf("it speaks no TLS, which this side insists on: %w", err)
		}
		return nil, err
	}
	return secure, nil
}
