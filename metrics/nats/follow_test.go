package nats

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"mp/metrics"
)

// A follower hands on the stored events of its job and no others, says when that is done, and goes on with new ones, each
// once, also when the server is killed meanwhile.
func TestFollowerReadsAlong(t *testing.T) {
	t.Parallel()
	store := t.TempDir()
	server := startChild(t, "server", store)
	mine, other := newSink(t, patient(server.url, "job 1", "3")), newSink(t, patient(server.url, "job 2", "3"))
	emit := func(from, to int) {
		for i := from; i <= to; i++ {
			mine.Emit(step(i))
			other.Emit(step(1000 + i))
			mine.Emit(story("a kind that nobody asked for"))
		}
		within(t, "everything is sent", func() bool { return mine.waiting()+other.waiting() == 0 })
	}
	emit(1, 600)
	f, err := NewFollower(FollowConfig{URL: server.url, Job: "job 1", Kinds: []metrics.Kind{metrics.KindStep, metrics.KindEpoch}})
	if err != nil {
		t.Fatal(err)
	}
	got := &memory{}
	var stored atomic.Int64
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- f.Run(ctx, got.Emit, func() { stored.Add(int64(got.len())) }) }()
	within(t, "all that is stored is handed on", func() bool { return stored.Load() > 0 })
	if n := stored.Load(); n < 500 || n > 600 { // a server under load counts a few less than it has stored: these come as new ones
		t.Errorf("caught up after %d events, want about the 600 that were stored", n)
	}
	within(t, "and the rest", func() bool { return got.len() == 600 })
	emit(601, 610)
	within(t, "new ones are handed on", func() bool { return got.len() == 610 })
	mine.Emit(metrics.Event{Time: time.Unix(1, 0), Kind: metrics.KindProgress, Progress: &metrics.Progressed{Title: "epoch 1", Done: 1, Total: 2}})
	within(t, "progress passes by", func() bool { return got.len() == 611 })
	server.kill()
	startChild(t, "server", store)
	emit(611, 700)
	within(t, "it goes on behind a restart", func() bool { return got.len() == 701 })
	wantRun(t, updates(got.all()), 1, 700)
	if o := got.all()[0].Origin; o == nil || o.Worker != "3" || o.Sequence == 0 || time.Since(o.Stream) > time.Hour {
		t.Errorf("origin of the first: got %+v", o)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("ended with %v", err)
	}
}

func TestFollowerRefusesWhatCannotBe(t *testing.T) {
	t.Parallel()
	good := FollowConfig{URL: "nats://127.0.0.1:1", Job: "j", Kinds: []metrics.Kind{metrics.KindStep}}
	for name, spoil := range map[string]func(*FollowConfig){
		"no job": func(c *FollowConfig) { c.Job = "" }, "no kinds": func(c *FollowConfig) { c.Kinds = nil }, "no URL": func(c *FollowConfig) { c.URL = "here" },
	} {
		c := good
		spoil(&c)
		if _, err := NewFollower(c); !errors.Is(err, ErrConfig) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}
