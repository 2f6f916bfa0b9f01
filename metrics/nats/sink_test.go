package nats

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"mp/metrics"
)

func TestEventsArriveOnceAndInOrder(t *testing.T) {
	t.Parallel()
	server, _ := startServer(t, DefaultServerConfig(t.TempDir()))
	a, b := &memory{}, &memory{}
	r, _ := startRecorder(t, DefaultRecorderConfig(server.URL(), "test"), func(job string) (metrics.Sink, error) {
		return map[string]metrics.Sink{"job a.1": a, "b": b}[job], nil
	})
	one := newSink(t, patient(server.URL(), "job a.1", "worker 1"))
	two := newSink(t, patient(server.URL(), "b", "2"))
	none := newSink(t, patient(server.URL(), "nobody's", "3"))
	const n = 200
	for i := range n {
		one.Emit(step(i))
		two.Emit(step(i))
		none.Emit(step(i))
	}
	for _, s := range []*Sink{one, two, none} {
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, m := range []*memory{a, b} {
		wantRun(t, updates(m.all()), 0, n-1)
	}
	if state := streamState(t, server.URL()); state.Msgs != 3*n {
		t.Errorf("stored: got %d, want %d", state.Msgs, 3*n)
	}
	first := a.all()[0].Origin
	if first == nil || first.Worker != "worker 1" || first.Sequence == 0 || time.Since(first.Stream) > time.Minute {
		t.Errorf("origin: got %+v, want worker 1 of a new stream", first)
	}
}

// Servers die in the middle of everything, again and again: nothing is lost, nothing is stored twice, the order holds.
func TestKilledServerLosesAndRepeatsNothing(t *testing.T) {
	t.Parallel()
	store, dir := t.TempDir(), t.TempDir()
	server := startChild(t, "server", store)
	sink := newSink(t, patient(server.url, "j", "1"))
	r, _ := startRecorder(t, DefaultRecorderConfig(server.url, "test"), func(string) (metrics.Sink, error) { return metrics.NewJSONL(dir) })
	next := 0
	emit := func(n int) {
		for range n {
			next++
			sink.Emit(step(next))
		}
	}
	for round := range 3 {
		emit(1000)
		within(t, "half of it is sent", func() bool { return sink.waiting() <= 600-100*round })
		server.kill() // in the middle of a window
		emit(200)
		again := startChild(t, "server", store)
		if again.url != server.url {
			t.Fatalf("the server came back at %s, was at %s", again.url, server.url)
		}
		server = again
	}
	emit(10)
	within(t, "everything is sent", func() bool { return sink.waiting() == 0 })
	sink.Close()
	if err := r.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	if state := streamState(t, server.url); state.Msgs != uint64(next) {
		t.Errorf("stored: got %d events, want %d", state.Msgs, next)
	}
	if got := len(lines(t, dir, metrics.MetricsFile)); got != next {
		t.Errorf("recorded: got %d lines, want %d", got, next)
	}
	wantRun(t, updates(readJSONL(t, dir, metrics.MetricsFile)), 1, next)
}

func TestServerThatIsStoppedAndStartedKeepsItsStore(t *testing.T) {
	t.Parallel()
	store := t.TempDir()
	server, stop := startServer(t, DefaultServerConfig(store))
	url := server.URL()
	sink := newSink(t, patient(url, "j", "1"))
	sink.Emit(step(1))
	within(t, "the event is stored", func() bool { return streamState(t, url).Msgs == 1 })
	stop()
	sink.Emit(step(2))
	server, _ = startServer(t, DefaultServerConfig(store))
	if server.URL() != url {
		t.Errorf("the second server is at %s, want %s as before", server.URL(), url)
	}
	within(t, "the second event is stored", func() bool { return streamState(t, url).Msgs == 2 })
}

// While NATS is away for long, the oldest steps make room, stories stay, and the loss is told.
func TestWhatHasNoRoomIsTold(t *testing.T) {
	t.Parallel()
	store := t.TempDir()
	server, stop := startServer(t, DefaultServerConfig(store))
	stop()
	config := DefaultSinkConfig(server.URL(), "j", "7")
	config.MaxEvents = 100
	sink := newSink(t, config)
	for i := range 1000 {
		sink.Emit(step(i))
		if i%50 == 0 {
			sink.Emit(story(fmt.Sprint(i)))
		}
	}
	if n := sink.waiting(); n != 100 {
		t.Errorf("waiting: got %d, want 100", n)
	}
	server, _ = startServer(t, DefaultServerConfig(store))
	m := &memory{}
	startRecorder(t, DefaultRecorderConfig(server.URL(), "test"), func(string) (metrics.Sink, error) { return m, nil })
	within(t, "what is left and the story of the loss", func() bool { return m.len() >= 101 })
	var stories []string
	for _, e := range m.all() {
		if e.Story != nil {
			stories = append(stories, e.Story.Text)
		}
	}
	steps := updates(m.all())
	wantRun(t, steps, 1000-len(steps), 999)
	if len(stories) != 21 || !strings.HasPrefix(stories[20], "920 reported steps of worker 7 are lost: ") {
		t.Errorf("got %d stories, the last is %q; want all 20 and that 920 steps are lost", len(stories), stories[len(stories)-1])
	}
}

func TestProgressPassesByAndIsNotKept(t *testing.T) {
	server, _ := startServer(t, DefaultServerConfig(t.TempDir()))
	m := &memory{}
	startRecorder(t, DefaultRecorderConfig(server.URL(), "test"), func(string) (metrics.Sink, error) { return m, nil })
	sink := newSink(t, patient(server.URL(), "j", "1"))
	sink.Emit(story("opens the job's sink"))
	within(t, "the story", func() bool { return m.len() > 0 })
	within(t, "progress", func() bool {
		sink.Emit(metrics.Event{Kind: metrics.KindProgress, Progress: &metrics.Progressed{Done: 3}})
		return slices.ContainsFunc(m.all(), func(e metrics.Event) bool { return e.Progress != nil && e.Progress.Done == 3 })
	})
	if state := streamState(t, server.URL()); state.Msgs != 1 {
		t.Errorf("stored: got %d events, want the story alone", state.Msgs)
	}
}

// The server knows identities of messages for minutes only. A publisher whose answers were lost longer ago asks.
func TestAnswersLostForLongerThanTheServerRemembers(t *testing.T) {
	server, _ := startServer(t, DefaultServerConfig(t.TempDir()))
	sink := newSink(t, patient(server.URL(), "j", "1"))
	sink.Close() // the test does what run does
	p, err := newPublisher(t.Context(), sink)
	if err != nil {
		t.Fatal(err)
	}
	defer p.close()
	within(t, "a connection", func() bool { return !p.away() })
	long := time.Now().Add(-time.Hour)
	for i := uint64(1); i <= 5; i++ {
		p.flight = append(p.flight, flying{entry: entry{sequence: i, kind: metrics.KindStory, data: []byte("{}")}})
	}
	stored := slices.Clone(p.flight)
	if err := p.publish(t.Context()); err != nil || len(p.flight) != 0 {
		t.Fatalf("publish: got %v, %d left", err, len(p.flight))
	}
	for i := range stored { // nobody heard the answers, and the server has forgotten
		stored[i].sent = long
	}
	p.flight = append(stored, flying{entry: entry{sequence: 6, kind: metrics.KindStory, data: []byte("{}")}})
	p.forgetStored(t.Context())
	if len(p.flight) != 1 || p.flight[0].sequence != 6 {
		t.Errorf("to be sent again: got %+v, want event 6 alone", p.flight)
	}
}

func TestEventsThatCannotBeSentAreLeftOut(t *testing.T) {
	server, _ := startServer(t, DefaultServerConfig(t.TempDir()))
	var log logText
	config := DefaultSinkConfig(server.URL(), "j", "1")
	config.Logger = log.logger()
	sink := newSink(t, config)
	sink.Emit(story(strings.Repeat("x", 2<<20)))
	sink.Emit(metrics.Event{Kind: metrics.KindStart, Start: &metrics.Start{Job: []byte("not JSON")}})
	sink.Emit(story("small"))
	within(t, "the small one", func() bool { return streamState(t, server.URL()).Msgs == 1 })
	for _, want := range []string{"larger than NATS takes", "cannot be written as JSON"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("the log does not say that an event is %s", want)
		}
	}
}

// A run ends although NATS is not there, and says what is lost.
func TestCloseDoesNotWaitForEver(t *testing.T) {
	var log logText
	config := DefaultSinkConfig("nats://127.0.0.1:1", "j", "1")
	config.FlushWithin, config.Logger = 50*time.Millisecond, log.logger()
	sink := newSink(t, config)
	sink.Emit(story("lost"))
	begin := time.Now()
	if err := sink.Close(); err != nil {
		t.Errorf("close: got %v, want nil: a run does not fail with its metrics", err)
	}
	if took := time.Since(begin); took > 20*time.Second {
		t.Errorf("close took %v", took)
	}
	if !strings.Contains(log.String(), "events=1") {
		t.Errorf("the log does not say that an event is lost:\n%s", log.String())
	}
	sink.Emit(story("after the end"))
	if sink.waiting() > 1 {
		t.Errorf("an event after Close waits")
	}
}

// A server that is stopped, and neither answers nor goes away, holds up nobody.
func TestSilentServer(t *testing.T) {
	t.Parallel()
	server := startChild(t, "server", t.TempDir())
	config := DefaultSinkConfig(server.url, "j", "1")
	config.FlushWithin = 100 * time.Millisecond
	sink := newSink(t, config)
	sink.Emit(story("arrives"))
	within(t, "the story", func() bool { return streamState(t, server.url).Msgs == 1 })
	if err := server.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	for i := range 500 {
		sink.Emit(step(i))
	}
	sink.Close()
	if took := time.Since(begin); took > 20*time.Second {
		t.Errorf("emitting and closing took %v", took)
	}
}

// What an Emit costs whoever trains, beside writing the event as JSON and nothing else.
func BenchmarkEmit(b *testing.B) {
	e := step(1)
	measure := func(b *testing.B, emit func()) {
		var took []time.Duration
		for b.Loop() {
			begin := time.Now()
			emit()
			took = append(took, time.Since(begin))
		}
		slices.Sort(took)
		for name, share := range map[string]float64{"p50-ns": 0.5, "p99-ns": 0.99, "p99.9-ns": 0.999, "max-ns": 1} {
			b.ReportMetric(float64(took[int(share*float64(len(took)-1))].Nanoseconds()), name)
		}
	}
	to := func(b *testing.B, url string) {
		config := DefaultSinkConfig(url, "j", "1")
		config.FlushWithin = 0
		sink, err := NewSink(config)
		if err != nil {
			b.Fatal(err)
		}
		defer sink.Close()
		measure(b, func() { sink.Emit(e) })
	}
	b.Run("json", func(b *testing.B) {
		measure(b, func() {
			if _, err := json.Marshal(e); err != nil {
				b.Fatal(err)
			}
		})
	})
	b.Run("away", func(b *testing.B) { to(b, "nats://127.0.0.1:1") })
	b.Run("there", func(b *testing.B) {
		server, err := NewServer(DefaultServerConfig(b.TempDir()))
		if err != nil {
			b.Fatal(err)
		}
		ctx, cancel := context.WithCancel(b.Context())
		ended := make(chan error, 1)
		go func() { ended <- server.Run(ctx) }()
		defer func() { cancel(); <-ended }()
		<-server.Ready()
		to(b, server.URL())
	})
}
