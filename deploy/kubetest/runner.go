package kubetest

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/retry"
)

const killSignal = syscall.SIGKILL

// endedFormat tells of the end of a pod's container: the pod's name and the code.
const endedFormat = "%s ended with %d"

// restartAfter is the pause before a container of a pod that is always restarted starts again.
const restartAfter = time.Second

// runner is the life of one pod.
type runner struct {
	node  *Node
	pod   *corev1.Pod
	ip    string
	leave chan time.Duration // its pod shall end, with so much grace

	process  atomic.Pointer[process] // that runs
	started  metav1.Time
	restarts int32
}

// ask tells the runner that its pod shall end.
func (r *runner) ask(grace time.Duration) {
	select {
	case r.leave <- grace:
	default: // it knows
	}
}

func (r *runner) run(ctx context.Context) {
	for {
		code, asked := r.live(ctx)
		if ctx.Err() != nil {
			return
		}
		final := asked || r.pod.Spec.RestartPolicy == corev1.RestartPolicyNever || r.pod.Spec.RestartPolicy == corev1.RestartPolicyOnFailure && code == 0
		phase := corev1.PodRunning
		if final {
			if phase = corev1.PodFailed; code == 0 {
				phase = corev1.PodSucceeded
			}
		}
		r.node.c.Log(endedFormat, r.pod.Name, code)
		ended := corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: int32(code), StartedAt: r.started, FinishedAt: metav1.Now(), Reason: reason(code)}}
		r.report(ctx, phase, ended, false)
		if asked {
			r.remove(ctx)
			return
		}
		if final {
			select {
			case <-r.leave:
				r.remove(ctx)
			case <-ctx.Done():
			}
			return
		}
		r.restarts++
		select {
		case <-time.After(restartAfter):
		case <-ctx.Done():
			return
		}
	}
}

// remove takes the pod away, as somebody has asked. One that has its name by now stays.
func (r *runner) remove(ctx context.Context) {
	options := metav1.NewDeleteOptions(0)
	options.Preconditions = metav1.NewUIDPreconditions(string(r.pod.UID))
	err := r.node.c.API.CoreV1().Pods(r.pod.Namespace).Delete(ctx, r.pod.Name, *options)
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) && ctx.Err() == nil {
		r.node.c.Log("%s: %v", r.pod.Name, err)
	}
}

func reason(code int) string {
	if code == 0 {
		return "Completed"
	}
	return "Error"
}

// live is one life of the container, and how it ended; asked says that the pod was to end.
func (r *runner) live(ctx context.Context) (code int, asked bool) {
	var p *process
	for p == nil {
		d, err := describe(ctx, r.node.c.API, r.pod, r.ip, r.node.c)
		if err == nil {
			p, err = r.start(d)
		}
		if err == nil {
			break
		}
		r.node.c.Log("%v; trying on", err)
		select {
		case <-time.After(restartAfter):
		case <-r.leave:
			return 137, true
		case <-ctx.Done():
			return 0, false
		}
	}
	r.process.Store(p)
	defer r.process.Store(nil)
	r.started = metav1.Now()
	running := corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: r.started}}
	r.report(ctx, corev1.PodRunning, running, false)
	probing, stop := context.WithCancel(ctx)
	probed := make(chan struct{})
	go func() {
		defer close(probed)
		r.probe(probing, p, func(ready bool) { r.report(probing, corev1.PodRunning, running, ready) })
	}()
	defer func() { stop(); <-probed }()
	select {
	case <-p.done:
		return p.code, false
	case <-ctx.Done():
		p.signal(killSignal)
		<-p.done
		return p.code, false
	case grace := <-r.leave:
		stop()
		p.signal(syscall.SIGTERM)
		timer := time.NewTimer(grace)
		defer timer.Stop()
		select {
		case <-p.done:
		case <-timer.C:
			r.node.c.Log("%s did not end within %s", r.pod.Name, grace)
			p.signal(killSignal)
		case <-ctx.Done():
			p.signal(killSignal)
		}
		<-p.done
		return p.code, true
	}
}

// start starts the container; what it says is in a file beside the pod's folders.
func (r *runner) start(d container) (*process, error) {
	folder := filepath.Join(r.node.c.Root, "logs")
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return nil, err
	}
	log, err := os.OpenFile(filepath.Join(folder, r.pod.Name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	return d.start(log)
}

// report writes the pod's status.
func (r *runner) report(ctx context.Context, phase corev1.PodPhase, state corev1.ContainerState, ready bool) {
	api := r.node.c.API.CoreV1().Pods(r.pod.Namespace)
	err := retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		pod, err := api.Get(ctx, r.pod.Name, metav1.GetOptions{})
		if err != nil || pod.UID != r.pod.UID {
			return err
		}
		s := &pod.Status
		s.Phase, s.PodIP, s.HostIP, s.StartTime = phase, r.ip, nodeAddress, &r.started
		s.PodIPs, s.HostIPs = []corev1.PodIP{{IP: r.ip}}, []corev1.HostIP{{IP: s.HostIP}}
		one := corev1.ContainerStatus{Name: pod.Spec.Containers[0].Name, Image: pod.Spec.Containers[0].Image, ImageID: "test", State: state, Ready: ready, RestartCount: r.restarts}
		one.Started = new(state.Running != nil)
		s.ContainerStatuses = []corev1.ContainerStatus{one}
		for condition, is := range map[corev1.PodConditionType]bool{corev1.PodScheduled: true, corev1.PodInitialized: true, corev1.ContainersReady: ready, corev1.PodReady: ready} {
			setCondition(s, condition, is)
		}
		_, err = api.UpdateStatus(ctx, pod, metav1.UpdateOptions{})
		return err
	})
	if err != nil && !apierrors.IsNotFound(err) && ctx.Err() == nil {
		r.node.c.Log("%s: report: %v", r.pod.Name, err)
	}
}

func setCondition(s *corev1.PodStatus, kind corev1.PodConditionType, is bool) {
	want := corev1.PodCondition{Type: kind, Status: corev1.ConditionFalse, LastTransitionTime: metav1.Now()}
	if is {
		want.Status = corev1.ConditionTrue
	}
	for i := range s.Conditions {
		if have := &s.Conditions[i]; have.Type == kind {
			if have.Status != want.Status {
				*have = want
			}
			return
		}
	}
	s.Conditions = append(s.Conditions, want)
}

// probe asks the container's probes until ctx ends, and kills a container that fails one that must not.
func (r *runner) probe(ctx context.Context, p *process, tell func(ready bool)) {
	k := r.pod.Spec.Containers[0]
	if r.until(ctx, k.StartupProbe, func(ok bool, failed int32) bool { return !ok && failed < k.StartupProbe.FailureThreshold }) {
		r.node.c.Log("%s does not start: its startup probe failed", r.pod.Name)
		p.signal(killSignal)
		return
	}
	if k.LivenessProbe != nil {
		go r.until(ctx, k.LivenessProbe, func(ok bool, failed int32) bool {
			if failed >= k.LivenessProbe.FailureThreshold {
				r.node.c.Log("%s is dead: its liveness probe failed", r.pod.Name)
				p.signal(killSignal)
				return false
			}
			return true
		})
	}
	if k.ReadinessProbe == nil {
		tell(true)
		return
	}
	was := false
	r.until(ctx, k.ReadinessProbe, func(ok bool, failed int32) bool {
		if now := ok || was && failed < k.ReadinessProbe.FailureThreshold; now != was {
			was = now
			tell(now)
		}
		return true
	})
}

// asking makes a client that compares no certificate, like a kubelet.
func asking(timeout time.Duration) *http.Client {
	return &http.Client{Timeout: timeout, Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
}

// until asks a probe at its period while goOn says so, and returns whether it ended failing.
func (r *runner) until(ctx context.Context, probe *corev1.Probe, goOn func(ok bool, failed int32) bool) (failing bool) {
	if probe == nil {
		return false
	}
	client := asking(time.Duration(max(probe.TimeoutSeconds, 1)) * time.Second)
	url := fmt.Sprintf("%s://%s%s", strings.ToLower(string(probe.HTTPGet.Scheme)), net.JoinHostPort(r.ip, strconv.Itoa(int(r.port(probe)))), probe.HTTPGet.Path)
	tick := time.NewTicker(time.Duration(max(probe.PeriodSeconds, 1)) * time.Second)
	defer tick.Stop()
	failed := int32(0)
	for {
		select {
		case <-ctx.Done():
			return false
		case <-tick.C:
		}
		ok := get(ctx, client, url)
		if failed++; ok {
			failed = 0
		}
		if ctx.Err() != nil {
			return false
		}
		if !goOn(ok, failed) {
			return !ok
		}
	}
}

func get(ctx context.Context, client *http.Client, url string) bool {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return false
	}
	reply, err := client.Do(request)
	if err != nil {
		return false
	}
	reply.Body.Close()
	return reply.StatusCode < http.StatusBadRequest
}

// port is the number of the port that a probe asks.
func (r *runner) port(probe *corev1.Probe) int32 {
	for _, p := range r.pod.Spec.Containers[0].Ports {
		if p.Name == probe.HTTPGet.Port.StrVal {
			return p.ContainerPort
		}
	}
	return probe.HTTPGet.Port.IntVal
}
