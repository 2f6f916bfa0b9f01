package cmd

import (
	"encoding/json"
	"image/png"
	"os"
	"path/filepath"
	"testing"
)

func TestDataShow(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "set")
	runData(t, exitDone, "synth", dir, "--classes", "3", "--train-images", "30", "--val-images", "6")
	sheet := filepath.Join(t.TempDir(), "sheet.png")
	out, _ := runData(t, exitDone, "show", dir, "--class", "synth_001", "--images", "4", "--out", sheet, "--json")
	var shown showResult
	if err := json.Unmarshal([]byte(out), &shown); err != nil || shown.File != sheet || len(shown.Images) != 4 || shown.Recipe != "none" {
		t.Fatalf("got %s, %v", out, err)
	}
	for _, image := range shown.Images {
		if image.Class != "synth 001" {
			t.Errorf("got a picture of %q, want synth 001", image.Class)
		}
	}
	out, _ = runData(t, exitDone, "show", dir, "--batch", "1", "--batch-size", "10", "--recipe", "strong", "--draws", "--image-size", "64", "--out", sheet)
	wantAll(t, out, sheet+": 10 pictures of")
	f, err := os.Open(sheet)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if m, err := png.Decode(f); err != nil || m.Bounds().Dx() < 8*64 {
		t.Errorf("the sheet cannot be read: %v", err)
	}
	for _, bad := range []struct {
		args []string
		want string
	}{
		{[]string{"--class", "synth_9"}, `no class "synth_9"`},
		{[]string{"--class", "synth_001", "--batch", "0"}, "contradict"},
		{[]string{"--batch", "3", "--batch-size", "10"}, "batches 0 to 2"},
		{[]string{"--recipe", "worst"}, `no augmentation "worst"`},
		{[]string{"--split", "dev"}, "choose train, val or test"},
		{[]string{"--zoom", "0"}, "--zoom 1 to 8"},
	} {
		_, errs := runData(t, exitBadInput, append([]string{"show", dir, "--out", sheet + ".none"}, bad.args...)...)
		wantAll(t, errs, bad.want)
		if _, err := os.Stat(sheet + ".none"); err == nil {
			t.Fatalf("%v: a sheet was written", bad.args)
		}
	}
}

// The measurements must run and say what they measure; how fast is another matter.
func TestBenchData(t *testing.T) {
	for verb, want := range map[string]int{"decode": 4, "loader": 13} {
		code, out, errs := callMain("bench", verb, "--images", "128", "--repetitions", "1", "--json")
		var result struct{ Rows []benchRow }
		if err := json.Unmarshal([]byte(out), &result); code != exitDone || err != nil || len(result.Rows) != want {
			t.Fatalf("bench %s: code %d, %v, %d rows, want %d; %s", verb, code, err, len(result.Rows), want, errs)
		}
		for _, r := range result.Rows {
			if r.Value <= 0 || r.Unit == "" || (r.Peer != "") != (r.Ratio > 0) {
				t.Errorf("bench %s: row %+v", verb, r)
			}
		}
	}
}
