package kubetest

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// startPlane starts a control plane of the programs in bin, for as long as the test lasts.
func startPlane(t *testing.T, bin string) *rest.Config {
	t.Helper()
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
		"--cert-dir="+filepath.Join(dir, "certs"), "--secure-port="+port, "--bind-address=127.0.0.1")
	config := &rest.Config{Host: "https://" + api, BearerToken: "test", TLSClientConfig: rest.TLSClientConfig{Insecure: true}, QPS: 200, Burst: 400}
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
	return config
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
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
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
