package rpc

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"mp/allreduce"
)

// child is the environment variable that makes this test binary one member of a ring in a process of its own.
const child = "MP_RING_TEST_MEMBER"

// orders are what a child does: it forms the ring and sums until it breaks.
type orders struct {
	Rank      int
	Addresses []string
	FailAfter time.Duration
}

func TestMain(m *testing.M) {
	text := os.Getenv(child)
	if text == "" {
		os.Exit(m.Run())
	}
	var o orders
	if err := json.Unmarshal([]byte(text), &o); err != nil {
		panic(err)
	}
	fmt.Println("child ended:", obey(o))
}

func obey(o orders) error {
	l, err := net.FileListener(os.NewFile(3, "listener")) // the parent's, so that nobody is early
	if err != nil {
		return err
	}
	s, server := grpc.NewServer(ServerOptions()...), NewServer()
	server.Register(s)
	go s.Serve(l)
	c := Config{Job: "job", View: 1, Rank: o.Rank, FailAfter: o.FailAfter}
	for _, a := range o.Addresses {
		c.Members = append(c.Members, Member{Address: a})
	}
	g, err := server.Form(context.Background(), c)
	if err != nil {
		return err
	}
	fmt.Println("child formed")
	for {
		if err := g.Sum(context.Background(), make([]int32, 100_000)); err != nil {
			g.Close()
			return err
		}
	}
}

// member is a child process under a test's hands.
type member struct {
	*exec.Cmd
	lines *bufio.Scanner
}

// line is the child's next line with a prefix.
func (m *member) line(t *testing.T, prefix string) string {
	t.Helper()
	for m.lines.Scan() {
		if rest, ok := strings.CutPrefix(m.lines.Text(), prefix); ok {
			return rest
		}
	}
	t.Fatalf("the child ended without a line %q", prefix)
	return ""
}

// withChildren forms a ring of this process as rank 0 and n-1 others.
func withChildren(t *testing.T, n int, failAfter time.Duration) (allreduce.Group, []*member) {
	t.Helper()
	s := newStation(t, true)
	o := orders{Addresses: []string{s.address}, FailAfter: failAfter}
	dir := t.TempDir()
	for r := 1; r < n; r++ {
		o.Addresses = append(o.Addresses, "unix:"+filepath.Join(dir, fmt.Sprint(r)))
	}
	members := make([]*member, n)
	for r := 1; r < n; r++ {
		o.Rank = r
		text, err := json.Marshal(o)
		if err != nil {
			t.Fatal(err)
		}
		c := exec.Command(os.Args[0])
		c.ExtraFiles = []*os.File{listening(t, strings.TrimPrefix(o.Addresses[r], "unix:"))}
		c.Env = append(os.Environ(), child+"="+string(text))
		c.Stderr = os.Stderr
		out, err := c.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			c.Process.Kill()
			c.Wait()
		})
		members[r] = &member{c, bufio.NewScanner(out)}
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c := Config{Job: "job", View: 1, FailAfter: failAfter}
	for _, a := range o.Addresses {
		c.Members = append(c.Members, Member{Address: a})
	}
	g, err := s.Form(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range members[1:] {
		m.line(t, "child formed")
	}
	return g, members
}

// listening is a listener on a unix socket, to be handed to a child.
func listening(t *testing.T, path string) *os.File {
	t.Helper()
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	f, err := l.(*net.UnixListener).File()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		f.Close()
		l.Close()
	})
	return f
}

// sumUntilBroken sums until the ring breaks, and does something meanwhile.
func sumUntilBroken(t *testing.T, g allreduce.Group, meanwhile func()) (time.Duration, error) {
	t.Helper()
	broke := make(chan error)
	go func() {
		for {
			if err := g.Sum(context.Background(), make([]int32, 100_000)); err != nil {
				broke <- err
				return
			}
		}
	}()
	meanwhile()
	start := time.Now()
	err := <-broke
	if later := g.Max(context.Background(), nil); !errors.Is(later, allreduce.ErrBroken) {
		t.Errorf("a later call got %v, want ErrBroken", later)
	}
	return time.Since(start), err
}

// blames checks that err is a broken ring with one member at fault.
func blames(t *testing.T, err error, rank int, kind string) {
	t.Helper()
	var e *allreduce.PeerError
	if !errors.Is(err, allreduce.ErrBroken) || !errors.As(err, &e) || e.Rank != rank || e.Kind != kind {
		t.Errorf("got %v, want ErrBroken and rank %d at fault: %s", err, rank, kind)
	}
}

func TestAKilledProcessIsNoticedAtOnce(t *testing.T) {
	for _, victim := range []int{1, 2, 3} {
		g, members := withChildren(t, 4, 20*time.Second)
		took, err := sumUntilBroken(t, g, func() { members[victim].Process.Kill() })
		blames(t, err, victim, allreduce.KindConnection)
		t.Logf("rank 0 noticed the end of rank %d after %v: %v", victim, took, err)
		if took > 5*time.Second { // FailAfter is 20 s; an idle machine needs milliseconds
			t.Errorf("noticed after %v", took)
		}
		for r, m := range members {
			if r == 0 || r == victim {
				continue
			}
			if said := m.line(t, "child ended:"); !strings.Contains(said, fmt.Sprintf("rank %d: connection", victim)) {
				t.Errorf("rank %d says %q, want rank %d at fault", r, said, victim)
			}
		}
	}
}

func TestAStoppedProcessIsSilent(t *testing.T) {
	const failAfter = 500 * time.Millisecond
	g, members := withChildren(t, 3, failAfter)
	took, err := sumUntilBroken(t, g, func() { members[2].Process.Signal(syscall.SIGSTOP) })
	blames(t, err, 2, allreduce.KindSilence)
	t.Logf("noticed after %v: %v", took, err)
	if took < failAfter/2 {
		t.Errorf("noticed after %v, before FailAfter (%v)", took, failAfter)
	}
	if said := members[1].line(t, "child ended:"); !strings.Contains(said, "rank 2: silence") {
		t.Errorf("rank 1 says %q, want rank 2 at fault", said)
	}
}

func TestOneThatComputesIsNotSilent(t *testing.T) {
	g := form(t, stations(t, 3, true), Config{FailAfter: time.Second})
	errs := make(chan error)
	for _, m := range g {
		go func() {
			if m.Rank() == 1 {
				<-time.After(2500 * time.Millisecond) // a long backward pass
			}
			errs <- m.Sum(context.Background(), make([]int32, 10))
		}()
	}
	for range g {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}

func TestViewsThatDoNotMeet(t *testing.T) {
	s := stations(t, 2, true)
	members := []Member{{s[0].address}, {s[1].address}}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	config := func(view uint64, rank int) Config {
		return Config{Job: "job", View: view, Rank: rank, Members: members, FailAfter: 5 * time.Second}
	}
	formed := func(view uint64, rank int) chan error {
		done := make(chan error, 1)
		go func() {
			_, err := s[rank].Form(ctx, config(view, rank))
			done <- err
		}()
		return done
	}
	first := [2]chan error{formed(5, 0), formed(5, 1)}
	for r, done := range first {
		if err := <-done; err != nil {
			t.Fatalf("rank %d: %v", r, err)
		}
	}

	early := formed(6, 0) // waits until rank 1 follows
	if err := (<-formed(4, 1)); !errors.Is(err, ErrConfig) {
		t.Errorf("going back to an older view got %v, want ErrConfig", err)
	}
	select {
	case err := <-early:
		t.Errorf("view 6 was formed without rank 1: %v", err)
	default:
	}
	if err := <-formed(6, 1); err != nil {
		t.Errorf("rank 1 follows to view 6: %v", err)
	}
	if err := <-early; err != nil {
		t.Errorf("rank 0 waited for rank 1: %v", err)
	}

	stranger := newStation(t, true)
	for name, change := range map[string]func(*Config){
		"an older view":  func(c *Config) { c.View = 5 },
		"another job":    func(c *Config) { c.Job = "other" },
		"another size":   func(c *Config) { c.Members = append(c.Members[:1:1], Member{s[0].address}, Member{"unix:/nowhere"}) },
		"another piece":  func(c *Config) { c.Piece = 4096 },
		"a rank's place": func(c *Config) { c.Members = []Member{{s[0].address}, {s[0].address}}; c.Rank = 1; c.View = 5 },
	} {
		c := config(6, 0)
		change(&c)
		_, err := stranger.Form(ctx, c)
		var e *allreduce.PeerError
		if status.Code(errors.Unwrap(peer(err, &e))) != codes.FailedPrecondition {
			t.Errorf("%s got %v, want FailedPrecondition", name, err)
		}
		stranger.Close()
		stranger.group = nil
	}
}

// peer returns the PeerError in err's chain, or err.
func peer(err error, e **allreduce.PeerError) error {
	if errors.As(err, e) {
		return *e
	}
	return err
}

func TestFormingEndsWithItsContext(t *testing.T) {
	s := newStation(t, true)
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	_, err := s.Form(ctx, Config{Members: []Member{{s.address}, {"unix:" + filepath.Join(t.TempDir(), "nobody")}}, FailAfter: time.Second})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want the context's error", err)
	}
}

// Two members that cannot reach each other must not hold up the others for as long as the coordinator is patient.
func TestAMachineOutOfReachIsNamed(t *testing.T) {
	s := newStation(t, true)
	tried := 0
	dial := func(ctx context.Context, _ string) (net.Conn, error) { // packets are lost
		tried++
		<-ctx.Done()
		return nil, ctx.Err()
	}
	began := time.Now()
	const failAfter = 100 * time.Millisecond
	_, err := s.Form(context.Background(), Config{Members: []Member{{s.address}, {"10.0.0.1:1"}, {"10.0.0.2:1"}}, FailAfter: failAfter, Dial: dial})
	blames(t, err, 1, allreduce.KindConnection)
	if took := time.Since(began); took < 2*failAfter || tried == 0 {
		t.Errorf("gave up after %s and %d tries, want %s at least", took, tried, 2*failAfter)
	}
}

func TestConfigsThatCannotBe(t *testing.T) {
	two := []Member{{"a:1"}, {"b:1"}}
	for name, c := range map[string]Config{
		"nobody":      {FailAfter: 1},
		"rank":        {FailAfter: 1, Rank: 2, Members: two},
		"time":        {Members: two},
		"piece":       {FailAfter: 1, Members: two, Piece: 3},
		"connections": {FailAfter: 1, Members: two, Connections: 1000},
		"address":     {FailAfter: 1, Members: make([]Member, 2)},
	} {
		if _, err := NewServer().Form(context.Background(), c); !errors.Is(err, ErrConfig) {
			t.Errorf("%s: got %v, want ErrConfig", name, err)
		}
	}
}
