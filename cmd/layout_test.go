package cmd

import (
	"errors"
	"strings"
	"testing"

	"mp/job"
)

func TestLayout(t *testing.T) {
	for _, c := range []struct {
		name          string
		request       layoutRequest
		device        string
		shards, batch int
		threads       int
		devices       string
		wantShards    int
		wantThreads   int
		why           string
	}{
		{name: "cpu, batch in one piece", request: layoutRequest{machineCores: 4}, devices: "cpu", wantShards: 1, wantThreads: 4, why: "all 4 cores"},
		{name: "cpu, batch in 8 pieces", request: layoutRequest{machineCores: 4, said: job.Spec{Shards: 1}}, shards: 8, devices: "cpu cpu cpu cpu", wantShards: 8, wantThreads: 1, why: "a worker a core"},
		{name: "one core", request: layoutRequest{machineCores: 1}, devices: "cpu", wantShards: 1, wantThreads: 1, why: "one core"},
		{name: "one worker asked for", request: layoutRequest{workers: 1, machineCores: 2}, devices: "cpu", wantShards: 4, wantThreads: 1, why: "as --workers asks"},
		{name: "three workers", request: layoutRequest{workers: 3, machineCores: 2}, devices: "cpu cpu cpu", wantShards: 4, wantThreads: 1},
		{name: "five workers", request: layoutRequest{workers: 5, machineCores: 8}, devices: "cpu cpu cpu cpu cpu", wantShards: 8, wantThreads: 1},
		{name: "five workers, odd batch", request: layoutRequest{workers: 5, machineCores: 8}, batch: 25, devices: "cpu cpu cpu cpu cpu", wantShards: 5, wantThreads: 1},
		{name: "workers and one shard", request: layoutRequest{workers: 2, machineCores: 2, said: job.Spec{Shards: 1}}, devices: "cpu cpu", wantShards: 1, wantThreads: 2, why: "leaves 1 without work"},
		{name: "threads given", request: layoutRequest{workers: 2, machineCores: 8}, threads: 4, devices: "cpu cpu", wantShards: 4, wantThreads: 4},
		{name: "a GPU", request: layoutRequest{machineCores: 4, machineGPUs: 1}, devices: "0", wantShards: 1, wantThreads: 4},
		{name: "two GPUs, one shard", request: layoutRequest{machineCores: 4, machineGPUs: 2}, devices: "0", wantShards: 1, wantThreads: 4, why: "--gpus all"},
		{name: "two GPUs, shards", request: layoutRequest{machineCores: 4, machineGPUs: 2, said: job.Spec{Shards: 1}}, shards: 4, devices: "0 1", wantShards: 4, wantThreads: 1},
		{name: "all GPUs", request: layoutRequest{gpus: "all", machineCores: 4, machineGPUs: 3}, devices: "0 1 2", wantShards: 4, wantThreads: 1},
		{name: "some GPUs", request: layoutRequest{gpus: "2, 0", machineCores: 4, machineGPUs: 3}, devices: "2 0", wantShards: 4, wantThreads: 1},
		{name: "CPU on a machine with GPUs", request: layoutRequest{workers: 2, machineCores: 2, machineGPUs: 1}, devices: "cpu cpu", wantShards: 4, wantThreads: 1, why: "--gpus all"},
		{name: "named GPU", request: layoutRequest{machineCores: 2, machineGPUs: 2}, device: "1", devices: "1", wantShards: 1, wantThreads: 2},
		{name: "CPU by name", request: layoutRequest{machineCores: 2, machineGPUs: 2}, device: "cpu", devices: "cpu", wantShards: 1, wantThreads: 2},
	} {
		s := job.Spec{Device: job.DeviceAuto, Shards: max(c.shards, 1), BatchSize: 64, Threads: c.threads}
		if c.device != "" {
			s.Device = c.device
		}
		if c.batch > 0 {
			s.BatchSize = c.batch
		}
		l, err := c.request.choose(&s)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if got := strings.Join(l.devices, " "); got != c.devices || s.Shards != c.wantShards || s.Threads != c.wantThreads {
			t.Errorf("%s: got %q, %d shards, %d threads; want %q, %d, %d", c.name, got, s.Shards, s.Threads, c.devices, c.wantShards, c.wantThreads)
		}
		if !strings.Contains(l.why, c.why) || l.why == "" {
			t.Errorf("%s: says %q, want %q", c.name, l.why, c.why)
		}
	}
}

// The number of workers must not decide the result.
func TestShardsAreTheSameForFewWorkers(t *testing.T) {
	for n := 1; n <= fewShards; n++ {
		s := job.Spec{Device: job.DeviceAuto, Shards: 1, BatchSize: 64}
		if _, err := (layoutRequest{workers: n, machineCores: 3}).choose(&s); err != nil || s.Shards != fewShards || s.Threads != 1 {
			t.Errorf("%d workers: %d shards, %d threads, %v", n, s.Shards, s.Threads, err)
		}
	}
}

func TestLayoutsThatCannotBe(t *testing.T) {
	for _, c := range []struct {
		request layoutRequest
		device  string
		want    string
	}{
		{layoutRequest{workers: 2, gpus: "all", machineGPUs: 2}, "auto", "give one of them"},
		{layoutRequest{gpus: "all", machineCores: 2}, "auto", "no NVIDIA GPU"},
		{layoutRequest{gpus: "0,2", machineGPUs: 2}, "auto", "this machine has 2"},
		{layoutRequest{machineGPUs: 2}, "3", "GPU 3: this machine has 2 GPUs"},
		{layoutRequest{machineGPUs: 1}, "1", "this machine has 1 GPU, counted from 0"},
		{layoutRequest{machineCores: 2}, "0", "no NVIDIA GPU"},
		{layoutRequest{gpus: "0,0", machineGPUs: 2}, "auto", "names GPU 0 twice"},
		{layoutRequest{gpus: "x", machineGPUs: 2}, "auto", "choose all"},
		{layoutRequest{gpus: "0", machineGPUs: 2}, "cpu", "contradict each other"},
		{layoutRequest{workers: 2, machineGPUs: 2}, "0", "a GPU has one worker"},
	} {
		s := job.Spec{Device: c.device, Shards: 1, BatchSize: 64}
		if _, err := c.request.choose(&s); !errors.Is(err, job.ErrConfig) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: got %v, want %q", c.request, err, c.want)
		}
	}
}

// Nobody who names a precision, or follows the course, gets another.
func TestPrecisionIsChosen(t *testing.T) {
	fast, gpu := layoutRequest{machineCores: 2, machineBF16: true}, layoutRequest{machineCores: 2, machineGPUs: 1}
	says := func(r layoutRequest, word string) layoutRequest { r.said.Precision = word; return r }
	for _, c := range []struct {
		name         string
		request      layoutRequest
		recipe, want string
	}{
		{"a processor that is faster", fast, job.RecipeBest, job.BF16},
		{"one that is not", layoutRequest{machineCores: 2}, job.RecipeBest, job.FP32},
		{"a GPU", gpu, job.RecipeBest, job.BF16},
		{"told so", says(fast, job.FP32), job.RecipeBest, job.FP32},
		{"the course", fast, job.RecipeCourse, job.FP32},
	} {
		s := job.Spec{Recipe: c.recipe, Device: job.DeviceAuto, Shards: 1, BatchSize: 64, Precision: job.FP32}
		l, err := c.request.choose(&s)
		if err != nil || s.Precision != c.want || strings.Contains(l.why, "bf16") != (c.want == job.BF16) {
			t.Errorf("%s: got %s (%s), %v; want %s", c.name, s.Precision, l.why, err, c.want)
		}
	}
	if got := completeForCluster(job.Spec{Recipe: job.RecipeBest, Precision: job.FP32}, job.Spec{Precision: job.FP32}); got.Precision != job.FP32 {
		t.Errorf("a submitted job that says fp32 got %s", got.Precision)
	}
}
