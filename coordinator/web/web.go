// Package web is the page on which people watch and steer runs: what a coordinator's run directories tell, live. It owns the
// pages under static/, the JSON behind them and the events that keep them current; it decides nothing about a run and must
// never import raft, workers or operations: what it knows of a cluster comes through Jobs, what it knows of runs from their
// files. Everything is embedded: no page asks anything of another host.
//
// What is served:
//
//	GET  /                                overview; /runs/NAME one run; /compare?run=A&run=B several over each other
//	GET  /api/runs                        {"runs": [Run]}, the newest first
//	GET  /api/runs/NAME                   Snapshot: everything about a run, and the cursor from which the stream goes on
//	GET  /api/runs/NAME/stream?from=C     server-sent events, below
//	GET  /api/runs/NAME/pictures/FILE     a PNG of the run's pictures/
//	GET  /api/stream                      server-sent events: "runs", what /api/runs says, whenever that changes
//	POST /api/jobs/ID/pause               and resume, drain, cancel: steers a job; from a page of this server only
//	POST /api/login                       form field token: a cookie, where the cluster has a secret; Authorization: Bearer does too
//
// A run's stream is its files: every complete line of metrics.jsonl and events.jsonl is one event "line", whose id is the
// cursor after it, METRICS.EVENTS in bytes. A client that comes back with Last-Event-ID gets the lines after that, each once,
// also when the server was started again meanwhile. Beside the lines come, without an id, "state" (a State, whenever it
// changes), "progress" (work that is shown and never kept), "reset" (the files are others than those that the cursor was of:
// ask for the snapshot again) and "end" (this server goes). Errors are {"error": TEXT} with a fitting status.
//
// Start reading at Server, then at stream.go; book.go makes out of lines what the page shows.
package web

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"
)

// ErrConfig is in the chain of what Validate returns.
var ErrConfig = errors.New("unusable configuration of the web page")

// Config says what a Server shows.
type Config struct {
	// Runs is the folder of run directories. It may be made later.
	Runs string
	// Jobs is the cluster whose jobs are shown and steered. Nil: there is none, files alone tell.
	Jobs Jobs
	// Token is the secret that is asked for before anything is told; empty: nobody is asked, and only requests to this
	// machine's own names are answered, so that no page of another site reaches it under a name of its own.
	Token string
	// Version is the program's, for people.
	Version string
	// LookEvery is how often files are looked at that another process may write, and the cluster is asked. Zero: one second.
	LookEvery time.Duration
	// Logger gets what a person should know at Warn. Nil: nothing is logged.
	Logger *slog.Logger
}

// Validate returns what is wrong with the configuration, matching ErrConfig, or nil.
func (c Config) Validate() error {
	if c.Runs == "" {
		return fmt.Errorf("%w: no folder of runs", ErrConfig)
	}
	if c.LookEvery < 0 {
		return fmt.Errorf("%w: looks every %v", ErrConfig, c.LookEvery)
	}
	return nil
}

// Server is the page as an http.Handler. Its methods may be called from any goroutine.
type Server struct {
	cfg     Config
	log     *slog.Logger
	handler http.Handler
	shelf   *shelf
	jobs    *jobCache
	live    *live
	login   *login

	takeWithin time.Duration // a browser that takes nothing for so long is left: it can come back where it was

	closing   chan struct{}
	closeOnce sync.Once
}

// New checks the configuration. It opens nothing yet.
func New(c Config) (*Server, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	if c.LookEvery == 0 {
		c.LookEvery = time.Second
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Server{
		cfg: c, log: c.Logger, shelf: newShelf(c.Runs), jobs: newJobCache(c.Jobs, c.LookEvery), live: newLive(), login: newLogin(c.Token),
		takeWithin: 20 * time.Second, closing: make(chan struct{}),
	}
	pages, err := newPages()
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /api/runs", s.serveRuns)
	mux.HandleFunc("GET /api/runs/{name}", s.serveRun)
	mux.HandleFunc("GET /api/runs/{name}/stream", s.serveRunStream)
	mux.HandleFunc("GET /api/runs/{name}/pictures/{file}", s.servePicture)
	mux.HandleFunc("GET /api/stream", s.serveStream)
	mux.HandleFunc("POST /api/jobs/{id}/{verb}", s.serveSteer)
	mux.HandleFunc("POST /api/login", s.serveLogin)
	mux.HandleFunc("/api/", func(w http.ResponseWriter, r *http.Request) {
		fail(w, http.StatusNotFound, "there is no %s %s here", r.Method, r.URL.Path)
	})
	mux.Handle("/", pages)
	s.handler = s.guard(mux)
	return s, nil
}

// ServeHTTP answers a request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.handler.ServeHTTP(w, r) }

// Remember asks the cluster once more about the jobs that are looked at, because it is about to end: what it says is shown to
// the last.
func (s *Server) Remember(ctx context.Context) { s.jobs.remember(ctx) }

// Close lets every stream send what the files hold by now and end; streams that come later end likewise. The cluster is not
// asked any more. It does not wait: http.Server.Shutdown does.
func (s *Server) Close() {
	s.closeOnce.Do(func() {
		s.jobs.freeze()
		close(s.closing)
	})
}

// reply writes a value as JSON.
func reply(w http.ResponseWriter, value any) {
	text, err := json.Marshal(value)
	if err != nil {
		fail(w, http.StatusInternalServerError, "write answer as JSON: %v", err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	_, _ = w.Write(text) // a browser that has gone does not miss it
}

// fail answers with an error that a person can read.
func fail(w http.ResponseWriter, status int, format string, args ...any) {
	text, err := json.Marshal(map[string]string{"error": fmt.Sprintf(format, args...)})
	if err != nil {
		panic(err) // a string is always JSON
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write(text)
}
