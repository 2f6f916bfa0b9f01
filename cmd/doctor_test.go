package cmd

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"mp/ops/nvml"
)

// fakeMachine writes files below a temporary root; the keys are paths, the values contents.
func fakeMachine(t *testing.T, files map[string]string) machine {
	t.Helper()
	root := t.TempDir()
	for name, content := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	work := filepath.Join(root, "work")
	if err := os.MkdirAll(work, 0o755); err != nil {
		t.Fatal(err)
	}
	gpus := func() ([]gpuState, error) {
		return []gpuState{
			{nvml.About{Name: "NVIDIA H100", Processes: 1}, nvml.Use{Busy: .85, Used: 10 << 30, Total: 80 << 30}},
			{nvml.About{Name: "NVIDIA H100", Mode: nvml.Closed}, nvml.Use{Busy: -1, Total: 80 << 30}},
			{nvml.About{Name: "NVIDIA H100", Mode: nvml.Exclusive, Processes: 2}, nvml.Use{Busy: 1, Total: 80 << 30}},
			{nvml.About{Name: "NVIDIA H100", Mode: nvml.Exclusive}, nvml.Use{Total: 80 << 30}},
			{nvml.About{Name: "NVIDIA H100"}, nvml.Use{Used: 79 << 30, Total: 80 << 30}},
		}, nil
	}
	return machine{root: root, dir: work, gpus: gpus, find: func(name string) (string, error) {
		if name == "g++" {
			return "", errors.New("not found")
		}
		return "/usr/bin/" + name, nil
	}}
}

// named returns the finding of a name.
func named(t *testing.T, all []finding, name string) finding {
	t.Helper()
	for _, f := range all {
		if f.Name == name {
			return f
		}
	}
	t.Fatalf("no finding %q in %+v", name, all)
	return finding{}
}

func TestDoctorFindsWhatIsThere(t *testing.T) {
	m := fakeMachine(t, map[string]string{
		"proc/cpuinfo":                               "processor : 0\nmodel name\t: Some CPU\nflags\t\t: fpu avx2 fma avx512f avx512_bf16\n",
		"proc/meminfo":                               "MemTotal: 16777216 kB\nMemFree: 1 kB\nMemAvailable: 8388608 kB\n",
		"dev/nvidia0":                                "",
		"dev/nvidiactl":                              "",
		"proc/driver/nvidia/version":                 "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.82.07  Release Build\nGCC version:  gcc version 12.2.0\n",
		"proc/driver/nvidia/gpus/0/information":      "Model: \t\t NVIDIA H100\nIRQ: 1\n",
		"work/build/site/torch/lib/libtorch_cpu.so":  "",
		"work/build/site/torch/lib/libtorch_cuda.so": "",
		"work/build/site/torch/version.py":           "__version__ = '2.11.0+cu130'\ndebug = False\n",
		"work/build/lib/libmpops.so":                 "",
		"work/build/lib/libmppixel.so":               "",
		"work/data/categories.txt":                   "/a/abbey 0\n/b/bar 1\n",
		"work/data/val.txt":                          "val/1.jpg 0\n",
		"work/data/images/val/1.jpg":                 "x",
		"work/data/broken.pack":                      "no pack",
		"proc/self/maps":                             "7f00-7f01 r--p 00000000 08:01 99 /somewhere/lib/libjpeg.so.62.3.0\n",
	})
	all := m.examine()
	for _, c := range []struct{ name, mark, found, advice string }{
		{"processor", markOK, "Some CPU, ", ""},
		{"instructions", markOK, "avx2 fma avx512f avx512_bf16", ""},
		{"memory", markOK, "8.0 GiB free of 16.0 GiB", ""},
		{"NVIDIA", markOK, "1: NVIDIA H100", ""},
		{"driver", markOK, "580.82.07", ""},
		{"libtorch_cuda.so", markOK, "libtorch_cuda.so", ""},
		{"GPU 0", markOK, "NVIDIA H100, 10.0 GiB of 80.0 GiB taken, busy 85 %, 1 process", ""},
		{"GPU 1", markMissing, "NVIDIA H100, 0.0 GiB of 80.0 GiB taken", "nvidia-smi -i 1 -c DEFAULT"},
		{"GPU 2", markNote, "busy 100 %, 2 processes", "to itself"},
		{"GPU 3", markOK, "busy 0 %", ""},
		{"GPU 4", markNote, "79.0 GiB of 80.0 GiB", "--batch-size"},
		{"libmpcuda.so", markMissing, "not found", "make cuda"},
		{"libtorch", markOK, "2.11.0+cu130 in ", ""},
		{"libcgotorch.so", markMissing, "not found", "run `make`"},
		{"libmpops.so", markOK, "build/lib/libmpops.so", ""},
		{"libjpeg", markOK, "/somewhere/lib/libjpeg.so.62.3.0, in use", ""},
		{"go", markOK, "/usr/bin/go", ""},
		{"g++", markNote, "not found", "apt-get install g++"},
		{"MiniPlaces", markOK, "2 classes, 1 val", ""},
		{"pack", markMissing, "broken.pack", "pack"},
	} {
		f := named(t, all, c.name)
		if f.Mark != c.mark || !strings.Contains(f.Found, c.found) || !strings.Contains(f.Advice, c.advice) || (c.advice == "") != (f.Advice == "") {
			t.Errorf("%s: got %+v, want %+v", c.name, f, c)
		}
	}
}

func TestDoctorSaysWhatIsMissing(t *testing.T) {
	m := fakeMachine(t, map[string]string{
		"proc/meminfo":                              "MemTotal: 16777216 kB\nMemAvailable: 8388608 kB\n",
		"sys/fs/cgroup/memory.max":                  "2147483648\n",
		"sys/fs/cgroup/memory.current":              "1073741824\n",
		"dev/nvidia0":                               "",
		"proc/driver/nvidia/version":                "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat\n",
		"work/build/site/torch/version.py":          "__version__ = '2.1.0'\n",
		"work/build/site/torch/lib/libtorch_cpu.so": "",
	})
	m.gpus = func() ([]gpuState, error) { return nil, nvml.ErrNoDriver }
	all := m.examine()
	for _, c := range []struct{ name, mark, found, advice string }{
		{"NVML", markNote, "no NVIDIA driver", "libnvidia-ml.so.1"},
		{"instructions", markNote, "no avx2", "slower"},
		{"memory", markNote, "1.0 GiB free of 2.0 GiB", "--batch-size"},
		{"driver", markMissing, "535.104.05", "580 or newer"},
		{"libtorch", markMissing, "2.1.0", "mp needs 2.11.0"},
		{"libjpeg", markMissing, "not found", "apt-get install libjpeg-dev"},
		{"MiniPlaces", markMissing, "not found in", "mp data fetch"},
	} {
		f := named(t, all, c.name)
		if f.Mark != c.mark || !strings.Contains(f.Found, c.found) || !strings.Contains(f.Advice, c.advice) {
			t.Errorf("%s: got %+v, want %+v", c.name, f, c)
		}
	}
	var out bytes.Buffer
	e := newEnv(&out, io.Discard, os.LookupEnv)
	if err := printFindings(e, all); err != nil || !strings.Contains(out.String(), "  missing  driver            535.104.05\n") ||
		!strings.Contains(out.String(), "missing libjpeg: apt-get install libjpeg-dev\n") || strings.Contains(out.String(), "Nothing is missing") {
		t.Errorf("got %v\n%s", err, out.String())
	}
	out.Reset()
	e.json = true
	var got struct {
		Missing  int
		Findings []finding
	}
	if err := printFindings(e, all); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(out.Bytes(), &got); err != nil || got.Missing < 4 || len(got.Findings) != len(all) {
		t.Errorf("JSON: %d missing, %d findings of %d, %v", got.Missing, len(got.Findings), len(all), err)
	}
}

func TestDoctorRunsHere(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("MP_DATA", dir)
	code, stdout, stderr := callMain("doctor")
	if code != 0 || stderr != "" || !strings.Contains(stdout, "processor") || !strings.Contains(stdout, "not found in "+dir) {
		t.Errorf("got code %d, stderr %q,\n%s", code, stderr, stdout)
	}
}
