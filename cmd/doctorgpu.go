package cmd

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"mp/ops"
	"mp/ops/nvml"
)

// littleGPU is free memory of a GPU in bytes below which the doctor speaks up.
const littleGPU = 2 << 30

// versionNumber matches 580.82.07 and the like.
var versionNumber = regexp.MustCompile(`[0-9]+\.[0-9]+(\.[0-9]+)?`)

// checkGPU looks for NVIDIA devices, their driver and the libraries they need.
func (m machine) checkGPU() []finding {
	devices, err := filepath.Glob(filepath.Join(m.root, "dev/nvidia[0-9]*"))
	if err != nil || len(devices) == 0 {
		return []finding{{Name: "NVIDIA", Mark: markOK, Found: "none; mp runs on the processor"}}
	}
	var names []string
	infos, err := filepath.Glob(filepath.Join(m.root, "proc/driver/nvidia/gpus/*/information"))
	if err == nil {
		for _, path := range infos {
			text, err := os.ReadFile(path)
			if err != nil {
				continue
			}
			for line := range strings.Lines(string(text)) {
				if name, ok := strings.CutPrefix(line, "Model:"); ok {
					names = append(names, strings.TrimSpace(name))
				}
			}
		}
	}
	slices.Sort(names)
	all := []finding{{Name: "NVIDIA", Mark: markOK, Found: strings.TrimSuffix(fmt.Sprintf("%d: %s", len(devices), strings.Join(slices.Compact(names), ", ")), ": ")}}

	driver := finding{Name: "driver", Mark: markOK, Found: versionNumber.FindString(m.read("proc/driver/nvidia/version"))}
	major, err := strconv.Atoi(strings.SplitN(driver.Found, ".", 2)[0])
	switch {
	case err != nil:
		driver.Mark, driver.Found = markMissing, "no /proc/driver/nvidia/version"
		driver.Advice = fmt.Sprintf("install NVIDIA's driver, version %d or newer", ops.OldestDriver)
	case major < ops.OldestDriver:
		driver.Mark, driver.Advice = markMissing, fmt.Sprintf("CUDA 13 needs driver %d or newer: install it, or train with --cpu", ops.OldestDriver)
	}
	all = append(all, driver)
	for _, l := range []struct{ file, advice string }{
		{"libtorch_cuda.so", "run `rm -r build/site && make` on this machine: with a GPU it fetches all of CUDA"},
		{"libmpcuda.so", "run `make cuda`"},
	} {
		all = append(all, m.library(l.file, l.advice))
	}
	return append(all, m.eachGPU()...)
}

// eachGPU is what the driver says of every GPU.
func (m machine) eachGPU() []finding {
	gpus, err := m.gpus()
	if err != nil {
		return []finding{{Name: "NVML", Mark: markNote, Found: err.Error(), Advice: "install the driver's own libraries too: without libnvidia-ml.so.1 nobody sees how busy a GPU is"}}
	}
	var all []finding
	for i, g := range gpus {
		f := finding{Name: fmt.Sprintf("GPU %d", i), Mark: markOK, Found: fmt.Sprintf("%s, %s of %s taken", g.about.Name, gibibytes(uint64(g.use.Used)), gibibytes(uint64(g.use.Total)))}
		if g.use.Busy >= 0 {
			f.Found += fmt.Sprintf(", busy %.0f %%", 100*g.use.Busy)
		}
		if n := g.about.Processes; n > 0 {
			f.Found += ", " + count(n, "process", "processes")
		}
		switch free := g.use.Total - g.use.Used; {
		case g.about.Mode == nvml.Closed:
			f.Mark, f.Advice = markMissing, fmt.Sprintf("it is closed to programs: `nvidia-smi -i %d -c DEFAULT`, as root, opens it", i)
		case g.about.Mode == nvml.Exclusive && g.about.Processes > 0:
			f.Mark, f.Advice = markNote, "a process has it to itself: nvidia-smi shows which; wait for it, or take another --gpu"
		case free < littleGPU:
			f.Mark, f.Advice = markNote, "others have nearly all of its memory: nvidia-smi shows who; wait, take another --gpu, or lower --batch-size"
		}
		all = append(all, f)
	}
	return all
}

// gpuState is a GPU as its driver sees it.
type gpuState struct {
	about nvml.About
	use   nvml.Use
}

// askDriver lists this machine's GPUs.
func askDriver() ([]gpuState, error) {
	library, err := nvml.Open()
	if err != nil {
		return nil, err
	}
	devices, err := library.Devices()
	if err != nil {
		return nil, err
	}
	all := make([]gpuState, len(devices))
	for i, d := range devices {
		if all[i].about, err = d.About(); err != nil {
			return nil, err
		}
		if all[i].use, err = d.Use(); err != nil {
			return nil, err
		}
	}
	return all, nil
}
