package cmd

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"math"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sync/errgroup"

	"mp/job"
)

func TestStepsAreComparedInTurn(t *testing.T) {
	log := filepath.Join(t.TempDir(), "order")
	side := func(name, seconds string) func(string) *exec.Cmd {
		return func(spec string) *exec.Cmd {
			return exec.Command("sh", "-c", `echo "$0" >> "$1"; echo "$2"`, name, log, seconds)
		}
	}
	compiled := func(spec string) *exec.Cmd {
		if !strings.Contains(spec, `"compile":true`) {
			t.Errorf("a side that compiles is told %s", spec)
		}
		return side("compiled", "[0.5]")(spec)
	}
	sides := []stepSide{{"mp", false, side("ours", "[0.25, 0.5, 9]")}, {"PyTorch", false, side("torch", "[1]")}, {"torch.compile", true, compiled}}
	rows, err := compareSteps(stepSpec{Model: "m", Mode: "fp32", Batch: 8}, 2, sides)
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []benchRow{{"m fp32", 16, "images/s", 2, "PyTorch 8"}, {"m fp32", 16, "images/s", 1, "torch.compile 16"}} {
		if rows[i] != want {
			t.Errorf("row %d is %+v, want %+v", i, rows[i], want)
		}
	}
	order, err := exec.Command("cat", log).Output()
	if err != nil {
		t.Fatal(err)
	}
	if got, want := strings.Join(strings.Fields(string(order)), " "), "ours torch compiled torch compiled ours"; got != want {
		t.Errorf("processes ran as %s, want %s", got, want)
	}
}

func TestAMeasurementThatFailsIsTold(t *testing.T) {
	for text, script := range map[string]string{
		"ModuleNotFoundError: No module named 'torch'": `echo trace >&2; echo "ModuleNotFoundError: No module named 'torch'" >&2; exit 1`,
		"no list of seconds":                           "echo hello",
	} {
		if _, err := stepSeconds(exec.Command("sh", "-c", script)); err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("%s gives error %v, want one with %q", script, err, text)
		}
	}
}

func TestBenchStepRefusesWhatCannotBe(t *testing.T) {
	for _, args := range [][]string{
		{"--mode", "fp8"},
		{"--batch-size", "0"},
		{"--device", "gpu"},
		{"--python", "/nowhere/python"},
		{"--workers", "1"},
		{"--workers", "3"}, // 64 images are not cut by three
		{"--workers", "2", "--shards", "1"},
		{"--workers", "2", "--device", "0"},
		{"--data-path"},
	} {
		var out, complaint bytes.Buffer
		if code := Main(append([]string{"bench", "step"}, args...), &out, &complaint); code != exitBadInput {
			t.Errorf("mp bench step %s: exit code %d, want %d: %s", strings.Join(args, " "), code, exitBadInput, complaint.String())
		}
	}
}

func TestBothSidesMeasureAStep(t *testing.T) {
	spec := `{"model": "simplenet", "mode": "channels_last", "batch": 2, "size": 32, "threads": 1, "seconds": 0, "cuda": -1}`
	var out, complaint bytes.Buffer
	if code := Main([]string{"bench", "step", "--measure", spec}, &out, &complaint); code != exitDone {
		t.Fatalf("our side: exit code %d: %s", code, complaint.String())
	}
	var seconds []float64
	if err := json.Unmarshal(out.Bytes(), &seconds); err != nil || len(seconds) != 1 || seconds[0] <= 0 {
		t.Errorf("our side prints %q, want a list of one number", out.String())
	}
	python := filepath.Join("..", "build", "venv", "bin", "python")
	if !exists(python) {
		t.Skip("PyTorch's side needs `make venv`")
	}
	if _, err := stepSeconds(exec.Command(python, "-c", torchStep, spec)); err != nil {
		t.Errorf("PyTorch's side: %v", err)
	}
}

func TestMeasureOfNonsenseIsBadInput(t *testing.T) {
	if err := measureStep(t.Context(), newEnv(nil, nil, nil), "{"); !errors.Is(err, job.ErrConfig) {
		t.Errorf("error is %v, want one that wraps job.ErrConfig", err)
	}
}

func TestARankThatCannotJoinSaysWhy(t *testing.T) {
	spec := stepSpec{Model: job.ModelSimpleNet, Mode: modeFP32, Batch: 4, Size: 32, Threads: 1, Workers: 2, Shards: 2, Data: t.TempDir(), Dir: t.TempDir()}
	if _, _, err := joinCrew(t.Context(), spec); err == nil || !strings.Contains(err.Error(), "train.pack: no such file") {
		t.Errorf("without packs: error %v, want one that says what is missing", err)
	}
}

// Two ranks train together, on both sides, and each says where its time went.
func TestBothSidesMeasureSeveralWorkers(t *testing.T) {
	images := t.TempDir()
	if err := paintImages(t.Context(), images, 4); err != nil {
		t.Fatal(err)
	}
	spec := stepSpec{Model: job.ModelSimpleNet, Mode: modeChannelsLast, Batch: 4, Size: 32, Threads: 1, CUDA: -1, Workers: 2, Shards: 2, Data: images, Dir: t.TempDir()}
	prints := make([]bytes.Buffer, spec.Workers)
	var ranks errgroup.Group
	for rank := range prints {
		s := spec
		s.Rank, s.Load = rank, true
		ranks.Go(func() error { return measureMember(t.Context(), newEnv(&prints[rank], io.Discard, nil), s) })
	}
	if err := ranks.Wait(); err != nil {
		t.Fatal(err)
	}
	for rank := range prints {
		var times crewTimes
		if err := json.Unmarshal(prints[rank].Bytes(), &times); err != nil || len(times.Seconds) == 0 || times.Working <= 0 || times.Waited < 0 {
			t.Errorf("rank %d of ours prints %q: %v", rank, prints[rank].String(), err)
		}
	}
	python := filepath.Join("..", "build", "venv", "bin", "python")
	if !exists(python) {
		t.Skip("PyTorch's side needs `make venv`")
	}
	spec.Dir = ""
	for _, spec.Load = range []bool{false, true} {
		times, err := measureCrew(spec, func(spec string) *exec.Cmd { return exec.Command(python, "-c", torchStep, spec) })
		if err != nil {
			t.Fatalf("PyTorch's side, images from a file %t: %v", spec.Load, err)
		}
		for rank, t2 := range times {
			if t2.Working <= 0 {
				t.Errorf("rank %d of PyTorch's: %+v", rank, t2)
			}
		}
	}
}

// The profile of a step accounts for its time, by operations that the step has.
func TestAProfileAccountsForTheStep(t *testing.T) {
	t.Setenv(asMP, "1")
	code, stdout, stderr := callMain("bench", "step", "--profile", "--model", "simplenet", "--mode", "channels_last", "--batch-size", "2", "--image-size", "32", "--threads", "1", "--json")
	var all []stepProfile
	if err := json.Unmarshal([]byte(stdout), &all); code != exitDone || err != nil || len(all) != 1 {
		t.Fatalf("ended with %d, %q, %s", code, stdout, stderr)
	}
	sum, calls := 0.0, map[string]float64{}
	for _, c := range all[0].Costs {
		sum += c.Seconds
		calls[c.Name] = c.Calls
	}
	if apart := math.Abs(sum/all[0].Seconds - 1); apart > .01 {
		t.Errorf("operations take %g s of a step of %g s", sum, all[0].Seconds)
	}
	there, back := calls["aten::convolution"]+calls["mp::winograd"], calls["aten::convolution_backward"]+calls["mp::winograd_backward"]
	if there != 7 || back != 7 || calls["mp::update"] != 1 {
		t.Errorf("calls a step: %v; want 7 convolutions there and back, and 1 update", calls)
	}
	if code, _, stderr := callMain("bench", "step", "--profile", "--workers", "2"); code != exitBadInput || !strings.Contains(stderr, "leave --workers out") {
		t.Errorf("with --workers: %d, %s", code, stderr)
	}
}
