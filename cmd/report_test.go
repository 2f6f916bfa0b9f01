package cmd

import (
	"archive/zip"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"mp/checkpoint"
	"mp/job"
	"mp/report"
)

// untrainedRun makes the directory of a run that has learned nothing, and the images that its job names.
func untrainedRun(t *testing.T) (run, images string) {
	t.Helper()
	images, weights := synthNetwork(t, "scenenet")
	run = filepath.Join(t.TempDir(), "20260102-030405-scenenet")
	if err := os.MkdirAll(run, 0o755); err != nil {
		t.Fatal(err)
	}
	spec, err := job.Default(job.Spec{})
	if err != nil {
		t.Fatal(err)
	}
	spec.Data = images
	state, err := checkpoint.Read(weights)
	if err != nil {
		t.Fatal(err)
	}
	folder := filepath.Join(run, "checkpoints")
	if _, err := checkpoint.Write(folder, "best-00000001", state); err != nil {
		t.Fatal(err)
	}
	lines := `{"time":"2026-01-02T03:04:05Z","kind":"validation","validation":{"epoch":1,"epochs":1,"update":1,"images":6,"loss":1.1,"top1":33.3,"top5":100,"images_per_second":1,"seconds":1,"best":true}}` + "\n" + `{"time":`
	for _, err := range []error{checkpoint.SetBest(folder, "best-00000001"), writeJob(run, spec), os.WriteFile(filepath.Join(run, "metrics.jsonl"), []byte(lines), 0o644)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return run, images
}

// callReport calls `mp report` and returns what it said.
func callReport(t *testing.T, want int, args ...string) (reported, string) {
	t.Helper()
	code, stdout, stderr := callMain(append([]string{"report", "--threads", "1", "--json"}, args...)...)
	var got reported
	if err := json.Unmarshal([]byte(stdout), &got); code != want || err != nil {
		t.Fatalf("%v: code %d, want %d; %v, %s", args, code, want, err, stderr)
	}
	return got, stderr
}

func TestReportAsksTheNetworkOnce(t *testing.T) {
	run, _ := untrainedRun(t)
	bundle := filepath.Join(t.TempDir(), "hand-in.zip")
	got, _ := callReport(t, exitDone, run, "--bundle", bundle, "--code", "..")
	if len(got.Runs) != 1 || got.Runs[0].Name != "scenenet" || got.Runs[0].Parameters < 1e6 || got.Runs[0].BestTop1 == nil || *got.Runs[0].BestTop1 != 33.3 {
		t.Errorf("got %+v", got.Runs)
	}
	if got.HTML != filepath.Join(run, "report", "report.html") || len(got.Remarks) != 1 || !strings.Contains(got.Remarks[0], "half-written") {
		t.Errorf("got %+v", got)
	}
	page, err := os.ReadFile(got.HTML)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"Confusion matrix of 3 classes", "Where the network looks in it by gradcam", "mp train ", "The design of scenenet"} {
		if !strings.Contains(string(page), want) {
			t.Errorf("no %q in the page", want)
		}
	}
	if pdf, err := os.ReadFile(got.PDF); err != nil || !strings.HasPrefix(string(pdf), "%PDF") {
		t.Errorf("the PDF begins with %.10q, %v", pdf, err)
	}
	z, err := zip.OpenReader(bundle)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	for _, name := range []string{"code/cmd/report.go", "code/go.mod", "writeup/report.pdf", "results/scenenet/evaluation.json"} {
		if !slices.ContainsFunc(z.File, func(f *zip.File) bool { return f.Name == name }) {
			t.Errorf("no %s in the bundle", name)
		}
	}

	first := modified(t, filepath.Join(run, "report", report.EvaluationFile))
	callReport(t, exitDone, run)
	if again := modified(t, filepath.Join(run, "report", report.EvaluationFile)); again != first {
		t.Error("the network was asked again though nothing has changed")
	}
	callReport(t, exitDone, run, "--images", "4")
	e, err := report.ReadEvaluation(run)
	if err != nil || e.Images != 4 {
		t.Errorf("with --images 4: %+v, %v", e, err)
	}
	entries, err := os.ReadDir(filepath.Join(run, "report"))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") {
			t.Errorf("%s is left behind", e.Name())
		}
	}
}

// modified is what tells one version of a file from another.
func modified(t *testing.T, path string) string {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.ModTime().String()
}

// What stands in the way of the network, or of one of several runs, is told, and the report comes.
func TestReportComesAllTheSame(t *testing.T) {
	run, images := untrainedRun(t)
	out := filepath.Join(t.TempDir(), "out")
	got, stderr := callReport(t, exitBadInput, run, filepath.Join(run, "none"), "--no-compute", "--out", out)
	if len(got.Runs) != 1 || !strings.Contains(stderr, "none: there is no such directory") || len(got.Missing) < 3 {
		t.Errorf("beside a path that is no run: got %+v, %s", got, stderr)
	}
	if _, err := os.Stat(got.PDF); err != nil {
		t.Error(err)
	}
	got, _ = callReport(t, exitDone, run, "--data", filepath.Join(images, "none"))
	if len(got.Remarks) != 2 || !strings.Contains(got.Remarks[0], "The network was not asked") || !strings.Contains(got.Remarks[0], "--data names another folder") {
		t.Errorf("without images: got %+v", got)
	}
	if err := os.RemoveAll(filepath.Join(run, "checkpoints")); err != nil {
		t.Fatal(err)
	}
	got, _ = callReport(t, exitDone, run)
	if len(got.Remarks) != 2 || !strings.Contains(got.Remarks[0], "find a checkpoint") {
		t.Errorf("without a checkpoint: got %+v", got)
	}
}

func TestReportRefuses(t *testing.T) {
	dir := t.TempDir()
	for _, c := range []struct {
		args []string
		want string
	}{
		{nil, "give one run directory or more"},
		{[]string{dir}, "is no run"},
		{[]string{dir, "--images", "-1"}, "nothing negative"},
		{[]string{dir, "--bundle", "x.tar"}, "must end in .zip"},
		{[]string{dir, "--bundle", "x.zip", "--code", dir}, "holds no go.mod"},
		{[]string{dir, "--out", "report.go"}, "is a file"},
	} {
		code, stdout, stderr := callMain(append([]string{"report"}, c.args...)...)
		if code != exitBadInput || !strings.Contains(stderr, c.want) || strings.Count(stderr, "\n") != 1 || stdout != "" {
			t.Errorf("%v: got code %d, %q; want 64 and one line with %q", c.args, code, stderr, c.want)
		}
	}
}

// The command that a report prints trains the same job.
func TestTrainCommand(t *testing.T) {
	for _, choice := range []job.Spec{
		{}, {Recipe: job.RecipeCourse, Model: job.ModelSimpleNet, Conv: job.ConvOwn}, {Model: job.ModelSimpleViT, Epochs: 7}, {Adversarial: job.AdversarialFree, AdvEps: "2/255", AdvSteps: 3}, {Adversarial: job.AdversarialTRADES, Augment: job.AugmentStrong, Optimizer: job.AdamW},
	} {
		want, err := job.Default(choice)
		if err != nil {
			t.Fatal(err)
		}
		want.Data, want.Name, want.Shards, want.Threads, want.LR, want.Nesterov = "mini places", "a name", 4, 2, .123, false
		words := strings.Split(strings.ReplaceAll(strings.ReplaceAll(trainCommand(want), "'mini places'", "mini\x00places"), "'a name'", "a\x00name"), " ")
		got, err := job.Resolve(func(s *job.Spec) error {
			s.Data = strings.ReplaceAll(words[2], "\x00", " ")
			for i := 3; i < len(words); i++ {
				name, value, flag := strings.Cut(strings.TrimPrefix(words[i], "--"), "=")
				if !flag {
					i++
					value = strings.ReplaceAll(words[i], "\x00", " ")
				}
				o := job.Options()[slices.IndexFunc(job.Options(), func(o job.Option) bool { return o.Name == name })]
				if err := o.Set(s, value); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil || got != want {
			t.Errorf("%q:\ngot  %+v, %v\nwant %+v", words, got, err, want)
		}
	}
}
