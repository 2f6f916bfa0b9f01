package ops

// #include <stdlib.h>
// #include "csrc/ops.h"
import "C"

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"unsafe"

	"mp/ops/nvml"
)

// otherwise is what to do where a GPU cannot be opened.
const otherwise = "; train on the CPU with --cpu, or see `mp doctor`"

// prepareGPU opens CUDA and takes the device's GPU for the calling thread.
func (d *Device) prepareGPU(message *[C.MP_ERR]C.char) error {
	gpu := d.config.GPU
	if _, err := os.Stat("/dev/nvidiactl"); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("open GPU %d: this machine has no NVIDIA GPU, or no driver for it: %w%s", gpu, ErrNoDevice, otherwise)
	}
	library, own := C.CString(filepath.Join(d.config.LibDir, "libtorch_cuda.so")), C.CString(d.config.OwnCUDA)
	defer C.free(unsafe.Pointer(library))
	defer C.free(unsafe.Pointer(own))
	var n C.int
	if err := check(C.mp_open_cuda(library, own, &n, &message[0]), "load CUDA", message); err != nil {
		if !errors.Is(err, ErrNoDevice) && !errors.Is(err, ErrDevice) {
			err = fmt.Errorf("%w: %w", err, ErrNoDevice)
		}
		return fmt.Errorf("open GPU %d: %w%s", gpu, err, otherwise)
	}
	if err := within(gpu, int(n)); err != nil {
		return err
	}
	if err := check(C.mp_take_gpu(C.int(gpu), &message[0]), fmt.Sprintf("open GPU %d", gpu), message); err != nil {
		return err
	}
	d.gpu = watchGPU(gpu)
	return nil
}

// within says whether a machine of n GPUs has that one.
func within(gpu, n int) error {
	switch {
	case gpu < n:
		return nil
	case n == 1:
		return fmt.Errorf("open GPU %d: this machine has one, GPU 0: %w", gpu, ErrNoDevice)
	}
	return fmt.Errorf("open GPU %d: this machine has %d, GPU 0 to %d: %w", gpu, n, n-1, ErrNoDevice)
}

// watchGPU finds a GPU of CUDA's numbering, which environment variables change, by its place on the bus. Figures are no reason
// to do without a GPU: it returns nil where the driver does not answer.
func watchGPU(number int) *nvml.Device {
	var message, place [C.MP_ERR]C.char
	if C.mp_gpu_place(C.int(number), &place[0], &message[0]) != C.MP_OK {
		return nil
	}
	library, err := nvml.Open()
	if err != nil {
		return nil
	}
	device, err := library.At(C.GoString(&place[0]))
	if err != nil {
		return nil
	}
	return &device
}

// Use is how the GPU is used by all processes; false on a CPU, and where its driver does not say. Safe for concurrent use.
func (d *Device) Use() (nvml.Use, bool) {
	if d.gpu == nil {
		return nvml.Use{}, false
	}
	u, err := d.gpu.Use()
	return u, err == nil
}
