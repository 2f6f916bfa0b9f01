package mppb

import (
	"context"
	"crypto/tls"
	"net"
	"strings"
	"testing"
	"time"

	"mp/trust"
)

// A record that changes on its way is told to whoever asks why the connection broke; one that ends is not wrong.
func TestWhatTLSFindsWrongIsKept(t *testing.T) {
	a, err := trust.NewAuthority("the secret of a cluster of tests", time.Now)
	if err != nil {
		t.Fatal(err)
	}
	who, err := a.Identity(trust.Party{Role: trust.Worker, Name: "w"})
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		then func(net.Conn) error
		want string
	}{
		"changed": {func(raw net.Conn) error {
			_, err := raw.Write(append([]byte{23, 3, 3, 0, 32}, make([]byte, 32)...)) // a record of application data, and no key made it
			return err
		}, "bad record MAC"},
		"ended": {func(raw net.Conn) error { return raw.Close() }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			var raw net.Conn
			dialed := make(chan error, 1)
			go func() {
				var err error
				if raw, err = trust.DialTCP(context.Background(), l.Addr().String()); err == nil {
					err = tls.Client(raw, who.Dialing(trust.Worker)).Handshake()
				}
				dialed <- err
			}()
			conn, err := l.Accept()
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			served, info, err := Shown().ServerHandshake(tls.Server(conn, who.Server(trust.Worker)))
			if err != nil {
				t.Fatal(err)
			}
			if err := <-dialed; err != nil {
				t.Fatal(err)
			}
			defer raw.Close()
			if err := c.then(raw); err != nil {
				t.Fatal(err)
			}
			if _, err := served.Read(make([]byte, 1)); err == nil {
				t.Fatal("it was read")
			}
			got := ""
			if err := info.(interface{ Broke() error }).Broke(); err != nil {
				got = err.Error()
			}
			if (c.want == "") != (got == "") || !strings.Contains(got, c.want) {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}
