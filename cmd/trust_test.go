package cmd

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"mp/coordinator"
	"mp/job"
	"mp/trust"
)

func TestWhenTLSIsSpoken(t *testing.T) {
	worker := trust.Token{Role: trust.Worker}.Text()
	files := trust.Files{CA: "a", Cert: "b", Key: "c"}
	for _, c := range []struct {
		name      string
		flags     trustFlags
		addresses []string
		want      bool
		bad       bool
	}{
		{"this machine alone", trustFlags{tls: tlsAuto, token: "short"}, []string{"127.0.0.1:7070", "localhost:1", "[::1]:2"}, false, false},
		{"another machine", trustFlags{tls: tlsAuto}, []string{"127.0.0.1:7070", "10.0.0.1:7070"}, true, false},
		{"a name", trustFlags{tls: tlsAuto}, []string{"node-1:7070"}, true, false},
		{"every address", trustFlags{tls: tlsAuto}, []string{":7070"}, true, false},
		{"every address, written out", trustFlags{tls: tlsAuto}, []string{"0.0.0.0:0"}, true, false},
		{"a join token", trustFlags{tls: tlsAuto, token: worker}, []string{"127.0.0.1:7070"}, true, false},
		{"own certificates", trustFlags{tls: tlsAuto, files: files}, []string{"127.0.0.1:7070"}, true, false},
		{"asked for", trustFlags{tls: tlsOn}, []string{"127.0.0.1:7070"}, true, false},
		{"not wanted", trustFlags{tls: tlsOff, token: "short"}, []string{"10.0.0.1:7070"}, false, false},
		{"not wanted, with a join token", trustFlags{tls: tlsOff, token: worker}, nil, false, true},
		{"not wanted, with certificates", trustFlags{tls: tlsOff, files: files}, nil, false, true},
		{"one file of three", trustFlags{tls: tlsAuto, files: trust.Files{CA: "a"}}, nil, false, true},
		{"another word", trustFlags{tls: "yes"}, nil, false, true},
	} {
		got, err := c.flags.wanted(c.addresses...)
		if got != c.want || (err != nil) != c.bad || c.bad && !errors.Is(err, job.ErrConfig) {
			t.Errorf("%s: got %v, %v; want %v", c.name, got, err, c.want)
		}
	}
}

// coordinators runs `mp coordinator` with TLS on this machine and returns its address and what it printed.
func startSecure(t *testing.T, args ...string) (address string, said func() string) {
	t.Helper()
	dir := t.TempDir()
	read, write := io.Pipe()
	e := newEnv(write, io.Discard, func(string) (string, bool) { return "", false })
	root, _ := newRoot(e)
	root.SetArgs(append([]string{"coordinator", "--listen", "127.0.0.1:0", "--http", "none", "--tls", "on", "--data-dir", dir, "--runs", filepath.Join(dir, "runs")}, args...))
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- root.ExecuteContext(ctx); write.Close() }()
	var lines []string
	done := make(chan struct{})
	first := make(chan string, 1)
	ready := make(chan struct{})
	go func() {
		defer close(done)
		in := bufio.NewScanner(read)
		in.Buffer(nil, 1<<20)
		for in.Scan() {
			lines = append(lines, in.Text())
			if _, rest, ok := strings.Cut(in.Text(), "listens on "); ok {
				first <- strings.TrimSuffix(strings.Split(rest, ";")[0], ",")
			}
			if strings.Contains(in.Text(), "mp token makes") {
				close(ready)
			}
		}
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("coordinator: %v", err)
		}
		<-done
	})
	select {
	case address = <-first:
	case <-time.After(time.Minute):
		t.Fatal("the coordinator does not say where it listens")
	}
	<-ready
	return address, func() string { return strings.Join(lines, "\n") }
}

// word is what follows a word in a text, up to the next space.
func wordAfter(text, before string) string {
	_, rest, _ := strings.Cut(text, before)
	return strings.Fields(rest)[0]
}

// A coordinator that has nothing draws a secret, and its lines are enough to join; roles hold.
func TestTheLinesThatACoordinatorPrintsAreEnough(t *testing.T) {
	dir := t.TempDir()
	address, said := startSecure(t, "--data-dir", dir)
	text := said()
	about, err := os.Stat(filepath.Join(dir, secretFile))
	if err != nil || about.Mode().Perm() != 0o600 {
		t.Fatalf("the secret's file: %v, %v", about, err)
	}
	secret, err := os.ReadFile(filepath.Join(dir, secretFile))
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(text, string(secret)) {
		t.Error("the secret itself is printed")
	}
	workers, jobs, _ := strings.Cut(text, "jobs: ")
	worker, client := wordAfter(workers, "--token "), wordAfter(jobs, "--token ")
	at := []string{"--coordinator", address, "--wait", "20s"}
	if code, stdout, stderr := callMain(append([]string{"jobs", "--token", client}, at...)...); code != exitDone || !strings.Contains(stdout, "no jobs") {
		t.Errorf("jobs with the client's token: %d, %s%s", code, stdout, stderr)
	}
	if code, _, stderr := callMain(append([]string{"jobs", "--token", worker}, at...)...); code != exitBadInput || !strings.Contains(stderr, "is for a worker, and this needs one for a client") {
		t.Errorf("jobs with a worker's token: %d, %s", code, stderr)
	}
	var made tokenMade
	code, stdout, stderr := callMain("token", "--role", "viewer", "--valid", "1h", "--data-dir", dir, "--json")
	if err := json.Unmarshal([]byte(stdout), &made); code != exitDone || err != nil || made.Role != "viewer" {
		t.Fatalf("token: %d, %v, %s%s", code, err, stdout, stderr)
	}
	if code, stdout, stderr := callMain(append([]string{"jobs", "--token", made.Token}, at...)...); code != exitDone {
		t.Errorf("jobs as a viewer: %d, %s%s", code, stdout, stderr)
	}
	if code, _, stderr := callMain(append([]string{"jobs", "cancel", "1", "--token", made.Token}, at...)...); code == exitDone || !strings.Contains(stderr, "Steer is not for a viewer") {
		t.Errorf("a viewer cancels: %d, %s", code, stderr)
	}
	if code, _, stderr := callMain(append([]string{"jobs", "--token", string(secret)}, append(at, "--tls", "on")...)...); code != exitDone {
		t.Errorf("jobs with the secret itself: %d, %s", code, stderr)
	}
	// Without TLS, without anything, and with another cluster's.
	if code, _, stderr := callMain(append([]string{"jobs"}, at...)...); code == exitDone || !strings.Contains(stderr, "it speaks TLS and this side does not") {
		t.Errorf("jobs without a token: %d, %s", code, stderr)
	}
	if code, _, stderr := callMain(append([]string{"jobs", "--tls", "on"}, at...)...); code != exitBadInput || !strings.Contains(stderr, "give --token") {
		t.Errorf("jobs in TLS without a token: %d, %s", code, stderr)
	}
	_, stdout, _ = callMain("token", "--role", "client", "--token", "the secret of another cluster")
	if code, _, stderr := callMain(append([]string{"jobs", "--token", strings.TrimSpace(stdout)}, at...)...); code != exitBadInput || !strings.Contains(stderr, "another cluster") {
		t.Errorf("jobs with another cluster's token: %d, %s", code, stderr)
	}
}

func TestTokenRefusesWhatCannotBe(t *testing.T) {
	open := t.TempDir()
	if err := os.WriteFile(filepath.Join(open, secretFile), []byte(trust.NewSecret()), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		args []string
		want string
	}{
		"no folder":    {[]string{"--data-dir", t.TempDir()}, "holds no cluster's secret"},
		"open to all":  {[]string{"--data-dir", open}, "chmod 600"},
		"a short one":  {[]string{"--token", "short"}, "16 characters"},
		"a token":      {[]string{"--token", trust.Token{Role: trust.Worker}.Text()}, "from which no others are made"},
		"another role": {[]string{"--role", "king"}, "choose worker"},
		"no time":      {[]string{"--valid", "0s"}, "choose from"},
	} {
		if code, _, stderr := callMain(append([]string{"token"}, c.args...)...); code != exitBadInput || !strings.Contains(stderr, c.want) {
			t.Errorf("%s: %d, %s", name, code, stderr)
		}
	}
}

// freePorts are addresses that were free a moment ago.
func freePorts(t *testing.T, n int) (all []string) {
	t.Helper()
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		all = append(all, l.Addr().String())
	}
	return all
}

// Of three coordinators the first draws the secret, and the others learn it with the token that it prints.
func TestOtherCoordinatorsLearnTheSecret(t *testing.T) {
	at := freePorts(t, 3)
	peers := "a=" + at[0] + ",b=" + at[1] + ",c=" + at[2]
	first := t.TempDir()
	_, said := startSecure(t, "--peers", peers, "--listen", at[0], "--data-dir", first, "--nats", "none")
	_, after, _ := strings.Cut(said(), "other coordinators:")
	token := wordAfter(after, "--token ")
	second := t.TempDir()
	startSecure(t, "--peers", peers, "--listen", at[1], "--data-dir", second, "--nats", "none", "--token", token)
	a, err := os.ReadFile(filepath.Join(first, secretFile))
	if err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(filepath.Join(second, secretFile)); err != nil || string(a) != string(b) {
		t.Errorf("the second has another secret, or none: %v", err)
	}
	_, stdout, _ := callMain("token", "--role", "client", "--data-dir", second)
	if code, out, stderr := callMain("jobs", "--coordinator", at[1], "--token", strings.TrimSpace(stdout), "--wait", "30s"); code != exitDone || !strings.Contains(out, "no jobs") {
		t.Errorf("jobs of two of three: %d, %s%s", code, out, stderr)
	}
	third := coordinatorOptions{config: coordinator.DefaultConfig(), dataDir: t.TempDir(), peers: peers, trust: trustFlags{tls: tlsOn}}
	third.config.Listen = at[2]
	if err := third.complete(); err != nil {
		t.Fatal(err)
	}
	if _, err := layFoundation(t.Context(), &third, nil); !errors.Is(err, job.ErrConfig) || !strings.Contains(err.Error(), "only the first, a, draws a secret") {
		t.Errorf("a third without a token got %v", err)
	}
}
