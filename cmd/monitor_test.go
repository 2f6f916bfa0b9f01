package cmd

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"

	"mp/job"
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
	err = withMonitor(t.Context(), address, log, func(_ context.Context, m *monitor) error {
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
	if err := withMonitor(t.Context(), "7090", log, nil); !errors.Is(err, job.ErrConfig) {
		t.Errorf("a port alone: got %v", err)
	}
	if err := withMonitor(t.Context(), "", log, func(context.Context, *monitor) error { return done }); err != done {
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
