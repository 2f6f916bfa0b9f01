package kubetest

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// plane is a control plane.
type plane struct {
	api     kubernetes.Interface
	dynamic dynamic.Interface
	mapper  *restmapper.DeferredDiscoveryRESTMapper

	mu       sync.Mutex
	warnings []string // of the API server, since the last apply
}

// startPlane starts a control plane of the programs in bin, for as long as the test lasts. Nobody binds pods yet.
func startPlane(t *testing.T, bin string) *plane {
	t.Helper()
	p := &plane{}
	dir := t.TempDir()
	store, peers, api := freePort(t), freePort(t), freePort(t)
	key := filepath.Join(dir, "accounts.key")
	writeKey(t, key)
	write(t, filepath.Join(dir, "tokens.csv"), "test,admin,1,\"system:masters\"\n")
	background(t, dir, filepath.Join(bin, "etcd"), "--data-dir="+filepath.Join(dir, "etcd"),
		"--listen-client-urls=http://"+store, "--advertise-client-urls=http://"+store, "--listen-peer-urls=http://"+peers,
		"--initial-advertise-peer-urls=http://"+peers, "--initial-cluster=default=http://"+peers, "--log-level=warn")
	_, port, err := net.SplitHostPort(api)
	if err != nil {
		t.Fatal(err)
	}
	background(t, dir, filepath.Join(bin, "kube-apiserver"), "--etcd-servers=http://"+store, "--service-account-issuer=https://kubernetes.default.svc",
		"--service-account-key-file="+key, "--service-account-signing-key-file="+key, "--service-cluster-ip-range=10.0.0.0/24",
		"--authorization-mode=RBAC", "--token-auth-file="+filepath.Join(dir, "tokens.csv"), "--disable-admission-plugins=ServiceAccount",
		"--cert-dir="+filepath.Join(dir, "certs"), "--secure-port="+port, "--bind-address=127.0.0.1", "--advertise-address="+nodeAddress)
	config := &rest.Config{Host: "https://" + api, BearerToken: "test", TLSClientConfig: rest.TLSClientConfig{Insecure: true}, QPS: 200, Burst: 400, WarningHandler: p}
	transport, err := rest.HTTPClientFor(config)
	if err != nil {
		t.Fatal(err)
	}
	until(t, 3*time.Minute, "the API server is ready", func(ctx context.Context) bool { return get(ctx, transport, config.Host+"/readyz") })
	kubeconfig := filepath.Join(dir, "kubeconfig")
	err = clientcmd.WriteToFile(clientcmdapi.Config{
		Clusters:       map[string]*clientcmdapi.Cluster{"a": {Server: config.Host, InsecureSkipTLSVerify: true}},
		AuthInfos:      map[string]*clientcmdapi.AuthInfo{"a": {Token: config.BearerToken}},
		Contexts:       map[string]*clientcmdapi.Context{"a": {Cluster: "a", AuthInfo: "a"}},
		CurrentContext: "a",
	}, kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	background(t, dir, filepath.Join(bin, "kube-controller-manager"), "--kubeconfig="+kubeconfig, "--service-account-private-key-file="+key,
		"--use-service-account-credentials=false", "--leader-elect=false", "--controllers=*", "--bind-address=127.0.0.1", "--secure-port=0")
	if p.api, err = kubernetes.NewForConfig(config); err != nil {
		t.Fatal(err)
	}
	if p.dynamic, err = dynamic.NewForConfig(config); err != nil {
		t.Fatal(err)
	}
	p.mapper = restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(p.api.Discovery()))
	return p
}

// HandleWarningHeader takes a warning down.
func (p *plane) HandleWarningHeader(_ int, _ string, text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.warnings = append(p.warnings, text)
}

// apply is `kubectl apply --server-side -f -` of a List. A warning is an error.
func (p *plane) apply(t *testing.T, list []byte) {
	t.Helper()
	var all unstructured.UnstructuredList
	if err := json.Unmarshal(list, &all); err != nil {
		t.Fatal(err)
	}
	for i := range all.Items {
		o := &all.Items[i]
		if err := p.applyOne(t.Context(), o); err != nil {
			t.Fatalf("apply %s %s: %v", o.GetKind(), o.GetName(), err)
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, w := range p.warnings {
		t.Errorf("the API server warns: %s", w)
	}
	p.warnings = nil
}

func (p *plane) applyOne(ctx context.Context, o *unstructured.Unstructured) error {
	kind := o.GroupVersionKind()
	m, err := p.mapper.RESTMapping(kind.GroupKind(), kind.Version)
	if err != nil {
		return err
	}
	_, err = p.dynamic.Resource(m.Resource).Namespace(o.GetNamespace()).Apply(ctx, o.GetName(), o, metav1.ApplyOptions{FieldManager: "test", Force: true})
	return err
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func writeKey(t *testing.T, path string) {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	write(t, path, string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})))
}

// background runs a program until the test ends; its last words are shown if the test has failed.
func background(t *testing.T, dir, program string, args ...string) {
	t.Helper()
	name := filepath.Join(dir, filepath.Base(program)+".log")
	log, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatalf("start %s: %v", program, err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		force := time.AfterFunc(10*time.Second, func() { _ = cmd.Process.Kill() })
		_ = cmd.Wait()
		force.Stop()
		log.Close()
		if t.Failed() {
			t.Logf("%s said last:\n%s", filepath.Base(program), tail(name))
		}
	})
}

// tail is the end of a file.
func tail(path string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-3000):])
}

// until waits until something is so.
func until(t *testing.T, within time.Duration, what string, is func(ctx context.Context) bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	began := time.Now()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for !is(ctx) {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("waited %s and it is not so: %s", within, what)
		}
	}
	t.Log(fmt.Sprintf("after %5.1f s: %s", time.Since(began).Seconds(), what))
}
