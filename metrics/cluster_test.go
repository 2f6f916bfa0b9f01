package metrics

import (
	"bytes"
	"encoding/json"
	"errors"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// clusterEvents is one event of each kind that only clusters have.
func clusterEvents() []Event {
	at := time.Date(2026, 1, 2, 15, 4, 5, 0, time.UTC)
	origin := &Origin{Worker: "coordinator", Stream: at, Sequence: 9}
	return []Event{
		{Time: at, Kind: KindWorker, Worker: &Worker{Worker: 3, Name: "worker 3 (host b, cuda:0)", View: 7, Update: 8, Shards: []int{1, 2}, ShardSeconds: 0.5,
			ImagesPerSecond: 187.4, MemoryBytes: 3 << 29, ArrivalSkew: 0.012, ReduceSeconds: 0.2, ReduceHidden: 0.75, GPU: &GPU{Busy: new(.9), UsedBytes: 5 << 30, TotalBytes: 80 << 30}}},
		{Time: at, Kind: KindView, Origin: origin, View: &View{Number: 7, Members: []ViewMember{{Worker: 1, Name: "worker 1", Shards: []int{0, 1}}, {Worker: 2, Name: "worker 2", Shards: []int{2, 3}}},
			Reason: "worker 3 (host b, cuda:0) vanished at epoch 4 step 112: connection reset; its 2 shards went to workers 1 and 2", Advice: "see its log", Update: 111,
			DetectSeconds: 0.004, Warning: true}},
		{Time: at, Kind: KindView, View: &View{Number: 7, Members: []ViewMember{}, Update: 112, RecoverSeconds: 0.61, Warning: true}},
		{Time: at, Kind: KindFault, Fault: &Fault{Worker: 3, Text: "worker 3 vanished", View: 7, DetectSeconds: 0.004}},
		{Time: at, Kind: KindFault, Fault: &Fault{Worker: 2, Text: "worker 2 is slow: 0.9 s a shard, others 0.3 s", Advice: "is something else running there?"}},
		{Time: at, Kind: KindLeader, Leader: &Leader{ID: "b", Address: "b:7000", Previous: "a", Term: 4, Seconds: 0.7}},
		{Time: at, Kind: KindGoodput, Goodput: &GoodputReport{Share: 0.912, CommittedSteps: 1200, StepSeconds: 0.25, UsefulSeconds: 300, WallSeconds: 328.9, Faults: 2,
			DetectMedian: 0.004, DetectP99: 1.1, RecoverMedian: 0.6, RecoverP99: 2.5}},
	}
}

// The JSON of events is a file format, and what people see who listen to NATS: a change here breaks both.
func TestJSONOfClusterEventsIsStable(t *testing.T) {
	want := []string{
		`{"time":"2026-01-02T15:04:05Z","kind":"worker","worker":{"worker":3,"name":"worker 3 (host b, cuda:0)","view":7,"update":8,"shards":[1,2],"shard_seconds":0.5,` +
			`"images_per_second":187.4,"memory_bytes":1610612736,"arrival_skew":0.012,"reduce_seconds":0.2,"reduce_hidden":0.75,"gpu":{"busy":0.9,"used_bytes":5368709120,"total_bytes":85899345920}}}`,
		`{"time":"2026-01-02T15:04:05Z","kind":"view","origin":{"worker":"coordinator","stream":"2026-01-02T15:04:05Z","sequence":9},"view":{"number":7,` +
			`"members":[{"worker":1,"name":"worker 1","shards":[0,1]},{"worker":2,"name":"worker 2","shards":[2,3]}],` +
			`"reason":"worker 3 (host b, cuda:0) vanished at epoch 4 step 112: connection reset; its 2 shards went to workers 1 and 2","advice":"see its log","update":111,` +
			`"detect_seconds":0.004,"warning":true}}`,
		`{"time":"2026-01-02T15:04:05Z","kind":"view","view":{"number":7,"members":[],"reason":"","update":112,"recover_seconds":0.61,"warning":true}}`,
		`{"time":"2026-01-02T15:04:05Z","kind":"fault","fault":{"worker":3,"text":"worker 3 vanished","view":7,"detect_seconds":0.004}}`,
		`{"time":"2026-01-02T15:04:05Z","kind":"fault","fault":{"worker":2,"text":"worker 2 is slow: 0.9 s a shard, others 0.3 s","advice":"is something else running there?"}}`,
		`{"time":"2026-01-02T15:04:05Z","kind":"leader","leader":{"id":"b","address":"b:7000","previous":"a","term":4,"seconds":0.7}}`,
		`{"time":"2026-01-02T15:04:05Z","kind":"goodput","goodput":{"share":0.912,"committed_steps":1200,"step_seconds":0.25,"useful_seconds":300,"wall_seconds":328.9,` +
			`"faults":2,"detect_median":0.004,"detect_p99":1.1,"recover_median":0.6,"recover_p99":2.5}}`,
	}
	for i, e := range clusterEvents() {
		text, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		if string(text) != want[i] {
			t.Errorf("%s:\ngot  %s\nwant %s", e.Kind, text, want[i])
		}
		var back Event
		if err := json.Unmarshal(text, &back); err != nil {
			t.Errorf("%s: %v", e.Kind, err)
		}
		if again, _ := json.Marshal(back); string(again) != want[i] {
			t.Errorf("%s: read back as %s", e.Kind, again)
		}
	}
}

func TestConsoleTellsTheStoryOfACluster(t *testing.T) {
	show := func(level Level) string {
		var out bytes.Buffer
		c := NewConsole(ConsoleConfig{Out: &out, Level: level})
		for _, e := range clusterEvents() {
			c.Emit(e)
		}
		return out.String()
	}
	want := `15:04:05  view 7: 2 workers: worker 3 (host b, cuda:0) vanished at epoch 4 step 112: connection reset; its 2 shards went to workers 1 and 2
          see its log
15:04:05  view 7: next step after 0.6 s
15:04:05  worker 2 is slow: 0.9 s a shard, others 0.3 s
          is something else running there?
15:04:05  coordinator b (b:7000) leads after a; nobody led for 0.7 s
`
	if got := show(Normal); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	verbose := show(Verbose)
	for _, want := range []string{
		"worker 3 (host b, cuda:0): 2 shards, 0.5 s each, 187 images/s, 1.5 GiB, waited for 12 ms, sum 200 ms, 75% of it hidden",
		"worker 3 vanished\n",
		"goodput 91.2%: 1,200 steps of 0.25 s in 5m29s, 2 faults, noticed after 0.004 s (99 %: 1.1 s), next step after 0.6 s (2.5 s)",
	} {
		if !strings.Contains(verbose, want) {
			t.Errorf("verbose: no %q in\n%s", want, verbose)
		}
	}
	if got := show(Quiet); got != "" {
		t.Errorf("quiet says %q", got)
	}
}

func TestJSONLKeepsEveryKindOnceInItsFile(t *testing.T) {
	dir := t.TempDir()
	stream := time.Unix(7, 0)
	write := func() {
		t.Helper()
		j, err := NewJSONL(dir)
		if err != nil {
			t.Fatal(err)
		}
		j.Emit(Event{Kind: KindStory, Story: &Story{Text: "of this process"}}) // no origin: always kept
		for i, e := range clusterEvents() {
			e.Origin = &Origin{Worker: "1", Stream: stream, Sequence: uint64(i + 1)}
			j.Emit(e)
		}
		j.Emit(Event{Kind: KindStory, Story: &Story{Text: "of this process"}})
		if err := errors.Join(j.Err(), j.Close()); err != nil {
			t.Fatal(err)
		}
	}
	write()
	write() // a recorder that was killed before it could report
	if got := len(readFile(t, filepath.Join(dir, MetricsFile))); got != 2 {
		t.Errorf("%s: got %d events, want a worker and goodput", MetricsFile, got)
	}
	if got := len(readFile(t, filepath.Join(dir, EventsFile))); got != 5+4 {
		t.Errorf("%s: got %d events, want two views, two faults, a leader and four stories", EventsFile, got)
	}
	stream = time.Unix(8, 0) // another stream counts anew
	write()
	if got := len(readFile(t, filepath.Join(dir, EventsFile))); got != 10+6 {
		t.Errorf("%s: got %d events, want those of the new stream too", EventsFile, got)
	}
}

// Which line was the last is found behind lines of any length that have no origin.
func TestLastOriginBehindLongLines(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	for text, want := range map[string]uint64{
		"": 0, "\n": 0, "{}\n": 0, `{"origin":{"sequence":3}}` + "\n": 3,
		`{"origin":{"sequence":3}}` + "\n" + `{"origin":{"sequence":4}}` + "\n{}\nnot JSON\n\n": 4,
		`{"origin":{"sequence":3}}` + "\n" + strings.Repeat("x", 900_000) + "\n":                3,
		`{"origin":{"sequence":3}}` + "\n" + strings.Repeat("x", 2_000_000) + "\n":              0, // too far back
		strings.Repeat("x", 2_000_000) + "\n" + `{"origin":{"sequence":5,"worker":"a"}}` + "\n": 5,
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		f, last, err := openToAppend(path)
		if err != nil {
			t.Fatal(err)
		}
		f.Close()
		if last.Sequence != want {
			t.Errorf("%d bytes: got %d, want %d", len(text), last.Sequence, want)
		}
	}
}

func TestTee(t *testing.T) {
	j, err := NewJSONL(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	r := &recorder{}
	tee := Tee{r, j}
	tee.Emit(Event{Kind: KindStory, Story: &Story{}})
	if err := tee.Err(); err != nil || len(r.events) != 1 {
		t.Errorf("got %v and %d events, want one", err, len(r.events))
	}
	j.events.Close()
	tee.Emit(Event{Kind: KindStory, Story: &Story{}})
	if err := tee.Err(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("a file that cannot be written: got %v", err)
	}
	if err := tee.Close(); err == nil || !r.closed || !strings.Contains(err.Error(), "closing failed") {
		t.Errorf("close: got %v, want both closed and both errors", err)
	}
}

func TestGoodput(t *testing.T) {
	var g Goodput
	at := time.Unix(1000, 0)
	update := 10
	steps := func(n, workers int, took time.Duration) {
		for range n {
			at = at.Add(took)
			update++
			g.Step(update, workers, at)
		}
	}
	if r := g.Report(at); r != (GoodputReport{}) {
		t.Errorf("before anything: got %+v", r)
	}
	g.Planned(time.Hour) // before the first step: nothing to take it out of
	g.Step(update, 4, at)
	steps(100, 4, time.Second)
	if r := g.Report(at); r.Share != 1 || r.CommittedSteps != 100 || r.StepSeconds != 1 || r.WallSeconds != 100 {
		t.Errorf("undisturbed: got %+v", r)
	}
	g.Fault(200 * time.Millisecond) // 4 s are lost; then three go on more slowly
	steps(1, 3, 5*time.Second)
	g.Recovered(5 * time.Second)
	steps(20, 3, 2*time.Second)
	g.Disturb() // the fourth comes back
	steps(4, 4, 3*time.Second)
	steps(20, 4, time.Second)
	want := GoodputReport{CommittedSteps: 145, StepSeconds: 1, UsefulSeconds: 145, WallSeconds: 100 + 5 + 40 + 12 + 20, Faults: 1,
		DetectMedian: 0.2, DetectP99: 0.2, RecoverMedian: 5, RecoverP99: 5}
	want.Share = want.UsefulSeconds / want.WallSeconds
	if r := g.Report(at); r != want {
		t.Errorf("after a fault: got  %+v\nwant %+v", r, want)
	}

	at = at.Add(10 * time.Second) // validation
	g.Planned(10 * time.Second)
	steps(1, 4, time.Second)
	want.CommittedSteps, want.UsefulSeconds, want.WallSeconds = 146, 146, want.WallSeconds+1
	want.Share = want.UsefulSeconds / want.WallSeconds
	if r := g.Report(at); r != want {
		t.Errorf("after a validation: got  %+v\nwant %+v", r, want)
	}

	update -= 50 // everybody died: back to a checkpoint
	g.Fault(0)
	g.Step(update, 4, at)
	if r := g.Report(at); r.CommittedSteps != 96 || r.Faults != 2 || r.DetectMedian != 0.2 {
		t.Errorf("after a roll-back: got %+v, want 96 committed steps", r)
	}
	steps(60, 4, time.Second)
	if r := g.Report(at); r.CommittedSteps != 156 || r.StepSeconds != 1 {
		t.Errorf("after the roll-back is made good: got %+v, want 156 committed steps", r)
	}
	g.Step(update, 4, at.Add(time.Second)) // says nothing new
	at = at.Add(time.Second)
	steps(4, 8, time.Second/2)
	if r := g.Report(at); r.StepSeconds != 1 {
		t.Errorf("more workers than ever: got %g s a step before there is a measurement, want 1 as before", r.StepSeconds)
	}
	steps(5, 8, time.Second/2)
	if r := g.Report(at); r.StepSeconds != 0.5 {
		t.Errorf("more workers than ever: got %g s a step, want 0.5", r.StepSeconds)
	}
}

// Several updates between two calls count as many steps.
func TestGoodputFromSparseReports(t *testing.T) {
	var g Goodput
	at := time.Unix(0, 0).Add(time.Hour)
	for update := 0; update <= 100; update += 10 {
		g.Step(update, 2, at)
		at = at.Add(100 * time.Millisecond)
	}
	if r := g.Report(at.Add(-100 * time.Millisecond)); r.CommittedSteps != 100 || math.Abs(r.StepSeconds-0.01) > 1e-9 || r.Share < 0.999 {
		t.Errorf("got %+v, want 100 steps of 10 ms", r)
	}
}

func TestQuantiles(t *testing.T) {
	var s sample
	if got := s.quantile(0.5); got != 0 {
		t.Errorf("of nothing: got %g", got)
	}
	for i := range sampleSize + 100 { // the first hundred are forgotten
		s.add(float64(i))
	}
	for q, want := range map[float64]float64{0: 100, 0.5: 100 + sampleSize/2 - 1, 1: sampleSize + 99} {
		if got := s.quantile(q); got != want {
			t.Errorf("quantile %g: got %g, want %g", q, got, want)
		}
	}
	three := sample{values: []float64{3, 1, 2}}
	if m, p := three.quantile(0.5), three.quantile(0.99); m != 2 || p != 3 {
		t.Errorf("of 1, 2, 3: got median %g and 99th percentile %g", m, p)
	}
}
