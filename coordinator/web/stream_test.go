package web

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"mp/metrics"
)

// sent is a server-sent event.
type sent struct{ id, name, data string }

// listen reads a stream until ctx ends or it does.
func listen(t *testing.T, ctx context.Context, address, last string) <-chan sent {
	t.Helper()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		t.Fatal(err)
	}
	if last != "" {
		r.Header.Set("Last-Event-ID", last)
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	if answer.StatusCode != http.StatusOK || answer.Header.Get("Content-Type") != "text/event-stream" {
		t.Fatalf("stream: got %d %v", answer.StatusCode, answer.Header)
	}
	out := make(chan sent, 1000)
	go func() {
		defer close(out)
		defer answer.Body.Close()
		var e sent
		for lines := bufio.NewScanner(answer.Body); lines.Scan(); {
			switch name, value, _ := strings.Cut(lines.Text(), ": "); {
			case name == "id":
				e.id = value
			case name == "event":
				e.name = value
			case name == "data":
				e.data = value
				out <- e
				e = sent{}
			}
		}
	}()
	return out
}

// take reads the next event of a name; others are passed over.
func take(t *testing.T, from <-chan sent, name string) sent {
	t.Helper()
	for deadline := time.After(10 * time.Second); ; {
		select {
		case e, ok := <-from:
			if !ok {
				t.Fatalf("the stream ended before %q", name)
			}
			if e.name == name {
				return e
			}
		case <-deadline:
			t.Fatalf("no %q came", name)
		}
	}
}

// A browser gets every line once: after the snapshot's, over a lost connection, and over a restart of the server.
func TestStreamHasNoGapAndNoRepetition(t *testing.T) {
	runs := t.TempDir()
	dir := filepath.Join(runs, "run")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	files, err := metrics.NewJSONL(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer files.Close()
	s, h := serve(t, Config{Runs: runs, LookEvery: time.Hour}) // only what is told wakes it
	sink := metrics.Tee{files, s.Sink("run")}
	events := story()
	emit := func(n int) {
		for _, e := range events[:n] {
			sink.Emit(e)
		}
		events = events[n:]
	}
	emit(20)
	first := snapshotOf(t, h, "run")
	var got []string
	last := first.Cursor
	read := func(from <-chan sent, n int) {
		for range n {
			e := take(t, from, "line")
			got, last = append(got, e.data), e.id
		}
	}
	ctx, leave := context.WithCancel(t.Context())
	stream := listen(t, ctx, h.URL+"/api/runs/run/stream?from="+last, "")
	take(t, stream, "state")
	emit(15)
	read(stream, 9)
	leave() // in the middle of a batch
	emit(5)
	ctx, leave = context.WithCancel(t.Context())
	stream = listen(t, ctx, h.URL+"/api/runs/run/stream?from="+first.Cursor, last) // what a browser sends
	read(stream, 11)
	s.Close()
	take(t, stream, "end")
	leave()
	emit(len(events) - 3)
	s, h = serve(t, Config{Runs: runs, LookEvery: time.Hour})
	sink[1] = s.Sink("run")
	stream = listen(t, t.Context(), h.URL+"/api/runs/run/stream", last)
	read(stream, 1)
	emit(3)
	read(stream, len(story())-20-9-11-1)
	want := map[string]bool{}
	for _, name := range []string{metrics.MetricsFile, metrics.EventsFile} {
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		offset := int64(0)
		at, err := parseCursor(first.Cursor)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			if name == metrics.MetricsFile && offset >= at.metrics || name == metrics.EventsFile && offset >= at.events {
				want[strings.TrimRight(line, "\n")] = true
			}
			offset += int64(len(line))
		}
	}
	if len(got) != len(want) {
		t.Errorf("got %d lines, the files have %d after the snapshot", len(got), len(want))
	}
	for _, line := range got {
		if !want[line] {
			t.Errorf("came twice or is not in the files: %s", line)
		}
		delete(want, line)
	}
	for line := range want {
		t.Errorf("did not come: %s", line)
	}
}

func TestStreamTellsStatesProgressAndOtherFiles(t *testing.T) {
	runs := t.TempDir()
	dir := aRun(t, runs, "run")
	jobs := &fakeJobs{jobs: []Job{{ID: "job-1", State: "running", Directory: "run", Update: 21}}, detail: Detail{Ledger: []Ledger{{Epoch: 1, Images: 5}}, Workers: []Member{{Worker: 7, Phase: "training"}}}}
	s, h := serve(t, Config{Runs: runs, Jobs: jobs})
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	stream := listen(t, ctx, h.URL+"/api/runs/run/stream", "")
	var state State
	if err := json.Unmarshal([]byte(take(t, stream, "state").data), &state); err != nil {
		t.Fatal(err)
	}
	if state.State != "done" || state.Job != "job-1" || state.Cluster != "knows" || len(state.Ledger) != 1 || state.Crew[0].Phase != "training" {
		t.Errorf("state: got %+v: files that know of the end are right, ledger and phases are the cluster's", state)
	}
	s.Sink("run").Emit(metrics.Event{Kind: metrics.KindProgress, Progress: &metrics.Progressed{Title: "validate", Done: 3, Total: 9}})
	if e := take(t, stream, "progress"); e.data != `{"title":"validate","done":3,"total":9}` || e.id != "" {
		t.Errorf("progress: got %+v", e)
	}
	jobs.mu.Lock()
	jobs.err = errors.New("nobody leads")
	jobs.mu.Unlock()
	for deadline := time.Now().Add(10 * time.Second); !strings.Contains(state.Trouble, "nobody leads"); {
		if time.Now().After(deadline) {
			t.Fatalf("a silent cluster is not told: %+v", state)
		}
		if err := json.Unmarshal([]byte(take(t, stream, "state").data), &state); err != nil {
			t.Fatal(err)
		}
	}
	if len(state.Ledger) != 1 || state.Cluster != "silent" {
		t.Errorf("while the cluster is silent: got %+v, want what it said last", state)
	}
	write(t, filepath.Join(dir, metrics.MetricsFile), "")
	take(t, stream, "reset")
	if got := snapshotOf(t, h, "run"); len(got.Steps.Update) != 0 {
		t.Errorf("after other files: got %d steps", len(got.Steps.Update))
	}
	if status, body := get(t, h.URL+"/api/runs/run/stream?from=1.x"); status != http.StatusBadRequest || !strings.Contains(body, "cursor") {
		t.Errorf("a cursor that is none: got %d %s", status, body)
	}
}

// However far behind browsers are, nothing is kept for them here: what is told while one reads nothing takes no memory.
func TestASlowReaderKeepsNothing(t *testing.T) {
	s, err := New(Config{Runs: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	w, leave := s.live.watch("run")
	sink := s.Sink("run")
	e := metrics.Event{Kind: metrics.KindStep, Step: &metrics.Step{}}
	if n := testing.AllocsPerRun(1000, func() { sink.Emit(e) }); n > 0 {
		t.Errorf("%v allocations an event that nobody takes", n)
	}
	if len(w.woken) != 1 {
		t.Errorf("woken %d times, want 1", len(w.woken))
	}
	leave()
	if len(s.live.watchers) != 0 {
		t.Errorf("who left is still known: %v", s.live.watchers)
	}
}

// A browser that takes nothing is left, and costs one batch until then.
func TestAReaderThatTakesNothingIsLeft(t *testing.T) {
	runs := t.TempDir()
	dir := filepath.Join(runs, "run")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	line := `{"time":"2026-01-02T03:04:05Z","kind":"story","story":{"topic":"x","text":"` + strings.Repeat("y", 60<<10) + "\"}}\n"
	write(t, filepath.Join(dir, metrics.EventsFile), strings.Repeat(line, 400)) // 24 MB: more than the kernel holds
	s, err := New(Config{Runs: runs})
	if err != nil {
		t.Fatal(err)
	}
	s.takeWithin = 50 * time.Millisecond
	ended := make(chan struct{})
	h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer close(ended)
		s.ServeHTTP(w, r)
	}))
	defer h.Close()
	c, err := net.Dial("tcp", h.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprintf(c, "GET /api/runs/run/stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
	select {
	case <-ended:
	case <-time.After(20 * time.Second):
		t.Fatal("the stream still waits for a browser that takes nothing")
	}
	if n := s.live.streams.Load(); n != 0 {
		t.Errorf("%d streams are counted, want 0", n)
	}
}

func TestAListOfRunsIsFollowed(t *testing.T) {
	runs := t.TempDir()
	aRun(t, runs, "one")
	_, h := serve(t, Config{Runs: runs})
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	stream := listen(t, ctx, h.URL+"/api/stream", "")
	if e := take(t, stream, "runs"); strings.Count(e.data, `"name"`) != 1 {
		t.Errorf("got %s, want one run", e.data)
	}
	aRun(t, runs, "two")
	for deadline := time.Now().Add(10 * time.Second); ; {
		if e := take(t, stream, "runs"); strings.Count(e.data, `"name":"two","state":"done"`) == 1 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the second run is not told")
		}
	}
}

func TestTooManyStreams(t *testing.T) {
	runs := t.TempDir()
	aRun(t, runs, "run")
	s, h := serve(t, Config{Runs: runs})
	s.live.streams.Add(maxStreams)
	if status, body := get(t, h.URL+"/api/runs/run/stream"); status != http.StatusServiceUnavailable || !strings.Contains(body, "already") {
		t.Errorf("got %d %s", status, body)
	}
	s.live.streams.Add(-maxStreams)
	if n := s.live.streams.Load(); n != 0 {
		t.Errorf("%d streams are counted, want 0", n)
	}
}

func TestTheClusterIsAskedOnceInAWhile(t *testing.T) {
	jobs := &fakeJobs{jobs: []Job{{ID: "job-1", Directory: "run"}}}
	c := newJobCache(jobs, time.Hour)
	for range 5 {
		if _, known, err := c.of(t.Context(), "run"); !known || err != nil {
			t.Fatalf("got %v, %v", known, err)
		}
	}
	if jobs.asked != 1 {
		t.Errorf("asked %d times, want once", jobs.asked)
	}
	c.forget()
	if _, _, err := c.of(t.Context(), "run"); err != nil || jobs.asked != 2 {
		t.Errorf("after forget: asked %d times, %v", jobs.asked, err)
	}
}
