package checkpoint

import (
	"archive/zip"
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"testing"
)

func metaText(t *testing.T, m Meta) string {
	t.Helper()
	b, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return string(b) + m.Source
}

// zipOf makes an archive of uncompressed entries.
func zipOf(t testing.TB, entries map[string]string) []byte {
	t.Helper()
	var names []string
	for name := range entries {
		names = append(names, name)
	}
	sort.Strings(names)
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for _, name := range names {
		f, err := w.CreateHeader(&zip.FileHeader{Name: name, Method: zip.Store})
		if err == nil {
			_, err = f.Write([]byte(entries[name]))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// sample is a state of a small model in the middle of a run; n changes its weights.
func sample(n float32) *State {
	return &State{
		Model: []Tensor{
			FromFloat32s("fc.bias", []int64{2}, []float32{n, 2}),
			FromFloat32s("fc.weight", []int64{2, 3}, []float32{1, 2, 3, 4, 5, n}),
			{Name: "norm.num_batches_tracked", DType: I64, Shape: []int64{}, Data: []byte{5, 0, 0, 0, 0, 0, 0, 0}},
		},
		Optimizer: []Tensor{
			FromFloat32s("momentum.fc.bias", []int64{2}, []float32{.5, n}),
			FromFloat32s("momentum.fc.weight", []int64{2, 3}, []float32{0, 0, 0, 1, 1, n}),
		},
		Meta: Meta{Arch: "simplenet", Epoch: 3, Step: 1170, Seed: 1<<63 + 5, BestTop1: 44.02, BestTop5: 73.26, BestEpoch: 2,
			LR: 0.1 / 3, Job: json.RawMessage(`{"model":"simplenet","note":"<&>","epochs":60}`)},
	}
}

// python returns the interpreter with PyTorch and safetensors, or skips the test.
func python(t *testing.T) string {
	t.Helper()
	path, err := filepath.Abs("../build/venv/bin/python")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Skip("no build/venv: run make venv to compare with PyTorch")
	}
	if out, err := exec.Command(path, "-c", "import torch, safetensors").CombinedOutput(); err != nil {
		t.Skipf("build/venv is not complete: %s", out)
	}
	return path
}
