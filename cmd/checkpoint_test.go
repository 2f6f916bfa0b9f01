package cmd

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// runCheckpoint calls mp in process and returns the exit code and what it printed.
func runCheckpoint(args ...string) (code int, stdout, stderr string) {
	var out, errs bytes.Buffer
	code = Main(append([]string{"checkpoint"}, args...), &out, &errs)
	return code, out.String(), errs.String()
}

func TestCheckpointShow(t *testing.T) {
	const file = "../checkpoint/testdata/sgd.pth"
	code, out, errs := runCheckpoint("show", file)
	if code != exitDone || errs != "" {
		t.Fatalf("got code %d, stderr %q", code, errs)
	}
	for _, want := range []string{"stem.weight", "4x3x3x3", "F32", "tiny", "epochs done", "12.50 %", "145 parameters", "optimizer momentum", "6 tensors"} {
		if !strings.Contains(out, want) {
			t.Errorf("the output lacks %q:\n%s", want, out)
		}
	}
	if strings.Contains(out, "momentum.stem.weight") {
		t.Error("the optimizer's tensors are listed without --verbose")
	}
	if _, out, _ := runCheckpoint("show", file, "--verbose"); !strings.Contains(out, "momentum.stem.weight") {
		t.Error("the optimizer's tensors are not listed with --verbose")
	}

	code, out, errs = runCheckpoint("show", file, "--json")
	var got checkpointSummary
	if err := json.Unmarshal([]byte(out), &got); err != nil || code != exitDone {
		t.Fatalf("got code %d, %v, stderr %q", code, err, errs)
	}
	if got.Arch != "tiny" || got.Epoch != 7 || got.BestTop1 != 12.5 || got.Parameters != 145 || len(got.Tensors) != 9 || len(got.Optimizer) != 6 || len(got.SHA256) != 64 || got.Format != "pytorch" {
		t.Errorf("got %+v", got)
	}
}

func TestCheckpointConvert(t *testing.T) {
	dir := t.TempDir()
	_, out, _ := runCheckpoint("show", "../checkpoint/testdata/sgd.pth", "--json")
	var want checkpointSummary
	if err := json.Unmarshal([]byte(out), &want); err != nil {
		t.Fatal(err)
	}
	// Through every format and back; the folder keeps the optimizer.
	from := "../checkpoint/testdata/sgd.pth"
	for i, name := range []string{"imported", "a.safetensors", "b.pth.tar", "c"} {
		to := filepath.Join(dir, name)
		code, out, errs := runCheckpoint("convert", from, to, "--json")
		var got convertResult
		if err := json.Unmarshal([]byte(out), &got); err != nil || code != exitDone {
			t.Fatalf("%s: got code %d, %v, stderr %q", name, code, err, errs)
		}
		if got.SHA256 != want.SHA256 || got.Parameters != 145 || got.Checkpoint != to {
			t.Errorf("%s: got %+v, want sha256 %s", name, got, want.SHA256)
		}
		if kept, said := got.Optimizer == 6, strings.Contains(errs, "left out"); kept != (i == 0) || said != (i == 1) {
			t.Errorf("%s: kept the optimizer %v, said that it is left out %v", name, kept, said)
		}
		from = to
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 4 {
		t.Errorf("the folder holds %v, %v, want the four results", entries, err)
	}
}

func TestCheckpointBadInput(t *testing.T) {
	dir := t.TempDir()
	cut := filepath.Join(dir, "cut.pth")
	b, err := os.ReadFile("../checkpoint/testdata/sgd.pth")
	if err == nil {
		err = os.WriteFile(cut, b[:len(b)/2], 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		want string
		args []string
	}{
		{"no such file", []string{"show", filepath.Join(dir, "absent")}},
		{"cut.pth", []string{"show", cut}},
		{"cut short", []string{"convert", cut, filepath.Join(dir, "out.safetensors")}},
		{"posix", []string{"convert", "../checkpoint/testdata/evil.pth", filepath.Join(dir, "out")}},
		{"exists already", []string{"convert", "../checkpoint/testdata/sgd.pth", cut}},
		{"no folder", []string{"convert", "../checkpoint/testdata/sgd.pth", filepath.Join(dir, "absent", "out.pth")}},
		{"another name", []string{"convert", "../checkpoint/testdata/sgd.pth", filepath.Join(dir, "latest")}},
		{"want F OUT", []string{"convert", cut}},
		{"no verb", []string{"shw", cut}},
	} {
		code, out, errs := runCheckpoint(c.args...)
		if code != exitBadInput || out != "" || !strings.Contains(errs, c.want) || strings.Count(errs, "\n") != 1 {
			t.Errorf("%v: got code %d, stdout %q, stderr %q, want code 64 and one line with %q", c.args, code, out, errs, c.want)
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("the folder holds %v, %v, want cut.pth alone", entries, err)
	}
}
