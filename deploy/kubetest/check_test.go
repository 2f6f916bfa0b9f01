package kubetest

import (
	"context"
	"crypto/rand"
	"fmt"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// lasts is how long the job takes one worker alone: long enough for all that is done to the cluster meanwhile.
const lasts = 4 * time.Minute

// A job survives all that a control plane does to pods, and ends with the bits of one worker alone.
func TestACluster(t *testing.T) {
	p := startPlane(t, given(t, "CONTROL_PLANE"))
	l := newLab(t, p.api)
	epochs, alone := l.prepare(lasts)
	defer l.transcript()
	if _, err := p.api.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := p.api.CoreV1().Secrets(namespace).Create(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "mp-token"}, StringData: map[string]string{"token": rand.Text()}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	var file strings.Builder
	for i, f := 0, flags(epochs); i < len(f); i += 2 {
		fmt.Fprintf(&file, "%s: %s\n", strings.TrimPrefix(f[i], "--"), f[i+1])
	}
	write(t, filepath.Join(l.root, "job.yaml"), file.String())
	rendered := l.run("deploy", "render", "--workers", "2", "--image", "mp:test", "--namespace", namespace, "--data", l.images, "--job", "job.yaml", "--json")

	l.event("`mp deploy render --job` is applied", 2, func() string {
		p.apply(t, rendered)
		l.threeCoordinators()
		return "three coordinators ready, the job handed in by a Job of its own"
	})
	l.event("a worker's pod is deleted", 2, func() string { return l.ends(l.worker(), l.remove) })
	l.event("the leader's pod is deleted", 2, func() string {
		was := l.leader()
		code := l.ends(was.Name, l.remove)
		l.threeCoordinators()
		return fmt.Sprintf("%s; %s leads", code, l.leader().Name)
	})
	for _, n := range []int{4, 2} {
		l.event(fmt.Sprintf("scaled to %d: parallelism and completions", n), n, func() string {
			l.patch(fmt.Sprintf(`{"spec":{"parallelism":%d,"completions":%d}}`, n, n))
			return fmt.Sprintf("%d workers in the view", n)
		})
	}
	l.event("the Job is suspended and resumed", 2, func() string {
		l.patch(`{"spec":{"suspend":true}}`)
		until(t, 2*time.Minute, "no worker runs while the Job is suspended", func(ctx context.Context) bool {
			s := l.status(ctx, "mp-worker")
			_, suspended := has(s, batchv1.JobSuspended)
			return suspended && s.Active == 0 && s.Terminating != nil && *s.Terminating == 0
		})
		l.patch(`{"spec":{"suspend":false}}`)
		return "no pod while suspended"
	})
	l.event("a worker is evicted by the API", 2, func() string { return l.evicts("worker") })
	l.event("a coordinator is evicted by the API", 2, func() string {
		defer l.threeCoordinators()
		return l.evicts("coordinator")
	})
	l.event("a worker's process gets SIGTERM from its node", 2, func() string { return l.ends(l.worker(), l.signal(syscall.SIGTERM)) })
	if s := l.status(t.Context(), "mp-worker"); s.Failed != 0 {
		t.Errorf("%d pods of workers count as failed; all were asked to end and must not", s.Failed)
	}
	l.event("a worker's process is killed (SIGKILL)", 2, func() string { return l.ends(l.worker(), l.signal(syscall.SIGKILL)) })
	if s := l.status(t.Context(), "mp-worker"); s.Failed != 1 {
		t.Errorf("%d pods of workers count as failed, and one was killed", s.Failed)
	}
	l.completes(alone.SHA256)
	l.badInputFails()
}

// ends makes a pod's process end in some way, and says with which code; asked to end, a worker ends with 85.
func (l *lab) ends(pod string, how func(pod string)) string {
	l.t.Helper()
	l.mu.Lock()
	delete(l.codes, pod) // a coordinator has its name again and again
	l.mu.Unlock()
	how(pod)
	return fmt.Sprintf("%s ended with %d", strings.TrimRight(pod, "-"), l.code(pod))
}

func (l *lab) signal(s syscall.Signal) func(pod string) {
	return func(pod string) {
		l.t.Helper()
		if !l.node.Signal(pod, s) {
			l.t.Fatalf("%s has no process", pod)
		}
	}
}

// evicts evicts two pods of a component: one may go, and then no other before it is back.
func (l *lab) evicts(component string) string {
	l.t.Helper()
	pods := l.pods(l.t.Context(), component)
	code := l.ends(pods[0].Name, func(pod string) {
		until(l.t, time.Minute, "the budget lets a "+component+" go", func(ctx context.Context) bool {
			err := l.evict(ctx, pod)
			if err != nil && !apierrors.IsTooManyRequests(err) {
				l.t.Errorf("evict a %s: %v", component, err)
			}
			return err == nil
		})
		if err := l.evict(l.t.Context(), pods[1].Name); !apierrors.IsTooManyRequests(err) {
			l.t.Errorf("evict a second %s: got %v, want the budget's refusal", component, err)
		}
	})
	return code + "; a second one: refused, 429"
}

// completes waits for the end.
func (l *lab) completes(want string) {
	l.t.Helper()
	began := time.Now()
	until(l.t, 20*time.Minute, "the workers' Job is complete", func(ctx context.Context) bool {
		s := l.status(ctx, "mp-worker")
		if reason, failed := has(s, batchv1.JobFailed); failed {
			l.t.Fatalf("the workers' Job has failed: %s", reason)
		}
		_, done := has(s, batchv1.JobComplete)
		return done
	})
	var end job
	until(l.t, time.Minute, "the job is done", func(ctx context.Context) bool {
		var ok bool
		end, ok = l.show(ctx)
		return ok && end.Job.State == "done"
	})
	same := "the same"
	if end.Job.Outcome.SHA256 != want {
		same = "others"
		l.t.Errorf("the weights are %s, of one worker alone %s", end.Job.Outcome.SHA256, want)
	}
	l.rows = append(l.rows, fmt.Sprintf("| nothing more | the job is done, workers ended with 0, their Job is complete; weights %.16s, %s as of one worker alone | %.0f | %d of %d |",
		end.Job.Outcome.SHA256, same, time.Since(began).Seconds(), end.Job.Update, end.Job.Updates))
}

// badInputFails starts workers on images that are not there.
func (l *lab) badInputFails() {
	l.t.Helper()
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
	began := time.Now()
	if _, err := l.api.BatchV1().Jobs(namespace).Create(l.t.Context(), bad, metav1.CreateOptions{}); err != nil {
		l.t.Fatal(err)
	}
	until(l.t, 2*time.Minute, "a Job with bad data fails at once", func(ctx context.Context) bool {
		reason, failed := has(l.status(ctx, "bad"), batchv1.JobFailed)
		return failed && reason == batchv1.JobReasonPodFailurePolicy
	})
	s := l.status(l.t.Context(), "bad")
	if s.Failed > *bad.Spec.Parallelism {
		l.t.Errorf("%d pods were tried on bad data, one for each of %d workers would do", s.Failed, *bad.Spec.Parallelism)
	}
	l.rows = append(l.rows, fmt.Sprintf("| another Job of workers, on images that are not there | its pods ended with 64, it has failed (%s) after %d of them | %.0f | |",
		batchv1.JobReasonPodFailurePolicy, s.Failed, time.Since(began).Seconds()))
}
