package coordinator

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"mp/mppb"
	"mp/trust"
)

const clusterSecret = "the secret of a cluster of tests"

// newSecureCluster is newCluster with certificates.
func newSecureCluster(t *testing.T, size int, change func(*Config)) *testCluster {
	t.Helper()
	a, err := trust.NewAuthority(clusterSecret, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	c := newCluster(t, size, func(cfg *Config) {
		if cfg.Trust, err = a.Identity(trust.Party{Role: trust.Coordinator, Name: cfg.ID}); err != nil {
			t.Fatal(err)
		}
		cfg.Desk = trust.NewDesk(a)
		if change != nil {
			change(cfg)
		}
	})
	c.trust = a
	return c
}

// A whole life of a cluster goes through TLS: raft, sessions, files between nodes, a change of leader.
func TestAClusterInTLS(t *testing.T) {
	t.Parallel()
	c := newSecureCluster(t, 3, nil)
	job := c.submit(testSpec)
	a, b := c.twoWorkers()
	path := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(path, []byte("weights"), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := a.client.Upload(c.context(), &mppb.FileName{Job: job.Id, Path: "checkpoints/update-00000001/model.safetensors"}, f); err != nil {
		t.Fatal(err) // it waits for a majority, which fetches from the leader
	}
	before := c.leader()
	c.end(before, ErrCrash)
	c.leader()
	first, _ := a.now()
	c.until("both are back", func() bool {
		d := c.show(job.Id)
		return d.Job.Workers == 2 && a.in(2) && b.in(2)
	})
	if again, _ := a.now(); again != first {
		t.Errorf("worker %d is %d after the change of leader", first, again)
	}
}

func TestEveryCallHasItsRoles(t *testing.T) {
	t.Parallel()
	c := newSecureCluster(t, 1, nil)
	known := permissions()
	for name, service := range c.nodes[0].newServer().GetServiceInfo() {
		for _, m := range service.Methods {
			method := "/" + name + "/" + m.Name
			if roles, listed := known[method]; !listed || len(roles) == 0 && method != mppb.Cluster_Backup_FullMethodName {
				t.Errorf("nobody but a coordinator may call %s: add it to permissions (secure.go)", method)
			}
			delete(known, method)
		}
	}
	for method := range known {
		t.Errorf("permissions names %s, which is no call", method)
	}
}

func TestACertificateIsForItsRole(t *testing.T) {
	t.Parallel()
	c := newSecureCluster(t, 1, nil)
	c.leader()
	address := c.nodes[0].cfg.Listen
	stream := func(s interface {
		Recv() (*mppb.ToWorker, error)
	}, err error) error {
		if err == nil {
			_, err = s.Recv()
		}
		return err
	}
	calls := map[string]func(context.Context, mppb.ClusterClient, mppb.ControlClient) error{
		"Submit": func(ctx context.Context, cluster mppb.ClusterClient, _ mppb.ControlClient) error {
			_, err := cluster.Submit(ctx, &mppb.SubmitRequest{Spec: []byte("no JSON")})
			return err
		},
		"Steer": func(ctx context.Context, cluster mppb.ClusterClient, _ mppb.ControlClient) error {
			_, err := cluster.Steer(ctx, &mppb.SteerRequest{Id: "none", Verb: mppb.SteerRequest_CANCEL})
			return err
		},
		"Jobs": func(ctx context.Context, cluster mppb.ClusterClient, _ mppb.ControlClient) error {
			_, err := cluster.Jobs(ctx, &mppb.JobsRequest{})
			return err
		},
		"GetFile": func(ctx context.Context, cluster mppb.ClusterClient, _ mppb.ControlClient) error {
			s, err := cluster.GetFile(ctx, &mppb.FileName{Job: "none", Path: "x"})
			if err == nil {
				_, err = s.Recv()
			}
			return err
		},
		"Session": func(ctx context.Context, _ mppb.ClusterClient, control mppb.ControlClient) error {
			s, err := control.Session(ctx)
			if err == nil {
				s.Send(&mppb.FromWorker{}) // which is no Hello
			}
			return stream(s, err)
		},
		"PutFile": func(ctx context.Context, _ mppb.ClusterClient, control mppb.ControlClient) error {
			s, err := control.PutFile(ctx)
			if err != nil {
				return err
			}
			_, err = s.CloseAndRecv()
			return err
		},
	}
	may := map[trust.Role]string{
		trust.Viewer: "Jobs GetFile", trust.Client: "Submit Steer Jobs GetFile", trust.Worker: "GetFile Session PutFile",
		trust.Coordinator: "Submit Steer Jobs GetFile Session PutFile",
	}
	for role, allowed := range may {
		conn, err := mppb.Connect(mppb.ClientConfig{Dial: c.dial(role)}, address)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		cluster, control := mppb.NewClusterClient(conn), mppb.NewControlClient(conn)
		for name, call := range calls {
			refused := status.Code(call(c.context(), cluster, control)) == codes.PermissionDenied
			if want := !strings.Contains(allowed, name); refused != want {
				t.Errorf("%s as a %s: refused %v, want %v", name, role, refused, want)
			}
		}
		ctx := metadata.AppendToOutgoingContext(c.context(), nodeKey, "a")
		_, err = cluster.Status(ctx, &mppb.StatusRequest{})
		if refused := status.Code(err) == codes.PermissionDenied; refused != (role != trust.Coordinator) {
			t.Errorf("a %s that calls as a coordinator: %v", role, err)
		}
	}
}

func TestRaftIsForCoordinators(t *testing.T) {
	t.Parallel()
	c := newSecureCluster(t, 1, nil)
	n := c.leader()
	for role, want := range map[trust.Role]string{trust.Coordinator: "", trust.Worker: "a coordinator's certificate", trust.Client: "a coordinator's certificate"} {
		conn, err := c.dial(role)(c.context(), n.cfg.Listen)
		if err != nil {
			t.Fatal(err)
		}
		err = introduce(conn, n.cfg.ID, hideToken(""), patience)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("a %s got %v, want %q", role, err, want)
		}
		conn.Close()
	}
}

func TestWhoSpeaksNoTLSIsTold(t *testing.T) {
	t.Parallel()
	c := newSecureCluster(t, 1, nil)
	n := c.leader()
	plain, err := mppb.NewClient(mppb.ClientConfig{Addresses: []string{n.cfg.Listen}})
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	jobs := func(client *mppb.Client) error {
		return client.Do(c.context(), func(ctx context.Context, conn grpc.ClientConnInterface) error {
			_, err := mppb.NewClusterClient(conn).Jobs(ctx, &mppb.JobsRequest{})
			return err
		})
	}
	if err := jobs(plain); !errors.Is(err, mppb.ErrForeign) || !strings.Contains(err.Error(), "speaks TLS") {
		t.Errorf("a client without TLS got %v", err)
	}
	conn, err := trust.DialTCP(c.context(), n.cfg.Listen)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := introduce(conn, n.cfg.ID, hideToken(""), patience); err == nil || !strings.Contains(err.Error(), "speaks TLS") {
		t.Errorf("a coordinator without TLS got %v", err)
	}
	web, err := trust.DialTCP(c.context(), n.cfg.Listen)
	if err != nil {
		t.Fatal(err)
	}
	defer web.Close()
	io.WriteString(web, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	if line, err := bufio.NewReader(web).ReadString('\n'); err != nil || !strings.Contains(line, "400") {
		t.Errorf("a browser got %q, %v", line, err)
	}
	// And the other way round.
	old := newCluster(t, 1, nil)
	o := old.leader()
	if _, err := c.dial(trust.Client)(c.context(), o.cfg.Listen); err == nil || !strings.Contains(err.Error(), "speaks no TLS") {
		t.Errorf("a client with TLS at a coordinator without got %v", err)
	}
}

// lines is a log that tests read.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

// A token becomes a certificate at the coordinator's own port, and nothing of either is logged.
func TestJoinAtTheDoor(t *testing.T) {
	t.Parallel()
	log := &lines{}
	c := newSecureCluster(t, 1, func(cfg *Config) {
		cfg.Logger = slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	})
	n := c.leader()
	token := c.trust.Token(trust.Worker, time.Hour)
	j := trust.Joiner{Token: token, Name: "w", Addresses: []string{n.cfg.Listen}, Dial: trust.DialTCP, Now: time.Now}
	i, err := j.Enroll(c.context())
	if err != nil {
		t.Fatal(err)
	}
	client, err := mppb.NewClient(mppb.ClientConfig{Addresses: []string{n.cfg.Listen}, Dial: i.Over(trust.DialTCP, trust.Coordinator)})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if _, err := client.Download(c.context(), &mppb.FileName{Job: "none", Path: "x"}, filepath.Join(t.TempDir(), "x")); status.Code(err) != codes.NotFound {
		t.Errorf("the worker that joined got %v, want NOT_FOUND", err)
	}
	j.Token = c.trust.Token(trust.Worker, -time.Hour)
	if _, err := j.Enroll(c.context()); !errors.Is(err, trust.ErrRefused) {
		t.Errorf("an expired token got %v", err)
	}
	other, err := trust.NewAuthority(clusterSecret+"!", time.Now)
	if err != nil {
		t.Fatal(err)
	}
	j.Token = other.Token(trust.Worker, time.Hour)
	if _, err := j.Enroll(c.context()); !errors.Is(err, trust.ErrRefused) {
		t.Errorf("another cluster's token got %v", err)
	}
	log.mu.Lock()
	defer log.mu.Unlock()
	said := log.text.String()
	if !strings.Contains(said, "gave a certificate") || !strings.Contains(said, "refused a join") {
		t.Errorf("the log says %s", said)
	}
	for _, s := range []string{clusterSecret, token.Text(), token.Text()[60:]} {
		if strings.Contains(said, s) {
			t.Errorf("the log shows a secret: %s", said)
		}
	}
}
