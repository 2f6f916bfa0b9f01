// Package nvml asks NVIDIA's driver about the GPUs of this machine: how busy they are, whose memory is taken, whether
// programs may compute on them. It owns the driver's management library, which it loads when it is asked to, so that a
// program that never asks, and a machine without a driver, need nothing of it.
//
// It must never import libtorch or another room of this module: `mp doctor` asks on machines that cannot train. Start
// reading at Open.
package nvml

import (
	"errors"
	"fmt"

	driver "github.com/NVIDIA/go-nvml/pkg/nvml"
)

// ErrNoDriver is wrapped by Open's error where this machine has no NVIDIA driver, or not its library.
var ErrNoDriver = errors.New("no NVIDIA driver")

// Library is the driver's, loaded for as long as the process lives. It is safe for concurrent use.
type Library struct{ api driver.Interface }

// Open loads the driver's library.
func Open() (*Library, error) { return open(driver.New()) }

func open(api driver.Interface) (*Library, error) {
	switch status := api.Init(); status {
	case driver.SUCCESS:
		return &Library{api}, nil
	case driver.ERROR_LIBRARY_NOT_FOUND, driver.ERROR_DRIVER_NOT_LOADED:
		return nil, fmt.Errorf("load libnvidia-ml.so.1: %w", ErrNoDriver)
	default:
		return nil, fmt.Errorf("load libnvidia-ml.so.1: %w", status)
	}
}

// Device is one GPU. It is safe for concurrent use.
type Device struct{ handle driver.Device }

// Devices lists the machine's GPUs in the order of their places on the bus.
func (l *Library) Devices() ([]Device, error) {
	n, status := l.api.DeviceGetCount()
	if status != driver.SUCCESS {
		return nil, fmt.Errorf("count GPUs: %w", status)
	}
	all := make([]Device, n)
	for i := range all {
		if all[i].handle, status = l.api.DeviceGetHandleByIndex(i); status != driver.SUCCESS {
			return nil, fmt.Errorf("find GPU %d: %w", i, status)
		}
	}
	return all, nil
}

// At finds the GPU at a place of the bus, such as 0000:17:00.0.
func (l *Library) At(place string) (Device, error) {
	h, status := l.api.DeviceGetHandleByPciBusId(place)
	if status != driver.SUCCESS {
		return Device{}, fmt.Errorf("find the GPU at %s: %w", place, status)
	}
	return Device{h}, nil
}

// Use is how a GPU is used by all processes together.
type Use struct {
	// Busy is the share of the last fraction of a second in which something was computed, 0 to 1; less than 0 where the
	// driver does not say, as of a part of a GPU.
	Busy        float64
	Used, Total int64 // bytes of memory
}

// Use asks how the GPU is used now.
func (d Device) Use() (Use, error) {
	m, status := d.handle.GetMemoryInfo()
	if status != driver.SUCCESS {
		return Use{}, fmt.Errorf("ask a GPU for its memory: %w", status)
	}
	u := Use{Busy: -1, Used: int64(m.Used), Total: int64(m.Total)}
	if rates, status := d.handle.GetUtilizationRates(); status == driver.SUCCESS {
		u.Busy = float64(rates.Gpu) / 100
	}
	return u, nil
}

// Mode is whom a GPU computes for.
type Mode int

// The modes.
const (
	Shared    Mode = iota // any number of processes
	Exclusive             // one process at a time
	Closed                // nobody
)

// About is what a GPU is and who computes on it.
type About struct {
	Name      string
	Mode      Mode
	Processes int // that hold a part of it now; 0 also where the driver does not say
}

// About asks for it.
func (d Device) About() (About, error) {
	name, status := d.handle.GetName()
	if status != driver.SUCCESS {
		return About{}, fmt.Errorf("ask a GPU for its name: %w", status)
	}
	a := About{Name: name}
	if mode, status := d.handle.GetComputeMode(); status == driver.SUCCESS {
		switch mode {
		case driver.COMPUTEMODE_EXCLUSIVE_PROCESS, driver.COMPUTEMODE_EXCLUSIVE_THREAD:
			a.Mode = Exclusive
		case driver.COMPUTEMODE_PROHIBITED:
			a.Mode = Closed
		}
	}
	if all, status := d.handle.GetComputeRunningProcesses(); status == driver.SUCCESS {
		a.Processes = len(all)
	}
	return a, nil
}
