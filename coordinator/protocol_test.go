package coordinator

import (
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"mp/mppb"
)

// previous is the version of the protocol before this one.
const previous = mppb.Protocol - 1

// Who speaks the previous version of the protocol is told so at once, whoever it is, and so is a client of this version that
// asks a coordinator of that one.
func TestThePreviousProtocolIsRefused(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1, nil)
	node := c.leader()
	conn, err := mppb.Connect(mppb.ClientConfig{}, node.cfg.Listen)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx := metadata.AppendToOutgoingContext(c.context(), mppb.ProtocolKey, fmt.Sprint(previous))
	both := fmt.Sprintf("this coordinator speaks protocol %d and you speak %d", mppb.Protocol, previous)
	refused := func(what string, err error) {
		t.Helper()
		if status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), both) {
			t.Errorf("%s: got %v, want FAILED_PRECONDITION with %q", what, err, both)
		}
	}
	for _, s := range []*grpc.ServiceDesc{&mppb.Cluster_ServiceDesc, &mppb.Control_ServiceDesc} {
		for _, m := range s.Methods {
			refused(m.MethodName, conn.Invoke(ctx, "/"+s.ServiceName+"/"+m.MethodName, &mppb.StatusRequest{}, &mppb.ClusterStatus{}))
		}
		for _, m := range s.Streams {
			if m.StreamName == "Session" {
				continue
			}
			stream, err := conn.NewStream(ctx, &m, "/"+s.ServiceName+"/"+m.StreamName)
			if err != nil {
				t.Fatal(err)
			}
			stream.SendMsg(&mppb.StatusRequest{}) // the answer says why it does not go
			stream.CloseSend()
			refused(m.StreamName, stream.RecvMsg(&mppb.ClusterStatus{}))
		}
	}

	session, err := mppb.NewControlClient(conn).Session(c.context())
	if err != nil {
		t.Fatal(err)
	}
	hello := &mppb.Hello{Protocol: previous, Host: "h", Machine: "m", Device: "cpu:0", Address: "h:1", Data: &testData}
	if err := session.Send(&mppb.FromWorker{Message: &mppb.FromWorker_Hello{Hello: hello}}); err != nil {
		t.Fatal(err)
	}
	m, err := session.Recv()
	if want := fmt.Sprintf("speaks protocol %d, the coordinator %d", previous, mppb.Protocol); err != nil || !strings.Contains(m.GetRefusal().GetText(), want) ||
		!strings.Contains(m.GetRefusal().GetAdvice(), "the same version of mp everywhere") {
		t.Errorf("a worker: got %v, %v, want a refusal with %q", m, err, want)
	}

	raw, err := net.Dial("tcp", node.cfg.Listen)
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	token := hideToken("")
	io.WriteString(raw, raftMagic+string(byte(previous))+string(token[:])+"\x01a")
	answer := make([]byte, 1)
	if _, err := io.ReadFull(raw, answer); err != nil || verdict(answer[0]) != wrongProtocol {
		t.Errorf("another coordinator: got %v, %v, want the verdict %d", answer, err, wrongProtocol)
	}
}

// What coordinators of the previous version answer.
func TestACoordinatorOfThePreviousProtocolIsLeftAtOnce(t *testing.T) {
	t.Parallel()
	text := fmt.Sprintf("this coordinator speaks protocol %d and you speak %d: use the same mp on both sides", previous, mppb.Protocol)
	old := grpc.NewServer(grpc.UnaryInterceptor(func(context.Context, any, *grpc.UnaryServerInfo, grpc.UnaryHandler) (any, error) {
		return nil, status.Error(codes.FailedPrecondition, text)
	}))
	mppb.RegisterClusterServer(old, mppb.UnimplementedClusterServer{})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go old.Serve(l)
	defer old.Stop()
	client, err := mppb.NewClient(mppb.ClientConfig{Addresses: []string{l.Addr().String()}})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	err = client.Do(ctx, func(ctx context.Context, conn grpc.ClientConnInterface) error {
		_, err := mppb.NewClusterClient(conn).Jobs(ctx, &mppb.JobsRequest{})
		return err
	})
	if status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), text) {
		t.Errorf("a client: got %v, want %q", err, text)
	}

	door, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer door.Close()
	go func() {
		conn, err := door.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		io.ReadFull(conn, make([]byte, greetingSize+1))
		conn.Write([]byte{byte(wrongProtocol)})
	}()
	conn, err := net.Dial("tcp", door.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := introduce(conn, "b", hideToken(""), 10*time.Second); err == nil || !strings.Contains(err.Error(), "another version") {
		t.Errorf("another coordinator: got %v", err)
	}
}
