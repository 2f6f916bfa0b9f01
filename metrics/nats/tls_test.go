package nats

import (
	"context"
	"crypto/tls"
	"strings"
	"testing"
	"time"

	"mp/metrics"
	"mp/trust"
)

// identityOf is that of a role in the cluster of a secret.
func identityOf(t *testing.T, secret string, role trust.Role) *trust.Identity {
	t.Helper()
	a, err := trust.NewAuthority(secret, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	i, err := a.Identity(trust.Party{Role: role, Name: "test"})
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// A server with certificates takes events from workers of its cluster, and from nobody else.
func TestOnlyTheClustersOwnReachNATS(t *testing.T) {
	const ours, theirs = "the secret of this cluster", "the secret of another one"
	config := DefaultServerConfig(t.TempDir())
	config.TLS = identityOf(t, ours, trust.Coordinator).Server(trust.Coordinator, trust.Worker, trust.Viewer)
	config.ReadOnly = func(c tls.ConnectionState) bool {
		p, err := trust.PeerOf(c)
		return err != nil || p.Role == trust.Viewer
	}
	server, _ := startServer(t, config)
	if !strings.HasPrefix(server.URL(), "tls://") {
		t.Errorf("the server is at %s, want tls://", server.URL())
	}
	m := &memory{}
	reader := DefaultRecorderConfig(server.URL(), "test")
	reader.TLS = identityOf(t, ours, trust.Coordinator).Dialing(trust.Coordinator)
	startRecorder(t, reader, func(string) (metrics.Sink, error) { return m, nil })
	for name, config := range map[string]*tls.Config{
		"no certificate":      {InsecureSkipVerify: true},
		"a client":            identityOf(t, ours, trust.Client).Dialing(trust.Coordinator),
		"another cluster":     identityOf(t, theirs, trust.Worker).Dialing(trust.Coordinator),
		"the system's checks": nil,
	} {
		var log logText
		c := DefaultSinkConfig(server.URL(), "j", "1")
		c.TLS, c.Logger, c.FlushWithin = config, log.logger(), 0
		s := newSink(t, c)
		s.Emit(story(name))
		within(t, name+": the log says that it is away", func() bool { return strings.Contains(log.String(), "NATS is away") })
		s.Close()
	}
	right := patient(server.URL(), "j", "1")
	right.TLS = identityOf(t, ours, trust.Worker).Dialing(trust.Coordinator)
	newSink(t, right).Emit(story("taken"))
	within(t, "the worker's event", func() bool { return m.len() > 0 })
	// A viewer reads, and tells nothing.
	viewer := identityOf(t, ours, trust.Viewer).Dialing(trust.Coordinator)
	var log logText
	quiet := DefaultSinkConfig(server.URL(), "j", "2")
	quiet.TLS, quiet.Logger, quiet.FlushWithin = viewer, log.logger(), 0
	newSink(t, quiet).Emit(story("from a viewer"))
	within(t, "the viewer's event is refused", func() bool { return strings.Contains(strings.ToLower(log.String()), "permissions violation") })
	f, err := NewFollower(FollowConfig{URL: server.URL(), TLS: viewer, Job: "j", Kinds: []metrics.Kind{metrics.KindStory}, Logger: log.logger()})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := f.Run(ctx, func(e metrics.Event) {
		if e.Story.Text != "taken" {
			t.Errorf("the viewer reads %q", e.Story.Text)
		}
		cancel()
	}, func() {}); err != nil || ctx.Err() != context.Canceled {
		t.Errorf("the viewer's follower ended with %v, %v", err, ctx.Err())
	}
	if all := m.all(); len(all) != 1 || all[0].Story.Text != "taken" {
		t.Errorf("%d events were taken", len(all))
	}
}
