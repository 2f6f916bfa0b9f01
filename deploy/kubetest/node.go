package kubetest

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	discoverylisters "k8s.io/client-go/listers/discovery/v1"
	"k8s.io/client-go/tools/cache"
)

// Config says what a node runs and for whom.
type Config struct {
	API       kubernetes.Interface
	Name      string
	Namespace string // whose names are answered
	Root      string // folder for everything that pods have; absolute
	Image     string // folder with the root of the one image that there is
	Program   string // the image's program
	Log       func(format string, args ...any)
}

// Node runs pods. Its methods may be called from any goroutine.
type Node struct {
	c      Config
	slices discoverylisters.EndpointSliceLister // from Run on

	mu   sync.Mutex
	pods map[types.UID]*runner
	next int // of addresses

	running sync.WaitGroup
}

// NewNode makes a node. Run must follow.
func NewNode(c Config) *Node { return &Node{c: c, pods: map[types.UID]*runner{}} }

// Run serves until ctx ends, kills what runs, and returns when all of it has ended.
func (n *Node) Run(ctx context.Context) error {
	if err := os.MkdirAll(n.c.Root, 0o755); err != nil {
		return err
	}
	if err := n.announce(ctx); err != nil {
		return err
	}
	factory := informers.NewSharedInformerFactory(n.c.API, 0)
	slices := factory.Discovery().V1().EndpointSlices()
	n.slices = slices.Lister()
	slices.Informer()
	pods := factory.Core().V1().Pods().Informer()
	take := func(o any) {
		if d, ok := o.(cache.DeletedFinalStateUnknown); ok {
			o = d.Obj
		}
		if pod, ok := o.(*corev1.Pod); ok {
			n.take(ctx, pod)
		}
	}
	_, err := pods.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: take, UpdateFunc: func(_, o any) { take(o) },
		DeleteFunc: func(o any) {
			if d, ok := o.(cache.DeletedFinalStateUnknown); ok {
				o = d.Obj
			}
			if pod, ok := o.(*corev1.Pod); ok {
				n.forget(pod)
			}
		},
	})
	if err != nil {
		return err
	}
	names := make(chan error, 1)
	go func() { names <- n.serveNames(ctx) }()
	factory.Start(ctx.Done())
	tick := time.NewTicker(5 * time.Second)
	defer tick.Stop()
	defer func() {
		n.running.Wait()
		factory.Shutdown()
	}()
	for {
		select {
		case <-ctx.Done():
			return <-names
		case err := <-names:
			return err
		case <-tick.C:
			if err := n.beat(ctx); err != nil && ctx.Err() == nil {
				n.c.Log("node: %v", err)
			}
		}
	}
}

// announce makes the node known.
func (n *Node) announce(ctx context.Context) error {
	node, err := n.c.API.CoreV1().Nodes().Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: n.c.Name, Labels: map[string]string{"kubernetes.io/hostname": n.c.Name}}}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("announce the node: %w", err)
	}
	if node, err = n.c.API.CoreV1().Nodes().Get(ctx, n.c.Name, metav1.GetOptions{}); err != nil {
		return fmt.Errorf("announce the node: %w", err)
	}
	node.Status.Capacity = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("64"), corev1.ResourceMemory: resource.MustParse("256Gi"), corev1.ResourcePods: resource.MustParse("110")}
	node.Status.Allocatable = node.Status.Capacity
	node.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "Ready", LastHeartbeatTime: metav1.Now(), LastTransitionTime: metav1.Now()}}
	if _, err := n.c.API.CoreV1().Nodes().UpdateStatus(ctx, node, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("announce the node: %w", err)
	}
	return n.beat(ctx)
}

// beat is the node's sign of life.
func (n *Node) beat(ctx context.Context) error {
	leases := n.c.API.CoordinationV1().Leases("kube-node-lease")
	now, seconds := metav1.NowMicro(), int32(40)
	lease, err := leases.Get(ctx, n.c.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		_, err = leases.Create(ctx, &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: n.c.Name},
			Spec: coordinationv1.LeaseSpec{HolderIdentity: &n.c.Name, LeaseDurationSeconds: &seconds, RenewTime: &now}}, metav1.CreateOptions{})
		return err
	}
	if err != nil {
		return err
	}
	lease.Spec.RenewTime = &now
	_, err = leases.Update(ctx, lease, metav1.UpdateOptions{})
	return err
}

// take looks at a pod that is new or has changed.
func (n *Node) take(ctx context.Context, pod *corev1.Pod) {
	switch {
	case pod.Spec.NodeName == "" && pod.DeletionTimestamp == nil:
		err := n.c.API.CoreV1().Pods(pod.Namespace).Bind(ctx, &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Name: pod.Name, UID: pod.UID}, Target: corev1.ObjectReference{Kind: "Node", Name: n.c.Name}}, metav1.CreateOptions{})
		if err != nil && !apierrors.IsConflict(err) && !apierrors.IsNotFound(err) && ctx.Err() == nil {
			n.c.Log("bind %s: %v", pod.Name, err)
		}
		return
	case pod.Spec.NodeName != n.c.Name:
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	r := n.pods[pod.UID]
	if r == nil && ctx.Err() == nil && pod.Status.Phase != corev1.PodSucceeded && pod.Status.Phase != corev1.PodFailed {
		n.next++
		r = &runner{node: n, pod: pod.DeepCopy(), ip: podAddress(n.next), leave: make(chan time.Duration, 1)}
		n.pods[pod.UID] = r
		n.running.Go(func() { r.run(ctx) })
	}
	if r != nil && pod.DeletionTimestamp != nil {
		grace := time.Duration(0)
		if pod.DeletionGracePeriodSeconds != nil {
			grace = time.Duration(*pod.DeletionGracePeriodSeconds) * time.Second
		}
		r.ask(grace)
	}
}

// forget looks at a pod that is no more.
func (n *Node) forget(pod *corev1.Pod) {
	n.mu.Lock()
	defer n.mu.Unlock()
	r := n.pods[pod.UID]
	if r == nil {
		return
	}
	grace := int64(30)
	if pod.Spec.TerminationGracePeriodSeconds != nil {
		grace = *pod.Spec.TerminationGracePeriodSeconds
	}
	r.ask(time.Duration(grace) * time.Second)
	delete(n.pods, pod.UID)
}

// Signal sends a signal to the process of a pod, which knows nothing of it, and returns whether there is one.
func (n *Node) Signal(name string, s syscall.Signal) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, r := range n.pods {
		if p := r.process.Load(); r.pod.Name == name && p != nil {
			p.signal(s)
			return true
		}
	}
	return false
}

// Exec runs the image's program with other arguments in the place of a running pod, and returns what it says and its code.
func (n *Node) Exec(ctx context.Context, name string, args ...string) (string, int, error) {
	pod, err := n.c.API.CoreV1().Pods(n.c.Namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return "", 0, err
	}
	d, err := describe(ctx, n.c.API, pod, pod.Status.PodIP, n.c)
	if err != nil {
		return "", 0, err
	}
	d.Args = append([]string{n.c.Program}, args...)
	if d.Scratch, err = os.MkdirTemp(filepath.Dir(d.Scratch), "exec-"); err != nil {
		return "", 0, err
	}
	var out bytes.Buffer
	p, err := d.start(&out)
	if err != nil {
		return "", 0, err
	}
	select {
	case <-p.done:
	case <-ctx.Done():
		p.signal(killSignal)
		<-p.done
	}
	return out.String(), p.code, nil
}
