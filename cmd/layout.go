package cmd

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/klauspost/cpuid/v2"

	"mp/job"
)

// layoutRequest is what the command line says about who computes, and what the machine has.
type layoutRequest struct {
	workers      int      // --workers; 0: not given
	gpus         string   // --gpus; empty: not given
	said         job.Spec // what flags, environment and job file name; zero where they do not
	machineGPUs  int
	machineCores int
	machineBF16  bool // its CPU is faster in bfloat16
}

// layout is who computes on this machine: one worker for each device.
type layout struct {
	devices []string // "cpu", or the number of a GPU
	why     string   // for people: what was chosen and why
}

// fewShards is the number of shards for up to as many workers: one number, so that a run gives the same bits however many
// of them there are.
const fewShards = 4

// choose decides who computes the job, and completes what the job leaves open: the number of shards, where workers were
// asked for and shards were not, and of threads; and the precision. These are part of the result, the layout is not.
func (r layoutRequest) choose(s *job.Spec) (layout, error) {
	l, err := r.devices(s)
	if err != nil {
		return layout{}, err
	}
	n := len(l.devices)
	if prefersBF16(*s, r.said, r.machineBF16 || l.devices[0] != job.DeviceCPU) {
		s.Precision = job.BF16
		l.why += "; in bf16, which is faster here than --precision fp32"
	}
	if (r.workers > 0 || r.gpus != "") && r.said.Shards == 0 {
		s.Shards = shardsFor(max(r.workers, n), s.BatchSize)
	}
	if s.Threads == 0 {
		s.Threads = 1
		if s.Shards == 1 {
			s.Threads = r.machineCores
		}
	}
	switch {
	case n > s.Shards:
		l.why += fmt.Sprintf("; --shards %d leaves %d without work: they keep up, and take over when another goes", s.Shards, n-s.Shards)
	case l.devices[0] == job.DeviceCPU && n*s.Threads < r.machineCores && r.workers == 0:
		l.why += fmt.Sprintf("; --threads %d leaves cores idle", s.Threads)
	}
	return l, nil
}

// prefersBF16 says whether a job is computed in bfloat16 because nobody said how, and it is faster so.
func prefersBF16(s, said job.Spec, faster bool) bool {
	return faster && said.Precision == "" && s.Recipe == job.RecipeBest
}

// cpuPrefersBF16 says whether this machine's CPU trains faster in bfloat16 than in float32, by its kind, so that the answer is always
// the same: with AMX, or with AVX-512's instructions as AMD has them (1.8 times as fast on SimpleNet); Intel's own of these make
// products hardly faster, and the rest slower (docs/benchmarks.md).
func cpuPrefersBF16() bool {
	c := &cpuid.CPU
	return c.Supports(cpuid.AMXBF16) || c.Supports(cpuid.AVX512BF16) && c.IsVendor(cpuid.AMD)
}

// devices lists one device a worker.
func (r layoutRequest) devices(s *job.Spec) (layout, error) {
	switch {
	case r.workers > 0 && r.gpus != "":
		return layout{}, fmt.Errorf("%w: --workers %d are on the CPU and --gpus %s names GPUs: give one of them", job.ErrConfig, r.workers, r.gpus)
	case r.gpus != "" && s.Device != job.DeviceAuto:
		return layout{}, fmt.Errorf("%w: --gpus %s and --device %s contradict each other: give one of them", job.ErrConfig, r.gpus, s.Device)
	case r.gpus != "":
		gpus, err := r.listGPUs()
		return layout{gpus, fmt.Sprintf("%s, as --gpus asks", count(len(gpus), "worker, on a GPU", "workers, each on a GPU"))}, err
	case r.workers > 0 && s.Device != job.DeviceAuto && s.Device != job.DeviceCPU && r.workers > 1:
		return layout{}, fmt.Errorf("%w: --workers %d on GPU %s: a GPU has one worker; name several with --gpus", job.ErrConfig, r.workers, s.Device)
	case s.Device != job.DeviceAuto && s.Device != job.DeviceCPU:
		return layout{[]string{s.Device}, "1 worker on GPU " + s.Device}, r.has(s.Device)
	case r.workers > 0:
		why := fmt.Sprintf("%s on the CPU, as --workers asks", count(r.workers, "worker", "workers"))
		if r.machineGPUs > 0 && s.Device == job.DeviceAuto {
			why += "; this machine's GPUs would be used with --gpus all"
		}
		return layout{slices.Repeat([]string{job.DeviceCPU}, r.workers), why}, nil
	case s.Device == job.DeviceAuto && r.machineGPUs > 0:
		n := min(r.machineGPUs, s.Shards)
		why := fmt.Sprintf("%s: this machine has %d, and the batch has %s", count(n, "worker, on GPU 0", "workers, each on a GPU"), r.machineGPUs,
			count(s.Shards, "shard", "shards"))
		if n < r.machineGPUs {
			why += "; --gpus all cuts it for all of them"
		}
		return layout{numbers(n), why}, nil
	}
	n := min(r.machineCores, s.Shards)
	why := fmt.Sprintf("a worker a core: %d, as many as the batch has shards or the machine cores", n)
	if n == 1 {
		why = fmt.Sprintf("1 worker on the CPU: the batch is not cut (--shards 1), so all %d cores compute it together; --workers %d cuts it", r.machineCores, r.machineCores)
		if r.machineCores == 1 {
			why = "1 worker on the CPU: this machine has one core"
		}
	}
	return layout{slices.Repeat([]string{job.DeviceCPU}, n), why}, nil
}

// listGPUs reads --gpus: all, or numbers between commas.
func (r layoutRequest) listGPUs() ([]string, error) {
	if r.gpus == "all" {
		if r.machineGPUs == 0 {
			return nil, fmt.Errorf("--gpus all: %w", r.has("0"))
		}
		return numbers(r.machineGPUs), nil
	}
	var gpus []string
	for word := range strings.SplitSeq(r.gpus, ",") {
		n, err := strconv.Atoi(strings.TrimSpace(word))
		if err != nil || n < 0 {
			return nil, fmt.Errorf("%w: --gpus %q: choose all, or numbers such as 0,1", job.ErrConfig, r.gpus)
		}
		if err := r.has(strconv.Itoa(n)); err != nil {
			return nil, fmt.Errorf("--gpus %s: %w", r.gpus, err)
		}
		if slices.Contains(gpus, strconv.Itoa(n)) {
			return nil, fmt.Errorf("%w: --gpus %s names GPU %d twice: a GPU has one worker", job.ErrConfig, r.gpus, n)
		}
		gpus = append(gpus, strconv.Itoa(n))
	}
	return gpus, nil
}

// has says whether the machine has a GPU.
func (r layoutRequest) has(gpu string) error {
	n, err := strconv.Atoi(gpu)
	switch {
	case err != nil || n < r.machineGPUs: // Validate speaks of what is no number
		return nil
	case r.machineGPUs == 0:
		return fmt.Errorf("%w: GPU %d: this machine has no NVIDIA GPU, or no driver for it; train on the CPU with --workers %d, or see `mp doctor`", job.ErrConfig, n, r.machineCores)
	}
	return fmt.Errorf("%w: GPU %d: this machine has %s, counted from 0; see `mp doctor`", job.ErrConfig, n, count(r.machineGPUs, "GPU", "GPUs"))
}

// shardsFor is the number of shards for n workers: fewShards, or for more workers the least number that gives each one
// and cuts the batch evenly.
func shardsFor(n, batch int) int {
	shards := max(n, fewShards)
	for i := shards; i <= batch; i++ {
		if batch%i == 0 {
			return i
		}
	}
	return shards // more workers than images: Validate says so
}

func numbers(n int) []string {
	all := make([]string, n)
	for i := range all {
		all[i] = strconv.Itoa(i)
	}
	return all
}

// count prints a number and its word.
func count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// machineGPUs counts the NVIDIA GPUs of this machine by their device files, which are there without CUDA being loaded.
func machineGPUs() int {
	found, err := filepath.Glob("/dev/nvidia[0-9]*")
	if err != nil {
		return 0
	}
	if _, err := os.Stat("/dev/nvidiactl"); err != nil {
		return 0
	}
	return len(found)
}
