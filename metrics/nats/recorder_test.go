package nats

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"mp/metrics"
)

// A recorder that is killed again and again leaves the same files as one that is not.
func TestKilledRecorderMissesAndRepeatsNothing(t *testing.T) {
	t.Parallel()
	server, _ := startServer(t, DefaultServerConfig(t.TempDir()))
	dir := t.TempDir()
	sink := newSink(t, patient(server.URL(), "j", "1"))
	written := func() int64 {
		info, err := os.Stat(filepath.Join(dir, metrics.MetricsFile))
		if err != nil {
			return 0
		}
		return info.Size()
	}
	next := 0
	for range 3 {
		for range 500 {
			next++
			sink.Emit(step(next))
			if next%10 == 0 {
				sink.Emit(story(fmt.Sprint(next)))
			}
		}
		before := written()
		c := startChild(t, "recorder", server.URL(), dir)
		within(t, "it writes", func() bool { return written() > before+5_000 })
		c.kill()
	}
	startChild(t, "recorder", server.URL(), dir)
	sink.Emit(step(next + 1))
	within(t, "the last event is recorded", func() bool {
		all := lines(t, dir, metrics.MetricsFile)
		return strings.Contains(all[len(all)-1], fmt.Sprintf(`"update":%d,`, next+1))
	})
	if got := len(lines(t, dir, metrics.MetricsFile)); got != next+1 {
		t.Errorf("steps: got %d lines, want %d", got, next+1)
	}
	wantRun(t, updates(readJSONL(t, dir, metrics.MetricsFile)), 1, next+1)
	stories := readJSONL(t, dir, metrics.EventsFile)
	if len(stories) != next/10 {
		t.Errorf("stories: got %d, want %d", len(stories), next/10)
	}
	for i, e := range stories {
		if e.Story.Text != fmt.Sprint(10*(i+1)) {
			t.Fatalf("story %d: got %s", i, e.Story.Text)
		}
	}
}

// A sink that is slower than the server's patience gets everything once, and holds up nobody who emits.
func TestSlowSink(t *testing.T) {
	t.Parallel()
	server, _ := startServer(t, DefaultServerConfig(t.TempDir()))
	m := &memory{hold: make(chan struct{})}
	r, err := NewRecorder(DefaultRecorderConfig(server.URL(), "test"))
	if err != nil {
		t.Fatal(err)
	}
	r.ackWithin = 100 * time.Millisecond
	ended := make(chan error, 1)
	sink := newSink(t, patient(server.URL(), "j", "1"))
	const n = 1000
	begin := time.Now()
	for i := range n {
		sink.Emit(step(i))
	}
	if took := time.Since(begin); took > 20*time.Second {
		t.Errorf("emitting took %v", took)
	}
	go func() { ended <- r.Run(t.Context(), func(string) (metrics.Sink, error) { return m, nil }) }()
	m.hold <- struct{}{}
	begin = time.Now()
	within(t, "the server's patience ends", func() bool { return time.Since(begin) > 2*r.ackWithin })
	close(m.hold)
	within(t, "all events", func() bool { return m.len() >= n })
	if err := r.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantRun(t, updates(m.all()), 0, n-1)
}

// A recorder that is stopped and started goes on where it was, also with sinks that remember nothing.
func TestRecorderGoesOnWhereItWas(t *testing.T) {
	server, _ := startServer(t, DefaultServerConfig(t.TempDir()))
	sink := newSink(t, patient(server.URL(), "j", "1"))
	m := &memory{}
	for round := range 3 {
		for i := range 100 {
			sink.Emit(step(100*round + i))
		}
		r, stop := startRecorder(t, DefaultRecorderConfig(server.URL(), "test"), func(string) (metrics.Sink, error) { return m, nil })
		within(t, "this round's events", func() bool { return m.len() >= 100*(round+1) })
		if err := r.Sync(t.Context()); err != nil {
			t.Fatal(err)
		}
		stop()
	}
	wantRun(t, updates(m.all()), 0, 299)
}

// An event that a sink did not keep comes again; what others kept does not.
func TestSinkThatFailsForAWhile(t *testing.T) {
	t.Parallel()
	server, _ := startServer(t, DefaultServerConfig(t.TempDir()))
	good, bad, again := &memory{}, &memory{err: syscall.ENOSPC}, &memory{}
	asked := 0
	var log logText
	config := DefaultRecorderConfig(server.URL(), "test")
	config.Logger = log.logger()
	r, _ := startRecorder(t, config, func(job string) (metrics.Sink, error) {
		switch {
		case job == "good":
			return good, nil
		case asked < 1:
			asked++
			return bad, nil
		case asked < 2:
			asked++
			return nil, errors.New("no such directory")
		}
		return again, nil
	})
	a, b := newSink(t, patient(server.URL(), "good", "1")), newSink(t, patient(server.URL(), "bad", "1"))
	for i := range 50 {
		a.Emit(step(i))
		b.Emit(step(i))
	}
	a.Close()
	b.Close()
	if err := r.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantRun(t, updates(good.all()), 0, 49)
	wantRun(t, updates(again.all()), 0, 49)
	for _, want := range []string{"no space left on device", "no such directory"} {
		if strings.Count(log.String(), want) != 1 {
			t.Errorf("the log says %d times %q, want once", strings.Count(log.String(), want), want)
		}
	}
}

// A job whose sink goes on failing holds up the others for a minute, and is left out then.
func TestBrokenJobIsLeftOutAfterAMinute(t *testing.T) {
	broken := errors.New("directory is gone")
	err := broken
	m := &memory{}
	var log logText
	d := &desks{sinkOf: func(string) (metrics.Sink, error) { return m, err }, log: log.logger(), open: map[string]*desk{}}
	sequence := uint64(0)
	emit := func(at time.Duration) error {
		sequence++
		e := step(int(sequence))
		e.Origin = &metrics.Origin{Sequence: sequence, Stream: time.Unix(5, 0)}
		return errors.Join(d.emit("j", e, time.Unix(100, 0).Add(at)), d.check(time.Unix(100, 0).Add(at)))
	}
	for _, at := range []time.Duration{0, 30 * time.Second, 59 * time.Second} {
		if got := emit(at); !errors.Is(got, broken) || !strings.Contains(got.Error(), "job j") {
			t.Errorf("after %v: got %v, want the sink's error with the job's name", at, got)
		}
	}
	if got := emit(60 * time.Second); got != nil {
		t.Errorf("after a minute: got %v, want the event left out", got)
	}
	err = nil
	if got := emit(100 * time.Second); got != nil || m.len() != 0 {
		t.Errorf("within the next minute: got %v and %d events, want it left out", got, m.len())
	}
	if got := emit(121 * time.Second); got != nil || m.len() != 1 {
		t.Errorf("two minutes later: got %v and %d events, want it recorded", got, m.len())
	}
	if text := log.String(); !strings.Contains(text, "left out for a minute") || !strings.Contains(text, "events=2") {
		t.Errorf("the log does not say what was left out:\n%s", text)
	}
	err = syscall.ENOSPC
	d.closeIdle(time.Unix(1000, 0), time.Minute)
	for at := 1000 * time.Second; at < 3000*time.Second; at += 100 * time.Second {
		if got := emit(at); !errors.Is(got, syscall.ENOSPC) {
			t.Fatalf("full disk: got %v, want to wait for ever", got)
		}
	}
}

// A stream that was deleted and made anew counts from 1 again: that is nothing old.
func TestNewStreamIsRecordedFromItsBeginning(t *testing.T) {
	dir := t.TempDir()
	for round := range 2 {
		server, stop := startServer(t, DefaultServerConfig(t.TempDir()))
		sink := newSink(t, patient(server.URL(), "j", "1"))
		r, stopRecorder := startRecorder(t, DefaultRecorderConfig(server.URL(), "test"), func(string) (metrics.Sink, error) { return metrics.NewJSONL(dir) })
		for i := range 10 {
			sink.Emit(step(10*round + i))
		}
		sink.Close()
		if err := r.Sync(t.Context()); err != nil {
			t.Fatal(err)
		}
		stopRecorder()
		stop()
	}
	wantRun(t, updates(readJSONL(t, dir, metrics.MetricsFile)), 0, 19)
}

// The largest picture that is allowed arrives, byte for byte, and so do all that waited for a recorder.
func TestPicturesArrive(t *testing.T) {
	t.Parallel()
	server, _ := startServer(t, DefaultServerConfig(t.TempDir()))
	sink := newSink(t, patient(server.URL(), "j", "1"))
	png := make([]byte, metrics.MaxPictureBytes)
	for i := range png {
		png[i] = byte(i * i)
	}
	const pictures = 24
	for i := range pictures {
		sink.Emit(metrics.Event{Kind: metrics.KindPicture, Picture: &metrics.Picture{Tag: metrics.TagSaliency, Update: i, File: metrics.PictureFile(i, metrics.TagSaliency), PNG: png}})
		within(t, "it is stored", func() bool { return streamState(t, server.URL()).Msgs == uint64(i+1) })
	}
	m := &memory{}
	startRecorder(t, DefaultRecorderConfig(server.URL(), "test"), func(string) (metrics.Sink, error) { return m, nil })
	within(t, "all are recorded", func() bool { return m.len() == pictures })
	for i, e := range m.all() {
		if e.Picture == nil || e.Picture.Update != i || !bytes.Equal(e.Picture.PNG, png) {
			t.Fatalf("picture %d came back as another", i)
		}
	}
}
