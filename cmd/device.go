package cmd

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"mp/job"
	"mp/ops"
)

// readOnly is what a file system that cannot be written to answers.
const readOnly = syscall.EROFS

// pickDevice turns the word of a job's option into a device: auto is GPU 0 where the machine has one.
func pickDevice(word string) (string, error) {
	if word != job.DeviceAuto {
		return word, nil
	}
	if _, err := os.Stat("/dev/nvidia0"); err == nil {
		return "0", nil
	}
	return job.DeviceCPU, nil
}

// cudaEnvironment is how CUDA and cuBLAS are set up unless the user says otherwise: GPUs count as in nvidia-smi, and matrix
// products of two runs are the same bits.
func cudaEnvironment() map[string]string {
	return map[string]string{"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
}

// cores is the number of intra-op threads where none is asked for.
func cores() int { return runtime.NumCPU() }

// openDevice opens the device named by a job: "cpu" or the number of a GPU.
func openDevice(word string, threads int) (*ops.Device, error) {
	c := ops.DeviceConfig{GPU: ops.CPU, Threads: threads}
	if word != job.DeviceCPU {
		gpu, err := strconv.Atoi(word)
		if err != nil {
			return nil, fmt.Errorf("%w: --device %q: want cpu, auto or the number of a GPU", job.ErrConfig, word)
		}
		c.GPU = gpu
		for name, value := range cudaEnvironment() { // read when CUDA is loaded
			if _, given := os.LookupEnv(name); given {
				continue
			}
			if err := os.Setenv(name, value); err != nil {
				return nil, fmt.Errorf("set %s: %w", name, err)
			}
		}
		c.LibDir = filepath.Dir(loaded("libtorch_cpu.so"))
		if own := filepath.Join(filepath.Dir(loaded("libmpops.so")), "libmpcuda.so"); exists(own) {
			c.OwnCUDA = own
		}
	}
	return ops.OpenDevice(c)
}

// loaded returns the path of a shared library of this process, or its bare name where the system does not tell.
func loaded(library string) string {
	f, err := os.Open("/proc/self/maps")
	if err != nil {
		return library
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if i := strings.IndexByte(lines.Text(), '/'); i >= 0 && filepath.Base(lines.Text()[i:]) == library {
			return lines.Text()[i:]
		}
	}
	return library
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
