package worker

import (
	"log/slog"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"mp/mppb"
	"mp/trust"
)

// From other machines workers copy states and clients send errands, each with a certificate and neither what is the other's;
// at the unix socket nobody is asked.
func TestTheDoorKnowsRoles(t *testing.T) {
	a, err := trust.NewAuthority("the secret of the tests", time.Now)
	if err != nil {
		t.Fatal(err)
	}
	who := func(role trust.Role) *trust.Identity {
		i, err := a.Identity(trust.Party{Role: role, Name: "test"})
		if err != nil {
			t.Fatal(err)
		}
		return i
	}
	d, err := listen(NodeConfig{Listen: "127.0.0.1:0", Machine: "m", Scratch: t.TempDir(), Trust: who(trust.Worker), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer d.close()
	d.serve(mppb.UnimplementedPeerServer{}, mppb.UnimplementedErrandsServer{})
	const let = codes.Unimplemented // here to nobody
	for _, c := range []struct {
		name           string
		target         string
		options        []grpc.DialOption
		state, errands codes.Code
	}{
		{"a worker", "passthrough:///" + d.address, []grpc.DialOption{grpc.WithContextDialer(who(trust.Worker).Over(trust.DialTCP, trust.Worker))}, let, codes.PermissionDenied},
		{"a client", "passthrough:///" + d.address, []grpc.DialOption{grpc.WithContextDialer(who(trust.Client).Over(trust.DialTCP, trust.Worker))}, codes.PermissionDenied, let},
		{"a viewer", "passthrough:///" + d.address, []grpc.DialOption{grpc.WithContextDialer(who(trust.Viewer).Over(trust.DialTCP, trust.Worker))}, codes.Unavailable, codes.Unavailable},
		{"no TLS", "passthrough:///" + d.address, nil, codes.Unavailable, codes.Unavailable},
		{"a process of this machine", "unix:" + d.socket, nil, let, let},
	} {
		conn, err := grpc.NewClient(c.target, append(c.options, grpc.WithTransportCredentials(insecure.NewCredentials()))...)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		state, err := mppb.NewPeerClient(conn).State(t.Context(), &mppb.StateRequest{})
		if err == nil {
			_, err = state.Recv()
		}
		if status.Code(err) != c.state {
			t.Errorf("%s asks for a state: %v, want %s", c.name, err, c.state)
		}
		attack, err := mppb.NewErrandsClient(conn).Attack(t.Context())
		if err == nil {
			_, err = attack.Recv()
		}
		if status.Code(err) != c.errands {
			t.Errorf("%s sends an errand: %v, want %s", c.name, err, c.errands)
		}
	}
}
