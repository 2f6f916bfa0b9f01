package nats

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	client "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"mp/metrics"
)

// childVariable makes the test's program a server or a recorder that can be killed: see TestMain.
const childVariable = "MP_NATS_TEST_CHILD"

// TestMain runs as a child what the variable says, "server STORE" or "recorder URL DIRECTORY", or else the tests.
func TestMain(m *testing.M) {
	args := strings.Split(os.Getenv(childVariable), " ")
	var err error
	switch args[0] {
	case "server":
		var s *Server
		if s, err = NewServer(DefaultServerConfig(args[1])); err == nil {
			go func() { <-s.Ready(); fmt.Println(s.URL()) }()
			err = s.Run(context.Background())
		}
	case "recorder":
		var r *Recorder
		if r, err = NewRecorder(DefaultRecorderConfig(args[1], "child")); err == nil {
			err = r.Run(context.Background(), func(string) (metrics.Sink, error) { return metrics.NewJSONL(args[2]) })
		}
	default:
		os.Exit(m.Run())
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

// child is this program as another process.
type child struct {
	cmd *exec.Cmd
	url string // of a server
}

func startChild(t *testing.T, args ...string) *child {
	t.Helper()
	c := &child{cmd: exec.Command(os.Args[0])}
	c.cmd.Env = append(os.Environ(), childVariable+"="+strings.Join(args, " "))
	c.cmd.Stderr = os.Stderr
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.kill)
	if args[0] == "server" {
		if _, err := fmt.Fscanln(out, &c.url); err != nil {
			t.Fatalf("the server says no URL: %v", err)
		}
	}
	return c
}

// kill is kill -9; a second one does nothing.
func (c *child) kill() {
	if c.cmd.ProcessState == nil {
		_ = c.cmd.Process.Kill()
		_ = c.cmd.Wait()
	}
}

// startServer runs a server until the test ends or stop is called.
func startServer(t *testing.T, c ServerConfig, change ...func(*Server)) (s *Server, stop func()) {
	t.Helper()
	s, err := NewServer(c)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range change {
		f(s)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	select {
	case <-s.Ready():
	case err := <-ended:
		t.Fatalf("server: %v", err)
	}
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("server: %v", err)
		}
	})
	t.Cleanup(stop)
	return s, stop
}

// startRecorder runs a recorder until the test ends or stop is called.
func startRecorder(t *testing.T, c RecorderConfig, sinkOf SinkOf) (r *Recorder, stop func()) {
	t.Helper()
	r, err := NewRecorder(c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx, sinkOf) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("recorder: %v", err)
		}
	})
	t.Cleanup(stop)
	return r, stop
}

func newSink(t *testing.T, c SinkConfig) *Sink {
	t.Helper()
	s, err := NewSink(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close sink: %v", err)
		}
	})
	return s
}

// patient is a sink's configuration for tests that look at what arrives, on any machine, however busy.
func patient(url, job, worker string) SinkConfig {
	c := DefaultSinkConfig(url, job, worker)
	c.FlushWithin = time.Minute
	return c
}

// within polls until ok, and fails the test when that takes longer than on any machine, however busy.
func within(t *testing.T, what string, ok func() bool) {
	t.Helper()
	const limit = time.Minute
	for end := time.Now().Add(limit); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", limit, what)
		}
	}
}

func step(update int) metrics.Event {
	return metrics.Event{Time: time.Unix(1, 0).UTC(), Kind: metrics.KindStep, Step: &metrics.Step{Update: update, Loss: 1}}
}

func story(text string) metrics.Event {
	return metrics.Event{Time: time.Unix(1, 0).UTC(), Kind: metrics.KindStory, Story: &metrics.Story{Topic: "test", Text: text}}
}

// memory is a Sink that keeps events.
type memory struct {
	mu     sync.Mutex
	events []metrics.Event
	err    error
	hold   chan struct{} // Emit waits for a value or its end; nil: it does not
}

func (m *memory) Emit(e metrics.Event) {
	if m.hold != nil {
		<-m.hold
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err == nil {
		m.events = append(m.events, e)
	}
}

func (m *memory) Err() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.err
}

func (m *memory) all() []metrics.Event {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]metrics.Event(nil), m.events...)
}

func (m *memory) len() int { return len(m.all()) }

// updates are those of the steps among events, in order.
func updates(events []metrics.Event) []int {
	var u []int
	for _, e := range events {
		if e.Step != nil {
			u = append(u, e.Step.Update)
		}
	}
	return u
}

// wantRun fails unless got is from, from+1, ..., to.
func wantRun(t *testing.T, got []int, from, to int) {
	t.Helper()
	if len(got) != to-from+1 {
		t.Errorf("got %d updates, want %d", len(got), to-from+1)
	}
	for i, u := range got {
		if u != from+i {
			t.Fatalf("place %d: got update %d, want %d", i, u, from+i)
		}
	}
}

// lines reads a file that JSONL wrote, repetitions included.
func lines(t *testing.T, dir, name string) []string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
}

func readJSONL(t *testing.T, dir, name string) []metrics.Event {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	events, err := metrics.Read(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return events
}

// streamState asks the server at url how much it keeps.
func streamState(t *testing.T, url string) jetstream.StreamState {
	t.Helper()
	nc, err := client.Connect(url)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	s, err := js.Stream(t.Context(), streamName)
	if err != nil {
		t.Fatal(err)
	}
	return s.CachedInfo().State
}

// logText is a log to look at.
type logText struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logText) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logText) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func (l *logText) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{Level: slog.LevelDebug}))
}
