package kubetest

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == ContainWord {
		Contain()
	}
	os.Exit(m.Run())
}

// namespace is where everything is.
const namespace = "lab"

// lab is a control plane, a node, and a cluster of mp on them.
type lab struct {
	t    *testing.T
	api  kubernetes.Interface
	rest *rest.Config
	node *Node
	root string
	mp   string
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

func newLab(t *testing.T, config *rest.Config, image, mp string) *lab {
	t.Helper()
	api, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	l := labOn(t, api, image, mp, t.Logf)
	l.rest = config
	return l
}

// labOn starts the node.
func labOn(t *testing.T, api kubernetes.Interface, image, mp string, log func(format string, args ...any)) *lab {
	t.Helper()
	root, err := os.MkdirTemp("", "kubetest-")
	if err != nil {
		t.Fatal(err)
	}
	l := &lab{t: t, api: api, root: root, mp: mp}
	l.node = NewNode(Config{API: api, Name: "node-1", Namespace: namespace, Root: root, Image: image, Program: "/usr/bin/mp", Log: log})
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

// run runs mp on the node itself.
func (l *lab) run(args ...string) []byte {
	l.t.Helper()
	var errs bytes.Buffer
	cmd := exec.CommandContext(l.t.Context(), l.mp, args...)
	cmd.Stderr, cmd.Dir = &errs, l.root
	out, err := cmd.Output()
	if err != nil {
		l.t.Fatalf("mp %s: %v: %s", strings.Join(args, " "), err, errs.String())
	}
	return out
}

// prepare paints images, writes a job of so many epochs, and lets one worker alone compute it: the weights' SHA-256.
func (l *lab) prepare(epochs int) (images, file, alone string) {
	l.t.Helper()
	images = filepath.Join(l.root, "images")
	l.run("data", "synth", images, "--classes", "4", "--train-images", "1024", "--val-images", "64")
	l.run("data", "pack", images)
	file = filepath.Join(l.root, "job.yaml")
	var text strings.Builder
	flags := l.flags(epochs)
	for i := 0; i < len(flags); i += 2 {
		fmt.Fprintf(&text, "%s: %s\n", strings.TrimPrefix(flags[i], "--"), flags[i+1])
	}
	write(l.t, file, text.String())
	var result struct {
		SHA256 string `json:"sha256"`
	}
	if err := json.Unmarshal(l.run("train", images, "--job", file, "--workers", "1", "--http", "none", "--json"), &result); err != nil || result.SHA256 == "" {
		l.t.Fatalf("one worker alone: %v", err)
	}
	return images, file, result.SHA256
}

// flags are a job: small, and of so many epochs that all can be done to it that shall be.
func (l *lab) flags(epochs int) []string {
	return []string{"--model", "simplenet", "--image-size", "32", "--epochs", fmt.Sprint(epochs), "--batch-size", "64", "--seed", "7", "--device", "cpu"}
}

// apply is `kubectl apply -f -` of a List.
func (l *lab) apply(list []byte) {
	l.t.Helper()
	var all unstructured.UnstructuredList
	if err := json.Unmarshal(list, &all); err != nil {
		l.t.Fatal(err)
	}
	client, err := dynamic.NewForConfig(l.rest)
	if err != nil {
		l.t.Fatal(err)
	}
	mapper := restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(l.api.Discovery()))
	for i := range all.Items {
		o := &all.Items[i]
		kind := o.GroupVersionKind()
		m, err := mapper.RESTMapping(kind.GroupKind(), kind.Version)
		if err != nil {
			l.t.Fatal(err)
		}
		_, err = client.Resource(m.Resource).Namespace(o.GetNamespace()).Apply(l.t.Context(), o.GetName(), o, metav1.ApplyOptions{FieldManager: "test", Force: true})
		if err != nil {
			l.t.Fatalf("apply %s %s: %v", kind.Kind, o.GetName(), err)
		}
	}
}

// pods are the pods of a component that run.
func (l *lab) pods(ctx context.Context, component string) []corev1.Pod {
	list, err := l.api.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: "app.kubernetes.io/name=mp,app.kubernetes.io/component=" + component})
	if err != nil {
		return nil
	}
	return slices.DeleteFunc(list.Items, func(p corev1.Pod) bool { return p.Status.Phase != corev1.PodRunning || p.DeletionTimestamp != nil })
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

// job is what `mp jobs show --json` says of the one job.
type job struct {
	Job struct {
		State   string `json:"state"`
		Update  uint64 `json:"update"`
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
func (l *lab) goesOn(workers int, after string) {
	l.t.Helper()
	before, ok := uint64(0), false
	until(l.t, 5*time.Minute, fmt.Sprintf("the job goes on with %d workers after %s", workers, after), func(ctx context.Context) bool {
		j, answered := l.show(ctx)
		switch {
		case !answered || l.ready(ctx, "worker") != workers:
		case !ok:
			before, ok = j.Job.Update, true
		default:
			return j.Job.Update > before
		}
		if answered && j.Job.State != "running" && j.Job.State != "queued" {
			l.t.Fatalf("the job is %s after %s: it was to last longer", j.Job.State, after)
		}
		return false
	})
}

// leader is the coordinator that leads, by its own word for Prometheus.
func (l *lab) leader() corev1.Pod {
	l.t.Helper()
	var leader corev1.Pod
	until(l.t, time.Minute, "a coordinator leads", func(ctx context.Context) bool {
		for _, p := range l.pods(ctx, "coordinator") {
			request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+p.Status.PodIP+":7073/metrics", nil)
			if err != nil {
				return false
			}
			reply, err := http.DefaultClient.Do(request)
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

func (l *lab) evict(pod string) error {
	return l.api.PolicyV1().Evictions(namespace).Evict(l.t.Context(), &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: pod, Namespace: namespace}})
}

// status is the workers' Job's.
func (l *lab) status(ctx context.Context, name string) batchv1.JobStatus {
	j, err := l.api.BatchV1().Jobs(namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return batchv1.JobStatus{}
	}
	return j.Status
}

func has(s batchv1.JobStatus, kind batchv1.JobConditionType) (reason string, is bool) {
	for _, c := range s.Conditions {
		if c.Type == kind && c.Status == corev1.ConditionTrue {
			return c.Reason, true
		}
	}
	return "", false
}

// A job survives all that a control plane does to pods, and ends with the bits of one worker alone.
func TestACluster(t *testing.T) {
	image, mp, plane := given(t, "IMAGE"), given(t, "MP"), given(t, "CONTROL_PLANE")
	l := newLab(t, startPlane(t, plane), image, mp)
	images, file, alone := l.prepare(40)
	if _, err := l.api.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := l.api.CoreV1().Secrets(namespace).Create(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "mp-token"}, StringData: map[string]string{"token": rand.Text()}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	l.apply(l.run("deploy", "render", "--workers", "2", "--image", "mp:test", "--namespace", namespace, "--data", images, "--job", file, "--json"))
	until(t, 5*time.Minute, "three coordinators are ready", func(ctx context.Context) bool { return l.ready(ctx, "coordinator") == 3 })
	l.goesOn(2, "the start")

	worker := l.pods(t.Context(), "worker")[0]
	l.remove(worker.Name)
	l.goesOn(2, "the deletion of a worker")
	l.remove(l.leader().Name)
	until(t, 2*time.Minute, "three coordinators are ready again", func(ctx context.Context) bool { return l.ready(ctx, "coordinator") == 3 })
	l.goesOn(2, "the deletion of the leader")

	for _, n := range []int{4, 2} {
		l.patch(fmt.Sprintf(`{"spec":{"parallelism":%d,"completions":%d}}`, n, n))
		l.goesOn(n, fmt.Sprintf("scaling to %d", n))
	}
	l.patch(`{"spec":{"suspend":true}}`)
	until(t, time.Minute, "no worker runs while the Job is suspended", func(ctx context.Context) bool { return len(l.pods(ctx, "worker")) == 0 })
	l.patch(`{"spec":{"suspend":false}}`)
	l.goesOn(2, "a pause of the Job")

	for _, component := range []string{"worker", "coordinator"} { // one may go, and then no other before it is back
		pods := l.pods(t.Context(), component)
		if err := l.evict(pods[0].Name); err != nil {
			t.Errorf("evict a %s: %v", component, err)
		}
		if err := l.evict(pods[1].Name); !apierrors.IsTooManyRequests(err) {
			t.Errorf("evict a second %s: got %v, want the budget's refusal", component, err)
		}
		l.goesOn(2, "the eviction of a "+component)
		until(t, 2*time.Minute, "three coordinators are ready", func(ctx context.Context) bool { return l.ready(ctx, "coordinator") == 3 })
	}
	if s := l.status(t.Context(), "mp-worker"); s.Failed != 0 {
		t.Errorf("%d pods of workers count as failed; all were asked to end and must not", s.Failed)
	}

	until(t, 20*time.Minute, "the workers' Job is complete", func(ctx context.Context) bool {
		s := l.status(ctx, "mp-worker")
		if reason, failed := has(s, batchv1.JobFailed); failed {
			t.Fatalf("the workers' Job has failed: %s", reason)
		}
		_, done := has(s, batchv1.JobComplete)
		return done
	})
	var end job
	until(t, time.Minute, "the job is done", func(ctx context.Context) bool {
		var ok bool
		end, ok = l.show(ctx)
		return ok && end.Job.State == "done"
	})
	if end.Job.Outcome.SHA256 != alone {
		t.Errorf("the weights are %s, of one worker alone %s", end.Job.Outcome.SHA256, alone)
	}
	l.badInputFails()
}

// badInputFails starts workers on images that are not there.
func (l *lab) badInputFails() {
	j, err := l.api.BatchV1().Jobs(namespace).Get(l.t.Context(), "mp-worker", metav1.GetOptions{})
	if err != nil {
		l.t.Fatal(err)
	}
	bad := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: "bad"}, Spec: j.Spec}
	bad.Spec.Selector, bad.Spec.Template.Labels = nil, map[string]string{"app.kubernetes.io/name": "bad"}
	k := &bad.Spec.Template.Spec.Containers[0]
	for i, a := range k.Args {
		if strings.HasPrefix(a, "--data=") {
			k.Args[i] = "--data=/nowhere"
		}
	}
	if _, err := l.api.BatchV1().Jobs(namespace).Create(l.t.Context(), bad, metav1.CreateOptions{}); err != nil {
		l.t.Fatal(err)
	}
	until(l.t, 2*time.Minute, "a Job with bad data fails at once", func(ctx context.Context) bool {
		reason, failed := has(l.status(ctx, "bad"), batchv1.JobFailed)
		return failed && reason == batchv1.JobReasonPodFailurePolicy
	})
}
