package cmd

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"mp/coordinator/web"
	"mp/job"
	"mp/mppb"
	"mp/trust"
)

func TestWhereThePageIs(t *testing.T) {
	for _, c := range []struct {
		args        []string
		token, want string // want: of the error; empty: none
	}{
		{nil, "", ""},
		{[]string{"--http", "none"}, "", ""},
		{[]string{"--http", "localhost:0"}, "", ""},
		{[]string{"--http", "[::1]:7080"}, "", ""},
		{[]string{"--http", "7080"}, "", "want HOST:PORT"},
		{[]string{"--http", "0.0.0.0:7080"}, "", "give --token"},
		{[]string{"--http", ":7080"}, "", "give --token"},
		{[]string{"--http", "gpu7.example:7080"}, "", "give --token"},
		{[]string{"--http", "0.0.0.0:7080"}, "secret", ""},
	} {
		command := &cobra.Command{}
		var f webFlags
		f.add(command)
		if err := command.ParseFlags(c.args); err != nil {
			t.Fatal(err)
		}
		o, err := f.options(c.token)
		if c.want == "" && err != nil || c.want != "" && (!errors.Is(err, job.ErrConfig) || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%v, token %q: got %v, want %q", c.args, c.token, err, c.want)
		}
		if o.giveWay != (c.args == nil) {
			t.Errorf("%v: gives way: %v", c.args, o.giveWay)
		}
	}
}

func TestThePortOfThePageIsTaken(t *testing.T) {
	other, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	o := webOptions{address: other.Addr().String()}
	if _, err := o.listen(); err == nil || !strings.Contains(err.Error(), "is taken by another program: choose another port") {
		t.Errorf("a port that was asked for: got %v", err)
	}
	o.giveWay = true
	l, err := o.listen()
	if err != nil {
		t.Fatalf("the default port: %v", err)
	}
	defer l.Close()
	if l.Addr().String() == other.Addr().String() || !strings.HasPrefix(webOptions{}.pageURL(l), "http://127.0.0.1:") {
		t.Errorf("got %s", webOptions{}.pageURL(l))
	}
	// A run whose page cannot be served leaves nothing behind.
	dir := t.TempDir()
	if code := Main([]string{"data", "synth", filepath.Join(dir, "images"), "--classes", "2", "--train-images", "8", "--val-images", "4", "-q"}, io.Discard, io.Discard); code != exitDone {
		t.Fatalf("synth ended with %d", code)
	}
	code, _, stderr := callMain("train", filepath.Join(dir, "images"), "--cpu", "--batch-size", "4", "--runs", filepath.Join(dir, "runs"), "-q", "--http", other.Addr().String())
	if code != exitFailed || !strings.Contains(stderr, "is taken by another program") {
		t.Errorf("train ended with %d, %s", code, stderr)
	}
	if left, _ := os.ReadDir(filepath.Join(dir, "runs")); len(left) > 0 {
		t.Errorf("%v is left", left)
	}
}

// The page shows the cluster's jobs and steers them, and tells the last to who looks before it ends.
func TestHubServesAPage(t *testing.T) {
	c := aHub(t.TempDir())
	c.coordinator.Token = "secret"
	c.web = webOptions{address: "127.0.0.1:0", token: "secret"}
	s, err := job.Default(job.Spec{})
	if err != nil {
		t.Fatal(err)
	}
	s.Data = "d"
	text, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	ask := func(ctx context.Context, method, address string) (*http.Response, error) {
		r, err := http.NewRequestWithContext(ctx, method, address, nil)
		if err != nil {
			return nil, err
		}
		r.Header.Set("Authorization", "Bearer secret")
		return http.DefaultClient.Do(r)
	}
	var stream *http.Response
	err = withHub(t.Context(), c, func(ctx context.Context, h *hub) error {
		client, err := h.client("secret")
		if err != nil {
			return err
		}
		defer client.Close()
		ctx, cancel := context.WithTimeout(ctx, time.Minute)
		defer cancel()
		err = askLeader(ctx, client, func(ctx context.Context, c mppb.ClusterClient) error {
			_, err := c.Submit(ctx, &mppb.SubmitRequest{Spec: text, Directory: "here"})
			return err
		})
		if err != nil {
			return err
		}
		var snapshot web.Snapshot
		until(t, "the page knows the job", func() bool {
			r, err := ask(ctx, http.MethodGet, h.page+"api/runs/here")
			if err != nil {
				return false
			}
			defer r.Body.Close()
			return json.NewDecoder(r.Body).Decode(&snapshot) == nil && snapshot.Job == "job-1"
		})
		if snapshot.State.State != "queued" || snapshot.Cluster != "knows" {
			t.Errorf("got %+v", snapshot.State)
		}
		if stream, err = ask(t.Context(), http.MethodGet, h.page+"api/runs/here/stream"); err != nil {
			return err
		}
		r, err := ask(ctx, http.MethodPost, h.page+"api/jobs/job-1/cancel")
		if err != nil {
			return err
		}
		defer r.Body.Close()
		var j web.Job
		if err := json.NewDecoder(r.Body).Decode(&j); err != nil || j.State != "cancelled" || j.Directory != "here" {
			t.Errorf("cancel: got %d %+v, %v", r.StatusCode, j, err)
		}
		if r, err = ask(ctx, http.MethodPost, h.page+"api/jobs/job-1/pause"); err != nil {
			return err
		}
		defer r.Body.Close()
		if body, _ := io.ReadAll(r.Body); r.StatusCode != http.StatusConflict || !strings.Contains(string(body), "it is cancelled") || strings.Contains(string(body), "refused by the cluster") {
			t.Errorf("pause of what has ended: got %d %s", r.StatusCode, body)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Body.Close()
	var told []string
	for lines := bufio.NewScanner(stream.Body); lines.Scan(); {
		told = append(told, lines.Text())
	}
	all := strings.Join(told, "\n")
	if strings.Count(all, "job-1 submitted") != 1 || strings.Count(all, "is cancelled: cancel was asked for") != 1 || !strings.HasSuffix(strings.TrimSpace(all), "event: end\ndata: {}") {
		t.Errorf("the stream told\n%s\nwant the whole story once, and the end", all)
	}
	if !strings.Contains(all, `"state":"cancelled"`) {
		t.Errorf("the last state is missing in\n%s", all)
	}
}

// Beyond this machine the page is served in TLS, with a certificate that follows from the secret that it asks for.
func TestPageInTLS(t *testing.T) {
	const secret = "the secret of a cluster of tests"
	o, err := webOptions{address: "0.0.0.0:0", token: secret}.ofSecret()
	if err != nil {
		t.Fatal(err)
	}
	l, err := o.listen()
	if err != nil {
		t.Fatal(err)
	}
	if where := o.pageURL(l); !strings.HasPrefix(where, "https://") || !strings.Contains(o.known(), "SHA-256") {
		t.Errorf("people are told %s%s", where, o.known())
	}
	page, err := web.New(web.Config{Runs: t.TempDir(), Token: secret})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error)
	go func() { served <- o.serve(ctx, l, page, slog.New(slog.DiscardHandler)) }()
	code, ca, stderr := callMain("token", "--ca", "--token", secret)
	if code != exitDone {
		t.Fatal(stderr)
	}
	known := x509.NewCertPool()
	if !known.AppendCertsFromPEM([]byte(ca)) {
		t.Fatalf("mp token --ca printed %q", ca)
	}
	client := http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: known}}}
	_, port, _ := net.SplitHostPort(l.Addr().String())
	for path, want := range map[string]int{"/": http.StatusOK, "/api/runs": http.StatusUnauthorized} {
		answer, err := client.Get("https://127.0.0.1:" + port + path)
		if err != nil {
			t.Fatal(err)
		}
		if answer.Body.Close(); answer.StatusCode != want {
			t.Errorf("%s: got %s, want %d", path, answer.Status, want)
		}
	}
	login, err := client.PostForm("https://127.0.0.1:"+port+"/api/login", url.Values{"token": {secret}})
	if err != nil {
		t.Fatal(err)
	}
	login.Body.Close()
	if c := login.Cookies(); login.StatusCode != http.StatusOK || len(c) != 1 || !c[0].Secure || !c[0].HttpOnly {
		t.Errorf("login: got %s, %v, want a cookie for TLS alone", login.Status, c)
	}
	cancel()
	if err := <-served; err != nil {
		t.Error(err)
	}
	if _, err := (webOptions{address: "0.0.0.0:0", token: "short"}).ofSecret(); !errors.Is(err, trust.ErrSecret) || exitCode(err) != exitBadInput {
		t.Errorf("a secret that can be guessed: got %v", err)
	}
	if here, err := (webOptions{address: "127.0.0.1:0"}).ofSecret(); err != nil || here.who != nil {
		t.Errorf("on this machine: got %v, %v", here.who, err)
	}
}
