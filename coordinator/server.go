package coordinator

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"mp/coordinator/membership"
	"mp/mppb"
)

// control and cluster are the two services of a coordinator.
type (
	control struct {
		mppb.UnimplementedControlServer
		*Coordinator
	}
	cluster struct {
		mppb.UnimplementedClusterServer
		*Coordinator
	}
)

// nodeKey marks the calls of one coordinator to another, with its ID: they are answered from the node's own disk.
const nodeKey = "mp-node"

func fromNode(ctx context.Context) bool {
	return len(metadata.ValueFromIncomingContext(ctx, nodeKey)) > 0
}

func (c *Coordinator) newServer() *grpc.Server {
	second := max(c.cfg.FailAfter, time.Second)
	s := grpc.NewServer(
		grpc.Creds(mppb.Shown()),
		grpc.MaxRecvMsgSize(mppb.MaxMessageBytes), grpc.MaxSendMsgSize(mppb.MaxMessageBytes),
		grpc.InitialWindowSize(mppb.WindowBytes), grpc.InitialConnWindowSize(mppb.WindowBytes),
		mppb.NoKeepalive(), grpc.ConnectionTimeout(3*second),
		grpc.UnaryInterceptor(func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
			if err := c.admitCall(ctx, info.FullMethod); err != nil {
				return nil, err
			}
			return handler(ctx, req)
		}),
		// Whether a session is silent is for membership to say.
		grpc.ChainStreamInterceptor(mppb.Patience(10*second, mppb.Control_Session_FullMethodName), func(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
			if info.FullMethod != mppb.Control_Session_FullMethodName || c.cfg.Trust != nil { // which is refused in its own words
				if err := c.admitCall(stream.Context(), info.FullMethod); err != nil {
					return err
				}
			}
			return handler(srv, stream)
		}),
	)
	mppb.RegisterControlServer(s, &control{Coordinator: c})
	mppb.RegisterClusterServer(s, &cluster{Coordinator: c})
	healthpb.RegisterHealthServer(s, health.NewServer())
	return s
}

// admitCall looks at the certificate or the token, and at the protocol of a call.
func (c *Coordinator) admitCall(ctx context.Context, method string) error {
	if c.cfg.Trust != nil {
		if err := permit(ctx, method); err != nil {
			return err
		}
	}
	if v := metadata.ValueFromIncomingContext(ctx, mppb.ProtocolKey); len(v) > 0 && v[0] != fmt.Sprint(mppb.Protocol) {
		return status.Errorf(codes.FailedPrecondition, "this coordinator speaks protocol %d and you speak %s: use the same mp on both sides", mppb.Protocol, v[0])
	}
	if c.cfg.Token != "" && !sameToken(tokenOf(ctx), c.cfg.Token) {
		return status.Error(codes.Unauthenticated, "the token is missing or wrong: pass --token as the coordinators have it")
	}
	return nil
}

func sameToken(a, b string) bool { return subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1 }

// notLeader tells whom to ask instead.
func (c *Coordinator) notLeader() error {
	id, address := c.Leader()
	return mppb.NotLeader(&mppb.Leader{Id: id, Address: address})
}

// grpcError maps what a command came to onto gRPC's codes, in one place.
func (c *Coordinator) grpcError(result membership.Result, err error) error {
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return status.FromContextError(err).Err()
	case err != nil: // not leader any more, or the log cannot be written: somebody else may lead by now
		return c.notLeader()
	case result.Err == nil:
		return nil
	}
	code := codes.Internal
	for _, m := range []struct {
		err  error
		code codes.Code
	}{
		{membership.ErrJob, codes.InvalidArgument}, {membership.ErrCommand, codes.InvalidArgument}, {membership.ErrUnknown, codes.NotFound},
		{membership.ErrState, codes.FailedPrecondition}, {membership.ErrStale, codes.Aborted}, {membership.ErrRefused, codes.FailedPrecondition},
	} {
		if errors.Is(result.Err, m.err) {
			code = m.code
		}
	}
	return status.Error(code, result.Err.Error())
}
