package kubetest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == ContainWord {
		Contain()
	}
	if os.Getenv("MP") != "" { // otherwise every test is skipped
		if err := EnterNetwork(); err != nil {
			fmt.Fprintf(os.Stderr, "a network for the tests, as root: %v\n", err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

// namespace is where everything is.
const namespace = "lab"

// lab is a node of some control plane, and a cluster of mp on it.
type lab struct {
	t      *testing.T
	api    kubernetes.Interface
	node   *Node
	root   string
	mp     string
	images string
	rows   []string // of the transcript

	mu    sync.Mutex
	codes map[string]int // with which pods ended
}

// given is a variable that make kube-check sets.
func given(t *testing.T, name string) string {
	t.Helper()
	value := os.Getenv(name)
	if value == "" {
		t.Skipf("%s is not set: make kube-check sets it", name)
	}
	return value
}

// newLab starts the node.
func newLab(t *testing.T, api kubernetes.Interface) *lab {
	t.Helper()
	root, err := os.MkdirTemp("", "kubetest-")
	if err != nil {
		t.Fatal(err)
	}
	l := &lab{t: t, api: api, root: root, mp: given(t, "MP"), codes: map[string]int{}}
	l.node = NewNode(Config{API: api, Name: "node-1", Namespace: namespace, Root: root, Image: given(t, "IMAGE"), Program: "/usr/bin/mp", Log: func(format string, args ...any) {
		t.Logf(format, args...)
		if format == endedFormat {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.codes[args[0].(string)] = args[1].(int)
		}
	}})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	until(t, time.Minute, "the namespace of nodes is there", func(ctx context.Context) bool {
		_, err := api.CoreV1().Namespaces().Get(ctx, "kube-node-lease", metav1.GetOptions{})
		return err == nil
	})
	go func() { done <- l.node.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("node: %v", err)
		}
		if t.Failed() {
			logs, _ := filepath.Glob(filepath.Join(root, "logs", "*.log"))
			for _, log := range logs {
				t.Logf("%s said last:\n%s", filepath.Base(log), tail(log))
			}
		}
		os.RemoveAll(root)
	})
	return l
}

// code waits for the end of a pod's container.
func (l *lab) code(pod string) (code int) {
	l.t.Helper()
	until(l.t, 2*time.Minute, pod+" has ended", func(context.Context) bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		var ok bool
		code, ok = l.codes[pod]
		return ok
	})
	return code
}

// run runs mp on the node itself.
func (l *lab) run(args ...string) []byte {
	l.t.Helper()
	out, err := mpSays(l.t.Context(), l.mp, l.root, args...)
	if err != nil {
		l.t.Fatal(err)
	}
	return out
}

// mpSays is what a verb of mp prints.
func mpSays(ctx context.Context, mp, dir string, args ...string) ([]byte, error) {
	var errs bytes.Buffer
	cmd := exec.CommandContext(ctx, mp, args...)
	cmd.Stderr, cmd.Dir = &errs, dir
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("mp %s: %w: %s", strings.Join(args, " "), err, errs.String())
	}
	return out, nil
}

// flags are a job: small, and of so many epochs that all can be done to it that shall be.
func flags(epochs int) []string {
	return []string{"--model", "simplenet", "--image-size", "32", "--epochs", fmt.Sprint(epochs), "--batch-size", "64", "--seed", "7", "--device", "cpu"}
}

// outcome is what a training says at its end.
type outcome struct {
	Seconds float64 `json:"seconds"`
	SHA256  string  `json:"sha256"`
}

// alone lets one worker alone do a job.
func (l *lab) alone(epochs int) (o outcome) {
	l.t.Helper()
	out := l.run(append([]string{"train", l.images, "--workers", "1", "--http", "none", "--json"}, flags(epochs)...)...)
	if err := json.Unmarshal(out, &o); err != nil || o.SHA256 == "" {
		l.t.Fatalf("one worker alone: %v in %s", err, out)
	}
	return o
}

// prepare finds images, those of DATA or painted ones, and chooses how many epochs take one worker so long on this machine.
// alone is what it makes of them.
func (l *lab) prepare(lasts time.Duration) (epochs int, alone outcome) {
	l.t.Helper()
	if l.images = os.Getenv("DATA"); l.images == "" {
		l.images = filepath.Join(l.root, "images")
		l.run("data", "synth", l.images, "--classes", "4", "--train-images", "4096", "--val-images", "256")
		l.run("data", "pack", l.images)
	}
	one := l.alone(1)
	epochs = max(2, int(math.Ceil(lasts.Seconds()/one.Seconds)))
	alone = l.alone(epochs)
	l.t.Logf("one worker alone: %d epochs in %.0f s, weights %s", epochs, alone.Seconds, alone.SHA256)
	return epochs, alone
}

// pods are the pods of a component that run.
func (l *lab) pods(ctx context.Context, component string) []corev1.Pod {
	list, err := l.api.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: "app.kubernetes.io/name=mp,app.kubernetes.io/component=" + component})
	if err != nil {
		return nil
	}
	return slices.DeleteFunc(list.Items, func(p corev1.Pod) bool { return p.Status.Phase != corev1.PodRunning || p.DeletionTimestamp != nil })
}

// worker is one of them.
func (l *lab) worker() string {
	l.t.Helper()
	all := l.pods(l.t.Context(), "worker")
	if len(all) == 0 {
		l.t.Fatal("no worker runs")
	}
	return all[0].Name
}

// ready counts the pods of a component that are.
func (l *lab) ready(ctx context.Context, component string) int {
	n := 0
	for _, p := range l.pods(ctx, component) {
		if len(p.Status.ContainerStatuses) == 1 && p.Status.ContainerStatuses[0].Ready {
			n++
		}
	}
	return n
}

func (l *lab) threeCoordinators() {
	l.t.Helper()
	until(l.t, 5*time.Minute, "three coordinators are ready", func(ctx context.Context) bool { return l.ready(ctx, "coordinator") == 3 })
}

// job is what `mp jobs show --json` says of the one job.
type job struct {
	Job struct {
		State   string `json:"state"`
		Update  uint64 `json:"update"`
		Updates uint64 `json:"updates"`
		Workers int    `json:"workers"`
		Outcome struct {
			SHA256 string `json:"sha256"`
		} `json:"outcome"`
	} `json:"job"`
}

// show asks in the place of a coordinator, as people do by kubectl exec.
func (l *lab) show(ctx context.Context) (j job, ok bool) {
	for _, p := range l.pods(ctx, "coordinator") {
		ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
		out, code, err := l.node.Exec(ctx, p.Name, "jobs", "show", "1", "--json")
		cancel()
		if start := strings.Index(out, "{"); err == nil && code == 0 && start >= 0 && json.NewDecoder(strings.NewReader(out[start:])).Decode(&j) == nil {
			return j, true
		}
	}
	return j, false
}

// goesOn waits for updates of the job with so many workers.
func (l *lab) goesOn(workers int, after string) (now job) {
	l.t.Helper()
	before, ok := uint64(0), false
	until(l.t, 5*time.Minute, fmt.Sprintf("the job goes on with %d workers after %s", workers, after), func(ctx context.Context) bool {
		j, answered := l.show(ctx)
		if answered && j.Job.State != "running" && j.Job.State != "queued" {
			l.t.Fatalf("the job is %s after %s: it was to last longer", j.Job.State, after)
		}
		switch {
		case !answered || l.ready(ctx, "worker") != workers || j.Job.Workers != workers:
		case !ok:
			before, ok = j.Job.Update, true
		default:
			now = j
			return j.Job.Update > before
		}
		return false
	})
	return now
}

// event does something to the cluster, waits until the job goes on, and writes a line of the transcript.
func (l *lab) event(what string, workers int, do func() (seen string)) {
	l.t.Helper()
	began := time.Now()
	seen := do()
	j := l.goesOn(workers, what)
	l.rows = append(l.rows, fmt.Sprintf("| %s | %s | %.0f | %d of %d |", what, seen, time.Since(began).Seconds(), j.Job.Update, j.Job.Updates))
}

// transcript prints what was done and seen.
func (l *lab) transcript() {
	l.t.Logf("transcript\n\n| what was done | what was seen | job goes on after, s | update |\n|---|---|---|---|\n%s\n", strings.Join(l.rows, "\n"))
}

// leader is the coordinator that leads, by its own word for Prometheus.
func (l *lab) leader() corev1.Pod {
	l.t.Helper()
	var leader corev1.Pod
	client := asking(5 * time.Second)
	until(l.t, time.Minute, "a coordinator leads", func(ctx context.Context) bool {
		for _, p := range l.pods(ctx, "coordinator") {
			request, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+p.Status.PodIP+":7073/metrics", nil)
			if err != nil {
				return false
			}
			reply, err := client.Do(request)
			if err != nil {
				continue
			}
			text, err := io.ReadAll(reply.Body)
			reply.Body.Close()
			if err == nil && strings.Contains(string(text), "\nmp_coordinator_leads 1") {
				leader = p
				return true
			}
		}
		return false
	})
	return leader
}

// patch changes the workers' Job.
func (l *lab) patch(what string) {
	l.t.Helper()
	if _, err := l.api.BatchV1().Jobs(namespace).Patch(l.t.Context(), "mp-worker", types.MergePatchType, []byte(what), metav1.PatchOptions{}); err != nil {
		l.t.Fatalf("patch the workers' Job by %s: %v", what, err)
	}
}

func (l *lab) remove(pod string) {
	l.t.Helper()
	if err := l.api.CoreV1().Pods(namespace).Delete(l.t.Context(), pod, metav1.DeleteOptions{}); err != nil {
		l.t.Fatal(err)
	}
}

func (l *lab) evict(ctx context.Context, pod string) error {
	return l.api.PolicyV1().Evictions(namespace).Evict(ctx, &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: pod, Namespace: namespace}})
}

// status is a Job's.
func (l *lab) status(ctx context.Context, name string) batchv1.JobStatus {
	j, err := l.api.BatchV1().Jobs(namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return batchv1.JobStatus{}
	}
	return j.Status
}

// has says whether a Job is Complete, Failed or Suspended, and why.
func has(s batchv1.JobStatus, kind batchv1.JobConditionType) (reason string, is bool) {
	for _, c := range s.Conditions {
		if c.Type == kind && c.Status == corev1.ConditionTrue {
			return c.Reason, true
		}
	}
	return "", false
}
