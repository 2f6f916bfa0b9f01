package cmd

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"mp/job"
	"mp/metrics"
	"mp/mppb"
)

// screen is an output that another goroutine may look at.
type screen struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(p)
}

func (s *screen) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// shows waits until the screen has a text.
func (s *screen) shows(t *testing.T, text string) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !strings.Contains(s.String(), text); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("no %q within a minute in\n%s", text, s)
		}
	}
}

// looker is a `mp watch` under way.
type looker struct {
	out, errs screen
	ended     chan error
	cancel    context.CancelFunc
}

func startWatch(t *testing.T, id, coordinator string, change func(*env, *watchOptions)) *looker {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	l := &looker{ended: make(chan error, 1), cancel: cancel}
	e := newEnv(&l.out, &l.errs, func(string) (string, bool) { return "", false })
	o := watchOptions{cluster: clusterFlags{coordinator: coordinator, wait: 20 * time.Second}, history: 5}
	if change != nil {
		change(e, &o)
	}
	go func() { l.ended <- watch(ctx, e, o, id) }()
	t.Cleanup(func() {
		cancel()
		<-l.ended
	})
	return l
}

// end waits for the end.
func (l *looker) end(t *testing.T) error {
	t.Helper()
	select {
	case err := <-l.ended:
		l.ended <- err
		return err
	case <-time.After(time.Minute):
		t.Fatalf("still looking on after a minute:\n%s", &l.out)
		return nil
	}
}

func TestWatchShowsWhatWasAndWhatComesAndEndsWithTheJob(t *testing.T) {
	c := &fakeCluster{detail: &mppb.JobDetail{Job: someJob(t)}}
	c.detail.Job.Started, c.detail.Job.Ended = 1, 1+int64(90*time.Second)
	c.detail.Job.Outcome = &mppb.Outcome{BestTop1: 41.02, BestTop5: 71.8, BestEpoch: 25, Epochs: 26, Checkpoint: "best-00007800"}
	var old []*mppb.Event
	for i := range 9 {
		old = append(old, &mppb.Event{Job: "job-1", Topic: "checkpoint", Text: fmt.Sprintf("old story %d", i)})
	}
	c.tell(mppb.Job_RUNNING, old...)
	c.tell(mppb.Job_RUNNING, &mppb.Event{Topic: "leader", Text: "coordinator a leads"}, &mppb.Event{Job: "job-2", Topic: "job", Text: "of another job"},
		&mppb.Event{Job: "job-1", Topic: "leave", Text: "said again by the view"})
	c.breaks.Store(2) // the coordinator goes away after each of the next two events
	l := startWatch(t, "job-1", c.serve(t), nil)
	l.out.shows(t, "coordinator a leads")
	c.tell(mppb.Job_RUNNING, &mppb.Event{Job: "job-1", Topic: "view", View: 7, Text: "worker 3 vanished", Warning: true},
		&mppb.Event{Job: "job-1", Topic: "view", View: 7, RecoverSeconds: 0.6}, &mppb.Event{Job: "job-1", Topic: "join", Text: "worker 4 joined"})
	l.out.shows(t, "worker 4 joined")
	c.tell(mppb.Job_DONE)
	if err := l.end(t); err != nil {
		t.Fatal(err)
	}
	text := l.out.String()
	for _, want := range []string{"old story 8", "view 7: worker 3 vanished", "next step after 0.6 s", "best top-1   41.02% in epoch 25", "1m30s", "Next: mp jobs fetch job-1 --coordinator 127."} {
		if strings.Count(text, want) != 1 {
			t.Errorf("%q stands there %d times, want once:\n%s", want, strings.Count(text, want), text)
		}
	}
	for _, no := range []string{"old story 3", "another job", "said again"} {
		if strings.Contains(text, no) {
			t.Errorf("%q is shown:\n%s", no, text)
		}
	}
	if !slices.Equal(c.wanted, []uint64{13, 14, 15}) {
		t.Errorf("asked for the story from %v on, want from where it broke", c.wanted)
	}
}

func TestWatchEndsAsTheJobDoes(t *testing.T) {
	c := &fakeCluster{detail: &mppb.JobDetail{Job: someJob(t)}}
	at := c.serve(t)
	code, _, stderr := callMain("watch", "9", "--coordinator", at)
	if code != exitBadInput || !strings.Contains(stderr, "there is no job") {
		t.Errorf("a job that is not there: ended with %d, %q", code, stderr)
	}
	if code, _, stderr := callMain("watch", "--coordinator", at); code != exitBadInput || !strings.Contains(stderr, "no job runs or waits") {
		t.Errorf("no job at all: ended with %d, %q", code, stderr)
	}
	if code, _, stderr := callMain("watch", "1", "--history", "-1", "--coordinator", at); code != exitBadInput || !strings.Contains(stderr, "--history") {
		t.Errorf("a history that cannot be: ended with %d, %q", code, stderr)
	}
	c.detail.Job.Reason = "the loss is no number"
	c.tell(mppb.Job_FAILED, &mppb.Event{Job: "job-1", Topic: "job", Text: "job-1 failed"})
	if code, stdout, stderr := callMain("watch", "1", "--coordinator", at); code != exitFailed || !strings.HasSuffix(stderr, "job-1 is failed: the loss is no number\n") || !strings.Contains(stdout, "job-1 failed") {
		t.Errorf("a job that failed: ended with %d, %q, %q", code, stderr, stdout)
	}
}

// Whoever looks on without a name means the job that runs, and leaves it alone when going away.
func TestWatchFindsTheJobAndLeavesIt(t *testing.T) {
	queued, running := &mppb.Job{Id: "job-0", State: mppb.Job_QUEUED}, someJob(t)
	if j := pickJob([]*mppb.Job{{State: mppb.Job_DONE}, queued, running}); j != running {
		t.Errorf("picked %v, want the one that runs", j)
	}
	if j := pickJob([]*mppb.Job{{State: mppb.Job_DONE}, queued, {State: mppb.Job_PAUSED}}); j != queued {
		t.Errorf("picked %v, want the first that waits", j)
	}
	c := &fakeCluster{jobs: []*mppb.Job{queued, running}, detail: &mppb.JobDetail{Job: running}}
	c.tell(mppb.Job_RUNNING, &mppb.Event{Job: "job-1", Topic: "job", Text: "job-1 starts"})
	l := startWatch(t, "", c.serve(t), nil)
	l.out.shows(t, "job-1 starts")
	l.cancel()
	if err := l.end(t); err != nil || !strings.Contains(l.out.String(), "job-1 goes on; look again with: mp watch job-1 --coordinator 127.") {
		t.Errorf("ended with %v:\n%s", err, &l.out)
	}
	if c.steered != nil {
		t.Errorf("asked for %v", c.steered)
	}
}

// Steps come through NATS, the story from the coordinator, also when it is restarted meanwhile; with --json each is a line.
func TestWatchGoesOnBehindARestartOfTheCoordinator(t *testing.T) {
	c := aHub(t.TempDir())
	s, err := job.Default(job.Spec{})
	if err != nil {
		t.Fatal(err)
	}
	s.Data = "d"
	text, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	var l *looker
	for life := range 2 {
		err := withHub(t.Context(), c, func(ctx context.Context, h *hub) error {
			c.coordinator.Listen = h.coordinator.Address() // the same again in its next life
			client, err := h.client("")
			if err != nil {
				return err
			}
			defer client.Close()
			ctx, cancel := context.WithTimeout(ctx, time.Minute)
			defer cancel()
			if life == 0 {
				err := askLeader(ctx, client, func(ctx context.Context, c mppb.ClusterClient) error {
					_, err := c.Submit(ctx, &mppb.SubmitRequest{Spec: text, Directory: "here"})
					return err
				})
				if err != nil {
					return err
				}
			}
			sink, err := natsSinks(natsAccess{}, c.log)(h.natsURL, "job-1", 3)
			if err != nil {
				return err
			}
			defer sink.(io.Closer).Close()
			emit := func(update int) {
				sink.Emit(metrics.Event{Time: time.Now(), Kind: metrics.KindStep, Step: &metrics.Step{Epoch: 1, Epochs: 1, Step: update, Steps: 99, Update: update}})
			}
			emit(10*life + 1)
			if l == nil {
				l = startWatch(t, "job-1", h.coordinator.Address(), func(e *env, _ *watchOptions) { e.json = true })
			}
			l.out.shows(t, fmt.Sprintf(`"update":%d,`, 10*life+1))
			emit(10*life + 2)
			l.out.shows(t, fmt.Sprintf(`"update":%d,`, 10*life+2))
			if life == 0 {
				return nil
			}
			err = askLeader(ctx, client, func(ctx context.Context, c mppb.ClusterClient) error {
				_, err := c.Steer(ctx, &mppb.SteerRequest{Id: "job-1", Verb: mppb.SteerRequest_CANCEL})
				return err
			})
			if err != nil {
				return err
			}
			if err := l.end(t); err == nil || !strings.Contains(err.Error(), "job-1 is cancelled") {
				t.Errorf("ended with %v, want that the job is cancelled", err)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	steps, stories := 0, 0
	for line := range strings.Lines(l.out.String()) {
		var e metrics.Event
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		switch {
		case e.Step != nil:
			steps++
		case e.Story != nil && strings.Contains(e.Story.Text, "job-1"):
			stories++
		}
	}
	if steps != 4 || stories < 2 {
		t.Errorf("got %d steps, want 4, and %d stories of the job, want its beginning and its end:\n%s", steps, stories, &l.out)
	}
}

func TestHistoryIsShort(t *testing.T) {
	var out bytes.Buffer
	w := &watcher{env: newEnv(&out, io.Discard, os.LookupEnv), o: watchOptions{history: 2}, read: map[int64]uint64{}, crews: map[uint64][]metrics.ViewMember{}}
	w.speed.Sink = metrics.Tee(nil)
	w.out = &lineSink{w.env}
	at, stream := time.Unix(100, 0), time.Unix(50, 0)
	var past []metrics.Event
	add := func(worker string, e metrics.Event) {
		at = at.Add(time.Second)
		e.Time = at
		if worker != "" {
			e.Origin = &metrics.Origin{Worker: worker, Stream: stream, Sequence: uint64(len(past) + 1)}
		}
		past = append(past, e)
	}
	add("3", metrics.Event{Kind: metrics.KindStart, Start: &metrics.Start{Directory: "first"}})
	add("3", metrics.Event{Kind: metrics.KindStart, Start: &metrics.Start{Directory: "second"}})
	for i := 1; i <= 5; i++ {
		add("3", metrics.Event{Kind: metrics.KindStep, Step: &metrics.Step{Update: i}})
		add("3", metrics.Event{Kind: metrics.KindEpoch, Epoch: &metrics.Epoch{Update: i}})
		add("3", metrics.Event{Kind: metrics.KindValidation, Validation: &metrics.Validation{Update: i}})
	}
	add(storyWorker, metrics.Event{Kind: metrics.KindView, View: &metrics.View{Number: 4, Members: make([]metrics.ViewMember, 3), Reason: "as NATS has it"}})
	add("", metrics.Event{Kind: metrics.KindView, View: &metrics.View{Number: 4, Reason: "as the coordinator tells it"}})
	w.recall(append(past, past[2])) // found at two addresses
	want := `"directory":"second"
"update":4
"update":4
"update":5
"update":5
"members":[{"worker":0,"name":"","shards":null},{`
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	wants := strings.Split(want, "\n")
	if len(lines) != len(wants) {
		t.Fatalf("got\n%s\nwant %d lines", out.String(), len(wants))
	}
	for i, line := range lines {
		if !strings.Contains(line, wants[i]) {
			t.Errorf("line %d: got %s, want %s", i+1, line, wants[i])
		}
	}
}
