package cmd

import (
	"context"
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"

	"mp/internal/testcluster"
	"mp/worker"
)

// attackFiles is what `mp attack` left behind, but for the times: rows, the saved set and the pictures.
type attackFiles struct {
	rows  attackJSON
	files map[string]string
}

func runAttack(t *testing.T, args ...string) attackFiles {
	t.Helper()
	out := t.TempDir()
	code, stdout, stderr := callMain(append([]string{"attack"}, append(args, "--out", filepath.Join(out, "pictures"), "--save", filepath.Join(out, "set.safetensors"), "--json")...)...)
	if code != exitDone {
		t.Fatalf("%v: code %d, %s", args, code, stderr)
	}
	got := attackFiles{files: map[string]string{}}
	if err := json.Unmarshal([]byte(stdout), &got.rows); err != nil {
		t.Fatal(err)
	}
	for _, rows := range [][]attacked{got.rows.Rows, got.rows.Curve} {
		for i := range rows {
			rows[i].Seconds = 0
		}
	}
	for _, name := range []string{"set.safetensors", "pictures/pgd.png", "pictures/curve-eps.png"} {
		text, err := os.ReadFile(filepath.Join(out, name))
		if err != nil {
			t.Fatal(err)
		}
		got.files[name] = string(text)
	}
	return got
}

// The same attack on one device, and on a cluster of one, two and three workers of which one dies in the middle.
func TestAttackOverACluster(t *testing.T) {
	k := testcluster.New(t, testcluster.Config{Version: version()})
	weights, other := writeNetwork(t, filepath.Join(t.TempDir(), "net.safetensors"), 4), writeNetwork(t, filepath.Join(t.TempDir(), "surrogate.safetensors"), 4)
	args := []string{k.Images(), "--checkpoint", weights, "--surrogate", other, "--attack", "pgd", "--steps", "1", "--curve", "eps", "--points", "2/255", "--images", "9", "-b", "2", "--threads", "1"}
	want := runAttack(t, args...)
	if len(want.rows.Rows) != 1 || len(want.rows.Curve) != 1 || want.rows.Rows[0].Images != 9 {
		t.Fatalf("%+v", want.rows)
	}
	args = append(args, "--coordinator", k.Addresses())
	same := func(what string) {
		t.Helper()
		if got := runAttack(t, args...); !reflect.DeepEqual(got, want) {
			t.Errorf("%s: rows or files differ:\n%+v\n%+v", what, got.rows, want.rows)
		}
	}
	k.Start("1")
	k.Workers(1)
	same("one worker")
	k.Start("2")
	k.Workers(2)
	same("two workers")
	var third atomic.Pointer[testcluster.Worker]
	crash := &whenLogged{Handler: slog.DiscardHandler, text: "an errand begins", call: func() {
		if w := third.Load(); w != nil {
			w.Crash()
		}
	}}
	third.Store(k.Start("3", func(c *worker.NodeConfig) { c.Logger = slog.New(crash) }))
	k.Workers(3)
	same("three workers, of which one dies in the middle")
	if !crash.called.Load() {
		t.Error("the third worker got no part, so it did not die of it")
	}
}

// whenLogged calls something when a text is logged.
type whenLogged struct {
	slog.Handler
	text   string
	call   func()
	called atomic.Bool
}

func (h *whenLogged) Enabled(context.Context, slog.Level) bool { return true }

func (h *whenLogged) Handle(_ context.Context, r slog.Record) error {
	if strings.Contains(r.Message, h.text) && !h.called.Swap(true) {
		h.call()
	}
	return nil
}

func TestAttackOverAClusterRefuses(t *testing.T) {
	dir, weights := attackable(t)
	k := testcluster.New(t, testcluster.Config{Version: version()})
	out := filepath.Join(t.TempDir(), "out")
	args := func(more ...string) []string {
		return append([]string{"attack", dir, "--checkpoint", weights, "--attack", "fgsm", "--coordinator", k.Addresses(), "--wait", "2s", "--out", out}, more...)
	}
	if code, _, stderr := callMain(args("--device", "cpu")...); code != exitBadInput || !strings.Contains(stderr, "--device") {
		t.Errorf("--device with --coordinator: code %d, %q", code, stderr)
	}
	if code, _, stderr := callMain(args()...); code != exitFailed || !strings.Contains(stderr, "no worker belongs to the cluster") {
		t.Errorf("no worker: code %d, %q", code, stderr)
	}
	k.Start("1")
	k.Workers(1)
	if code, _, stderr := callMain(args()...); code != exitBadInput || !strings.Contains(stderr, "other val images: the 24 of") || !strings.Contains(stderr, "you have 12 of") {
		t.Errorf("other images: code %d, %q", code, stderr)
	}
	if exists(out) {
		t.Error("a refused attack leaves a folder")
	}
}
