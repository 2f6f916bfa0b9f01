package nats

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	client "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Keys of log records.
const (
	keyURL   = "url"
	keyError = "error"
	keyJob   = "job"
	keyCount = "events"
)

// How a connection behaves.
const (
	dialTimeout     = 2 * time.Second
	reconnectEvery  = 250 * time.Millisecond
	reconnectJitter = 250 * time.Millisecond // a thousand workers do not come back at once
	pingEvery       = 5 * time.Second        // a server that vanished without a word is noticed after two to three of these
	pingsLost       = 2
	writeTimeout    = 2 * time.Second // bounds how long Close waits for a server that reads nothing
)

// connection is what connect needs.
type connection struct {
	url         string
	credentials Credentials
	tls         *tls.Config // nil: what the URL says, with the system's authorities
	name        string      // for people who look at the server
	log         *slog.Logger
	changed     chan<- struct{} // told, without blocking, when the connection comes or goes
	inProcess   client.InProcessConnProvider
}

// connect returns a connection that comes and goes by itself until it is closed; the first attempt need not succeed.
// What it logs, it logs once a change. The end of ctx ends an attempt under way.
func (c connection) connect(ctx context.Context) (*client.Conn, error) {
	state := &awayLog{log: c.log.With(keyURL, redact(c.url))}
	tell := func() {
		select {
		case c.changed <- struct{}{}:
		default:
		}
	}
	options := []client.Option{
		client.Name(c.name), client.Timeout(dialTimeout), client.SetCustomDialer(dialer{ctx}),
		client.RetryOnFailedConnect(true), client.MaxReconnects(-1), client.IgnoreAuthErrorAbort(),
		client.ReconnectWait(reconnectEvery), client.ReconnectJitter(reconnectJitter, reconnectJitter),
		client.PingInterval(pingEvery), client.MaxPingsOutstanding(pingsLost), client.FlusherTimeout(writeTimeout),
		client.ReconnectBufSize(-1), // what waits, waits in our own queue
		client.ConnectHandler(func(*client.Conn) { state.back(); tell() }),
		client.ReconnectHandler(func(*client.Conn) { state.back(); tell() }),
		client.DisconnectErrHandler(func(_ *client.Conn, err error) {
			if err != nil { // else we closed it
				state.away(err)
			}
			tell()
		}),
		client.ReconnectErrHandler(func(_ *client.Conn, err error) { state.away(err) }),
		client.ErrorHandler(func(_ *client.Conn, _ *client.Subscription, err error) { state.trouble(err) }),
	}
	if c.tls != nil {
		options = append(options, client.Secure(c.tls))
	}
	if c.inProcess != nil {
		options = append(options, client.InProcessServer(c.inProcess))
	}
	nc, err := client.Connect(c.url, append(options, c.credentials.options()...)...)
	if err != nil {
		return nil, fmt.Errorf("connect to NATS at %s with %s: %w", redact(c.url), c.credentials, err)
	}
	return nc, nil
}

// sessions runs one session after another on a connection of its own until ctx ends, and returns nil then. A session returns
// what went wrong, which is told as an interruption, once while it stays the same; the next one begins when the connection
// comes back, or after a while.
func (c connection) sessions(ctx context.Context, interruption string, session func(jetstream.JetStream) error) error {
	changed := make(chan struct{}, 1)
	c.changed = changed
	nc, err := c.connect(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return fmt.Errorf("use NATS at %s: %w", redact(c.url), err)
	}
	for said := ""; ctx.Err() == nil; {
		if nc.IsConnected() {
			err := session(js)
			text := fmt.Sprint(err)
			if ctx.Err() == nil && nc.IsConnected() && !errors.Is(err, client.ErrDisconnected) && text != said {
				c.log.Warn(interruption, keyError, text)
				said = text
			}
		}
		select {
		case <-ctx.Done():
		case <-changed:
		case <-time.After(retryEvery):
		}
	}
	return nil
}

// dialer dials until its context ends.
type dialer struct{ ctx context.Context }

// Dial connects to address.
func (d dialer) Dial(network, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(d.ctx, dialTimeout)
	defer cancel()
	return (&net.Dialer{}).DialContext(ctx, network, address)
}

// awayLog says once that a server is away, why, and that it is back.
type awayLog struct {
	log *slog.Logger

	mu     sync.Mutex
	isAway bool
	said   string
}

func (a *awayLog) away(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	text := err.Error()
	if !a.isAway || text != a.said {
		a.log.Warn("NATS is away; metrics wait", keyError, text)
	}
	a.isAway, a.said = true, text
}

func (a *awayLog) back() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.isAway {
		a.log.Info("NATS is back")
	}
	a.isAway, a.said = false, ""
}

// trouble is another error, such as a missing permission.
func (a *awayLog) trouble(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if text := err.Error(); text != a.said {
		a.log.Warn("the connection to NATS has an error", keyError, text)
		a.said = text
	}
}

// logger is l, or one that says nothing.
func logger(l *slog.Logger) *slog.Logger {
	if l == nil {
		return slog.New(slog.DiscardHandler)
	}
	return l
}
