package mppb

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"sync/atomic"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"

	"mp/trust"
)

// Shown are the credentials of a server whose listener may speak TLS: they finish the handshake and keep whom it showed, for
// CallerOf. Connections without TLS are as good as they are without credentials.
func Shown() credentials.TransportCredentials { return shown{} }

type shown struct{}

// caller is what a call's context knows of its connection.
type caller struct {
	credentials.CommonAuthInfo
	trust.Party
	conn *heard // nil without TLS
}

// Broke is what TLS found wrong with a connection, such as a record that changed on its way; nil: nothing, or there is no TLS.
// gRPC does not tell the handler of a stream.
func (c caller) Broke() error {
	if c.conn == nil {
		return nil
	}
	if err := c.conn.wrong.Load(); err != nil {
		return *err
	}
	return nil
}

// heard is a connection that keeps what TLS found wrong with it.
type heard struct {
	net.Conn
	wrong atomic.Pointer[error]
}

func (h *heard) Read(b []byte) (int, error) {
	n, err := h.Conn.Read(b)
	if err != nil {
		h.keep(err)
	}
	return n, err
}

func (h *heard) keep(err error) {
	if alert, ok := errors.AsType[*net.OpError](err); ok && (alert.Op == "local error" || alert.Op == "remote error") { // crypto/tls calls its alerts so
		h.wrong.CompareAndSwap(nil, &err)
	}
}

func (caller) AuthType() string { return "mp" }

// CallerOf is who makes a call; nobody's zero without TLS.
func CallerOf(ctx context.Context) trust.Party {
	if p, ok := peer.FromContext(ctx); ok {
		if c, ok := p.AuthInfo.(caller); ok {
			return c.Party
		}
	}
	return trust.Party{}
}

// ServerHandshake blocks until the handshake is over; the server has set the connection's deadline.
func (shown) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	var c caller
	for inner := conn; ; {
		if secure, ok := inner.(*tls.Conn); ok {
			if err := secure.HandshakeContext(context.Background()); err != nil {
				return nil, nil, err
			}
			c.SecurityLevel = credentials.PrivacyAndIntegrity
			var err error
			c.Party, err = trust.PeerOf(secure.ConnectionState())
			c.conn = &heard{Conn: conn}
			return c.conn, c, err
		}
		wrapped, ok := inner.(interface{ NetConn() net.Conn })
		if !ok {
			return conn, c, nil
		}
		inner = wrapped.NetConn()
	}
}

// ClientHandshake is for nobody: these are a server's credentials.
func (shown) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("a server's credentials are no client's")
}

func (shown) Info() credentials.ProtocolInfo            { return credentials.ProtocolInfo{SecurityProtocol: "mp"} }
func (s shown) Clone() credentials.TransportCredentials { return s }
func (shown) OverrideServerName(string) error           { return nil }
