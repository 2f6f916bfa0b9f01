package cmd

import (
	"context"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"mp/checkpoint"
	"mp/model"
	"mp/ops"
)

// attackable makes a synthetic data set of 4 classes and 12 validation images, and an untrained network for it.
func attackable(t *testing.T) (dir, weights string) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "set")
	runData(t, exitDone, "synth", dir, "--classes", "4", "--train-images", "4", "--val-images", "12")
	return dir, writeNetwork(t, filepath.Join(t.TempDir(), "net.safetensors"), 4)
}

func writeNetwork(t *testing.T, path string, classes int) string {
	t.Helper()
	d, err := ops.OpenDevice(ops.DeviceConfig{GPU: ops.CPU, Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	err = d.Do(context.Background(), func(s *ops.Scope) error {
		m, err := model.New(s, "simplenet", model.Options{Classes: classes, Seed: 3})
		if err != nil {
			return err
		}
		defer m.Free()
		state := &checkpoint.State{Meta: checkpoint.Meta{Arch: "simplenet"}}
		for _, p := range m.Params.Params() {
			v, err := m.Params.ReadParam(p)
			if err != nil {
				return err
			}
			state.Model = append(state.Model, checkpoint.Tensor{Name: p.Name, DType: checkpoint.F32, Shape: p.Shape, Data: v})
		}
		return checkpoint.Export(path, state)
	})
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func TestAttack(t *testing.T) {
	dir, weights := attackable(t)
	out := filepath.Join(t.TempDir(), "pictures")
	code, stdout, stderr := callMain("attack", dir, "--checkpoint", weights, "--attack", "course,pgd", "--steps", "3", "--curve", "eps", "--points", "1/255,4/255",
		"--threads", "1", "--out", out, "--json")
	if code != exitDone {
		t.Fatalf("code %d, stderr %q", code, stderr)
	}
	var got attackJSON
	if err := json.Unmarshal([]byte(stdout), &got); err != nil {
		t.Fatal(err)
	}
	if len(got.Rows) != 2 || len(got.Curve) != 4 {
		t.Fatalf("%d rows and %d points, want 2 and 4", len(got.Rows), len(got.Curve))
	}
	pgd := got.Rows[1]
	if pgd.Attack != "pgd" || pgd.Images != 12 || pgd.Steps != 3 || math.Abs(pgd.Eps-8./255) > 1e-12 || !(pgd.Top1 <= pgd.Clean1) || !(pgd.Linf > 0 && pgd.Linf < 8.01/255) || !(pgd.Queries >= 1 && pgd.Queries <= 3) {
		t.Errorf("row %+v", pgd)
	}
	for _, name := range []string{"course.png", "pgd.png", "curve-eps.png", "attack.json"} {
		if info, err := os.Stat(filepath.Join(out, name)); err != nil || info.Size() == 0 {
			t.Errorf("%s: %v", name, err)
		}
	}
	if left, _ := os.ReadDir(out); len(left) != 4 {
		t.Errorf("the folder holds %v, want four files", left)
	}
}

// A saved set is what was measured: another run on it gives the same accuracy.
func TestSavedAttackIsMeasuredAgain(t *testing.T) {
	dir, weights := attackable(t)
	set := filepath.Join(t.TempDir(), "set.safetensors")
	code, stdout, stderr := callMain("attack", dir, "--checkpoint", weights, "--attack", "bim", "--eps", "2/255", "--steps", "3", "--every-step", "--threads", "1", "--save", set, "--json")
	if code != exitDone {
		t.Fatalf("code %d, stderr %q", code, stderr)
	}
	var first attackJSON
	if err := json.Unmarshal([]byte(stdout), &first); err != nil {
		t.Fatal(err)
	}
	code, stdout, stderr = callMain("evaluate", dir, "--checkpoint", weights, "--on", set, "--threads", "1", "--json")
	if code != exitDone {
		t.Fatalf("code %d, stderr %q", code, stderr)
	}
	var again evaluated
	if err := json.Unmarshal([]byte(stdout), &again); err != nil {
		t.Fatal(err)
	}
	if again.Images != 12 || math.Abs(again.Top1-first.Rows[0].Top1) > 1e-9 {
		t.Errorf("the saved set gives %+v, the attack gave %+v", again, first.Rows[0])
	}
	if code, _, stderr := callMain("evaluate", dir, "--checkpoint", weights, "--on", weights); code != exitBadInput || !strings.Contains(stderr, "no attacked images") {
		t.Errorf("weights as a set: code %d, %q", code, stderr)
	}
}

func TestAttackLeavesUnreadableImagesOut(t *testing.T) {
	dir, weights := attackable(t)
	bad := filepath.Join(dir, "images", "val", "00000003.jpg")
	if err := os.WriteFile(bad, []byte("no image"), 0o644); err != nil {
		t.Fatal(err)
	}
	code, stdout, stderr := callMain("attack", dir, "--checkpoint", weights, "--attack", "fgsm", "--threads", "1", "--json")
	if code != exitDone || !strings.Contains(stderr, "left out: ") || !strings.Contains(stderr, "00000003.jpg") || !strings.Contains(stdout, `"images":11`) {
		t.Errorf("code %d, stdout %q, stderr %q", code, stdout, stderr)
	}
}

func TestAttackRefusesWhatCannotBe(t *testing.T) {
	dir, weights := attackable(t)
	other := writeNetwork(t, filepath.Join(t.TempDir(), "other.safetensors"), 7)
	out := filepath.Join(t.TempDir(), "out")
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"--checkpoint", weights, "--eps", "8"}, "did you mean 8/255?"},
		{[]string{"--checkpoint", weights, "--eps", "-1/255"}, "positive number or a fraction"},
		{[]string{"--checkpoint", weights, "--eps", "1/0"}, "positive number or a fraction"},
		{[]string{"--checkpoint", weights, "--attack", "pgd", "--steps", "0"}, "--steps 0"},
		{[]string{"--checkpoint", weights, "--attack", "pgd", "--targeted", ""}, "targeted without a target"},
		{[]string{"--checkpoint", weights, "--attack", "pgd", "--targeted", "moon"}, "no such class"},
		{[]string{"--checkpoint", weights, "--attack", "pgd", "--targeted", "4"}, "no such class"},
		{[]string{"--checkpoint", weights, "--attack", "apgd-t", "--targeted", "1"}, "cannot be targeted"},
		{[]string{"--checkpoint", weights, "--attack", "pdg"}, "choose one of course, fgsm"},
		{[]string{"--checkpoint", weights, "--attack", "pgd", "--norm", "l2"}, "give --eps with --norm l2"},
		{[]string{"--checkpoint", weights, "--attack", "pgd", "--norm", "l7"}, "choose linf or l2"},
		{[]string{"--checkpoint", weights, "--attack", "pgd", "--fixed-target"}, "belong to --attack course"},
		{[]string{"--checkpoint", weights, "--curve", "eps"}, "give --out"},
		{[]string{"--checkpoint", weights, "--attack", "pgd,bim", "--save", "x.safetensors"}, "--save takes the images of one attack"},
		{[]string{"--checkpoint", other, "--out", out}, "the images are of 4 classes"},
		{nil, "give --checkpoint"},
	} {
		code, stdout, stderr := callMain(append([]string{"attack", dir}, c.args...)...)
		if code != exitBadInput || !strings.Contains(stderr, c.want) || stdout != "" {
			t.Errorf("%q: code %d, stdout %q, stderr %q; want code %d and %q", c.args, code, stdout, stderr, exitBadInput, c.want)
		}
	}
	if exists(out) {
		t.Error("a refused attack leaves a folder")
	}
}
