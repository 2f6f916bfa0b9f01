package cmd

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"mp/metrics"
	"mp/worker"
)

// A monitor shows health and numbers once there is something to show.
func TestMonitorShowsNumbers(t *testing.T) {
	address, err := freeAddress()
	if err != nil {
		t.Fatal(err)
	}
	url := "http://" + address
	err = withMonitor(t.Context(), monitorOptions{address: address}, slog.New(slog.DiscardHandler), func(_ context.Context, m *monitor) error {
		if code, text := look(t, url+"/metrics"); code != http.StatusServiceUnavailable || !strings.Contains(text, "starting") {
			t.Errorf("numbers before there are any: %d, %q", code, text)
		}
		var trouble error
		pages := newWorkerPages()
		pages.node = &worker.Node{}
		m.show(func(context.Context) error { return trouble }, pages.numbers.Handler())
		if code, text := look(t, url+"/metrics"); code != http.StatusOK || !strings.Contains(text, "mp_worker_joined 0\n") {
			t.Errorf("a worker's numbers: %d, %q", code, text)
		}
		if code, _ := look(t, url+"/healthz"); code != http.StatusOK {
			t.Errorf("well: %d", code)
		}
		trouble = errors.New("the loop stands still")
		if code, text := look(t, url+"/healthz"); code != http.StatusServiceUnavailable || !strings.Contains(text, "stands still") {
			t.Errorf("not well: %d, %q", code, text)
		}
		sink, err := pages.sinks(func(string, string, uint64) (metrics.Sink, error) { return metrics.Tee(nil), nil })("", "job-3", 1)
		if err != nil {
			return err
		}
		sink.Emit(metrics.Event{Kind: metrics.KindStep, Step: &metrics.Step{Update: 5}})
		if _, text := look(t, url+"/metrics"); !strings.Contains(text, `mp_update{run="job-3"} 5`) {
			t.Error("a worker's own events are not shown")
		}
		if _, err := pages.sinks(func(string, string, uint64) (metrics.Sink, error) { return nil, trouble })("", "job-4", 1); !errors.Is(err, trouble) {
			t.Errorf("events that go nowhere: got %v", err)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// A hub shows its cluster and the runs that it records.
func TestHubShowsNumbers(t *testing.T) {
	c := aHub(t.TempDir())
	err := withHub(t.Context(), c, func(ctx context.Context, h *hub) error {
		sink, err := natsSinks(natsAccess{}, c.log)(h.natsURL, "job-1", 3)
		if err != nil {
			return err
		}
		h.runs.about = aJob
		sink.Emit(metrics.Event{Time: time.Now(), Kind: metrics.KindStep, Step: &metrics.Step{Update: 12}})
		if err := sink.(interface{ Close() error }).Close(); err != nil {
			return err
		}
		h.sync()
		families, err := h.numbers.Gather()
		if err != nil {
			return err
		}
		found := map[string]float64{}
		for _, f := range families {
			found[f.GetName()] = f.GetMetric()[0].GetGauge().GetValue()
		}
		if found["mp_update"] != 12 {
			t.Errorf("the run's numbers: got %v, want update 12", found)
		}
		if _, ok := found["mp_coordinator_leads"]; !ok {
			t.Errorf("the cluster's numbers are missing: %v", found)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}
