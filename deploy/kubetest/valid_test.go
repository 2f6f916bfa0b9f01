package kubetest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

// Every cluster that can be rendered is taken by the API server without a warning, twice, and its pods by the namespace's pod
// security. The kinds of JobSet and of the
// Prometheus operator are their own; of Kueue there are labels and annotations only.
func TestManifestsAreTaken(t *testing.T) {
	p := startPlane(t, given(t, "CONTROL_PLANE"))
	p.learnKinds(t, given(t, "KINDS"))
	dir := t.TempDir()
	write(t, filepath.Join(dir, "job.yaml"), "model: simplenet\nepochs: 3\n")
	for _, c := range []struct {
		overlay string
		size    string
		full    string // further arguments for a cluster with everything
	}{
		{"local", "--workers", "--data /srv/images --with monitoring,nats"},
		{"gpu", "--gpus", "--data /srv/images --with dra,monitoring,nats"},
		{"kueue", "--gpus", "--data images --with dra,monitoring,nats"},
		{"jobset", "--gpus", "--data images --with dra,monitoring,nats"},
	} {
		for name, args := range map[string]string{c.overlay: "", c.overlay + "-full": c.full + " --coordinators 5 --min-workers 2 --job job.yaml"} {
			t.Run(name, func(t *testing.T) {
				command := "deploy render --json --image registry.example:5000/a/mp:1.2 --namespace " + name + " --overlay " + c.overlay + " " + c.size + " 3 " + args
				list, err := mpSays(t.Context(), given(t, "MP"), dir, strings.Fields(command)...)
				if err != nil {
					t.Fatal(err)
				}
				p.apply(t, list)
				p.apply(t, list)
				coordinators := 3
				if args != "" {
					coordinators = 5
				}
				p.hasPods(t, name, "coordinator", coordinators)
				if c.overlay != "jobset" { // whose controller is not here
					p.hasPods(t, name, "worker", 3)
				}
			})
		}
	}
	t.Run("what is wrong is refused", func(t *testing.T) { p.refuses(t, "local") })
}

// learnKinds applies the definitions in a folder and waits until they are served.
func (p *plane) learnKinds(t *testing.T, folder string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(folder, "*.yaml"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no kinds in %s: %v", folder, err)
	}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		var o unstructured.Unstructured
		if err := yaml.Unmarshal(text, &o.Object); err != nil {
			t.Fatalf("%s: %v", f, err)
		}
		if err := p.applyOne(t.Context(), &o); err != nil {
			t.Fatalf("%s: %v", f, err)
		}
		until(t, time.Minute, o.GetName()+" are known", func(ctx context.Context) bool {
			list, err := p.api.Discovery().ServerPreferredResources()
			if err != nil {
				return false
			}
			for _, group := range list {
				for _, r := range group.APIResources {
					if g, _, _ := strings.Cut(group.GroupVersion, "/"); r.Name+"."+g == o.GetName() {
						return true
					}
				}
			}
			return false
		})
	}
	p.mapper.Reset()
}

// hasPods waits until a controller has made so many pods of a component.
func (p *plane) hasPods(t *testing.T, namespace, component string, n int) {
	t.Helper()
	until(t, time.Minute, fmt.Sprintf("%s has %d pods of the component %s", namespace, n, component), func(ctx context.Context) bool {
		list, err := p.api.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: "app.kubernetes.io/name=mp,app.kubernetes.io/component=" + component})
		return err == nil && len(list.Items) == n
	})
}

// refuses shows that the API server looks: at fields, at the failure policy's rules, and at what pods may.
func (p *plane) refuses(t *testing.T, namespace string) {
	j, err := p.api.BatchV1().Jobs(namespace).Get(t.Context(), "mp-worker", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	misspelt := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "batch/v1", "kind": "Job", "metadata": map[string]any{"name": "mp-worker", "namespace": namespace}, "spec": map[string]any{"paralelism": int64(3)}}}
	monitor := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "monitoring.coreos.com/v1", "kind": "PodMonitor", "metadata": map[string]any{"name": "mp-worker", "namespace": namespace}, "spec": map[string]any{"selector": map[string]any{}, "podMetricsEndpoint": []any{}}}}
	for _, o := range []*unstructured.Unstructured{misspelt, monitor} {
		if err := p.applyOne(t.Context(), o); err == nil {
			t.Errorf("a misspelt field of a %s is taken", o.GetKind())
		}
	}
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "root", Namespace: namespace}, Spec: j.Spec.Template.Spec}
	pod.Spec.SecurityContext = nil
	if _, err := p.api.CoreV1().Pods(namespace).Create(t.Context(), pod, metav1.CreateOptions{}); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "PodSecurity") {
		t.Errorf("a pod that may run as root: got %v, want the refusal of its namespace's pod security", err)
	}
	again := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: "again", Namespace: namespace}, Spec: j.Spec}
	again.Spec.Selector, again.Spec.Template.Labels, again.Spec.Template.Spec.RestartPolicy = nil, nil, corev1.RestartPolicyOnFailure
	if _, err := p.api.BatchV1().Jobs(namespace).Create(t.Context(), again, metav1.CreateOptions{}); !apierrors.IsInvalid(err) {
		t.Errorf("a failure policy of pods that start again by themselves: got %v, want a refusal", err)
	}
}
