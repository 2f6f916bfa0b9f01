package cmd

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"image"
	"image/png"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"mp/coordinator"
	"mp/job"
	"mp/metrics"
	"mp/mppb"
	"mp/trust"
)

// aHub is a coordinator node with everything, in a folder of the test's.
func aHub(dir string) hubConfig {
	c := coordinator.DefaultConfig()
	c.Listen, c.DataDir, c.RunsDir, c.FailAfter = "127.0.0.1:0", filepath.Join(dir, "raft"), filepath.Join(dir, "runs"), 2*time.Second
	return hubConfig{coordinator: c, nats: natsEmbedded, natsDir: filepath.Join(dir, "nats"), log: slog.New(slog.DiscardHandler)}
}

// linesOf are the events in a file of a run.
func linesOf(t *testing.T, path string) []metrics.Event {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	events, err := metrics.Read(f)
	if err != nil {
		t.Fatal(err)
	}
	return events
}

// What the cluster tells of a job and what its workers publish end up in the run's files, once, also over a restart.
func TestHubKeepsStoriesAndMetrics(t *testing.T) {
	t.Run("with a token", func(t *testing.T) {
		c := aHub(t.TempDir())
		c.coordinator.Token = "secret"
		keepsStoriesAndMetrics(t, c)
	})
	t.Run("in TLS", func(t *testing.T) {
		c := aHub(t.TempDir())
		a, err := trust.NewAuthority("the secret of this hub", time.Now)
		if err != nil {
			t.Fatal(err)
		}
		if c.coordinator.Trust, err = a.Identity(trust.Party{Role: trust.Coordinator, Name: "hub"}); err != nil {
			t.Fatal(err)
		}
		keepsStoriesAndMetrics(t, c)
	})
}

func keepsStoriesAndMetrics(t *testing.T, c hubConfig) {
	t.Helper()
	s, err := job.Default(job.Spec{})
	if err != nil {
		t.Fatal(err)
	}
	s.Data = "d"
	text, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	var told []string
	c.story = func(e *mppb.Event) { told = append(told, e.Text) }
	for life := range 2 {
		err := withHub(t.Context(), c, func(ctx context.Context, h *hub) error {
			client, err := h.client(c.coordinator.Token)
			if err != nil {
				return err
			}
			defer client.Close()
			ctx, cancel := context.WithTimeout(ctx, time.Minute)
			defer cancel()
			err = askLeader(ctx, client, func(ctx context.Context, c mppb.ClusterClient) error {
				if life > 0 {
					_, err := c.Steer(ctx, &mppb.SteerRequest{Id: "job-1", Verb: mppb.SteerRequest_CANCEL})
					return err
				}
				_, err := c.Submit(ctx, &mppb.SubmitRequest{Spec: text, Directory: "here"})
				return err
			})
			if err != nil {
				return err
			}
			sink, err := natsSinks(h.nats, c.log)(h.natsURL, "job-1", 3)
			if err != nil {
				return err
			}
			sink.Emit(metrics.Event{Time: time.Now(), Kind: metrics.KindStep, Step: &metrics.Step{Update: 10 * (life + 1)}})
			return sink.(interface{ Close() error }).Close()
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	run := filepath.Join(c.coordinator.RunsDir, "here")
	steps := linesOf(t, filepath.Join(run, metrics.MetricsFile))
	if len(steps) != 2 || steps[0].Step.Update != 10 || steps[1].Step.Update != 20 {
		t.Errorf("metrics: got %+v, want the steps 10 and 20", steps)
	}
	var stories []string
	for _, e := range linesOf(t, filepath.Join(run, metrics.EventsFile)) {
		stories = append(stories, e.Story.Text)
	}
	all := strings.Join(stories, "\n")
	if strings.Count(all, "job-1 submitted") != 1 || strings.Count(all, "cancelled") != 1 {
		t.Errorf("stories: got\n%s\nwant one that it was submitted and one that it is cancelled", all)
	}
	if !strings.Contains(strings.Join(told, "\n"), "leads") {
		t.Errorf("told %q", told)
	}
}

func TestHubEndsWithWhatBreaksIt(t *testing.T) {
	first := aHub(t.TempDir())
	err := withHub(t.Context(), first, func(ctx context.Context, h *hub) error {
		second := aHub(t.TempDir())
		second.coordinator.Listen = h.coordinator.Address()
		err := withHub(ctx, second, func(context.Context, *hub) error { return errors.New("body ran") })
		if err == nil || !strings.Contains(err.Error(), "address already in use") {
			t.Errorf("two on one port: got %v", err)
		}
		return errors.New("the body's own")
	})
	if err == nil || err.Error() != "the body's own" {
		t.Errorf("got %v, want the body's own error", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	err = withHub(ctx, aHub(t.TempDir()), func(ctx context.Context, _ *hub) error {
		cancel()
		<-ctx.Done()
		return nil
	})
	if err != nil {
		t.Errorf("asked to end: got %v", err)
	}
}

// Beyond this machine, workers hear of NATS under the name by which they know the coordinator.
func TestHubIsReachedByItsName(t *testing.T) {
	c := aHub(t.TempDir())
	c.coordinator.Listen = "0.0.0.0:0"
	err := withHub(t.Context(), c, func(context.Context, *hub) error { return nil })
	if !errors.Is(err, coordinator.ErrConfig) || !strings.Contains(err.Error(), "--advertise") {
		t.Errorf("every address and no name: got %v, want what to give", err)
	}
	c.coordinator.Advertise = "localhost:7070"
	err = withHub(t.Context(), c, func(_ context.Context, h *hub) error {
		if !strings.HasPrefix(h.natsURL, "nats://localhost:") || h.coordinator.Address() != "localhost:7070" {
			t.Errorf("reached at %s and %s, want localhost", h.natsURL, h.coordinator.Address())
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// aJob is what a cluster knows of any job.
func aJob(string) (*mppb.Job, error) { return &mppb.Job{Directory: "here", Spec: []byte("{}")}, nil }

// onePixel is a picture.
func onePixel(t *testing.T) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := png.Encode(&b, image.NewGray(image.Rect(0, 0, 1, 1))); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// A recorder acknowledges what a sink has taken: it must be in the run's file by then, or the sink must say that it is not.
func TestRunsFilesHaveWhatTheirSinkTook(t *testing.T) {
	c := aHub(t.TempDir())
	r := newRunSinks(c)
	r.about = aJob
	sink, err := r.sink("job-1")
	if err != nil {
		t.Fatal(err)
	}
	sink.Emit(metrics.Event{Time: time.Now(), Kind: metrics.KindStep, Step: &metrics.Step{Update: 7}})
	sink.Emit(metrics.Event{Time: time.Now(), Kind: metrics.KindPicture, Picture: &metrics.Picture{Tag: metrics.TagImages, Update: 7, File: metrics.PictureFile(7, metrics.TagImages), PNG: onePixel(t)}})
	for _, pattern := range []string{"pictures/00000007-image-org-image.png", "tb/train/events.out.tfevents.*.coordinator-1"} {
		if found, err := filepath.Glob(filepath.Join(c.coordinator.RunsDir, "here", pattern)); err != nil || len(found) != 1 {
			t.Errorf("%s: found %q, %v", pattern, found, err)
		}
	}
	if got := linesOf(t, filepath.Join(c.coordinator.RunsDir, "here", metrics.MetricsFile)); len(got) != 1 || got[0].Step.Update != 7 {
		t.Errorf("got %+v, want step 7", got)
	}
	if err := sink.(metrics.Tee).Close(); err != nil {
		t.Fatal(err)
	}
	sink.Emit(metrics.Event{Time: time.Now(), Kind: metrics.KindStep, Step: &metrics.Step{Update: 8}})
	if sink.(metrics.Tee).Err() == nil {
		t.Error("an event that could not be written was taken without a word")
	}
}
