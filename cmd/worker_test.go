package cmd

import (
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"mp/job"
)

// aFleet starts a coordinator and two workers, all of them processes, that compute a job of so many epochs.
func aFleet(t *testing.T, epochs int) *fleet {
	t.Helper()
	args, _ := shortRun(t)
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := dataset(t.Context(), newEnv(t.Output(), t.Output(), os.LookupEnv), job.Spec{Data: args[1]}); err != nil { // before workers race for packs
		t.Fatal(err)
	}
	f, err := newFleet(t.Context(), fleetConfig{program: program, dir: t.TempDir(), data: args[1], coordinators: 1, failAfter: 3 * time.Second, nats: natsNone})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.close)
	for i := 1; i <= 2; i++ {
		if _, err := f.startWorker(i); err != nil {
			t.Fatal(err)
		}
	}
	s, err := job.Default(job.Spec{Model: job.ModelSimpleNet, Epochs: epochs})
	if err != nil {
		t.Fatal(err)
	}
	s.Data, s.Device, s.ImageSize, s.BatchSize, s.Shards, s.Threads = imagesOfTheCluster, job.DeviceCPU, "32", 8, 4, 1
	if err := f.submit(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	if err := f.untilWorkers(t.Context(), 2); err != nil {
		t.Fatal(err)
	}
	return f
}

// A worker that is asked to leave hands its work to others or, as the last one, saves it: nothing is done twice.
func TestSIGTERMDrainsAWorker(t *testing.T) {
	f := aFleet(t, 1000)
	for _, p := range []*process{f.workers["worker 1"], f.workers["worker 2"]} {
		if err := f.untilUpdate(t.Context(), f.now().GetUpdate()+3); err != nil {
			t.Fatal(err)
		}
		at := time.Now()
		p.signal(syscall.SIGTERM)
		<-p.done
		if took := time.Since(at); p.code != exitDrained || took > 10*time.Second {
			t.Errorf("%s ended with %d (%s) after %s, want %d within 10 s:\n%s", p.name, p.code, p.cause, took, exitDrained, strings.Join(lastLines(p.log, 5), "\n"))
		}
	}
	stood := f.now().GetUpdate()
	if _, err := f.startWorker(1); err != nil {
		t.Fatal(err)
	}
	if err := f.untilUpdate(t.Context(), stood+1); err != nil {
		t.Fatal(err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for i, s := range f.steps[1:] {
		if s.update < f.steps[i].update {
			t.Errorf("went back from update %d to %d", f.steps[i].update, s.update)
		}
	}
	for _, e := range f.events {
		if e.Warning {
			t.Errorf("warns, though nothing has failed: %s", e.Text)
		}
	}
}
