package cmd

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"strings"
	"time"

	"mp/coordinator"
	"mp/coordinator/web"
	"mp/job"
	"mp/metrics"
	"mp/metrics/nats"
	"mp/metrics/prometheus"
	"mp/mppb"
	"mp/trust"
)

// Words of --nats beside a URL.
const (
	natsEmbedded = "embedded"
	natsNone     = "none"
)

// hubConfig is a coordinator node with all that goes with it in one process: a NATS server, and the recorder that keeps
// what workers and the cluster tell in the directories of runs.
type hubConfig struct {
	coordinator coordinator.Config
	nats        string // natsEmbedded, natsNone, or the URL of a server
	natsFile    string // credentials for a URL; may be empty
	natsDir     string // the embedded server's
	natsListen  string // the embedded server's; empty: a free port where the coordinator listens
	log         *slog.Logger

	archive bool              // bring what was recorded of a job that has ended to all coordinators
	story   func(*mppb.Event) // told of every event of the cluster since the start; nil: nobody is
	console metrics.Sink      // gets every job's events since the start, beside the job's files; nil: nobody does
	web     webOptions        // where the web page is served
	copies  copying           // where checkpoints are copied to
}

// hub is a running hubConfig.
type hub struct {
	id          string // of the node
	coordinator *coordinator.Coordinator
	natsURL     string // empty: no NATS
	nats        natsAccess
	trust       *trust.Identity // who this node is; nil: plain TCP
	runs        *runSinks
	numbers     *prometheus.Registry // of the node, and of the runs that it records
	recorder    *nats.Recorder       // nil: no NATS
	web         *web.Server          // nil: no page
	page        string               // its address
}

// part is something of a hub that runs until it is told to end.
type part struct {
	cancel context.CancelFunc
	done   chan struct{}
	err    error // once done is closed
}

// begin starts a part; broken is called when it ends with an error before it is told to.
func begin(what string, broken func(), f func(context.Context) error) *part {
	ctx, cancel := context.WithCancel(context.Background())
	p := &part{cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(p.done)
		if p.err = f(ctx); p.err != nil {
			p.err = fmt.Errorf("%s: %w", what, p.err)
			broken()
		}
	}()
	return p
}

// end ends a part, if there is one, and waits for it.
func (p *part) end() error {
	if p == nil {
		return nil
	}
	p.cancel()
	<-p.done
	return p.err
}

// withHub runs a coordinator node while body runs, and ends it after that. When the node breaks before, body's context
// ends. What was told until the end of body is recorded before withHub returns.
func withHub(ctx context.Context, c hubConfig, body func(context.Context, *hub) error) (err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	broken := func() { cancel(errBroken) }
	var server, node, tale, record, page *part
	var port net.Listener // the page's
	h := &hub{id: c.coordinator.ID, nats: natsAccess{c.natsFile, c.coordinator.Trust}, trust: c.coordinator.Trust}
	// The reverse of the start: the coordinator may tell of its end, that is recorded and shown, and NATS goes last.
	defer func() {
		var told error
		if errors.Is(context.Cause(ctx), errBroken) && errors.Is(err, context.Canceled) {
			err = nil // body only ended because of it
		}
		if h.web != nil && !errors.Is(context.Cause(ctx), errBroken) {
			h.web.Remember(context.WithoutCancel(ctx))
		}
		err = errors.Join(err, node.end())
		told = tale.end()
		h.sync()
		err = errors.Join(err, told, record.end(), page.end(), server.end())
		if page == nil && port != nil {
			port.Close()
		}
	}()
	if err := c.coordinator.Validate(); err != nil { // before NATS takes its words for its own
		return err
	}
	if c.web.wanted() { // before anything runs: a port in use is said at once
		if port, err = c.web.listen(); err != nil {
			return err
		}
	}
	if server, err = h.startNATS(ctx, c, broken); err != nil {
		return err
	}
	h.runs = newRunSinks(c)
	h.runs.about = h.about(c.coordinator.Token)
	h.numbers = prometheus.New(version(), prometheus.Source{Cluster: func() metrics.ClusterFacts { return h.coordinator.Facts() }})
	h.runs.numbers = h.numbers.Sink
	teller := &storyteller{hub: h, story: c.story, token: c.coordinator.Token, log: c.log}
	c.coordinator.NATSURL, c.coordinator.Logger, c.coordinator.OnEvent = h.natsURL, c.log, teller.hear
	if h.coordinator, err = coordinator.New(c.coordinator); err != nil {
		return err
	}
	if port != nil {
		if page, err = h.startWeb(c, port, broken); err != nil {
			return err
		}
	}
	tale = begin("story", broken, teller.run)
	node = begin("coordinator", broken, h.coordinator.Run)
	if h.natsURL != "" {
		r := nats.DefaultRecorderConfig(h.natsURL, "mp-"+c.coordinator.ID)
		r.Credentials.File, r.Logger = c.natsFile, c.log
		if r.URL, r.TLS, err = h.nats.server(h.natsURL); err != nil {
			return err
		}
		if h.recorder, err = nats.NewRecorder(r); err != nil {
			return err
		}
		record = begin("recorder", broken, func(ctx context.Context) error { return h.recorder.Run(ctx, h.runs.sink) })
	}
	if c.archive {
		client, err := h.client(c.coordinator.Token)
		if err != nil {
			return err
		}
		defer client.Close()
		keep := begin("archive", broken, func(ctx context.Context) error { return h.archive(ctx, client) })
		defer keep.end()
	}
	if c.copies.to != nil {
		follow := begin("copies of checkpoints", broken, func(ctx context.Context) error { return h.copyCheckpoints(ctx, c) })
		defer follow.end()
	}
	return body(ctx, h)
}

// errBroken is why a hub's context ends when a part of it breaks.
var errBroken = errors.New("a part of the coordinator broke")

// startNATS starts or finds the NATS server, and returns what runs it, if anything here does.
func (h *hub) startNATS(ctx context.Context, c hubConfig, broken func()) (*part, error) {
	switch c.nats {
	case natsNone, "":
		if c.natsListen != "" {
			return nil, fmt.Errorf("%w: --nats-listen %s is for the embedded NATS server: leave it out, or --nats none", job.ErrConfig, c.natsListen)
		}
		return nil, nil
	case natsEmbedded:
	default:
		if c.natsListen != "" {
			return nil, fmt.Errorf("%w: --nats-listen %s is for the embedded NATS server: leave it out, or --nats %s", job.ErrConfig, c.natsListen, c.nats)
		}
		if !strings.Contains(c.nats, "://") {
			return nil, fmt.Errorf("%w: --nats %q: choose embedded, none, or a URL such as nats://host:4222", job.ErrConfig, c.nats)
		}
		h.natsURL = c.nats
		return nil, nil
	}
	host, _, err := net.SplitHostPort(c.coordinator.Listen)
	if err != nil {
		return nil, fmt.Errorf("%w: --listen %q: want HOST:PORT", job.ErrConfig, c.coordinator.Listen)
	}
	s := nats.DefaultServerConfig(c.natsDir)
	if s.Listen, s.Logger = c.natsListen, c.log; s.Listen == "" {
		s.Listen = net.JoinHostPort(host, "0") // the same port at every start, if it is free
	}
	s.Credentials.Token = c.coordinator.Token
	if h.trust != nil {
		s.TLS = h.trust.Server(trust.Roles()...)
		s.ReadOnly = func(c tls.ConnectionState) bool {
			p, err := trust.PeerOf(c)
			return err != nil || p.Role == trust.Client || p.Role == trust.Viewer
		}
	}
	if name, _, err := net.SplitHostPort(c.coordinator.Advertised()); err == nil {
		s.Advertise = name
	}
	server, err := nats.NewServer(s)
	if err != nil {
		return nil, err
	}
	p := begin("NATS", broken, server.Run)
	select {
	case <-server.Ready():
	case <-p.done:
		return p, context.Canceled // its own error is told at its end
	case <-ctx.Done():
		return p, ctx.Err()
	}
	if rest, ok := strings.CutPrefix(server.URL(), "tls://"); ok {
		h.natsURL = ownNATS + rest
		return p, nil
	}
	h.natsURL, err = withToken(server.URL(), c.coordinator.Token)
	return p, err
}

// startWeb serves the web page of this node's runs and the cluster's jobs on a port.
func (h *hub) startWeb(c hubConfig, port net.Listener, broken func()) (*part, error) {
	client, err := h.client(c.coordinator.Token)
	if err != nil {
		return nil, err
	}
	h.web, err = web.New(web.Config{Runs: c.coordinator.RunsDir, Jobs: webJobs{client}, Token: c.web.token, Version: version(), Logger: c.log})
	if err != nil {
		return nil, errors.Join(err, client.Close())
	}
	h.page, h.runs.live = c.web.pageURL(port), h.web.Sink
	return begin("web page", broken, func(ctx context.Context) error {
		defer client.Close()
		return c.web.serve(ctx, port, h.web, c.log)
	}), nil
}

// withToken is the server's URL with the secret that it asks for: who is told of it has shown the secret already.
func withToken(server, token string) (string, error) {
	if token == "" {
		return server, nil
	}
	u, err := url.Parse(server)
	if err != nil {
		return "", fmt.Errorf("URL of the NATS server: %w", err)
	}
	u.User = url.User(token)
	return u.String(), nil
}

// withoutUser is a URL without what stands before an @: it is for people and logs.
func withoutUser(server string) string {
	u, err := url.Parse(server)
	if err != nil {
		return "" // of several, or no URL: nothing of it is safe to show
	}
	u.User = nil
	return u.String()
}

// syncWithin bounds how long the end of a run waits for its last metrics.
const syncWithin = 5 * time.Second

func (h *hub) sync() {
	if h.recorder == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), syncWithin)
	defer cancel()
	_ = h.recorder.Sync(ctx) // a run does not fail with its metrics; what is missing now is recorded at the next start
}

// client asks this node, wherever it listens.
func (h *hub) client(token string) (*mppb.Client, error) {
	return mppb.NewClient(mppb.ClientConfig{Addresses: []string{h.coordinator.Address()}, Token: token, Dial: towards(h.trust, trust.Coordinator)})
}

// about finds what a job is, by its identity: in this node's own state, which is also there when the coordinator has ended, or
// else from the leader.
func (h *hub) about(token string) func(id string) (*mppb.Job, error) {
	return func(id string) (*mppb.Job, error) {
		if j, err := h.coordinator.Job(id); err == nil {
			return j, nil
		}
		client, err := h.client(token)
		if err != nil {
			return nil, err
		}
		defer client.Close()
		d, err := showOnce(context.Background(), client, id)
		return d.GetJob(), err
	}
}
