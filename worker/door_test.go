package worker

import (
	"log/slog"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"mp/mppb"
)

// Who does not know the token gets no snapshot and sends no errand; who does is let through, here to nobody.
func TestTheDoorAsksForTheToken(t *testing.T) {
	d, err := listen(NodeConfig{Listen: "127.0.0.1:0", Machine: "m", Scratch: t.TempDir(), Token: "secret", Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer d.close()
	d.serve(mppb.UnimplementedPeerServer{}, mppb.UnimplementedErrandsServer{})
	conn, err := grpc.NewClient("passthrough:///"+d.address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for token, want := range map[string]codes.Code{"": codes.Unauthenticated, "guess": codes.Unauthenticated, "secret": codes.Unimplemented} {
		ctx := t.Context()
		if token != "" {
			ctx = metadata.AppendToOutgoingContext(ctx, mppb.TokenKey, token)
		}
		errand, err := mppb.NewErrandsClient(conn).Attack(ctx)
		if err == nil {
			_, err = errand.Recv()
		}
		if status.Code(err) != want {
			t.Errorf("an errand with token %q: %v, want %s", token, err, want)
		}
		state, err := mppb.NewPeerClient(conn).State(ctx, &mppb.StateRequest{})
		if err == nil {
			_, err = state.Recv()
		}
		if status.Code(err) != want {
			t.Errorf("a copy with token %q: %v, want %s", token, err, want)
		}
	}
}
