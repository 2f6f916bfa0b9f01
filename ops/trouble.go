package ops

import (
	"errors"
	"fmt"
	"strings"
)

// ErrOutOfMemory is wrapped by the error of an operation for which the device had no memory left.
var ErrOutOfMemory = errors.New("out of memory")

// ErrNoDevice is wrapped when a GPU is asked for that this machine does not have, or cannot use as it is set up.
var ErrNoDevice = errors.New("no such device")

// ErrDevice is wrapped when a GPU that is there fails: others have it, or it is broken. The process cannot use it any more.
var ErrDevice = errors.New("the device fails")

// OldestDriver is the first of NVIDIA's drivers that runs CUDA 13, libtorch's version of CUDA.
const OldestDriver = 580

// trouble is something that a person can do something about.
type trouble struct {
	says   string // part of how libtorch, CUDA or its libraries say it
	is     error
	advice string
}

// troubles is what is recognised; the first that fits counts.
func troubles() []trouble {
	update := fmt.Sprintf("install NVIDIA's driver %d or newer", OldestDriver)
	const (
		taken  = "another process has it to itself, or it is closed to programs: nvidia-smi shows both; wait, or take another --gpu"
		broken = "start again; if it comes back, look at nvidia-smi -q and the kernel's log, and take another --gpu"
	)
	return []trouble{
		{"can't allocate memory", ErrOutOfMemory, ""}, // the CPU's allocator
		{"out of memory", ErrOutOfMemory, ""},
		{"STATUS_ALLOC_FAILED", ErrOutOfMemory, ""}, // cuBLAS and cuDNN
		{"libtorch_cuda.so: cannot open", ErrNoDevice, "this libtorch is without CUDA: run `rm -r build/site && make` where a GPU is, or name a whole torch by LIBTORCH=DIR"},
		{"Found no NVIDIA driver", ErrNoDevice, update},
		{"driver on your system is too old", ErrNoDevice, update},
		{"driver version is insufficient", ErrNoDevice, update},
		{"invalid device ordinal", ErrNoDevice, "nvidia-smi -L counts the GPUs"},
		{"no kernel image is available", ErrNoDevice, "libtorch is not compiled for GPUs of this generation"},
		{"busy or unavailable", ErrDevice, taken},
		{"exclusive-thread device already in use", ErrDevice, taken},
		{"system not yet initialized", ErrDevice, "start nvidia-fabricmanager, which GPUs joined by NVSwitch need"},
		{"uncorrectable", ErrDevice, broken},
		{"illegal memory access", ErrDevice, broken},
		{"device-side assert", ErrDevice, broken},
		{"unspecified launch failure", ErrDevice, broken},
	}
}

// diagnose is the error of an operation that says text.
func diagnose(text string) error {
	text, _, _ = strings.Cut(text, "\n")
	text, _, _ = strings.Cut(text, " Including non-PyTorch memory") // a paragraph on how its allocator works
	for _, t := range troubles() {
		if !strings.Contains(text, t.says) {
			continue
		}
		if t.advice == "" {
			return fmt.Errorf("%s: %w", text, t.is)
		}
		return fmt.Errorf("%s: %w: %s", text, t.is, t.advice)
	}
	return errors.New(text)
}
