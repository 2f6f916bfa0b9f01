package metrics

import (
	"bytes"
	"encoding/json"
	"errors"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"
)

// recorder is a Sink that waits for leave before each event.
type recorder struct {
	leave  chan struct{}
	events []Event
	closed bool
}

func (r *recorder) Emit(e Event) {
	if r.leave != nil {
		<-r.leave
	}
	r.events = append(r.events, e)
}

func (r *recorder) Close() error {
	r.closed = true
	return errors.New("closing failed")
}

func TestFanoutNeverBlocksAndLosesNothing(t *testing.T) {
	slow, fast := &recorder{leave: make(chan struct{})}, &recorder{}
	f := NewFanout(slow, fast)
	const emitters, each = 4, 500
	var wait sync.WaitGroup
	for range emitters {
		wait.Go(func() {
			for i := range each {
				f.Emit(Event{Kind: KindStep, Step: &Step{Update: i}})
				f.Emit(Event{Kind: KindProgress, Progress: &Progressed{Done: int64(i)}})
			}
		})
	}
	wait.Wait() // the slow sink has taken nothing yet
	close(slow.leave)
	err := f.Close()
	if err == nil || strings.Count(err.Error(), "closing failed") != 2 || !slow.closed || !fast.closed {
		t.Errorf("close: got %v, want both sinks closed and both errors", err)
	}
	for name, r := range map[string]*recorder{"slow": slow, "fast": fast} {
		steps := 0
		for _, e := range r.events {
			if e.Kind == KindStep {
				steps++
			}
		}
		if steps != emitters*each {
			t.Errorf("%s sink has %d steps, want %d", name, steps, emitters*each)
		}
	}
	if len(slow.events) > 2*emitters*each {
		t.Errorf("slow sink has more events than were emitted")
	}
	n := len(fast.events)
	f.Emit(Event{Kind: KindStep, Step: &Step{}})
	if err := f.Close(); err != nil || len(fast.events) != n {
		t.Errorf("second close: got %v and %d events, want nothing to happen", err, len(fast.events)-n)
	}
}

func TestProgressIsNotHoarded(t *testing.T) {
	q := &queue{}
	q.filled = sync.NewCond(&q.mu)
	for i := range 1000 {
		q.push(Event{Kind: KindProgress, Progress: &Progressed{Done: int64(i)}})
	}
	if len(q.events) != 1 || q.events[0].Progress.Done != 999 {
		t.Errorf("got %d waiting events, want the newest alone", len(q.events))
	}
}

func TestJSONLSurvivesACutLineAndAResume(t *testing.T) {
	dir := t.TempDir()
	first, err := NewJSONL(dir)
	if err != nil {
		t.Fatal(err)
	}
	at := time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
	step := func(update int, loss float64) Event {
		return Event{Time: at, Kind: KindStep, Step: &Step{Update: update, Loss: Value(loss)}}
	}
	first.Emit(Event{Time: at, Kind: KindStart, Start: &Start{Directory: dir, Job: json.RawMessage(`{"epochs":3}`)}})
	for u := 1; u <= 5; u++ {
		first.Emit(step(u, float64(u)))
	}
	first.Emit(Event{Kind: KindProgress, Progress: &Progressed{}})
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, MetricsFile)
	cut, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cut.WriteString(`{"time":"2026-01-02T03:04:05Z","kind":"step","st`); err != nil {
		t.Fatal(err)
	}
	cut.Close()
	if got := readFile(t, path); len(got) != 5 {
		t.Errorf("with a cut last line: got %d events, want 5", len(got))
	}

	again, err := NewJSONL(dir) // resumed after update 3
	if err != nil {
		t.Fatal(err)
	}
	for u := 4; u <= 6; u++ {
		again.Emit(step(u, 10+float64(u)))
	}
	again.Emit(Event{Time: at, Kind: KindValidation, Validation: &Validation{Update: 6}})
	again.Emit(Event{Time: at, Kind: KindSummary, Summary: &Summary{BestTop1: 1}})
	if err := again.Close(); err != nil {
		t.Fatal(err)
	}
	var updates []int
	var losses []float64
	for _, e := range readFile(t, path) {
		if e.Step != nil {
			updates, losses = append(updates, e.Step.Update), append(losses, float64(e.Step.Loss))
		}
	}
	if want := []int{1, 2, 3, 4, 5, 6}; !reflect.DeepEqual(updates, want) {
		t.Errorf("updates: got %v, want %v", updates, want)
	}
	if want := []float64{1, 2, 3, 14, 15, 16}; !reflect.DeepEqual(losses, want) {
		t.Errorf("losses: got %v, want %v", losses, want)
	}
	events := readFile(t, filepath.Join(dir, EventsFile))
	if len(events) != 2 || events[0].Start == nil || string(events[0].Start.Job) != `{"epochs":3}` || events[1].Summary == nil {
		t.Errorf("events: got %+v, want a start and a summary", events)
	}
	if !events[0].Time.Equal(at) {
		t.Errorf("time: got %v, want %v", events[0].Time, at)
	}
}

func readFile(t *testing.T, path string) []Event {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	events, err := Read(f)
	if err != nil {
		t.Fatal(err)
	}
	return events
}

func TestReadNamesTheBrokenLine(t *testing.T) {
	if _, err := Read(strings.NewReader("{\"kind\":\"step\"}\nnot json\n{}\n")); err == nil || !strings.Contains(err.Error(), "line 2") {
		t.Errorf("got %v, want an error naming line 2", err)
	}
	long := bytes.Repeat([]byte("x"), maxLine+2)
	if _, err := Read(bytes.NewReader(long)); err == nil || !strings.Contains(err.Error(), "not a log") {
		t.Errorf("endless line: got %v", err)
	}
	if events, err := Read(strings.NewReader("")); err != nil || len(events) != 0 {
		t.Errorf("empty: got %v, %v", events, err)
	}
}

func TestJSONLKeepsItsFirstError(t *testing.T) {
	if _, err := NewJSONL(filepath.Join(t.TempDir(), "missing")); err == nil {
		t.Errorf("missing directory: got no error")
	}
	j, err := NewJSONL(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	j.metrics.Close()
	j.Emit(Event{Kind: KindStep, Step: &Step{}})
	if err := j.Close(); err == nil || !strings.Contains(err.Error(), "append to log of the run") {
		t.Errorf("write to a closed file: got %v", err)
	}
}

func TestNaNSurvivesJSON(t *testing.T) {
	text, err := json.Marshal(Step{Loss: Value(math.NaN()), GradientNorm: Value(math.Inf(1))})
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(text), `"loss":null`) {
		t.Errorf("got %s", text)
	}
	var back Step
	if err := json.Unmarshal(text, &back); err != nil || !math.IsNaN(float64(back.Loss)) {
		t.Errorf("read back %+v, %v", back, err)
	}
}

// The JSON of events is a file format: a change here breaks the files of older runs.
func TestJSONNamesAreStable(t *testing.T) {
	text, err := json.Marshal(Event{Kind: KindStep, Step: &Step{Epoch: 1, Epochs: 2, Step: 3, Steps: 4, Update: 3, Loss: 4.5, Top1: 1.5, Top5: 6, ImagesPerSecond: 100,
		LearningRate: 0.1, GradientNorm: 2, DataWait: 0.5, MemoryBytes: 7, ETASeconds: 8}})
	if err != nil {
		t.Fatal(err)
	}
	want := `{"time":"0001-01-01T00:00:00Z","kind":"step","step":{"epoch":1,"epochs":2,"step":3,"steps":4,"update":3,"loss":4.5,"top1":1.5,"top5":6,` +
		`"images_per_second":100,"learning_rate":0.1,"gradient_norm":2,"data_wait":0.5,"memory_bytes":7,"eta_seconds":8}}`
	if string(text) != want {
		t.Errorf("got  %s\nwant %s", text, want)
	}
}

func TestMeter(t *testing.T) {
	at := func(s float64) time.Time { return time.Unix(1000, 0).Add(time.Duration(s * float64(time.Second))) }
	m := NewMeter(10, 100, at(0))
	if got := m.ETA(at(1)); got != 0 {
		t.Errorf("before the first update: ETA is %v, want 0", got)
	}
	for range 10 {
		m.Update(64)
	}
	if got := m.Rate(at(4)); got != 160 {
		t.Errorf("rate: got %g, want 640 images in 4 s", got)
	}
	if got := m.ETA(at(5)); got != 40*time.Second {
		t.Errorf("ETA: got %v, want 80 updates of half a second", got)
	}
	m.Pause(at(10))
	m.Update(64)
	if got := m.Rate(at(11)); got != 64 {
		t.Errorf("rate after a pause: got %g, want 64", got)
	}
	if got := m.Rate(at(11)); got != 0 {
		t.Errorf("rate over no time: got %g, want 0", got)
	}
}
