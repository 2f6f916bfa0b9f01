package trust

import (
	"context"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

// A join is one question and one answer in TLS, each a length of four bytes and JSON. The question has a certificate request
// and, unless the connection shows a certificate to be renewed, what a token claims with the proof that the asker has it. The
// proof is bound to the connection and the request, so neither a record of it nor somebody in the middle can use it.
type question struct {
	Request []byte // a certificate request, DER
	Name    string
	Claim   []byte `json:",omitempty"` // of a token
	Proof   []byte `json:",omitempty"`
}

type answer struct {
	Certificate []byte `json:",omitempty"` // DER
	Secret      string `json:",omitempty"` // the cluster's, for a coordinator
	Refusal     string `json:",omitempty"`
	Busy        bool   `json:",omitempty"` // with a refusal: trying again may help
}

// Bounds of a join.
const (
	maxMessage = 16 << 10
	joinWithin = 10 * time.Second
)

// ErrRefused is in the chain of an error by which a Desk says that this token or certificate will not do: trying again does
// not help.
var ErrRefused = errors.New("refused by the coordinator")

// prove shows that somebody has a token, on one connection and for one request.
func prove(proof [16]byte, s tls.ConnectionState, request []byte) ([]byte, error) {
	bound, err := s.ExportKeyingMaterial("EXPORTER-mp-join", nil, 32)
	if err != nil {
		return nil, fmt.Errorf("bind a proof to its connection: %w", err)
	}
	m := hmac.New(sha256.New, proof[:])
	m.Write(bound)
	m.Write(request)
	return m.Sum(nil), nil
}

// Desk exchanges tokens for certificates, and certificates for fresh ones. Safe for concurrent use.
type Desk struct {
	authority *Authority
	limit     *limiter
}

// NewDesk makes the desk of an authority.
func NewDesk(a *Authority) *Desk { return &Desk{a, newLimiter(a.now)} }

// Serve answers one join on a connection that Joining said yes to, and does not close it. It returns who got a certificate,
// or why nobody did; both may be logged.
func (d *Desk) Serve(conn *tls.Conn) (Party, error) {
	conn.SetDeadline(time.Now().Add(joinWithin))
	host, _, err := net.SplitHostPort(conn.RemoteAddr().String())
	if err != nil {
		host = conn.RemoteAddr().String()
	}
	var q question
	if err := receive(conn, &q); err != nil {
		return Party{}, fmt.Errorf("read a join: %w", err)
	}
	if !d.limit.allow(host) {
		const busy = "too many joins from this address: once more in a moment"
		return Party{}, errors.Join(errors.New(busy), send(conn, answer{Refusal: busy, Busy: true}))
	}
	p, a, err := d.decide(conn.ConnectionState(), q)
	if err != nil {
		return Party{}, errors.Join(err, send(conn, answer{Refusal: err.Error()}))
	}
	return p, send(conn, a)
}

// decide looks at a join. Its errors are for both sides.
func (d *Desk) decide(s tls.ConnectionState, q question) (p Party, a answer, err error) {
	request, err := x509.ParseCertificateRequest(q.Request)
	if err != nil || request.CheckSignature() != nil {
		return p, a, errors.New("the certificate request cannot be read, or is not signed by its own key")
	}
	if _, ok := request.PublicKey.(ed25519.PublicKey); !ok {
		return p, a, errors.New("the certificate request's key is not Ed25519")
	}
	switch {
	case len(q.Claim) > 0:
		if p, err = d.holder(s, q); err != nil {
			return p, a, err
		}
	default:
		if p, err = PeerOf(s); err != nil { // which the handshake has verified
			return p, a, errors.New("a join needs a token, or a certificate to be renewed")
		}
	}
	p = p.clean()
	if p.Role == Coordinator {
		if len(q.Claim) == 0 {
			return p, a, errors.New("coordinators sign their own certificates")
		}
		a.Secret = d.authority.secret
	}
	a.Certificate, err = d.authority.issue(request.PublicKey, p)
	return p, a, err
}

// holder is who shows a token.
func (d *Desk) holder(s tls.ConnectionState, q question) (Party, error) {
	t, err := parseClaim(q.Claim)
	if err != nil {
		return Party{}, err
	}
	want, err := prove(d.authority.proofOf(t), s, q.Request)
	if err != nil {
		return Party{}, err
	}
	if !hmac.Equal(want, q.Proof) {
		return Party{}, errors.New("the token is not of this cluster, or is not whole")
	}
	if now := d.authority.now(); !now.Before(t.Expires) {
		return Party{}, fmt.Errorf("the token expired at %s: make another with mp token", t.Expires.UTC().Format(time.DateTime))
	}
	return Party{t.Role, q.Name}, nil
}

// Joiner is how a process gets a certificate for its token.
type Joiner struct {
	Token     Token
	Name      string   // for people
	Addresses []string // of coordinators, in the order in which they are tried
	Dial      Dialer
	Now       func() time.Time
	Trouble   func(error) // told why it is still without a certificate, when that changes; nil: nobody is
}

// Enroll asks the coordinators, in turn and again and again, until one gives a certificate, all that answer refuse
// (ErrRefused), or ctx ends. The identity renews itself while its Run runs.
func (j Joiner) Enroll(ctx context.Context) (*Identity, error) {
	i := &Identity{roots: x509.NewCertPool(), now: j.Now}
	first, root, _, err := j.insist(ctx, nil)
	if err != nil {
		return nil, err
	}
	i.held = first
	i.roots.AddCert(root)
	i.remote = func(ctx context.Context, held *tls.Certificate) (*tls.Certificate, error) {
		ctx, cancel := context.WithTimeout(ctx, joinWithin)
		defer cancel()
		if !j.Now().Before(held.Leaf.NotAfter) {
			held = nil // the token may still do
		}
		c, _, _, err := j.insist(ctx, held)
		return c, err
	}
	return i, nil
}

// Secret is Enroll for another coordinator: it returns the cluster's secret, of which it is the authority then.
func (j Joiner) Secret(ctx context.Context) (string, error) {
	_, _, secret, err := j.insist(ctx, nil)
	if err == nil && secret == "" {
		err = fmt.Errorf("%w: it gave a certificate and no secret", ErrRefused)
	}
	return secret, err
}

// insist tries every address until one gives what is wanted.
func (j Joiner) insist(ctx context.Context, held *tls.Certificate) (*tls.Certificate, *x509.Certificate, string, error) {
	said := ""
	for pause := 100 * time.Millisecond; ; pause = min(2*pause, 2*time.Second) {
		var errs []error
		final := 0
		for _, a := range j.Addresses {
			c, root, secret, err := j.ask(ctx, a, held)
			if err == nil {
				return c, root, secret, nil
			}
			if errors.Is(err, ErrRefused) {
				final++
			}
			errs = append(errs, fmt.Errorf("join at %s: %w", a, err))
		}
		err := errors.Join(errs...)
		if final == len(j.Addresses) {
			return nil, nil, "", err
		}
		if j.Trouble != nil && ctx.Err() == nil && err.Error() != said {
			said = err.Error()
			j.Trouble(err)
		}
		select {
		case <-ctx.Done():
			return nil, nil, "", err
		case <-time.After(pause):
		}
	}
}

// ask is one join.
func (j Joiner) ask(ctx context.Context, address string, held *tls.Certificate) (*tls.Certificate, *x509.Certificate, string, error) {
	fail := func(err error) (*tls.Certificate, *x509.Certificate, string, error) { return nil, nil, "", err }
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return fail(fmt.Errorf("make a key: %w", err))
	}
	request, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return fail(fmt.Errorf("ask for a certificate: %w", err))
	}
	var root *x509.Certificate
	config := &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{joinProtocol}, Time: j.Now,
		InsecureSkipVerify: true, // the token pins the authority
		VerifyConnection: func(s tls.ConnectionState) (err error) {
			root, err = j.pinned(s)
			return err
		},
	}
	if held != nil {
		config.Certificates = []tls.Certificate{*held}
	}
	conn, err := handshake(ctx, j.Dial, address, config)
	if err != nil {
		return fail(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(joinWithin))
	defer context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })()
	q := question{Request: request, Name: j.Name}
	if held == nil {
		q.Claim = j.Token.claim()
		if q.Proof, err = prove(j.Token.proof, conn.ConnectionState(), request); err != nil {
			return fail(err)
		}
	}
	if err := send(conn, q); err != nil {
		return fail(err)
	}
	var a answer
	if err := receive(conn, &a); err != nil {
		return fail(err)
	}
	switch {
	case a.Busy:
		return fail(errors.New(a.Refusal))
	case a.Refusal != "":
		return fail(fmt.Errorf("%w: %s", ErrRefused, a.Refusal))
	}
	c, err := certificate(a.Certificate, root.Raw, key)
	if err != nil {
		return fail(err)
	}
	if p, err := partyOf(c.Leaf); err != nil || p.Role != j.Token.Role || c.Leaf.CheckSignatureFrom(root) != nil {
		return fail(fmt.Errorf("%w: it gave another certificate than was asked for", ErrRefused))
	}
	return c, root, a.Secret, nil
}

// pinned finds the authority that the token names in what a server shows, and checks that the server is its coordinator.
func (j Joiner) pinned(s tls.ConnectionState) (*x509.Certificate, error) {
	for _, c := range s.PeerCertificates {
		if sha256.Sum256(c.Raw) != j.Token.fingerprint {
			continue
		}
		roots := x509.NewCertPool()
		roots.AddCert(c)
		p, err := verified(s.PeerCertificates, roots, x509.ExtKeyUsageServerAuth, j.Now())
		if err != nil {
			return nil, err
		}
		if p.Role != Coordinator {
			return nil, fmt.Errorf("%w: it is a %s and no coordinator", ErrRefused, p.Role)
		}
		return c, nil
	}
	return nil, fmt.Errorf("%w: it belongs to another cluster than the token, or somebody answers in its place", ErrRefused)
}

// send writes one message.
func send(w io.Writer, message any) error {
	text, err := json.Marshal(message)
	if err != nil {
		return fmt.Errorf("encode a join: %w", err)
	}
	_, err = w.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(text))), text...))
	return err
}

// receive reads one message.
func receive(r io.Reader, message any) error {
	size := make([]byte, 4)
	if _, err := io.ReadFull(r, size); err != nil {
		return err
	}
	n := binary.BigEndian.Uint32(size)
	if n > maxMessage {
		return fmt.Errorf("a message of %d bytes: %d is the most", n, maxMessage)
	}
	text := make([]byte, n)
	if _, err := io.ReadFull(r, text); err != nil {
		return err
	}
	return json.Unmarshal(text, message)
}
