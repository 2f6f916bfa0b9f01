package mppb

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
)

// clientConn is a connection to one address that remembers why it does not work.
type clientConn struct {
	*grpc.ClientConn
	silence time.Duration // after which the coordinator is asked whether it lives

	mu       sync.Mutex
	conn     net.Conn // the last one
	dialled  string   // why the last attempt to connect did not; empty: it did
	stranger string   // what the other side said that no coordinator says
	ever     bool     // a coordinator has answered
}

func dial(cfg ClientConfig, address string) (*clientConn, error) {
	c := &clientConn{silence: cfg.FailAfter}
	conn, err := grpc.NewClient("passthrough:///"+address,
		grpc.WithTransportCredentials(insecure.NewCredentials()), // TLS is a matter of who dials: see ClientConfig.Dial
		grpc.WithContextDialer(func(ctx context.Context, a string) (net.Conn, error) {
			conn, err := cfg.Dial(ctx, a)
			if err != nil {
				c.refused(err)
				return nil, err
			}
			c.mu.Lock()
			c.conn = conn
			c.mu.Unlock()
			return &firstWords{Conn: conn, owner: c}, nil
		}),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: firstPause, Multiplier: 1.5, MaxDelay: lastPause},
			MinConnectTimeout: max(cfg.FailAfter, time.Second),
		}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(MaxMessageBytes), grpc.MaxCallSendMsgSize(MaxMessageBytes)),
		grpc.WithInitialWindowSize(WindowBytes), grpc.WithInitialConnWindowSize(WindowBytes),
		grpc.WithChainUnaryInterceptor(c.attendCall), grpc.WithChainStreamInterceptor(watchSession(cfg.FailAfter), c.attendStream),
		grpc.WithDisableServiceConfig(),
	)
	if err != nil {
		return nil, err
	}
	c.ClientConn = conn
	return c, nil
}

// wake connects at once if a pause of gRPC's own is running.
func (c *clientConn) wake() {
	if s := c.GetState(); s == connectivity.TransientFailure {
		c.ResetConnectBackoff()
	}
}

func (c *clientConn) refused(err error) {
	text := err.Error()
	var number syscall.Errno
	var lookup *net.DNSError
	switch {
	case errors.As(err, &number):
		text = number.Error()
	case errors.As(err, &lookup):
		text = "unknown host " + lookup.Name
	case errors.Is(err, context.DeadlineExceeded):
		text = "no answer"
	case errors.Is(err, context.Canceled):
		return
	}
	c.mu.Lock()
	c.dialled = text
	c.mu.Unlock()
}

func (c *clientConn) trouble() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.dialled
}

func (c *clientConn) foreign() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.stranger
}

func (c *clientConn) answered() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ever
}

// firstWords looks at what the other side says first: an HTTP/2 server begins with a SETTINGS frame.
type firstWords struct {
	net.Conn
	owner *clientConn
	said  []byte // at most frameHeader bytes; only the reader uses it
	done  bool
}

const frameHeader = 9

func (f *firstWords) Read(p []byte) (int, error) {
	n, err := f.Conn.Read(p)
	if f.done {
		return n, err
	}
	f.said = append(f.said, p[:min(n, 4*frameHeader-len(f.said))]...)
	const typeOfFrame, settings = 3, 4
	o := f.owner
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case len(f.said) > typeOfFrame && (f.said[typeOfFrame] != settings || f.said[0] != 0):
		f.done, o.stranger = true, describe(f.said)
	case len(f.said) >= frameHeader:
		f.done, o.stranger, o.dialled, o.ever = true, "", "", true
	case err != nil && len(f.said) == 0 && strings.HasPrefix(err.Error(), "remote error: tls:"):
		o.dialled = "it does not accept this side's certificate (" + err.Error() + "); it knows why"
	case err != nil && len(f.said) == 0:
		o.dialled = "it accepts connections and says nothing"
	}
	return n, err
}

// describe names the protocol of somebody's first words.
func describe(said []byte) string {
	switch {
	case bytes.HasPrefix(said, []byte("HTTP/1")):
		return "it is a web server"
	case said[0] == 0x15 && said[1] == 3:
		return "it speaks TLS and this side does not: give a join token or the cluster's secret with --token, or --tls on"
	case bytes.HasPrefix(said, []byte("INFO {")):
		return "it is a NATS server"
	}
	return fmt.Sprintf("it says %q", said)
}

// watchSession makes a Session's Recv fail with UNAVAILABLE when the coordinator gives no sign of life, and hides the signs.
func watchSession(silence time.Duration) grpc.StreamClientInterceptor {
	return func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
		if method != Control_Session_FullMethodName {
			return streamer(ctx, desc, cc, method, opts...)
		}
		ctx, cancel := context.WithCancel(ctx)
		s, err := streamer(ctx, desc, cc, method, opts...)
		if err != nil {
			cancel()
			return nil, err
		}
		w := &watched{ClientStream: s, cancel: cancel}
		w.silence.Store(int64(3 * silence)) // a leader may still be writing its log when a worker says Hello
		return w, nil
	}
}

type watched struct {
	grpc.ClientStream
	cancel  context.CancelFunc
	silence atomic.Int64 // nanoseconds
}

// RecvMsg is called by one goroutine at a time.
func (w *watched) RecvMsg(m any) error {
	for {
		silence := time.Duration(w.silence.Load())
		var broken atomic.Bool
		timer := lookTwice(silence, func() {
			broken.Store(true)
			w.cancel()
		})
		err := w.ClientStream.RecvMsg(m)
		timer.Stop()
		if err != nil {
			w.cancel()
			if broken.Load() {
				return status.Errorf(codes.Unavailable, "no sign of life from the coordinator for %s", silence.Round(time.Millisecond))
			}
			return err
		}
		message, ok := m.(*ToWorker)
		if !ok {
			return nil
		}
		switch {
		case message.GetMessage() == nil:
			continue
		case message.GetWelcome().GetFailAfterMs() > 0:
			w.silence.Store(int64(time.Duration(message.GetWelcome().FailAfterMs) * time.Millisecond))
		}
		return nil
	}
}

// Connect prepares a connection to one coordinator, and to no other. It connects when it is used.
func Connect(cfg ClientConfig, address string) (*grpc.ClientConn, error) {
	cfg.Addresses = []string{address}
	c, err := NewClient(cfg)
	if err != nil {
		return nil, err
	}
	conn, err := dial(c.cfg, address)
	if err != nil {
		return nil, err
	}
	return conn.ClientConn, nil
}
