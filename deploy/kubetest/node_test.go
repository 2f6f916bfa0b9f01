package kubetest

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
)

// hand does what controllers do, by hand: without a control plane this much of the manifests can be tried all the same.
type hand struct {
	*lab
	set  appsv1.StatefulSet
	jobs batchv1.Job

	uids int
}

// begin makes a pod of a template.
func (h *hand) begin(name string, template corev1.PodTemplateSpec, claims ...corev1.PersistentVolumeClaim) {
	h.t.Helper()
	h.uids++
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace, UID: types.UID(fmt.Sprintf("%s-%d", name, h.uids)), Labels: template.Labels}, Spec: *template.Spec.DeepCopy()}
	pod.Spec.NodeName = "node-1"
	for _, c := range claims {
		c.Name, c.Namespace = c.Name+"-"+name, namespace
		pod.Spec.Volumes = append(pod.Spec.Volumes, corev1.Volume{Name: strings.TrimSuffix(c.Name, "-"+name), VolumeSource: corev1.VolumeSource{
			PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: c.Name}}})
		_, _ = h.api.CoreV1().PersistentVolumeClaims(namespace).Create(h.t.Context(), &c, metav1.CreateOptions{}) // or it is there
	}
	if _, err := h.api.CoreV1().Pods(namespace).Create(h.t.Context(), pod, metav1.CreateOptions{}); err != nil {
		h.t.Fatal(err)
	}
}

func (h *hand) coordinator(i int) {
	h.begin(fmt.Sprintf("mp-coordinator-%d", i), h.set.Spec.Template, h.set.Spec.VolumeClaimTemplates...)
}

func (h *hand) worker(name string) { h.begin(name, h.jobs.Spec.Template) }

// end deletes a pod and waits for the code of its end.
func (h *hand) end(name string) int {
	h.t.Helper()
	h.mu.Lock()
	delete(h.codes, name)
	h.mu.Unlock()
	h.remove(name)
	return h.code(name)
}

// publish keeps the endpoints of both Services.
func (h *hand) publish(ctx context.Context) {
	api := h.api.DiscoveryV1().EndpointSlices(namespace)
	for ctx.Err() == nil {
		for _, service := range []string{"mp-coordinators", "mp-coordinator"} {
			s := &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Name: service, Namespace: namespace, Labels: map[string]string{discoveryv1.LabelServiceName: service}}}
			for _, p := range h.pods(ctx, "coordinator") {
				ready := service == "mp-coordinators" || len(p.Status.ContainerStatuses) == 1 && p.Status.ContainerStatuses[0].Ready
				s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{Addresses: []string{p.Status.PodIP}, Hostname: &p.Name, Conditions: discoveryv1.EndpointConditions{Ready: &ready}})
			}
			if _, err := api.Update(ctx, s, metav1.UpdateOptions{}); err != nil {
				_, _ = api.Create(ctx, s, metav1.CreateOptions{}) // the first time
			}
		}
		select {
		case <-time.After(300 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

// What the manifests start, as the node starts it, trains to the end through deletions, with the bits of one worker alone.
func TestPodsWithoutAControlPlane(t *testing.T) {
	given(t, "MP")
	api := fake.NewClientset(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "kube-node-lease"}},
		&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "mp-token", Namespace: namespace}, Data: map[string][]byte{"token": []byte(rand.Text())}})
	h := &hand{lab: newLab(t, api)}
	ctx, cancel := context.WithCancel(t.Context())
	published := make(chan struct{})
	go func() { defer close(published); h.publish(ctx) }()
	defer func() { cancel(); <-published }()

	epochs, alone := h.prepare(time.Minute)
	var list struct{ Items []json.RawMessage }
	if err := json.Unmarshal(h.run("deploy", "render", "--workers", "2", "--image", "mp:test", "--namespace", namespace, "--data", h.images, "--json"), &list); err != nil {
		t.Fatal(err)
	}
	for _, item := range list.Items {
		var head metav1.PartialObjectMetadata
		if err := json.Unmarshal(item, &head); err != nil {
			t.Fatal(err)
		}
		var err error
		switch head.Kind {
		case "StatefulSet":
			err = json.Unmarshal(item, &h.set)
		case "Job":
			err = json.Unmarshal(item, &h.jobs)
		case "PersistentVolume":
			var v corev1.PersistentVolume
			if err = json.Unmarshal(item, &v); err == nil {
				_, err = api.CoreV1().PersistentVolumes().Create(ctx, &v, metav1.CreateOptions{})
			}
		case "PersistentVolumeClaim":
			var c corev1.PersistentVolumeClaim
			if err = json.Unmarshal(item, &c); err == nil {
				c.Status.Phase = corev1.ClaimBound
				_, err = api.CoreV1().PersistentVolumeClaims(namespace).Create(ctx, &c, metav1.CreateOptions{})
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for i := range 3 {
		h.coordinator(i)
	}
	h.threeCoordinators()
	submit := append([]string{"submit", "--json"}, flags(epochs)...)
	if out, code, err := h.node.Exec(ctx, "mp-coordinator-1", submit...); err != nil || code != 0 {
		t.Fatalf("submit: %d, %v, %s", code, err, out)
	}
	h.worker("mp-worker-0")
	h.worker("mp-worker-1")
	h.goesOn(2, "the start")
	if code := h.end("mp-worker-1"); code != 85 {
		t.Errorf("a worker that was deleted ended with %d, want 85", code)
	}
	h.worker("mp-worker-1-again")
	h.goesOn(2, "the deletion of a worker")
	for i := range 3 { // one of them leads; each comes back under its name, with its volume and another address
		if code := h.end(fmt.Sprintf("mp-coordinator-%d", i)); code != 0 {
			t.Errorf("coordinator %d ended with %d", i, code)
		}
		h.coordinator(i)
		h.threeCoordinators()
	}
	h.goesOn(2, "the restart of every coordinator")
	for _, name := range []string{"mp-worker-0", "mp-worker-1-again"} {
		if code := h.code(name); code != 0 {
			t.Errorf("%s ended with %d when everything was done", name, code)
		}
	}
	end, ok := h.show(ctx)
	if !ok || end.Job.State != "done" || end.Job.Outcome.SHA256 != alone.SHA256 {
		t.Errorf("the job is %s with weights %s, of one worker alone %s", end.Job.State, end.Job.Outcome.SHA256, alone.SHA256)
	}
	bad := *h.jobs.Spec.Template.DeepCopy()
	bad.Spec.Containers[0].Args = append(bad.Spec.Containers[0].Args, "--data=/nowhere")
	h.begin("bad", bad)
	if code := h.code("bad"); code != 64 {
		t.Errorf("a worker without images ended with %d, want 64", code)
	}
}
