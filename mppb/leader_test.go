package mppb

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// node is a coordinator that answers from a script.
type node struct {
	UnimplementedClusterServer
	UnimplementedControlServer
	address string
	status  func(context.Context) (*ClusterStatus, error)
	session func(Control_SessionServer) error
	getFile func(*FileName, Cluster_GetFileServer) error
	server  *grpc.Server
}

func (n *node) Status(ctx context.Context, _ *StatusRequest) (*ClusterStatus, error) {
	return n.status(ctx)
}
func (n *node) Session(s Control_SessionServer) error { return n.session(s) }
func (n *node) GetFile(f *FileName, s Cluster_GetFileServer) error {
	return n.getFile(f, s)
}

func serve(t *testing.T, n *node, options ...grpc.ServerOption) *node {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n.address = l.Addr().String()
	n.server = grpc.NewServer(options...)
	RegisterClusterServer(n.server, n)
	RegisterControlServer(n.server, n)
	done := make(chan struct{})
	go func() { defer close(done); n.server.Serve(l) }()
	t.Cleanup(func() { n.server.Stop(); <-done })
	return n
}

func client(t *testing.T, addresses ...string) *Client {
	t.Helper()
	c, err := NewClient(ClientConfig{Addresses: addresses, FailAfter: 200 * time.Millisecond, Token: "secret"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func getStatus(ctx context.Context, c *Client) (s *ClusterStatus, err error) {
	err = c.Do(ctx, func(ctx context.Context, conn grpc.ClientConnInterface) error {
		s, err = NewClusterClient(conn).Status(ctx, &StatusRequest{})
		return err
	})
	return s, err
}

func within(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// unused returns an address at which nobody listens.
func unused(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func TestDoFollowsTheLeader(t *testing.T) {
	leader := serve(t, &node{status: func(ctx context.Context) (*ClusterStatus, error) {
		if got := metadata.ValueFromIncomingContext(ctx, TokenKey); len(got) != 1 || got[0] != "secret" {
			t.Errorf("token %q came, want secret", got)
		}
		return &ClusterStatus{Leader: "b"}, nil
	}})
	follower := serve(t, &node{status: func(context.Context) (*ClusterStatus, error) {
		return nil, NotLeader(&Leader{Id: "b", Address: leader.address})
	}})
	s, err := getStatus(within(t, 10*time.Second), client(t, unused(t), follower.address))
	if err != nil || s.Leader != "b" {
		t.Fatalf("got %v, %v; want the leader's answer", s, err)
	}
}

func TestDoWaitsForALeader(t *testing.T) {
	var asked atomic.Int32
	n := serve(t, &node{status: func(context.Context) (*ClusterStatus, error) {
		if asked.Add(1) < 4 {
			return nil, NotLeader(&Leader{})
		}
		return &ClusterStatus{}, nil
	}})
	if _, err := getStatus(within(t, 10*time.Second), client(t, n.address)); err != nil {
		t.Fatal(err)
	}
}

// A hint may name an address that this client cannot reach: the list still holds.
func TestDoSurvivesAUselessHint(t *testing.T) {
	nowhere := unused(t)
	var asked atomic.Int32
	n := serve(t, &node{status: func(context.Context) (*ClusterStatus, error) {
		if asked.Add(1) < 3 {
			return nil, NotLeader(&Leader{Id: "x", Address: nowhere})
		}
		return &ClusterStatus{}, nil
	}})
	if _, err := getStatus(within(t, 10*time.Second), client(t, n.address)); err != nil {
		t.Fatal(err)
	}
}

func TestDoReturnsOtherErrors(t *testing.T) {
	n := serve(t, &node{status: func(context.Context) (*ClusterStatus, error) {
		return nil, status.Error(codes.NotFound, "no such job")
	}})
	_, err := getStatus(within(t, 10*time.Second), client(t, n.address))
	if status.Code(err) != codes.NotFound {
		t.Fatalf("got %v, want NOT_FOUND", err)
	}
}

// Neither side accepts more than MaxMessageBytes, and says so once.
func TestAMessageThatIsTooLarge(t *testing.T) {
	asked := 0
	n := serve(t, &node{status: func(context.Context) (*ClusterStatus, error) {
		asked++
		return &ClusterStatus{Leader: strings.Repeat("x", MaxMessageBytes+1)}, nil
	}})
	_, comes := getStatus(within(t, 10*time.Second), client(t, n.address))
	goes := client(t, n.address).Do(within(t, 10*time.Second), func(ctx context.Context, conn grpc.ClientConnInterface) error {
		_, err := NewClusterClient(conn).Submit(ctx, &SubmitRequest{Spec: make([]byte, MaxMessageBytes+1)})
		return err
	})
	for _, err := range []error{comes, goes} {
		if status.Code(err) != codes.ResourceExhausted || !strings.Contains(err.Error(), "larger than 4194304 bytes") {
			t.Errorf("got %v, want RESOURCE_EXHAUSTED and the limit", err)
		}
	}
	if asked != 1 {
		t.Errorf("asked %d times, want once", asked)
	}
}

func TestNobodyAnswers(t *testing.T) {
	a, b := unused(t), unused(t)
	_, err := getStatus(within(t, 300*time.Millisecond), client(t, a, b))
	want := "no coordinator answers at " + a + " (connection refused) or at " + b + " (connection refused); is `mp coordinator` running there?"
	if err == nil || err.Error() != want {
		t.Fatalf("got  %v\nwant %s", err, want)
	}
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v does not match the cause", err)
	}
}

func TestStrangers(t *testing.T) {
	for _, c := range []struct{ says, want string }{
		{"HTTP/1.1 400 Bad Request\r\n\r\n", "it is a web server"},
		{"\x15\x03\x01\x00\x02\x02\x46", "it speaks TLS"},
		{"SSH-2.0-OpenSSH_9.2\r\n", `it says "SSH-2.0-OpenSSH_9.2\r\n"`},
	} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		go func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				io.WriteString(conn, c.says)
				io.ReadFull(conn, make([]byte, 24)) // of HTTP/2's preface, so that the close is no reset
				conn.Close()
			}
		}()
		_, err = getStatus(within(t, 10*time.Second), client(t, l.Addr().String()))
		if !errors.Is(err, ErrForeign) || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), l.Addr().String()) {
			t.Errorf("%q: got %v, want ErrForeign with %q", c.says, err, c.want)
		}
	}
}

func TestAnotherServiceIsNoCoordinator(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	done := make(chan struct{})
	go func() { defer close(done); s.Serve(l) }()
	defer func() { s.Stop(); <-done }()
	_, err = getStatus(within(t, 10*time.Second), client(t, l.Addr().String()))
	if !errors.Is(err, ErrForeign) {
		t.Fatalf("got %v, want ErrForeign", err)
	}
}

// A coordinator that is stopped, or whose machine is gone, says nothing: the session ends all the same.
func TestASilentSessionEnds(t *testing.T) {
	const failAfter = 300 * time.Millisecond
	n := serve(t, &node{session: func(s Control_SessionServer) error {
		s.Send(&ToWorker{Message: &ToWorker_Welcome{Welcome: &Welcome{Worker: 7, FailAfterMs: uint32(failAfter.Milliseconds())}}})
		beat := time.NewTicker(failAfter / 2)
		defer beat.Stop()
		for range 5 { // signs of life, which nobody sees
			<-beat.C
			s.Send(&ToWorker{})
		}
		s.Send(&ToWorker{Message: &ToWorker_View{View: &View{Number: 1}}})
		<-s.Context().Done()
		return nil
	}})
	var got []string
	var last time.Time
	var silence time.Duration
	err := client(t, n.address).Do(within(t, 20*time.Second), func(ctx context.Context, conn grpc.ClientConnInterface) error {
		stream, err := NewControlClient(conn).Session(ctx)
		if err != nil {
			return err
		}
		for {
			m, err := stream.Recv()
			if err != nil {
				silence = time.Since(last)
				got = append(got, status.Code(err).String())
				return io.EOF // do not begin again
			}
			last = time.Now()
			switch {
			case m.GetWelcome() != nil:
				got = append(got, "welcome")
			case m.GetView() != nil:
				got = append(got, "view")
			default:
				got = append(got, "nothing")
			}
		}
	})
	if want := "welcome view Unavailable"; err != io.EOF || strings.Join(got, " ") != want {
		t.Fatalf("got %q, %v; want %q", got, err, want)
	}
	if silence < failAfter || silence > 3*failAfter {
		t.Errorf("noticed after %s, want %s and a little more", silence, failAfter)
	}
}

// A download that breaks goes on where it was, and what is damaged is not kept.
func TestDownload(t *testing.T) {
	content := bytes.Repeat([]byte("0123456789"), 300_000)
	state := &FileState{Job: "job-1", Path: "a/b", Size: uint64(len(content)), Sha256: sum(content)}
	var offsets []uint64
	flip := false
	n := serve(t, &node{getFile: func(f *FileName, s Cluster_GetFileServer) error {
		offsets = append(offsets, f.Offset)
		for at := f.Offset; at < state.Size; {
			data := content[at:min(at+PartBytes, state.Size)]
			part := &FilePart{Offset: at, Data: data, Crc32C: Checksum(data)}
			if at == f.Offset {
				part.File = state
			}
			if flip {
				part.Crc32C++
			}
			if err := s.Send(part); err != nil {
				return err
			}
			if at += uint64(len(data)); len(offsets) == 1 {
				return status.Error(codes.Unavailable, "broken")
			}
		}
		return nil
	}})
	to := filepath.Join(t.TempDir(), "b")
	c := client(t, n.address)
	if _, err := c.Download(within(t, 10*time.Second), &FileName{Job: "job-1", Path: "a/b"}, to); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(to)
	if err != nil || !bytes.Equal(got, content) {
		t.Fatalf("got %d bytes, %v; want %d", len(got), err, len(content))
	}
	if len(offsets) != 2 || offsets[1] != PartBytes {
		t.Errorf("asked from %v, want 0 and %d", offsets, PartBytes)
	}
	flip = true
	if _, err := c.Download(within(t, 10*time.Second), &FileName{Job: "job-1", Path: "a/b"}, to+"2"); !errors.Is(err, errDamaged) {
		t.Errorf("got %v, want errDamaged", err)
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(to), ".*")); len(left) > 0 {
		t.Errorf("%v is left", left)
	}
}

func sum(b []byte) string {
	h := sha256.Sum256(b)
	return hex.EncodeToString(h[:])
}
