package mppb

import (
	"context"
	"fmt"
	"net"
	"slices"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"
)

// gRPC's own keepalive is not used: on both sides it compares readings of the wall clock, and when a host's clock is set back it
// takes every connection of that host for dead, however busy it is. Three things stand for it: the system's keepalive finds
// hosts that are gone (Listen), a client asks a coordinator that takes long to answer whether it lives (attend), and a server
// does not wait for ever in the middle of a stream (Patience).

// NoKeepalive turns gRPC's own off at a server.
func NoKeepalive() grpc.ServerOption {
	const never = 1<<63 - 1
	return grpc.KeepaliveParams(keepalive.ServerParameters{Time: never})
}

// Listen is net.Listen for TCP whose connections end when the other host has not been heard from for about three times silence, at
// least a second each.
func Listen(address string, silence time.Duration) (net.Listener, error) {
	silence = max(silence, time.Second)
	config := net.ListenConfig{
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: silence, Interval: silence, Count: 2},
		Control:         unansweredFor(3 * silence),
	}
	return config.Listen(context.Background(), "tcp", address)
}

// lookTwice runs f when d and a quarter have passed. The quarter is for a process that was stopped and goes on: it finds its timer run
// out and what has come meanwhile unread.
func lookTwice(d time.Duration, f func()) *time.Timer {
	var timer *time.Timer
	var again atomic.Bool
	set := make(chan struct{})
	timer = time.AfterFunc(d, func() {
		<-set
		if again.Swap(true) {
			f()
			return
		}
		timer.Reset(d / 4)
	})
	close(set)
	return timer
}

// Patience ends every stream, but those of the methods named, whose other side has neither sent nor taken the next message within d:
// with DEADLINE_EXCEEDED. A client that is stopped does not keep its place in a server for ever.
func Patience(d time.Duration, but ...string) grpc.StreamServerInterceptor {
	return func(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		if !slices.Contains(but, info.FullMethod) {
			stream = &patient{stream, d}
		}
		return handler(srv, stream)
	}
}

type patient struct {
	grpc.ServerStream
	patience time.Duration
}

func (p *patient) RecvMsg(m any) error {
	return p.within("sent nothing", func() error { return p.ServerStream.RecvMsg(m) })
}

func (p *patient) SendMsg(m any) error {
	return p.within("taken nothing", func() error { return p.ServerStream.SendMsg(m) })
}

// within returns what f does, or an error when that takes too long: the handler then returns it, which ends the stream and f with it.
func (p *patient) within(what string, f func() error) error {
	done, late := make(chan error, 1), make(chan struct{})
	go func() { done <- f() }()
	timer := lookTwice(p.patience, func() { close(late) })
	defer timer.Stop()
	select {
	case err := <-done:
		return err
	case <-late:
		return status.Errorf(codes.DeadlineExceeded, "you have %s for %s", what, p.patience)
	}
}

// attend watches over a call that has begun and may take long: while it lasts, the coordinator is asked now and then whether it lives,
// and when it does not say so in time the connection is cut, which ends all of its calls with UNAVAILABLE. The call's end must call
// stop.
func (c *clientConn) attend(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx)) // with the call's metadata
	timer := time.AfterFunc(c.silence, func() {
		pause := time.NewTicker(c.silence)
		defer pause.Stop()
		for ctx.Err() == nil {
			asking, answered := context.WithTimeout(ctx, c.silence*3/2)
			_, err := healthpb.NewHealthClient(c.ClientConn).Check(asking, &healthpb.HealthCheckRequest{})
			answered()
			if ctx.Err() == nil && status.Code(err) == codes.DeadlineExceeded { // any other answer is one
				c.cut(fmt.Sprintf("no sign of life for %s", c.silence*5/2))
			}
			select {
			case <-ctx.Done():
			case <-pause.C:
			}
		}
	})
	return func() {
		cancel()
		timer.Stop()
	}
}

// cut closes the connection that is in use, if there is one.
func (c *clientConn) cut(why string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn != nil {
		c.conn.Close()
		c.conn, c.dialled = nil, why
	}
}

func (c *clientConn) attendCall(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	if method != healthpb.Health_Check_FullMethodName {
		defer c.attend(ctx)()
	}
	return invoker(ctx, method, req, reply, cc, opts...)
}

// attendStream leaves sessions alone, which have signs of life of their own (watchSession).
func (c *clientConn) attendStream(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	if method == Control_Session_FullMethodName {
		return streamer(ctx, desc, cc, method, opts...)
	}
	stop := c.attend(ctx)
	s, err := streamer(ctx, desc, cc, method, append(opts, grpc.OnFinish(func(error) { stop() }))...)
	if err != nil {
		stop()
	}
	return s, err
}
