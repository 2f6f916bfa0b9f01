package mppb

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
)

// still is a relay to a server that stops carrying anything: what a frozen process or a host without power looks like, whose
// connections stay open.
type still struct {
	address string
	mu      sync.Mutex // held while it stands still
}

func relay(t *testing.T, to string) *still {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &still{address: l.Addr().String()}
	var all sync.WaitGroup
	t.Cleanup(func() {
		l.Close()
		all.Wait()
	})
	carry := func(from, to net.Conn) {
		defer from.Close()
		defer to.Close()
		b := make([]byte, 32<<10)
		for {
			n, err := from.Read(b)
			r.mu.Lock()
			if err == nil {
				_, err = to.Write(b[:n])
			}
			r.mu.Unlock()
			if err != nil {
				return
			}
		}
	}
	all.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", to)
			if err != nil {
				in.Close()
				return
			}
			all.Go(func() { carry(in, out) })
			all.Go(func() { carry(out, in) })
		}
	})
	return r
}

// A call to a coordinator that stands still goes to another, unary or a stream, and one that only takes long is left alone.
func TestACallToAFrozenCoordinatorGoesToAnother(t *testing.T) {
	const silence = 200 * time.Millisecond // FailAfter of client
	entered, free := make(chan string, 16), make(chan struct{})
	answer := func(who string, wait <-chan struct{}) *node {
		return serve(t, &node{
			status: func(ctx context.Context) (*ClusterStatus, error) {
				entered <- who
				select {
				case <-wait:
				case <-ctx.Done():
				}
				return &ClusterStatus{Leader: who}, ctx.Err()
			},
			getFile: func(_ *FileName, s Cluster_GetFileServer) error {
				entered <- who
				select {
				case <-wait:
				case <-s.Context().Done():
				}
				return s.Send(&FilePart{Data: []byte(who)})
			},
		})
	}
	done := make(chan struct{})
	close(done)
	stopped := relay(t, answer("first", free).address)
	other := answer("other", done)
	calls := map[string]func(context.Context, *Client) (string, error){
		"unary": func(ctx context.Context, c *Client) (string, error) {
			s, err := getStatus(ctx, c)
			return s.GetLeader(), err
		},
		"stream": func(ctx context.Context, c *Client) (who string, err error) {
			err = c.Do(ctx, func(ctx context.Context, conn grpc.ClientConnInterface) error {
				s, err := NewClusterClient(conn).GetFile(ctx, &FileName{})
				if err != nil {
					return err
				}
				p, err := s.Recv()
				who = string(p.GetData())
				return err
			})
			return who, err
		},
	}
	for name, call := range calls {
		t.Run(name, func(t *testing.T) {
			c := client(t, stopped.address, other.address)
			type result struct {
				who string
				err error
			}
			got := make(chan result, 1)
			go func() {
				who, err := call(within(t, 20*time.Second), c)
				got <- result{who, err}
			}()
			if who := <-entered; who != "first" {
				t.Fatalf("%s was asked, want first", who)
			}
			select {
			case r := <-got:
				t.Fatalf("a call that takes long has ended: %+v", r)
			case <-time.After(6 * silence):
			}
			stopped.mu.Lock()
			defer stopped.mu.Unlock()
			began := time.Now()
			if r := <-got; r.err != nil || r.who != "other" {
				t.Fatalf("got %+v, want other's answer", r)
			}
			if took := time.Since(began); took > 8*silence {
				t.Errorf("the other was asked after %s, want two and a half of %s and a little", took, silence)
			}
			<-entered
		})
	}
}

// Whoever waits for a frozen coordinator no longer than his own deadline finds another the next time.
func TestADeadlineForgetsTheLeader(t *testing.T) {
	ready := func(context.Context) (*ClusterStatus, error) { return &ClusterStatus{}, nil }
	stopped := relay(t, serve(t, &node{status: ready}).address)
	other := serve(t, &node{status: func(context.Context) (*ClusterStatus, error) { return &ClusterStatus{Leader: "other"}, nil }})
	c := client(t, stopped.address, other.address)
	if _, err := getStatus(within(t, 10*time.Second), c); err != nil {
		t.Fatal(err)
	}
	stopped.mu.Lock()
	defer stopped.mu.Unlock()
	if _, err := getStatus(within(t, 100*time.Millisecond), c); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("got %v, want the deadline", err)
	}
	if s, err := getStatus(within(t, 100*time.Millisecond), c); err != nil || s.Leader != "other" {
		t.Fatalf("got %v, %v, want other's answer", s, err)
	}
}

// A client that stands still in the middle of a stream does not keep its place, whether it should send or take.
func TestPatienceEnds(t *testing.T) {
	const patience = 300 * time.Millisecond
	ended := make(chan error, 1)
	n := &node{
		session: func(s Control_SessionServer) error { // stands for a stream in which the client sends
			for {
				if _, err := s.Recv(); err != nil {
					ended <- err
					return err
				}
			}
		},
		getFile: func(_ *FileName, s Cluster_GetFileServer) error {
			for {
				if err := s.Send(&FilePart{Data: make([]byte, PartBytes)}); err != nil {
					ended <- err
					return err
				}
			}
		},
	}
	serve(t, n, NoKeepalive(), grpc.StreamInterceptor(Patience(patience)))
	conn, err := grpc.NewClient("passthrough:///"+n.address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()

	up, err := NewControlClient(conn).Session(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for range 5 { // slow, but not too slow
		if err := up.Send(&FromWorker{}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(patience / 2)
	}
	select {
	case err := <-ended:
		t.Fatalf("a client that is only slow was sent away: %v", err)
	default:
	}
	if err := <-ended; status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("a client that sends nothing: got %v", err)
	}
	if _, err := up.Recv(); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("it is told %v", err)
	}

	down, err := NewClusterClient(conn).GetFile(t.Context(), &FileName{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := down.Recv(); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("a client that takes nothing: got %v", err)
	}
	for err == nil {
		_, err = down.Recv()
	}
	if status.Code(err) != codes.DeadlineExceeded || errors.Is(err, io.EOF) {
		t.Errorf("it is told %v", err)
	}
}
