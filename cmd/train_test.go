package cmd

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"mp/checkpoint"
)

// A run that cannot begin ends with 64, one line that says why, and leaves nothing behind.
func TestRunsThatCannotBegin(t *testing.T) {
	t.Setenv("AWS_ACCESS_KEY_ID", "")
	dir := t.TempDir()
	images, runs, cut := filepath.Join(dir, "images"), filepath.Join(dir, "runs"), filepath.Join(dir, "cut.pth")
	if code := Main([]string{"data", "synth", images, "--classes", "2", "--train-images", "8", "--val-images", "4", "-q"}, io.Discard, io.Discard); code != exitDone {
		t.Fatalf("synth ended with %d", code)
	}
	if err := os.WriteFile(cut, []byte("PK\x03\x04 and no more"), 0o644); err != nil {
		t.Fatal(err)
	}
	other, err := checkpoint.Write(dir, "other", &checkpoint.State{
		Model: []checkpoint.Tensor{checkpoint.FromFloat32s("a", []int64{1}, []float32{1})}, Meta: checkpoint.Meta{Arch: "simplenet"}})
	if err != nil {
		t.Fatal(err)
	}
	train := []string{"train", images, "--cpu", "--batch-size", "4", "--runs", runs, "-q"}
	for _, c := range []struct {
		name, want string
		args       []string
	}{
		{"weights cut short", "cut.pth", append(train, "--init", cut)},
		{"resume from nowhere", "there is no such run", append(train, "--resume", filepath.Join(dir, "nowhere"))},
		{"resume of another model", "give --model simplenet", append(train, "--model", "scenenet", "--resume", other)},
		{"copies without credentials", "AWS_ACCESS_KEY_ID", append(train, "--checkpoints", "s3://bucket/runs")},
		{"no such folder", "no folder", []string{"train", filepath.Join(dir, "none"), "--cpu", "--runs", runs}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var stderr strings.Builder
			code := Main(c.args, io.Discard, &stderr)
			if code != exitBadInput || !strings.Contains(stderr.String(), c.want) || strings.Count(stderr.String(), "\n") != 1 {
				t.Errorf("ended with %d and %q, want %d and one line that says %q", code, stderr.String(), exitBadInput, c.want)
			}
			if left, err := os.ReadDir(runs); err == nil && len(left) > 0 {
				t.Errorf("left %s behind", left[0].Name())
			}
		})
	}
}
