package web

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"mp/metrics"
)

// begun is when the tests' runs begin.
func begun() time.Time { return time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC) }

// aRun writes a run of three workers of which one vanishes: 20 reported steps, two epochs.
func aRun(t *testing.T, runs, name string) string {
	t.Helper()
	dir := filepath.Join(runs, name)
	if err := os.MkdirAll(filepath.Join(dir, metrics.PicturesFolder), 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, jobFile), "data: d\nmodel: simplenet\nname: \"\"\nepochs: 2\nbatch-size: 64\n")
	write(t, filepath.Join(dir, metrics.PicturesFolder, "00000010-image-org-image.png"), "\x89PNG picture")
	j, err := metrics.NewJSONL(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range story() {
		j.Emit(e)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	return dir
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// story is what happens in aRun, in order.
func story() []metrics.Event {
	at, all := begun(), []metrics.Event{}
	add := func(e metrics.Event) {
		at = at.Add(500 * time.Millisecond)
		e.Time = at
		all = append(all, e)
	}
	members := func(names ...string) []metrics.ViewMember {
		var m []metrics.ViewMember
		for i, n := range names {
			m = append(m, metrics.ViewMember{Worker: uint64(7 + i), Name: n, Shards: []int{i}})
		}
		return m
	}
	say := func(topic, text string) {
		add(metrics.Event{Kind: metrics.KindStory, Story: &metrics.Story{Topic: topic, Text: text}})
	}
	say("job", "job-1 submitted: "+"run")
	say("job", "job-1 starts")
	add(metrics.Event{Kind: metrics.KindView, View: &metrics.View{Number: 1, Members: members("a (host h, cpu:0)", "b (host h, cpu:1)", "c (host h, cpu:2)"), Reason: "job-1 begins with 3 workers"}})
	add(metrics.Event{Kind: metrics.KindStart, Start: &metrics.Start{Directory: "run", Device: "cpu, 1 thread", Updates: 20, Job: json.RawMessage(`{"model":"simplenet","epochs":2,"batch-size":64,"lr":0.05,"data":"d"}`)}})
	for u := 1; u <= 20; u++ {
		if u == 8 {
			add(metrics.Event{Kind: metrics.KindView, View: &metrics.View{Number: 2, Members: members("a (host h, cpu:0)", "b (host h, cpu:1)"), Reason: "c vanished: connection reset", Update: 7, DetectSeconds: 0.1, Warning: true}})
			add(metrics.Event{Kind: metrics.KindView, View: &metrics.View{Number: 2, Members: members("a (host h, cpu:0)", "b (host h, cpu:1)"), Reason: "next step after 0.2 s", Update: 8, RecoverSeconds: 0.2}})
		}
		epoch := 1 + (u-1)/10
		add(metrics.Event{Kind: metrics.KindStep, Step: &metrics.Step{Epoch: epoch, Epochs: 2, Step: u - 10*(epoch-1), Steps: 10, Update: u, Loss: metrics.Value(3 - float64(u)/20), Top1: float64(u), ImagesPerSecond: 128, ETASeconds: float64(20 - u)}})
		for w := range 2 {
			add(metrics.Event{Kind: metrics.KindWorker, Worker: &metrics.Worker{Worker: uint64(7 + w), Name: "a", View: 2, Update: u, Shards: []int{w}, ArrivalSkew: float64(w) / 10, MemoryBytes: 1 << 20, GPU: &metrics.GPU{Busy: new(float64(w) / 4), TotalBytes: 1 << 30}}})
		}
		if u%10 == 0 {
			add(metrics.Event{Kind: metrics.KindEpoch, Epoch: &metrics.Epoch{Epoch: epoch, Epochs: 2, Update: u, Loss: 2.5, Top1: 11, Seconds: 5, ImagesPerSecond: 128}})
			add(metrics.Event{Kind: metrics.KindValidation, Validation: &metrics.Validation{Epoch: epoch, Epochs: 2, Update: u, Images: 100, Loss: 2.4, Top1: float64(u), Seconds: 1, Best: true}})
		}
	}
	say("job", "job-1 is done: best top-1 20.00 %")
	return all
}

// fakeJobs is a cluster that answers from what the test gives it.
type fakeJobs struct {
	mu      sync.Mutex
	jobs    []Job
	detail  Detail
	err     error
	steered []string
	asked   int
}

func (f *fakeJobs) List(context.Context) ([]Job, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked++
	return f.jobs, f.err
}

func (f *fakeJobs) Show(context.Context, string) (Detail, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.detail, f.err
}

func (f *fakeJobs) Steer(_ context.Context, id string, v Verb) (Job, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.steered = append(f.steered, id+" "+string(v))
	return Job{ID: id, State: "paused"}, f.err
}

// serve starts a server on 127.0.0.1.
func serve(t *testing.T, c Config) (*Server, *httptest.Server) {
	t.Helper()
	if c.LookEvery == 0 {
		c.LookEvery = 20 * time.Millisecond
	}
	s, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	h := httptest.NewServer(s)
	t.Cleanup(func() {
		s.Close()
		h.Close()
	})
	return s, h
}

// get asks for something and returns status and body.
func get(t *testing.T, address string) (int, string) {
	t.Helper()
	r, err := http.Get(address)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return r.StatusCode, string(body)
}

func snapshotOf(t *testing.T, h *httptest.Server, name string) Snapshot {
	t.Helper()
	status, body := get(t, h.URL+"/api/runs/"+name)
	var s Snapshot
	if err := json.Unmarshal([]byte(body), &s); err != nil || status != http.StatusOK {
		t.Fatalf("snapshot of %s: got %d %s, %v", name, status, body, err)
	}
	return s
}

func TestSnapshotIsWhatTheFilesSay(t *testing.T) {
	runs := t.TempDir()
	aRun(t, runs, "run")
	_, h := serve(t, Config{Runs: runs})
	s := snapshotOf(t, h, "run")
	if s.State.State != "done" || s.Update != 20 || s.Updates != 20 || s.Workers != 2 || s.Faults != 1 || s.Best.Top1 != 20 || s.Model != "simplenet" || len(s.Problems) != 0 {
		t.Errorf("run: got %+v", s.Run)
	}
	if len(s.Steps.Update) != 20 || s.Steps.Update[19] != 20 || s.Steps.Loss[0] != 2.95 || s.Steps.Each != 1 || len(s.EpochList) != 2 || len(s.Validations) != 2 {
		t.Errorf("curves: got %+v, %+v, %+v", s.Steps, s.EpochList, s.Validations)
	}
	if len(s.Crew) != 2 || s.Crew[1].ArrivalSkew != 0.1 || len(s.Crew[1].Skews) != 20 || s.Crew[1].GPU == nil || *s.Crew[1].GPU.Busy != .25 || s.Crew[0].Name != "a (host h, cpu:0)" {
		t.Errorf("workers: got %+v", s.Crew)
	}
	if len(s.Story) != 7 || s.Story[4].View == nil || !s.Story[4].View.Warning {
		t.Errorf("story: got %d events, %+v", len(s.Story), s.Story)
	}
	if g := s.Goodput; g == nil || g.Faults != 1 || g.CommittedSteps != 19 || g.RecoverMedian != 0.2 {
		t.Errorf("goodput: got %+v", g)
	}
	if len(s.Config) != 5 || s.Config[3] != (Setting{"lr", "0.05"}) {
		t.Errorf("configuration: got %+v", s.Config)
	}
	if s.Cluster != "none" {
		t.Errorf("cluster: got %q, want none", s.Cluster)
	}
}

func TestRunsThatAreNotWhole(t *testing.T) {
	runs := t.TempDir()
	dir := aRun(t, runs, "half")
	write(t, filepath.Join(runs, "a file"), "")
	if err := os.MkdirAll(filepath.Join(runs, "fresh"), 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(runs, "fresh", jobFile), "model: scenenet\nimage-size: \"32\"\n")
	for name, tail := range map[string]string{metrics.MetricsFile: "not JSON\n" + strings.Repeat("x", maxLine+9) + "\n" + `{"time":"2026-01-02T03:05:00Z","kind":"step","step":{"upd`, metrics.EventsFile: "\n"} {
		f, err := os.OpenFile(filepath.Join(dir, name), os.O_APPEND|os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteString(tail); err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	if err := os.MkdirAll(filepath.Join(runs, "odd", metrics.MetricsFile), 0o755); err != nil { // a folder where a file should be
		t.Fatal(err)
	}
	_, h := serve(t, Config{Runs: runs})
	if s := snapshotOf(t, h, "half"); s.Update != 20 || len(s.Problems) != 1 || !strings.Contains(s.Problems[0], "3 of the lines") {
		t.Errorf("half a line: got update %d, problems %q", s.Update, s.Problems)
	}
	s := snapshotOf(t, h, "fresh")
	if s.State.State != "unknown" || len(s.Problems) != 2 || len(s.Config) != 2 || s.Config[1].Value != "32" || s.Steps.Update == nil {
		t.Errorf("no metrics: got %+v", s)
	}
	status, body := get(t, h.URL+"/api/runs")
	for _, want := range []string{`"name":"half","state":"done"`, `"name":"fresh","state":"unknown","model":"scenenet"`, `"name":"odd"`, "is no file"} {
		if status != http.StatusOK || !strings.Contains(body, want) {
			t.Errorf("list: got %d %s, want %s in it", status, body, want)
		}
	}
	if strings.Contains(body, "a file") {
		t.Errorf("a file counts as a run: %s", body)
	}
	if status, body := get(t, h.URL+"/api/runs/odd"); status != http.StatusInternalServerError || !strings.Contains(body, "is no file") {
		t.Errorf("a folder for a file: got %d %s", status, body)
	}
	_, none := serve(t, Config{Runs: filepath.Join(runs, "not", "there")})
	if status, body := get(t, none.URL+"/api/runs"); status != http.StatusOK || !strings.Contains(body, `"runs":[]`) {
		t.Errorf("no folder yet: got %d %s", status, body)
	}
}

func TestNamesLeadNowhereElse(t *testing.T) {
	outside := t.TempDir()
	runs := filepath.Join(outside, "runs")
	aRun(t, runs, "run")
	aRun(t, outside, "secret")
	write(t, filepath.Join(runs, "run", metrics.PicturesFolder, "notes.txt"), "text")
	for link, target := range map[string]string{"link": filepath.Join(outside, "secret"), "run/pictures/link.png": filepath.Join(outside, "secret", jobFile)} {
		if err := os.Symlink(target, filepath.Join(runs, filepath.FromSlash(link))); err != nil {
			t.Fatal(err)
		}
	}
	_, h := serve(t, Config{Runs: runs})
	for _, path := range []string{"/api/runs/..", "/api/runs/..%2fsecret", "/api/runs/%2e%2e%2fsecret", "/api/runs/..%5csecret", "/api/runs/%00", "/api/runs/run%2fpictures", "/api/runs/link", "/api/runs/.hidden",
		"/api/runs/run/pictures/..%2fjob.yaml", "/api/runs/run/pictures/notes.txt", "/api/runs/run/pictures/link.png", "/api/runs/run/pictures/none.png", "/api/runs/none",
		"/api/runs/none/stream", "/api/nothing", "/static/..%2fweb.go"} {
		r, err := http.NewRequest(http.MethodGet, h.URL, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.URL.Opaque = path
		answer, err := http.DefaultTransport.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(answer.Body)
		answer.Body.Close()
		if answer.StatusCode < 300 || strings.Contains(string(body), "secret") && strings.Contains(string(body), "simplenet") {
			t.Errorf("%s: got %d %s", path, answer.StatusCode, body)
		}
	}
	if status, body := get(t, h.URL+"/api/runs/run/pictures/00000010-image-org-image.png"); status != http.StatusOK || body != "\x89PNG picture" {
		t.Errorf("a picture: got %d %q", status, body)
	}
}

func TestPagesAndTheirPolicy(t *testing.T) {
	_, h := serve(t, Config{Runs: t.TempDir()})
	for path, want := range map[string]int{"/": 200, "/runs/x": 200, "/compare": 200, "/favicon.ico": 200, "/static/run.js": 200, "/static/vendor/uplot/LICENSE": 200, "/nothing": 404, "/runs/x/y": 404, "/static/": 404} {
		r, err := http.Get(h.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		r.Body.Close()
		if r.StatusCode != want || !strings.Contains(r.Header.Get("Content-Security-Policy"), "script-src 'self';") {
			t.Errorf("%s: got %d, %v", path, r.StatusCode, r.Header)
		}
		if tag := r.Header.Get("ETag"); want == 200 {
			again, _ := http.NewRequest(http.MethodGet, h.URL+path, nil)
			again.Header.Set("If-None-Match", tag)
			if r, err := http.DefaultClient.Do(again); err != nil || r.StatusCode != http.StatusNotModified {
				t.Errorf("%s again: got %v, %v", path, r, err)
			}
		}
	}
	// Nothing that is embedded names another host, but for who made it.
	for name, f := range pagesOf(t).files {
		for _, line := range strings.Split(string(f.content), "\n") {
			if strings.Contains(line, "//") && (strings.Contains(line, "src=\"http") || strings.Contains(line, "href=\"http") || strings.Contains(line, "url(http") || strings.Contains(line, "from 'http")) {
				t.Errorf("%s asks another host: %s", name, line)
			}
		}
		if strings.HasSuffix(name, ".html") && (strings.Contains(string(f.content), "<script>") || strings.Contains(string(f.content), "style=") || strings.Contains(string(f.content), "onclick=")) {
			t.Errorf("%s has what the policy refuses", name)
		}
	}
}

func pagesOf(t *testing.T) *pages {
	t.Helper()
	p, err := newPages()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestWhoMayAsk(t *testing.T) {
	runs := t.TempDir()
	aRun(t, runs, "run")
	jobs := &fakeJobs{jobs: []Job{{ID: "job-1", State: "running", Directory: "run"}}}
	_, open := serve(t, Config{Runs: runs, Jobs: jobs})
	_, closed := serve(t, Config{Runs: runs, Jobs: jobs, Token: "open sesame"})
	call := func(address, method string, headers ...string) int {
		r, err := http.NewRequest(method, address, nil)
		if err != nil {
			t.Fatal(err)
		}
		for i := 0; i < len(headers); i += 2 {
			if headers[i] == "Host" {
				r.Host = headers[i+1]
			}
			r.Header.Set(headers[i], headers[i+1])
		}
		answer, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		answer.Body.Close()
		return answer.StatusCode
	}
	for _, c := range []struct {
		what    string
		address string
		method  string
		headers []string
		want    int
	}{
		{"this machine", open.URL + "/api/runs", "GET", nil, 200},
		{"by name", open.URL + "/api/runs", "GET", []string{"Host", "localhost:1"}, 200},
		{"by a name that somebody made up", open.URL + "/api/runs", "GET", []string{"Host", "evil.example"}, 403},
		{"that name with a token", closed.URL + "/api/runs", "GET", []string{"Host", "gpu7.example", "Authorization", "Bearer open sesame"}, 200},
		{"no token", closed.URL + "/api/runs", "GET", nil, 401},
		{"no token, a stream", closed.URL + "/api/runs/run/stream", "GET", nil, 401},
		{"no token, a picture", closed.URL + "/api/runs/run/pictures/00000010-image-org-image.png", "GET", nil, 401},
		{"no token, steering", closed.URL + "/api/jobs/job-1/cancel", "POST", nil, 401},
		{"a wrong one", closed.URL + "/api/runs", "GET", []string{"Authorization", "Bearer close"}, 401},
		{"the page itself", closed.URL + "/", "GET", nil, 200},
		{"steering from another site", open.URL + "/api/jobs/job-1/cancel", "POST", []string{"Origin", "http://evil.example", "Sec-Fetch-Site", "cross-site"}, 403},
		{"steering by reading", open.URL + "/api/jobs/job-1/cancel", "GET", nil, 404},
		{"an unknown verb", open.URL + "/api/jobs/job-1/explode", "POST", nil, 404},
		{"steering", open.URL + "/api/jobs/job-1/pause", "POST", []string{"Origin", open.URL, "Sec-Fetch-Site", "same-origin"}, 200},
	} {
		if got := call(c.address, c.method, c.headers...); got != c.want {
			t.Errorf("%s: got %d, want %d", c.what, got, c.want)
		}
	}
	if len(jobs.steered) != 1 || jobs.steered[0] != "job-1 pause" {
		t.Errorf("steered %q, want job-1 pause alone", jobs.steered)
	}
	jobs.err = fmt.Errorf("%w: it is done", ErrRefused)
	if got := call(open.URL+"/api/jobs/job-1/pause", "POST"); got != http.StatusConflict {
		t.Errorf("refused by the cluster: got %d, want 409", got)
	}
	jobs.err = errors.New("nobody leads")
	if got := call(open.URL+"/api/jobs/job-1/pause", "POST"); got != http.StatusServiceUnavailable {
		t.Errorf("nobody leads: got %d, want 503", got)
	}
	_, none := serve(t, Config{Runs: runs})
	if got := call(none.URL+"/api/jobs/job-1/pause", "POST"); got != http.StatusConflict {
		t.Errorf("no cluster: got %d, want 409", got)
	}
}

func TestLogin(t *testing.T) {
	runs := t.TempDir()
	_, h := serve(t, Config{Runs: runs, Token: "open sesame"})
	post := func(word string) *http.Response {
		r, err := http.PostForm(h.URL+"/api/login", url.Values{"token": {word}})
		if err != nil {
			t.Fatal(err)
		}
		r.Body.Close()
		return r
	}
	r := post("open sesame")
	if r.StatusCode != http.StatusOK || len(r.Cookies()) != 1 {
		t.Fatalf("right token: got %d, %v", r.StatusCode, r.Cookies())
	}
	c := r.Cookies()[0]
	if !c.HttpOnly || c.SameSite != http.SameSiteStrictMode || strings.Contains(c.Value, "sesame") {
		t.Errorf("cookie: got %+v", c)
	}
	for _, server := range []string{h.URL, func() string { _, again := serve(t, Config{Runs: runs, Token: "open sesame"}); return again.URL }()} { // also after a restart
		request, _ := http.NewRequest(http.MethodGet, server+"/api/runs", nil)
		request.AddCookie(c)
		if answer, err := http.DefaultClient.Do(request); err != nil || answer.StatusCode != http.StatusOK {
			t.Errorf("with the cookie: got %v, %v", answer, err)
		}
	}
	if r := post("open"); r.StatusCode != http.StatusForbidden || len(r.Cookies()) != 0 {
		t.Errorf("wrong token: got %d, %v", r.StatusCode, r.Cookies())
	}
	if r := post("open sesame"); r.StatusCode != http.StatusTooManyRequests {
		t.Errorf("right after a wrong one: got %d, want 429", r.StatusCode)
	}
}
