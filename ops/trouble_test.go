package ops

import (
	"errors"
	"strings"
	"testing"
)

// As libtorch 2.11 and CUDA 13 say it.
func TestTroubleIsRecognised(t *testing.T) {
	for _, c := range []struct {
		says   string
		is     error
		advice string
	}{
		{"[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 70368744177664 bytes. Error code 12 (Cannot allocate memory)", ErrOutOfMemory, ""},
		{"CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 139.72 GiB of which 12.00 MiB is free. Including non-PyTorch memory, this process has 139.70 GiB memory in use.", ErrOutOfMemory, ""},
		{"CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported at some other API call", ErrOutOfMemory, ""},
		{"CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", ErrOutOfMemory, ""},
		{"cuDNN error: CUDNN_STATUS_ALLOC_FAILED", ErrOutOfMemory, ""},
		{"/opt/torch/lib/libtorch_cuda.so: cannot open shared object file: No such file or directory", ErrNoDevice, "without CUDA"},
		{"CUDA initialization: The NVIDIA driver on your system is too old (found version 12040). Please update your GPU driver by downloading and installing a new version", ErrNoDevice, "580 or newer"},
		{"CUDA error: CUDA driver version is insufficient for CUDA runtime version", ErrNoDevice, "580 or newer"},
		{"Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU", ErrNoDevice, "580 or newer"},
		{"CUDA error: invalid device ordinal", ErrNoDevice, "nvidia-smi -L"},
		{"CUDA error: no kernel image is available for execution on the device", ErrNoDevice, "generation"},
		{"CUDA error: CUDA-capable device(s) is/are busy or unavailable", ErrDevice, "another --gpu"},
		{"CUDA error: exclusive-thread device already in use by a different thread", ErrDevice, "another --gpu"},
		{"Unexpected error from cudaGetDeviceCount(). Did you run some cuda functions before calling NumCudaDevices() that might have already set an error? Error 802: system not yet initialized", ErrDevice, "fabricmanager"},
		{"CUDA error: uncorrectable ECC error encountered", ErrDevice, "start again"},
		{"CUDA error: an illegal memory access was encountered", ErrDevice, "start again"},
		{"CUDA error: device-side assert triggered", ErrDevice, "start again"},
	} {
		err := diagnose(c.says)
		if !errors.Is(err, c.is) || !strings.Contains(err.Error(), c.advice) {
			t.Errorf("%s:\ngot %v, want %v with advice about %q", c.says, err, c.is, c.advice)
		}
		for _, noise := range []string{"\n", "non-PyTorch"} {
			if strings.Contains(err.Error(), noise) {
				t.Errorf("%q is told: %v", noise, err)
			}
		}
	}
	err := diagnose("mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)")
	for _, known := range []error{ErrOutOfMemory, ErrNoDevice, ErrDevice} {
		if errors.Is(err, known) {
			t.Errorf("%v passes for %v", err, known)
		}
	}
}
