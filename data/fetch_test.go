package data

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// mirror is an HTTP server for one file with the faults of real ones.
type mirror struct {
	mu sync.Mutex
	faults
	requests atomic.Int64
	sent     atomic.Int64
}

type faults struct {
	content  []byte
	etag     string
	noRanges bool
	noLength bool
	cutAfter int64 // bytes of an answer after which the connection breaks; 0 never
	status   int   // an answer to all requests; 0 is the file
	hang     time.Duration
}

// change alters what the server does from the next request on.
func (m *mirror) change(f func(*faults)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f(&m.faults)
}

func (server *mirror) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	server.requests.Add(1)
	server.mu.Lock()
	m := server.faults
	server.mu.Unlock()
	if m.status != 0 {
		w.WriteHeader(m.status)
		return
	}
	if m.etag != "" {
		w.Header().Set("ETag", m.etag)
	}
	out := &breaking{w, m, &server.sent, r.Context()}
	switch {
	case m.noRanges || m.noLength:
		if !m.noLength {
			w.Header().Set("Content-Length", fmt.Sprint(len(m.content)))
		}
		for b := m.content; len(b) > 0; b = b[min(len(b), 1000):] {
			out.Write(b[:min(len(b), 1000)])
		}
	default:
		http.ServeContent(out, r, "data.tar.gz", time.Time{}, bytes.NewReader(m.content))
	}
}

// breaking breaks the connection after so many bytes.
type breaking struct {
	http.ResponseWriter
	m    faults
	sent *atomic.Int64
	ctx  context.Context // ends when the client goes away
}

func (b *breaking) Write(p []byte) (int, error) {
	left := int64(len(p))
	if b.m.cutAfter > 0 {
		left = min(left, b.m.cutAfter)
	}
	n, err := b.ResponseWriter.Write(p[:left])
	b.sent.Add(int64(n))
	if b.m.cutAfter > 0 {
		b.ResponseWriter.(http.Flusher).Flush()
		select {
		case <-time.After(b.m.hang):
		case <-b.ctx.Done():
		}
		panic(http.ErrAbortHandler)
	}
	return n, err
}

func startMirror(t *testing.T, m *mirror) string {
	t.Helper()
	s := httptest.NewServer(m)
	t.Cleanup(s.Close)
	return s.URL + "/data.tar.gz"
}

func testContent(seed uint64) []byte {
	b := make([]byte, 100_000)
	r := NewRand(seed)
	for i := range b {
		b[i] = byte(r.Uint64())
	}
	return b
}

// fetchInto fetches with short waits and checks that the file is there only if it is right.
func fetchInto(t *testing.T, dir string, c FetchConfig, want []byte) (Fetched, error) {
	t.Helper()
	c.Path, c.Wait = filepath.Join(dir, "data.tar.gz"), time.Millisecond
	got, err := Fetch(context.Background(), c)
	content, readErr := os.ReadFile(c.Path)
	switch {
	case err != nil && readErr == nil:
		t.Errorf("the file is there in spite of %v", err)
	case err == nil:
		if !bytes.Equal(content, want) {
			t.Errorf("got %d bytes that differ from the server's %d", len(content), len(want))
		}
		if got.Bytes != int64(len(want)) || got.SHA256 != fmt.Sprintf("%x", sha256.Sum256(want)) {
			t.Errorf("got %+v", got)
		}
		wantOnly(t, dir, "data.tar.gz")
	}
	return got, err
}

func TestFetch(t *testing.T) {
	m := &mirror{faults: faults{content: testContent(1), etag: `"1"`}}
	url, dir := startMirror(t, m), t.TempDir()
	var last, total int64
	sum := fmt.Sprintf("%X", sha256.Sum256(m.content))
	got, err := fetchInto(t, dir, FetchConfig{URL: url, SHA256: sum, Progress: func(d, n int64) { last, total = d, n }}, m.content)
	if err != nil || got.There || got.Resumed != 0 {
		t.Errorf("got %+v, %v", got, err)
	}
	if last != 100_000 || total != 100_000 {
		t.Errorf("progress ended at %d of %d", last, total)
	}
	got, err = fetchInto(t, dir, FetchConfig{URL: url}, m.content)
	if err != nil || !got.There || m.requests.Load() != 1 {
		t.Errorf("again: got %+v, %v, %d requests", got, err, m.requests.Load())
	}
	_, err = Fetch(context.Background(), FetchConfig{URL: url, Path: filepath.Join(dir, "data.tar.gz"), SHA256: strings.Repeat("0", 64)})
	wantError(t, err, "is there with SHA-256", "delete it")
}

func TestFetchGoesOnAfterACut(t *testing.T) {
	m := &mirror{faults: faults{content: testContent(1), etag: `"1"`, cutAfter: 30_000}}
	got, err := fetchInto(t, t.TempDir(), FetchConfig{URL: startMirror(t, m)}, m.content)
	if err != nil {
		t.Fatal(err)
	}
	if n := m.requests.Load(); n != 4 {
		t.Errorf("got %d requests, want 4", n)
	}
	if n := m.sent.Load(); n != 100_000 {
		t.Errorf("the server sent %d bytes, want each byte once", n)
	}
	if got.Resumed != 0 {
		t.Errorf("resumed %d bytes of an earlier call", got.Resumed)
	}
}

// stopHalfway fetches until half the file has arrived and then interrupts.
func stopHalfway(t *testing.T, dir, url string) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	_, err := Fetch(ctx, FetchConfig{URL: url, Path: filepath.Join(dir, "data.tar.gz"), Wait: time.Millisecond, Progress: func(done, _ int64) {
		if done >= 30_000 {
			cancel()
		}
	}})
	if !errors.Is(err, context.Canceled) || errors.Is(err, ErrData) {
		t.Fatalf("interrupted: got %v", err)
	}
	wantError(t, err, "the same command goes on")
	wantOnly(t, dir, "data.tar.gz.part", "data.tar.gz.part.json")
}

func TestFetchGoesOnAfterAnInterrupt(t *testing.T) {
	m := &mirror{faults: faults{content: testContent(1), etag: `"1"`, cutAfter: 30_000}}
	url, dir := startMirror(t, m), t.TempDir()
	stopHalfway(t, dir, url)
	m.change(func(f *faults) { f.cutAfter = 0 })
	got, err := fetchInto(t, dir, FetchConfig{URL: url}, m.content)
	if err != nil || got.Resumed < 30_000 || m.sent.Load() != 100_000 {
		t.Errorf("got %+v, %v after %d bytes sent", got, err, m.sent.Load())
	}
}

func TestFetchNoticesAnotherFile(t *testing.T) {
	for name, change := range map[string]func(*faults){
		"other content, other tag": func(m *faults) { m.content, m.etag = testContent(2), `"2"` },
		"other size, weak tag":     func(m *faults) { m.content, m.etag = testContent(2)[:90_000], `W/"1"` },
		"shorter than what came":   func(m *faults) { m.content, m.etag = testContent(2)[:100], `"2"` },
		"no ranges any more":       func(m *faults) { m.noRanges = true },
	} {
		t.Run(name, func(t *testing.T) {
			m := &mirror{faults: faults{content: testContent(1), etag: `"1"`, cutAfter: 30_000}}
			if strings.Contains(name, "weak") {
				m.etag = `W/"1"`
			}
			url, dir := startMirror(t, m), t.TempDir()
			stopHalfway(t, dir, url)
			m.change(func(f *faults) { f.cutAfter = 0; change(f) })
			if _, err := fetchInto(t, dir, FetchConfig{URL: url}, m.content); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestFetchWithoutRangesOrLength(t *testing.T) {
	for _, m := range []*mirror{{faults: faults{noRanges: true}}, {faults: faults{noLength: true}}, {faults: faults{noLength: true, etag: `"1"`}}} {
		m.content = testContent(3)
		if _, err := fetchInto(t, t.TempDir(), FetchConfig{URL: startMirror(t, m)}, m.content); err != nil {
			t.Error(err)
		}
	}
	m := &mirror{faults: faults{content: testContent(3), noRanges: true, cutAfter: 30_000}}
	_, err := fetchInto(t, t.TempDir(), FetchConfig{URL: startMirror(t, m), Tries: 3}, m.content)
	wantError(t, err, "3 attempts in a row")
	if errors.Is(err, ErrData) {
		t.Errorf("a lost connection is called bad data: %v", err)
	}
}

func TestFetchCutsSilence(t *testing.T) {
	m := &mirror{faults: faults{content: testContent(4), etag: `"1"`, cutAfter: 60_000, hang: 3 * time.Second}}
	start := time.Now()
	if _, err := fetchInto(t, t.TempDir(), FetchConfig{URL: startMirror(t, m), Silence: 50 * time.Millisecond}, m.content); err != nil {
		t.Error(err)
	}
	if d := time.Since(start); d > 2*time.Second {
		t.Errorf("waited %v for a silent server", d)
	}
}

func TestFetchRefuses(t *testing.T) {
	m := &mirror{faults: faults{content: testContent(5)}}
	url, dir := startMirror(t, m), t.TempDir()
	refuse := func(c FetchConfig, parts ...string) {
		t.Helper()
		c.Wait = time.Millisecond
		if c.Path == "" {
			c.Path = filepath.Join(dir, "x")
		}
		_, err := Fetch(context.Background(), c)
		wantError(t, err, parts...)
		if !errors.Is(err, ErrData) {
			t.Errorf("error %v is not ErrData", err)
		}
		wantOnly(t, dir)
	}
	refuse(FetchConfig{URL: url, SHA256: strings.Repeat("ab", 32)}, "have SHA-256", "thrown away")
	refuse(FetchConfig{URL: url, Path: filepath.Join(dir, "none", "x")}, "no such file")
	refuse(FetchConfig{URL: "ftp://example.com/x"}, "http://")
	refuse(FetchConfig{URL: "::"}, "::")
	m.change(func(f *faults) { f.status = http.StatusNotFound })
	refuse(FetchConfig{URL: url}, "404", "--url")
	m.change(func(f *faults) { f.status = http.StatusServiceUnavailable })
	_, err := Fetch(context.Background(), FetchConfig{URL: url, Path: filepath.Join(dir, "x"), Wait: time.Millisecond})
	wantError(t, err, "5 attempts in a row", "503", "--url")
	if errors.Is(err, ErrData) {
		t.Errorf("a busy server is called bad data: %v", err)
	}
	wantOnly(t, dir)
}
