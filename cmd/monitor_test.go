package cmd

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"mp/job"
	"mp/trust"
)

// look asks a monitor.
func look(t *testing.T, url string) (code int, text string) {
	t.Helper()
	r, err := http.Get(url)
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

func TestMonitorSaysWhetherAProcessIsReady(t *testing.T) {
	address, err := freeAddress()
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	done := errors.New("done")
	err = withMonitor(t.Context(), monitorOptions{address: address}, log, func(_ context.Context, m *monitor) error {
		var away error
		for _, c := range []struct {
			path  string
			ready func() error
			code  int
			text  string
		}{
			{"/healthz", nil, 200, "ok"},
			{"/readyz", nil, 503, "starting"},
			{"/readyz", func() error { return away }, 200, "ok"},
			{"/readyz", func() error { return errors.New("no coordinator leads") }, 503, "no coordinator leads"},
			{"/healthz", nil, 200, "ok"},
			{"/elsewhere", nil, 404, ""},
		} {
			if c.ready != nil {
				m.watch(c.ready)
			}
			if code, text := look(t, "http://"+address+c.path); code != c.code || !strings.Contains(text, c.text) {
				t.Errorf("%s: got %d, %q; want %d and %q", c.path, code, text, c.code, c.text)
			}
		}
		return done
	})
	if err != done {
		t.Errorf("got %v, want the body's error", err)
	}
	if _, err := http.Get("http://" + address + "/healthz"); err == nil {
		t.Error("answers after its end")
	}
	if err := withMonitor(t.Context(), monitorOptions{address: "7090"}, log, nil); !errors.Is(err, job.ErrConfig) {
		t.Errorf("a port alone: got %v", err)
	}
	if err := withMonitor(t.Context(), monitorOptions{address: ""}, log, func(context.Context, *monitor) error { return done }); err != done {
		t.Errorf("none: got %v", err)
	}
}

// A coordinator becomes ready by itself, and its NATS server listens where it was told to.
func TestCoordinatorBecomesReady(t *testing.T) {
	address, err := freeAddress()
	if err != nil {
		t.Fatal(err)
	}
	c := aHub(t.TempDir())
	c.natsListen = address
	err = withHub(t.Context(), c, func(ctx context.Context, h *hub) error {
		if !strings.HasSuffix(h.natsURL, "//"+address) {
			t.Errorf("NATS is at %s, want %s", h.natsURL, address)
		}
		client, err := h.client("")
		if err != nil {
			return err
		}
		defer client.Close()
		if _, err := showOnce(ctx, client, "job-1"); !errors.Is(err, errCluster) { // it answers, so it leads
			t.Errorf("got %v", err)
		}
		return h.coordinator.Ready()
	})
	if err != nil {
		t.Error(err)
	}
}

// Beyond this machine a monitor of a cluster with TLS speaks it: with a certificate of its own making until it has joined, then with
// its own.
func TestMonitorInTLS(t *testing.T) {
	local, err := freeAddress()
	if err != nil {
		t.Fatal(err)
	}
	_, port, err := net.SplitHostPort(local)
	if err != nil {
		t.Fatal(err)
	}
	a, err := trust.NewAuthority("the secret of a cluster of tests", time.Now)
	if err != nil {
		t.Fatal(err)
	}
	who, err := a.Identity(trust.Party{Role: trust.Worker, Name: "w"})
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	err = withMonitor(t.Context(), monitorOptions{address: "0.0.0.0:" + port}, log, func(_ context.Context, m *monitor) error {
		ask := func() string {
			client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
			answer, err := client.Get("https://" + local + "/healthz")
			if err != nil {
				t.Fatal(err)
			}
			answer.Body.Close()
			if answer.StatusCode != http.StatusOK {
				t.Errorf("got %s", answer.Status)
			}
			p, _ := trust.PeerOf(*answer.TLS)
			return p.Name
		}
		if name := ask(); name != "" {
			t.Errorf("before it has joined it is %q", name)
		}
		m.identify(who)
		if name := ask(); name != "w" {
			t.Errorf("after it has joined it is %q", name)
		}
		if answer, err := http.Get("http://" + local + "/healthz"); err == nil {
			answer.Body.Close()
			if answer.StatusCode == http.StatusOK {
				t.Error("it answers in plain")
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	err = withMonitor(t.Context(), monitorOptions{address: "0.0.0.0:" + port, plain: true}, log, func(context.Context, *monitor) error {
		answer, err := http.Get("http://" + local + "/healthz")
		if err != nil {
			return err
		}
		return answer.Body.Close()
	})
	if err != nil {
		t.Errorf("with --tls off: %v", err)
	}
}
