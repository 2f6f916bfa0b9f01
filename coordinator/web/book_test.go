package web

import (
	"fmt"
	"math"
	"testing"
	"time"

	"mp/metrics"
)

func TestStatesFromStories(t *testing.T) {
	for text, want := range map[string]string{
		"job-1 submitted: 20260102-030405-x":                       "queued",
		"job-1 starts":                                             "running",
		"job-12 starts again after update 40":                      "running",
		"job-1, running before, is paused: pause was asked for":    "paused",
		"job-1, running before, is draining: drain was asked for":  "draining",
		"job-1, paused before, is running: resume was asked for":   "running",
		"job-1 is drained: saved after update 3":                   "paused",
		"job-1 is done: best top-1 16.50 %":                        "done",
		"job-1 failed in epoch 1: out of memory":                   "failed",
		"job-1, queued before, is cancelled: cancel was asked for": "cancelled",
		"waits for workers: start some with mp worker":             "",
		"job-1 is anything else":                                   "",
		"worker 1 is done":                                         "",
	} {
		topic := "job"
		if want == "draining" {
			topic = "drain"
		}
		if got := stateOf(metrics.Story{Topic: topic, Text: text}); got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
	if got := stateOf(metrics.Story{Topic: "checkpoint", Text: "job-1 is done"}); got != "" {
		t.Errorf("another topic: got %q", got)
	}
}

func TestStateOfARun(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	old, fresh := now.Add(-time.Hour), now.Add(-time.Second)
	for _, c := range []struct {
		told   string
		newest *time.Time
		job    string // empty: not known
		want   string
	}{
		{"running", &fresh, "", "running"},
		{"running", &old, "", "stopped"},
		{"running", &old, "running", "running"}, // a long validation, say
		{"paused", &old, "", "paused"},
		{"done", &fresh, "running", "done"}, // it had no time to tell
		{"", nil, "", "unknown"},
		{"", nil, "queued", "queued"},
	} {
		r := Run{told: c.told, Newest: c.newest, Began: c.newest}
		r.settle(Job{ID: "job-1", State: c.job}, c.job != "", now)
		if r.State != c.want {
			t.Errorf("%+v: got %q", c, r.State)
		}
	}
}

// A run that goes back to a checkpoint repeats steps: the newest counts, and the columns stay in order.
func TestRepeatedStepsCountOnce(t *testing.T) {
	b := newBook("run")
	emit := func(update int, loss float64) {
		b.take(metrics.Event{Time: begun().Add(time.Duration(len(b.steps)) * time.Second), Kind: metrics.KindStep, Step: &metrics.Step{Update: update, Loss: metrics.Value(loss)}})
	}
	for _, u := range []int{10, 20, 30} {
		emit(u, 1)
	}
	for _, u := range []int{15, 20, 25, 30, 40} {
		emit(u, 2)
	}
	c := b.columns(100)
	if got, want := fmt.Sprint(c.Update, c.Loss), "[10 15 20 25 30 40] [1 2 2 2 2 2]"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestLongRunsAreThinnedOut(t *testing.T) {
	b := newBook("run")
	for u := 1; u <= 10; u++ {
		loss := metrics.Value(u)
		if u == 10 {
			loss = metrics.Value(math.NaN())
		}
		b.take(metrics.Event{Time: begun(), Kind: metrics.KindStep, Step: &metrics.Step{Update: u, Loss: loss, LearningRate: float64(u)}})
	}
	c := b.columns(4)
	if got, want := fmt.Sprint(c.Each, c.Update, c.Loss, c.LearningRate), "3 [3 6 9 10] [2 5 8 NaN] [3 6 9 10]"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestABookIsBounded(t *testing.T) {
	b := newBook("run")
	for i := range storySize + 50 {
		b.take(metrics.Event{Time: begun(), Kind: metrics.KindView, View: &metrics.View{Number: uint64(i), Members: []metrics.ViewMember{{Worker: uint64(i), Name: "w"}}}})
		b.take(metrics.Event{Time: begun(), Kind: metrics.KindWorker, Worker: &metrics.Worker{Worker: uint64(i)}})
		b.take(metrics.Event{Time: begun(), Kind: metrics.KindPicture, Picture: &metrics.Picture{Update: i}})
	}
	if len(b.story) != storySize || b.forgotten != 50 || len(b.workers) > 2 || len(b.pictures) != pictureCount || b.pictures[pictureCount-1].Update != storySize+49 {
		t.Errorf("got %d events, %d forgotten, %d workers, %d pictures", len(b.story), b.forgotten, len(b.workers), len(b.pictures))
	}
}

// A pause that somebody asked for is no loss.
func TestGoodputLeavesPausesOut(t *testing.T) {
	run := func(topic string) float64 {
		b, at := newBook("run"), begun()
		step := func(u int) {
			at = at.Add(time.Second)
			b.take(metrics.Event{Time: at, Kind: metrics.KindStep, Step: &metrics.Step{Update: u}})
		}
		for u := range 20 {
			step(u)
		}
		say := func(text string) {
			b.take(metrics.Event{Time: at, Kind: metrics.KindStory, Story: &metrics.Story{Topic: topic, Text: text}})
		}
		say("job-1, running before, is paused: pause was asked for")
		at = at.Add(time.Hour)
		say("job-1, paused before, is running: resume was asked for")
		for u := 20; u < 40; u++ {
			step(u)
		}
		return b.report().Share
	}
	if got := run("job"); got < 0.99 {
		t.Errorf("with a pause: goodput %v, want 1", got)
	}
	if got := run("other"); got > 0.1 {
		t.Errorf("with an hour in which nothing happened: goodput %v, want next to nothing", got)
	}
}
