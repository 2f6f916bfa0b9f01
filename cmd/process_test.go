package cmd

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"mp/checkpoint"
)

// asMP makes the test binary, which is linked as mp is, act as mp: what starts itself as a child starts that.
const asMP = "CMD_TEST_AS_MP"

func TestMain(m *testing.M) {
	if os.Getenv(asMP) != "" {
		os.Exit(Main(os.Args[1:], os.Stdout, os.Stderr))
	}
	os.Exit(m.Run())
}

// shortRun paints images and returns the arguments of a run of three epochs of ten updates on them, without its layout.
func shortRun(t *testing.T) (args []string, runs string) {
	t.Helper()
	t.Setenv(asMP, "1")
	dir := t.TempDir()
	images := filepath.Join(dir, "images")
	if code, _, stderr := callMain("data", "synth", images, "--classes", "4", "--train-images", "80", "--val-images", "16", "-q"); code != 0 {
		t.Fatal(stderr)
	}
	runs = filepath.Join(dir, "runs")
	return []string{"train", images, "--cpu", "--model", "simplenet", "--image-size", "32", "--batch-size", "8", "--shards", "4", "--epochs", "3",
		"--checkpoint-every", "4", "--print-freq", "2", "--runs", runs, "--json"}, runs
}

// trainIn trains in this process and returns the result.
func trainIn(t *testing.T, args ...string) trained {
	t.Helper()
	code, stdout, stderr := callMain(args...)
	var r trained
	if err := json.Unmarshal([]byte(stdout), &r); code != exitDone || err != nil {
		t.Fatalf("%v ended with %d, %q:\n%s", args, code, stdout, stderr)
	}
	return r
}

// startTraining trains in a process of its own, and returns it once a checkpoint of its run is whole.
func startTraining(t *testing.T, args ...string) (p *process, run string) {
	t.Helper()
	runs := filepath.Join(t.TempDir(), "runs")
	p, err := startProcess(processConfig{name: "mp train", program: os.Args[0], args: append(args, "--runs", runs), log: filepath.Join(t.TempDir(), "train.log")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.signal(syscall.SIGKILL); <-p.done })
	until(t, "there is a checkpoint", func() bool {
		found, _ := filepath.Glob(filepath.Join(runs, "*"))
		if len(found) == 0 {
			return false
		}
		run = found[len(found)-1]
		_, _, err := checkpoint.Latest(run)
		select {
		case <-p.done:
			t.Fatalf("training ended: %s\n%s", p.cause, strings.Join(lastLines(p.log, 20), "\n"))
		default:
		}
		return err == nil
	})
	return p, run
}

// childrenOf lists the processes that a process has started.
func childrenOf(pid int) []int {
	tasks, _ := filepath.Glob("/proc/" + strconv.Itoa(pid) + "/task/*/children")
	var all []int
	for _, task := range tasks {
		text, _ := os.ReadFile(task)
		for word := range strings.FieldsSeq(string(text)) {
			if child, err := strconv.Atoi(word); err == nil {
				all = append(all, child)
			}
		}
	}
	return all
}

// A run that is killed, stopped or loses a worker ends with the bits of one that was left alone, with any number of workers.
func TestRunsSurvive(t *testing.T) {
	args, _ := shortRun(t)
	want := trainIn(t, append(args, "--workers", "1")...)
	same := func(what string, got trained) {
		t.Helper()
		if got.SHA256 != want.SHA256 || got.OptimizerSHA256 != want.OptimizerSHA256 || got.BestTop1 != want.BestTop1 || got.SHA256 == "" {
			t.Errorf("%s:\n got %+v\nwant %+v", what, got, want)
		}
	}
	code, stdout, stderr := callMain("evaluate", args[1], "--checkpoint", want.Directory, "--json")
	var score evaluated
	if err := json.Unmarshal([]byte(stdout), &score); code != 0 || err != nil || score.Top1 != want.BestTop1 {
		t.Errorf("evaluate ended with %d, %s, %s; want top-1 %g", code, stdout, stderr, want.BestTop1)
	}
	same("two workers", trainIn(t, append(args, "--workers", "2")...))

	for _, c := range []struct {
		name, workers string
		hurt          func(p *process)
		code          int
	}{
		{"killed, one worker", "1", func(p *process) { p.signal(syscall.SIGKILL) }, -1},
		{"killed, two workers", "2", func(p *process) { p.signal(syscall.SIGKILL) }, -1},
		{"terminated", "2", func(p *process) { p.signal(syscall.SIGTERM) }, exitDrained},
		{"a worker killed", "2", func(p *process) {
			if all := childrenOf(p.pid); len(all) > 0 {
				_ = syscall.Kill(all[0], syscall.SIGKILL)
			}
		}, exitDone},
	} {
		t.Run(c.name, func(t *testing.T) {
			address, err := freeAddress()
			if err != nil {
				t.Fatal(err)
			}
			p, run := startTraining(t, append(args, "--workers", c.workers, "--monitor", address)...)
			if _, text := look(t, "http://"+address+"/metrics"); !strings.Contains(text, `mp_update{run="`) {
				t.Errorf("no run's update is shown to Prometheus:\n%s", text)
			}
			if code, text := look(t, "http://"+address+"/readyz"); code != http.StatusOK {
				t.Errorf("while it trains it is not ready: %d, %s", code, text)
			}
			children := childrenOf(p.pid)
			if len(children) == 0 {
				t.Errorf("training has no children")
			}
			c.hurt(p)
			<-p.done
			if p.code != c.code {
				t.Errorf("training ended with %d (%s), want %d:\n%s", p.code, p.cause, c.code, strings.Join(lastLines(p.log, 20), "\n"))
			}
			until(t, "the workers are gone", func() bool {
				for _, child := range children {
					if syscall.Kill(child, 0) == nil && !isZombie(child) {
						return false
					}
				}
				return true
			})
			same(c.name, trainIn(t, "train", "--resume", run, "--workers", c.workers, "--json"))
		})
	}
}
