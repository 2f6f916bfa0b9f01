package cmd

import (
	"context"
	"encoding/json"
	"image/png"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"mp/checkpoint"
	"mp/model"
	"mp/ops"
)

// synthNetwork makes a data set of three classes and a checkpoint of a network with first values for it.
func synthNetwork(t *testing.T, arch string) (images, weights string) {
	t.Helper()
	dir := t.TempDir()
	images = filepath.Join(dir, "images")
	runData(t, exitDone, "synth", images, "--classes", "3", "--train-images", "6", "--val-images", "6")
	return images, firstValues(t, dir, arch, 3)
}

// firstValues writes a network that has learned nothing.
func firstValues(t *testing.T, dir, arch string, classes int) string {
	t.Helper()
	d, err := openDevice("cpu", 1)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	path := filepath.Join(dir, arch+".safetensors")
	err = d.Do(context.Background(), func(s *ops.Scope) error {
		m, err := model.New(s, arch, model.Options{Classes: classes, Seed: 3})
		if err != nil {
			return err
		}
		defer m.Free()
		state := &checkpoint.State{Meta: checkpoint.Meta{Arch: arch}}
		for _, f := range []*ops.Flat{m.Params, m.Buffers} {
			for _, p := range f.Params() {
				v, err := f.ReadParam(p)
				if err != nil {
					return err
				}
				state.Model = append(state.Model, checkpoint.Tensor{Name: p.Name, DType: checkpoint.F32, Shape: p.Shape, Data: v})
			}
		}
		return checkpoint.Export(path, state)
	})
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func TestExplainDrawsAndScores(t *testing.T) {
	images, weights := synthNetwork(t, "scenenet")
	out, maps := filepath.Join(t.TempDir(), "out"), filepath.Join(t.TempDir(), "maps.safetensors")
	code, stdout, stderr := callMain("explain", images, "--checkpoint", weights, "--against", weights, "--method", "saliency,gradcam", "--images", "3",
		"-b", "2", "--layer", "layer3.0", "--scores", "--out", out, "--maps", maps, "--threads", "1", "--json")
	var got explained
	if err := json.Unmarshal([]byte(stdout), &got); code != exitDone || err != nil {
		t.Fatalf("code %d, %v, %s", code, err, stderr)
	}
	if got.Images != 3 || len(got.Skipped) != 0 || len(got.Sheets) != 1 || len(got.Rows) != 4 {
		t.Fatalf("got %+v", got)
	}
	for _, r := range got.Rows {
		if r.Images != 3 || r.Deletion == nil || r.Insertion == nil || r.Infidelity == nil || len(r.Randomised) < 10 || r.Randomised[0].Layer != "fc" {
			t.Errorf("row %+v", r)
		}
	}
	f, err := os.Open(got.Sheets[0])
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if m, err := png.Decode(f); err != nil || m.Bounds().Dx() < 9*128 {
		t.Errorf("the sheet cannot be read: %v", err)
	}
	state, err := checkpoint.Read(maps)
	if err != nil {
		t.Fatal(err)
	}
	for name, rows := range map[string]int64{"saliency": 3, "against.gradcam": 3, "labels": 3, "images": 3, "infidelity.saliency": 3} {
		if a, ok := checkpoint.Find(state.Model, name); !ok || a.Shape[0] != rows {
			t.Errorf("maps: %s is %v, want %d samples", name, a.Shape, rows)
		}
	}
	if _, err := os.Stat(filepath.Join(out, "explain.json")); err != nil {
		t.Error(err)
	}
}

// An unreadable image is named, the others are explained, and the exit status says that something is missing.
func TestExplainGoesOnAfterAnUnreadableImage(t *testing.T) {
	images, weights := synthNetwork(t, "simplenet")
	list, err := filepath.Glob(filepath.Join(images, "images", "val", "*.jpg"))
	if err != nil || len(list) != 6 {
		t.Fatalf("%d images, %v", len(list), err)
	}
	if err := os.WriteFile(list[2], []byte("no picture"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{images, filepath.Join(images, "images", "val")} { // by its list, and as a plain folder
		out := filepath.Join(t.TempDir(), "out")
		args := []string{"explain", dir, "--checkpoint", weights, "--out", out, "--threads", "1", "--json"}
		if dir != images {
			weights = firstValues(t, t.TempDir(), "simplenet", 100)
			args[3] = weights
		}
		code, stdout, stderr := callMain(args...)
		var got explained
		if err := json.Unmarshal([]byte(stdout), &got); err != nil || code != exitBadInput {
			t.Fatalf("code %d, %v, %s", code, err, stderr)
		}
		if got.Images != 5 || len(got.Sheets) != 1 || len(got.Skipped) != 1 || !strings.Contains(stderr, list[2]) || !strings.Contains(stderr, "1 of 6 images") {
			t.Errorf("got %+v, %q", got, stderr)
		}
	}
}

// What cannot be done is told in one line, with 64, before anything is written.
func TestExplainRefuses(t *testing.T) {
	images, weights := synthNetwork(t, "simplevit")
	other := firstValues(t, t.TempDir(), "simplenet", 4)
	out := filepath.Join(t.TempDir(), "out")
	good := []string{"explain", images, "--checkpoint", weights, "--out", out, "--threads", "1"}
	for _, c := range []struct {
		args []string
		want string
	}{
		{append(good, "--method", "lime"), "choose of saliency, inputxgradient"},
		{append(good, "--method", "guidedbackprop"), "no rectifiers"},
		{append(good, "--method", "gradcam", "--layer", "features.3"), "choose one of patch_embed.proj, blocks.0"},
		{append(good, "--against", other), "of 3 classes"},
		{append(good, "--precision", "fp16"), "choose fp32 or fp64"},
		{append(good, "--method", "rise", "--masks", "0"), "choose at least 1"},
		{append(good, "--split", "all"), "choose train, val or test"},
		{append(good, "--maps", "maps.npz"), "must end in .safetensors"},
		{[]string{"explain", images, "--out", out}, "give --checkpoint"},
		{[]string{"explain", images, "--checkpoint", weights}, "give --out"},
		{[]string{"explain", filepath.Join(images, "none"), "--checkpoint", weights, "--out", out}, "no images at"},
		{[]string{"explain", images, "--checkpoint", weights, "--out", weights}, "is a file"},
	} {
		code, stdout, stderr := callMain(c.args...)
		if code != exitBadInput || !strings.Contains(stderr, c.want) || strings.Count(stderr, "\n") != 1 || stdout != "" {
			t.Errorf("%v: got code %d, %q; want 64 and one line with %q", c.args[2:], code, stderr, c.want)
		}
		if _, err := os.Stat(out); err == nil {
			t.Fatalf("%v: a folder was made", c.args)
		}
	}
}
