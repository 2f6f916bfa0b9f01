package cmd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"mp/coordinator"
	"mp/job"
	"mp/metrics"
	"mp/metrics/nats"
	"mp/mppb"
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
	log         *slog.Logger

	story   func(*mppb.Event) // told of every event of the cluster since the start; nil: nobody is
	console metrics.Sink      // gets every job's events since the start, beside the job's files; nil: nobody does
}

// hub is a running hubConfig.
type hub struct {
	coordinator *coordinator.Coordinator
	natsURL     string // empty: no NATS
	runs        *runSinks
	recorder    *nats.Recorder // nil: no NATS
}

// withHub runs a coordinator node while body runs, and stops it after, or before when the node breaks: then body's context
// ends. What is stored at the end of body is recorded before withHub returns.
func withHub(ctx context.Context, c hubConfig, body func(context.Context, *hub) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// The parts outlive body's context: at its end there is something left to record.
	parts, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	var group errgroup.Group
	run := func(what string, f func(context.Context) error) {
		group.Go(func() error {
			err := f(parts)
			if err != nil {
				cancel()
				return fmt.Errorf("%s: %w", what, err)
			}
			return nil
		})
	}
	h := &hub{}
	err := func() error {
		if err := h.startNATS(ctx, &c, run); err != nil {
			return err
		}
		h.runs = newRunSinks(c)
		c.coordinator.NATSURL, c.coordinator.Logger = h.natsURL, c.log
		teller := newStoryteller(h.runs, c.story)
		c.coordinator.OnEvent = teller.hear
		var err error
		if h.coordinator, err = coordinator.New(c.coordinator); err != nil {
			return err
		}
		h.runs.directory = h.directoryOf(c.coordinator.Token)
		run("coordinator", func(ctx context.Context) error {
			defer teller.close()
			return h.coordinator.Run(ctx)
		})
		run("story", func(context.Context) error { return teller.run() })
		if h.natsURL != "" {
			if err := h.startRecorder(c, run); err != nil {
				return err
			}
		}
		err = body(ctx, h)
		h.sync(parts)
		return err
	}()
	stop()
	broken := group.Wait()
	if broken != nil && (err == nil || errors.Is(err, context.Canceled)) {
		err = nil // body only ended because of it
	}
	err = errors.Join(err, broken)
	if h.runs != nil {
		err = errors.Join(err, h.runs.close())
	}
	return err
}

// startNATS starts or finds the NATS server.
func (h *hub) startNATS(ctx context.Context, c *hubConfig, run func(string, func(context.Context) error)) error {
	switch c.nats {
	case natsNone, "":
		return nil
	case natsEmbedded:
	default:
		if !strings.Contains(c.nats, "://") {
			return fmt.Errorf("%w: --nats %q: choose embedded, none, or a URL such as nats://host:4222", job.ErrConfig, c.nats)
		}
		h.natsURL = c.nats
		return nil
	}
	host, _, err := net.SplitHostPort(c.coordinator.Listen)
	if err != nil {
		return fmt.Errorf("%w: --listen %q: want HOST:PORT", job.ErrConfig, c.coordinator.Listen)
	}
	s := nats.DefaultServerConfig(c.natsDir)
	s.Listen, s.Logger = net.JoinHostPort(host, usualPort(c.natsDir, host)), c.log
	s.Credentials.Token = c.coordinator.Token
	if advertised, _, err := net.SplitHostPort(c.coordinator.Advertise); err == nil {
		host = advertised
	}
	server, err := nats.NewServer(s)
	if err != nil {
		return err
	}
	failed := make(chan struct{})
	run("NATS", func(ctx context.Context) error {
		err := server.Run(ctx)
		if err != nil {
			close(failed)
		}
		return err
	})
	select {
	case <-server.Ready():
	case <-failed:
		return context.Canceled // its own error is the group's
	case <-ctx.Done():
		return ctx.Err()
	}
	h.natsURL, err = h.reachable(server.URL(), host, c.coordinator.Token)
	if err != nil {
		return err
	}
	return keepPort(c.natsDir, server.URL())
}

// reachable is the server's URL under the name by which other machines know this one, with the secret that it asks for:
// who is told of it has shown the secret already.
func (h *hub) reachable(server, host, token string) (string, error) {
	u, err := url.Parse(server)
	if err != nil {
		return "", fmt.Errorf("URL of the NATS server: %w", err)
	}
	if ip := net.ParseIP(host); host != "" && (ip == nil || !ip.IsUnspecified()) {
		u.Host = net.JoinHostPort(host, u.Port())
	}
	if token != "" {
		u.User = url.User(token)
	}
	return u.String(), nil
}

// portFile keeps the embedded server's port from one start to the next, so that workers find it again.
const portFile = "port"

// usualPort is the port of the last start if it is still free, else any.
func usualPort(dir, host string) string {
	text, err := os.ReadFile(filepath.Join(dir, portFile))
	if err != nil {
		return "0"
	}
	port := strings.TrimSpace(string(text))
	l, err := net.Listen("tcp", net.JoinHostPort(host, port))
	if err != nil {
		return "0"
	}
	l.Close()
	return port
}

func keepPort(dir, server string) error {
	u, err := url.Parse(server)
	if err != nil {
		return fmt.Errorf("URL of the NATS server: %w", err)
	}
	if err := os.WriteFile(filepath.Join(dir, portFile), []byte(u.Port()+"\n"), 0o600); err != nil && !errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("keep the port of NATS: %w", err)
	}
	return nil
}

// startRecorder lets what workers publish go to the directories of runs.
func (h *hub) startRecorder(c hubConfig, run func(string, func(context.Context) error)) error {
	r := nats.DefaultRecorderConfig(h.natsURL, "mp-"+c.coordinator.ID)
	r.Credentials.File, r.Logger = c.natsFile, c.log
	var err error
	if h.recorder, err = nats.NewRecorder(r); err != nil {
		return err
	}
	run("recorder", func(ctx context.Context) error { return h.recorder.Run(ctx, h.runs.sink) })
	return nil
}

// syncWithin bounds how long the end of a run waits for its last metrics.
const syncWithin = 5 * time.Second

func (h *hub) sync(ctx context.Context) {
	if h.recorder == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, syncWithin)
	defer cancel()
	_ = h.recorder.Sync(ctx) // a run does not fail with its metrics; what is missing now is recorded at the next start
}

// client asks this node, wherever it listens.
func (h *hub) client(token string) (*mppb.Client, error) {
	return mppb.NewClient(mppb.ClientConfig{Addresses: []string{h.coordinator.Address()}, Token: token})
}

// directoryOf finds the name of a job's run directory.
func (h *hub) directoryOf(token string) func(ctx context.Context, id string) (string, error) {
	return func(ctx context.Context, id string) (string, error) {
		client, err := h.client(token)
		if err != nil {
			return "", err
		}
		defer client.Close()
		ctx, cancel := context.WithTimeout(ctx, syncWithin)
		defer cancel()
		name := ""
		err = askLeader(ctx, client, func(ctx context.Context, c mppb.ClusterClient) error {
			d, err := c.Show(ctx, &mppb.JobName{Id: id})
			name = d.GetJob().GetDirectory()
			return err
		})
		return name, err
	}
}
