package prometheus

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"mp/metrics"
)

// facts of a cluster under way.
func facts() metrics.ClusterFacts {
	return metrics.ClusterFacts{
		Leads: true, Term: 3, Applied: 100, Committed: 101, LeaderChanges: 2, Failures: map[string]uint64{"vanished": 4, "silent": 0},
		Workers: map[string]int{metrics.WorkerComputing: 2, metrics.WorkerWaiting: 1},
		Jobs: []metrics.JobFacts{
			{ID: "job-1", State: "done", Update: 50, Updates: 50, Epochs: 5, Ended: true, Saved: time.Now()},
			{ID: "job-2", State: "running", Update: 7, Updates: 70, Saved: time.Now().Add(-90 * time.Second)},
		},
	}
}

// tell gives a run's events to a sink: ten steps of .2 s each, twice, with a death in between.
func tell(sink metrics.Sink) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	emit := func(after time.Duration, e metrics.Event) {
		at = at.Add(after)
		e.Time = at
		sink.Emit(e)
	}
	emit(0, metrics.Event{View: &metrics.View{Number: 3, Members: make([]metrics.ViewMember, 2)}})
	emit(0, metrics.Event{Start: &metrics.Start{}})
	for update := 10; update <= 100; update += 10 {
		emit(2*time.Second, metrics.Event{Step: &metrics.Step{Epoch: 1, Epochs: 9, Update: update, Loss: 4.5, LearningRate: .1, ImagesPerSecond: 320, GradientNorm: 2, DataWait: .25, MemoryBytes: 1 << 20, ETASeconds: 60}})
	}
	emit(0, metrics.Event{Worker: &metrics.Worker{Worker: 7, Name: "worker 2", ArrivalSkew: .125, MemoryBytes: 3 << 20, ImagesPerSecond: 160, ShardSeconds: .05, ReduceSeconds: .02, ReduceHidden: .75}})
	emit(0, metrics.Event{Epoch: &metrics.Epoch{Epoch: 1, Top1: 12.5, Top5: 50, Loss: 4.25, Seconds: 20}})
	emit(time.Second, metrics.Event{Validation: &metrics.Validation{Top1: 25, Top5: 75, Loss: 4, Seconds: 1, Best: true, Robust: &metrics.Robust{Top1: 5, Top5: 10, Loss: 6}}})
	emit(time.Second, metrics.Event{View: &metrics.View{Number: 4, Members: make([]metrics.ViewMember, 1), Warning: true, DetectSeconds: .5}})
	emit(time.Second, metrics.Event{View: &metrics.View{Number: 4, RecoverSeconds: 1}})
	emit(time.Second, metrics.Event{Step: &metrics.Step{Epoch: 2, Epochs: 9, Update: 110, Loss: 4}})
	emit(0, metrics.Event{Worker: &metrics.Worker{Worker: 8, GPU: &metrics.GPU{Busy: new(.75), UsedBytes: 3, TotalBytes: 8}}})
	emit(0, metrics.Event{Worker: &metrics.Worker{Worker: 9, GPU: &metrics.GPU{UsedBytes: 4, TotalBytes: 8}}})
}

// scrape is the answer to a GET.
func scrape(t *testing.T, url string) string {
	t.Helper()
	r, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	text, err := io.ReadAll(r.Body)
	if err != nil || r.StatusCode != http.StatusOK {
		t.Fatalf("%s: %d, %v: %s", url, r.StatusCode, err, text)
	}
	return string(text)
}

func TestACoordinatorsNumbers(t *testing.T) {
	r := New("v1", Source{Cluster: facts})
	sink := r.Sink("job-2")
	tell(sink)
	server := httptest.NewServer(r.Handler())
	defer server.Close()
	text := scrape(t, server.URL)
	for _, line := range []string{
		`mp_steps_total{run="job-2"} 110`, `mp_step_seconds_count{run="job-2"} 9`,
		`mp_detect_seconds_sum{run="job-2"} 0.5`, `mp_recover_seconds_count{run="job-2"} 1`, `mp_faults{run="job-2"} 1`,
		`mp_update{run="job-2"} 110`, `mp_epoch{run="job-2"} 2`, `mp_training_loss{run="job-2"} 4`, `mp_gradient_norm{run="job-2"} 2`,
		`mp_accuracy_ratio{run="job-2",split="train",top="1"} 0.125`, `mp_accuracy_ratio{run="job-2",split="val",top="5"} 0.75`,
		`mp_accuracy_ratio{run="job-2",split="robust",top="1"} 0.05`, `mp_best_top1_ratio{run="job-2"} 0.25`, `mp_loss{run="job-2",split="val"} 4`,
		`mp_view{run="job-2"} 4`, `mp_view_workers{run="job-2"} 1`, `mp_worker_shard_seconds{run="job-2",worker="worker 8"} 0`,
		`mp_worker_gpu_busy_ratio{run="job-2",worker="worker 8"} 0.75`, `mp_worker_gpu_memory_used_bytes{run="job-2",worker="worker 9"} 4`,
		`mp_worker_gpu_memory_total_bytes{run="job-2",worker="worker 8"} 8`,
		`mp_failures_total{cause="vanished"} 4`, `mp_failures_total{cause="silent"} 0`, `mp_leader_changes_total 2`, `mp_coordinator_leads 1`, `mp_raft_term 3`,
		`mp_workers{state="computing"} 2`, `mp_workers{state="waiting"} 1`, `mp_workers{state="away"} 0`, `mp_jobs{state="running"} 1`, `mp_jobs{state="failed"} 0`,
		`mp_lost_samples{run="job-1"} 0`, `mp_lost_samples{run="job-2"} 0`, `mp_job_committed_updates{run="job-2"} 7`, `mp_job_updates{run="job-2"} 70`,
	} {
		if !strings.Contains(text, line+"\n") {
			t.Errorf("no line %s", line)
		}
	}
	for what, pattern := range map[string]string{
		"a checkpoint's age":     `mp_checkpoint_age_seconds\{run="job-2"\} (89|9[0-9])\.`,
		"the time of steps":      `mp_step_seconds_sum\{run="job-2"\} 1\.(8|79999)`,
		"the goodput":            `mp_goodput_ratio\{run="job-2"\} 0\.[89]`,
		"the version":            `mp_build_info\{go="go.*",version="v1"\} 1`,
		"the process's memory":   `process_resident_memory_bytes `,
		"the number of routines": `go_goroutines `,
	} {
		if !regexp.MustCompile(pattern).MatchString(text) {
			t.Errorf("%s is missing: %s", what, regexp.MustCompile(pattern[:14]+".*").FindString(text))
		}
	}
	for what, line := range map[string]string{
		"how busy a part of a GPU is":               `mp_worker_gpu_busy_ratio{run="job-2",worker="worker 9"}`,
		"a worker that is not in the view any more": `worker="worker 2"`, "the age of a finished job's checkpoint": `mp_checkpoint_age_seconds{run="job-1"}`,
	} {
		if strings.Contains(text, line) {
			t.Errorf("%s is shown: %s", what, line)
		}
	}
	if err := sink.(io.Closer).Close(); err != nil {
		t.Error(err)
	}
	if text := scrape(t, server.URL); strings.Contains(text, "mp_update{") || !strings.Contains(text, "mp_leader_changes_total 2") {
		t.Error("a run that nobody tells of any more is still shown, or the cluster is not")
	}
}

func TestAWorkersNumbers(t *testing.T) {
	now := metrics.WorkerFacts{GPU: &metrics.GPU{Busy: new(.5), UsedBytes: 6, TotalBytes: 7}, Joined: true, Worker: 12, Phase: "computing", Job: "job-1", Update: 40, View: 2, Beats: 99, Memory: 5, Shard: .5, Skew: .25, PerStep: 2}
	r := New("v1", Source{Worker: func() metrics.WorkerFacts { return now }})
	tell(r.Sink("job-1"))
	server := httptest.NewServer(r.Handler())
	defer server.Close()
	text := scrape(t, server.URL)
	for _, line := range []string{
		"mp_worker_joined 1", "mp_worker_identity 12", `mp_worker_phase{phase="computing"} 1`, "mp_worker_update 40", "mp_worker_view 2", "mp_worker_beats_total 99",
		"mp_worker_own_memory_bytes 5", "mp_worker_own_shard_seconds 0.5", "mp_worker_own_arrival_skew_seconds 0.25", "mp_worker_own_step_seconds 2",
		"mp_worker_own_gpu_busy_ratio 0.5", "mp_worker_own_gpu_memory_used_bytes 6", "mp_worker_own_gpu_memory_total_bytes 7",
		`mp_steps_total{run="job-1"} 110`,
	} {
		if !strings.Contains(text, line+"\n") {
			t.Errorf("no line %s", line)
		}
	}
}

// A scraper may leave in the middle of its answer, or never read it; others are answered, and so is it when it comes back.
func TestAScraperThatGoesAway(t *testing.T) {
	r := New("v1", Source{Cluster: facts})
	server := httptest.NewServer(r.Handler())
	defer server.Close()
	for i := range 24 {
		c, err := net.Dial("tcp", server.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		if i%2 == 0 {
			c.Close()
		} else {
			defer c.Close()
		}
	}
	if text := scrape(t, server.URL); !strings.Contains(text, "mp_workers") {
		t.Error("the next scrape has no numbers")
	}
}

// dashboard is what is looked at in a Grafana dashboard.
type dashboard struct {
	Panels []struct {
		ID      int
		Title   string
		Type    string
		Targets []struct{ Expr string }
		GridPos struct{ X, Y, W, H int }
	}
	Templating struct {
		List []struct{ Definition string }
	}
}

// Every number that the dashboard asks for exists, with the labels that it asks for; every number of ours is on it.
// labelsOf are the labels of every number that there can be, by its name.
func labelsOf(t *testing.T) map[string]map[string]bool {
	t.Helper()
	labels := map[string]map[string]bool{}
	for _, source := range []Source{{Cluster: facts}, {Worker: func() metrics.WorkerFacts { return metrics.WorkerFacts{} }}} {
		r := New("v1", source)
		tell(r.Sink("job-2"))
		families, err := r.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			names := []string{f.GetName()}
			if f.GetMetric()[0].GetHistogram() != nil {
				names = []string{f.GetName() + "_bucket", f.GetName() + "_sum", f.GetName() + "_count"}
			}
			for _, name := range names {
				labels[name] = map[string]bool{"instance": true, "le": strings.HasSuffix(name, "_bucket")}
				for _, l := range f.GetMetric()[0].GetLabel() {
					labels[name][l.GetName()] = true
				}
			}
		}
	}
	return labels
}

func TestTheDashboardAsksForNumbersThatExist(t *testing.T) {
	labels := labelsOf(t)
	text, err := os.ReadFile("../../deploy/grafana/mp.json")
	if err != nil {
		t.Fatal(err)
	}
	var d dashboard
	if err := json.Unmarshal(text, &d); err != nil {
		t.Fatal(err)
	}
	asked, ids := map[string]bool{}, map[int]bool{}
	check := func(where, query string) {
		found, err := numbersOf(query)
		if err != nil {
			t.Errorf("%s: %v", where, err)
		}
		for _, n := range found {
			asked[n.name] = true
			if labels[n.name] == nil {
				t.Errorf("%s asks for %s, which there is not", where, n.name)
			}
			for _, l := range n.labels {
				if labels[n.name] != nil && !labels[n.name][l] {
					t.Errorf("%s asks for %s by %s, which it does not have", where, n.name, l)
				}
			}
		}
		if len(found) == 0 {
			t.Errorf("%s asks for nothing: %q", where, query)
		}
	}
	for _, p := range d.Panels {
		if ids[p.ID] || p.GridPos.X+p.GridPos.W > 24 || p.GridPos.H == 0 {
			t.Errorf("panel %q: identity %d is taken, or its place is none: %+v", p.Title, p.ID, p.GridPos)
		}
		ids[p.ID] = true
		for _, target := range p.Targets {
			check("panel "+p.Title, target.Expr)
		}
		if p.Type != "row" && len(p.Targets) == 0 {
			t.Errorf("panel %q asks for nothing", p.Title)
		}
	}
	for _, v := range d.Templating.List {
		if v.Definition != "" {
			check("a variable", v.Definition)
		}
	}
	for name := range labels {
		seen := asked[name] || strings.HasSuffix(name, "_sum") || strings.HasSuffix(name, "_count")
		if strings.HasPrefix(name, "mp_") && !seen && !slices.Contains([]string{"mp_job_epochs_done", "mp_worker_identity", "mp_worker_update", "mp_worker_view"}, name) {
			t.Errorf("%s is on no panel", name)
		}
	}
	if _, err := numbersOf(`sum(rate(mp_x{run="a"}[5m])`); err == nil {
		t.Error("an open bracket is not noticed")
	}
}

// number is a number that a query asks for, with the labels by which it does.
type number struct {
	name   string
	labels []string
}

// numbersOf finds the numbers in a query of Prometheus. It is no parser: brackets must match, and names be where they belong.
func numbersOf(query string) ([]number, error) {
	var open []rune
	quoted := false
	for _, c := range query {
		switch i := strings.IndexRune(")]}", c); {
		case c == '"':
			quoted = !quoted
		case quoted:
		case strings.ContainsRune("([{", c):
			open = append(open, c)
		case i >= 0:
			if len(open) == 0 || open[len(open)-1] != rune("([{"[i]) {
				return nil, fmt.Errorf("brackets of %s do not match", query)
			}
			open = open[:len(open)-1]
		}
	}
	if len(open) > 0 || quoted {
		return nil, errors.New("brackets or quotes of " + query + " do not close")
	}
	var by []string
	for _, m := range regexp.MustCompile(`\b(?:by|on) \(([^)]*)\)`).FindAllStringSubmatch(query, -1) {
		for l := range strings.SplitSeq(m[1], ",") {
			by = append(by, strings.TrimSpace(l))
		}
	}
	if m := regexp.MustCompile(`^label_values\(\w+, (\w+)\)$`).FindStringSubmatch(query); m != nil {
		by = append(by, m[1])
	}
	var out []number
	for _, m := range regexp.MustCompile(`\b((?:mp|process|go)_\w+)(?:\{([^}]*)\})?`).FindAllStringSubmatch(query, -1) {
		n := number{name: m[1], labels: slices.Clone(by)}
		for _, l := range regexp.MustCompile(`(\w+)\s*(?:=~|!~|!=|=)`).FindAllStringSubmatch(m[2], -1) {
			n.labels = append(n.labels, l[1])
		}
		out = append(out, n)
	}
	return out, nil
}
