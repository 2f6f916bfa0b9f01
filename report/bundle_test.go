package report

import (
	"archive/zip"
	"bytes"
	"io"
	"path"
	"strings"
	"testing"
	"testing/fstest"
)

// The hand-in holds the source, both forms of the report and results; no data, no logs, no models and no path of this machine.
func TestBundle(t *testing.T) {
	dir := variant(t, "data: miniplaces", "data: /elsewhere/miniplaces")
	input := Input{Directory: dir, Command: "mp train /elsewhere/miniplaces --seed 7", Remarks: []string{"Nothing was found in " + dir + "/checkpoints."}}
	d, runs, err := Make(Request{Runs: []Input{input}, Made: made(), Portable: true})
	if err != nil {
		t.Fatal(err)
	}
	file := &fstest.MapFile{Data: []byte("package x\n")}
	code := fstest.MapFS{}
	keep := []string{"go.mod", "main.go", "report/report.go", "report/page.css", "ops/csrc/ops.cc", "model/testdata/simplenet.json", ".ci/run", "Makefile", "README.md", "report/testdata/run/metrics.jsonl.md"}
	for _, name := range append([]string{
		".git/config", "build/lib/x.go", "train.pack", "train.txt", "categories.txt", "images/a.txt", "runs/r/metrics.jsonl", "runs/r/job.yaml", "mine/metrics.jsonl", "mine/job.yaml",
		"model.safetensors", "simplenet.pth.tar", "worker.log", "mp", "picture.jpg", "miniplaces/val.txt",
	}, keep...) {
		code[name] = file
	}
	code["big.json"] = &fstest.MapFile{Data: make([]byte, maxSource+1)}
	var b bytes.Buffer
	if err := (Bundle{Code: code, Document: d, Runs: runs, Made: made()}).Write(&b); err != nil {
		t.Fatal(err)
	}
	z, err := zip.NewReader(bytes.NewReader(b.Bytes()), int64(b.Len()))
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]bool{}
	for _, f := range z.File {
		if got[f.Name] || path.IsAbs(f.Name) || path.Clean(f.Name) != f.Name || strings.HasPrefix(f.Name, "..") {
			t.Errorf("%s: twice or not a relative path", f.Name)
		}
		got[f.Name] = true
		r, err := f.Open()
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(r)
		if err != nil || len(text) == 0 {
			t.Errorf("%s: %d bytes, %v", f.Name, len(text), err)
		}
		if strings.Contains(string(text), path.Dir(dir)) || strings.Contains(string(text), "/elsewhere") {
			t.Errorf("%s names a folder of this machine", f.Name)
		}
	}
	want := []string{"writeup/report.pdf", "writeup/report.html", "results/scenenet/job.yaml", "results/scenenet/epochs.csv", "results/scenenet/evaluation.json", "results/scenenet/attack.json", "results/scenenet/top1.png", "results/scenenet/loss.png"}
	for _, name := range keep {
		want = append(want, "code/"+name)
	}
	for _, name := range want {
		if !got[name] {
			t.Errorf("no %s", name)
		}
		delete(got, name)
	}
	for name := range got {
		t.Errorf("%s does not belong there", name)
	}
}

// A bundle without source is refused.
func TestBundleNeedsCode(t *testing.T) {
	d, runs, err := Make(Request{Runs: []Input{{Directory: copied(t)}}, Made: made()})
	if err != nil {
		t.Fatal(err)
	}
	if err := (Bundle{Code: fstest.MapFS{"a.pack": {}}, Document: d, Runs: runs}).Write(io.Discard); err == nil || !strings.Contains(err.Error(), "--code") {
		t.Errorf("got %v", err)
	}
}
