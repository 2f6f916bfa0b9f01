package mppb

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// ErrForeign is matched (errors.Is) by Client.Do's error when what answers at every address is something else than a
// coordinator of mp: trying again does not help.
var ErrForeign = errors.New("not a coordinator of mp")

// Keys of the metadata that a Client sends with every call.
const (
	TokenKey    = "mp-token"
	ProtocolKey = "mp-protocol"
)

// ClientConfig says how coordinators are found. NewClient keeps a copy.
type ClientConfig struct {
	// Addresses are host:port of one or more coordinators of a cluster, in the order in which they are tried.
	Addresses []string
	// Token is the cluster's secret; empty: none.
	Token string
	// FailAfter is how long a coordinator may take to accept a connection, and how long it may be silent in a session that
	// has not been told otherwise. 0: one second.
	FailAfter time.Duration
	// Dial opens connections, with TLS where the cluster speaks it. Nil: plain TCP.
	Dial func(ctx context.Context, address string) (net.Conn, error)
	// Logger is told at Warn when nobody has answered for a while, and at Info when somebody does again. Nil: nobody is told.
	Logger *slog.Logger
}

// Validate returns what is wrong with the configuration, or nil.
func (c ClientConfig) Validate() error {
	if len(c.Addresses) == 0 {
		return errors.New("no address of a coordinator is given: pass --coordinator HOST:PORT")
	}
	for _, a := range c.Addresses {
		if host, port, err := net.SplitHostPort(a); err != nil || host == "" || port == "" {
			return fmt.Errorf("address %q of a coordinator is not HOST:PORT", a)
		}
	}
	return nil
}

// Client reaches whichever coordinator of a cluster leads. Its methods may be called from any goroutine.
type Client struct {
	cfg ClientConfig

	mu     sync.Mutex
	conns  map[string]*clientConn
	leader string // presumed; empty: not known
	next   int    // index of the address to try when no leader is known
	closed bool
}

// NewClient checks the configuration. It connects to nobody yet.
func NewClient(cfg ClientConfig) (*Client, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if cfg.FailAfter == 0 {
		cfg.FailAfter = time.Second
	}
	if cfg.Dial == nil {
		cfg.Dial = func(ctx context.Context, address string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "tcp", address)
		}
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	cfg.Addresses = slices.Clone(cfg.Addresses)
	return &Client{cfg: cfg, conns: map[string]*clientConn{}}, nil
}

// Close ends every connection and with them every call and stream.
func (c *Client) Close() error {
	c.mu.Lock()
	conns := c.conns
	c.conns, c.closed = nil, true
	c.mu.Unlock()
	var all []error
	for _, conn := range conns {
		all = append(all, conn.Close())
	}
	return errors.Join(all...)
}

// Do calls f with a connection to the leader, as far as it is known. When f returns an error with code UNAVAILABLE, Do
// follows the Leader detail or tries the next address, waiting longer and longer up to a second, and calls f again until
// ctx ends. Whatever else f returns, Do returns. f must be fit to be called again after it was half done.
//
// When ctx ends, or nothing at any address is a coordinator (ErrForeign), the error names every address and what happened
// there.
//
// f may open a stream and live in it for hours. In a Session that gives no sign of life, Recv returns UNAVAILABLE.
func (c *Client) Do(ctx context.Context, f func(ctx context.Context, conn grpc.ClientConnInterface) error) error {
	t := trial{client: c, quiet: time.Now()}
	for {
		address, conn, err := c.pick()
		if err != nil {
			return err
		}
		if t.hops++; t.hops == 1 { // of a new round: connect at once where a break put gRPC's own back-off
			conn.wake()
		}
		began := time.Now()
		err = f(metadata.AppendToOutgoingContext(ctx, c.metadata()...), conn)
		if time.Since(began) > c.cfg.FailAfter && conn.answered() {
			t.restart()
		}
		if ctx.Err() != nil && err != nil {
			if status.Code(err) == codes.DeadlineExceeded { // the next call begins with another coordinator
				c.redirect(address, nil)
			}
			return t.explain(context.Cause(ctx))
		}
		if status.Code(err) != codes.Unavailable {
			t.answer(address)
			return clarify(address, err)
		}
		if conn.foreign() == "" && leaderOf(err) != nil {
			t.answer(address)
		}
		if c.allForeign() {
			return t.explain(ErrForeign)
		}
		if c.redirect(address, err) && t.hops < 4 {
			continue
		}
		if err := t.wait(ctx); err != nil {
			return err
		}
	}
}

// leaderOf returns the Leader detail of an error, or nil.
func leaderOf(err error) *Leader {
	s, ok := status.FromError(err)
	if !ok {
		return nil
	}
	for _, d := range s.Details() {
		if l, ok := d.(*Leader); ok {
			return l
		}
	}
	return nil
}

// NotLeader is the error with which a coordinator that does not lead names the one that does.
func NotLeader(l *Leader) error {
	text := "this coordinator does not lead, and none is known to"
	if l.GetAddress() != "" {
		text = fmt.Sprintf("this coordinator does not lead: ask %s at %s", l.Id, l.Address)
	}
	s, err := status.New(codes.Unavailable, text).WithDetails(l)
	if err != nil { // a message of our own that cannot be encoded
		panic("mppb: attach a Leader: " + err.Error())
	}
	return s.Err()
}

// clarify gives errors that say nothing to a person a sentence.
func clarify(address string, err error) error {
	switch status.Code(err) {
	case codes.Unimplemented:
		return fmt.Errorf("%s answers gRPC but does not know this call: %w, or one of another version (%w)", address, ErrForeign, err)
	case codes.ResourceExhausted:
		if strings.Contains(err.Error(), "message larger than max") {
			return fmt.Errorf("a message to or from %s is larger than %d bytes: %w", address, MaxMessageBytes, err)
		}
	}
	return err
}

func (c *Client) metadata() []string {
	kv := []string{ProtocolKey, fmt.Sprint(Protocol)}
	if c.cfg.Token != "" {
		kv = append(kv, TokenKey, c.cfg.Token)
	}
	return kv
}

// pick returns whom to ask next.
func (c *Client) pick() (string, *clientConn, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return "", nil, errors.New("the client of the coordinators is closed")
	}
	address := c.leader
	if address == "" {
		address = c.cfg.Addresses[c.next]
	}
	conn, ok := c.conns[address]
	if !ok {
		var err error
		if conn, err = dial(c.cfg, address); err != nil {
			return "", nil, fmt.Errorf("prepare a connection to %s: %w", address, err)
		}
		c.conns[address] = conn
	}
	return address, conn, nil
}

// redirect chooses whom to ask after address was of no use, and says whether a leader was named.
func (c *Client) redirect(address string, err error) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if l := leaderOf(err); l != nil && l.Address != "" && l.Address != address {
		c.leader = l.Address
		return true
	}
	c.leader = ""
	c.next = (c.next + 1) % len(c.cfg.Addresses)
	return c.next != 0 // a round is over when the first is next
}

// allForeign says whether something else than a coordinator answered at every address.
func (c *Client) allForeign() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, a := range c.cfg.Addresses {
		if conn := c.conns[a]; conn == nil || conn.foreign() == "" {
			return false
		}
	}
	return true
}

// trial is one Do: how long to wait, and what to tell.
type trial struct {
	client *Client
	hops   int           // calls since the last wait
	pause  time.Duration // the last wait
	quiet  time.Time     // since when nobody has answered
	warned bool
}

const (
	firstPause = 25 * time.Millisecond
	lastPause  = time.Second
	warnAfter  = 3 * time.Second
)

func (t *trial) restart() { t.pause, t.quiet = 0, time.Now() }

func (t *trial) answer(address string) {
	if t.warned {
		t.client.cfg.Logger.Info("a coordinator answers again", "address", address, "after", time.Since(t.quiet).Round(time.Millisecond))
	}
	t.warned, t.quiet = false, time.Now()
}

func (t *trial) wait(ctx context.Context) error {
	if time.Since(t.quiet) > warnAfter && !t.warned {
		t.warned = true
		t.client.cfg.Logger.Warn(t.story()+"; trying on", "addresses", t.client.cfg.Addresses)
	}
	// Leaders are found within a few hundred milliseconds or not for long: ask often first.
	t.hops, t.pause = 0, min(max(firstPause, t.pause*3/2), lastPause)
	timer := time.NewTimer(t.pause)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return t.explain(context.Cause(ctx))
	}
}

// explain is the error of a Do that gives up because of cause.
func (t *trial) explain(cause error) error { return &unreachable{text: t.story(), cause: cause} }

// unreachable reads as a sentence and matches its cause.
type unreachable struct {
	text  string
	cause error
}

func (u *unreachable) Error() string { return u.text }
func (u *unreachable) Unwrap() error { return u.cause }

// story says what happened at every address.
func (t *trial) story() string {
	c := t.client
	c.mu.Lock()
	defer c.mu.Unlock()
	addresses := slices.Clone(c.cfg.Addresses)
	for a := range c.conns {
		if !slices.Contains(addresses, a) {
			addresses = append(addresses, a)
		}
	}
	slices.Sort(addresses[len(c.cfg.Addresses):])
	var nobody, others []string
	for _, a := range addresses {
		conn := c.conns[a]
		if conn == nil {
			nobody = append(nobody, a+" (not tried)")
			continue
		}
		switch what := conn.trouble(); {
		case conn.foreign() != "":
			others = append(others, fmt.Sprintf("what answers at %s is not a coordinator of mp: %s", a, conn.foreign()))
		case what != "":
			nobody = append(nobody, fmt.Sprintf("%s (%s)", a, what))
		case conn.GetState() == connectivity.Ready:
			others = append(others, fmt.Sprintf("the coordinator at %s knows no leader: is a majority of the coordinators running?", a))
		default:
			nobody = append(nobody, a+" (the connection broke)")
		}
	}
	var parts []string
	if len(nobody) > 0 {
		parts = append(parts, fmt.Sprintf("no coordinator answers at %s; is `mp coordinator` running there?", strings.Join(nobody, " or at ")))
	}
	return strings.Join(append(others, parts...), "; ")
}
