package ops

// #include "csrc/ops.h"
import "C"

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"sync"
	"sync/atomic"

	torch "github.com/wangkuiyi/gotorch"

	"mp/ops/nvml"
)

// CPU is the GPU index that means the CPU.
const CPU = -1

// DeviceConfig says which device to open and how it computes.
type DeviceConfig struct {
	GPU     int    // index of the GPU, or CPU
	Threads int    // intra-op threads on the CPU; 0 means one per core. Part of a job: sums depend on it
	LibDir  string // folder of libtorch_cuda.so, needed for a GPU only
	OwnCUDA string // path of our CUDA library libmpcuda.so; empty: compositions of ATen operations only
}

// Device is one processor and the one OS thread that owns its work: libtorch keeps thread counts, the current stream and
// the gradient mode in thread-local memory.
type Device struct {
	config  DeviceConfig
	work    chan func()
	quit    chan struct{} // closed by Close
	done    chan struct{} // closed when the thread has ended
	once    sync.Once
	threads atomic.Int64
	gpu     *nvml.Device // as its driver sees it; nil on a CPU, and where the driver cannot be asked
	kept    sync.Map     // records on a GPU: the address of the first byte here to the tensor there
	staged  sync.Map     // records on their way there: likewise, to a C.mp_stage
	now     int          // intra-op threads of the thread at this moment; only it uses this
	widen   bool         // layers of matrix products compute bfloat16 in float32: the CPU has no instructions for it

	message [C.MP_ERR]C.char // of the device's thread
}

// OpenDevice starts the device's thread. The first device of a process decides whether CUDA is loaded, since libtorch asks
// once: open a GPU before any tensor is made. ErrNoDevice is wrapped when the GPU is not there.
func OpenDevice(config DeviceConfig) (*Device, error) {
	if config.Threads == 0 {
		config.Threads = runtime.NumCPU()
	}
	if config.Threads < 0 || config.GPU < CPU {
		return nil, fmt.Errorf("open device: threads %d, GPU %d: both must not be negative", config.Threads, config.GPU)
	}
	d := &Device{config: config, work: make(chan func()), quit: make(chan struct{}), done: make(chan struct{})}
	d.threads.Store(int64(config.Threads))
	started := make(chan error)
	go d.loop(started)
	if err := <-started; err != nil {
		<-d.done
		return nil, err
	}
	return d, nil
}

func (d *Device) loop(started chan<- error) {
	defer close(d.done)
	runtime.LockOSThread() // never unlocked: the thread ends with the goroutine, its thread-local state with it
	if err := d.prepare(); err != nil {
		started <- err
		return
	}
	started <- nil
	for {
		select {
		case f := <-d.work:
			f()
		case <-d.quit:
			d.kept.Range(func(_, t any) bool {
				Free(t.(torch.Tensor))
				return true
			})
			return
		}
	}
}

func (d *Device) prepare() error {
	C.mp_memory_install()
	var message [C.MP_ERR]C.char
	if err := check(C.mp_set_threads(C.int(d.config.Threads), &message[0]), "set threads", &message); err != nil {
		return err
	}
	d.now = d.config.Threads
	if d.config.GPU == CPU {
		var native C.int
		err := check(C.mp_cpu_bf16(&native, &message[0]), "ask for bfloat16", &message)
		d.widen = native == 0
		return err
	}
	return d.prepareGPU(&message)
}

// scoped runs f with a scope that has ended when it returns.
func (d *Device) scoped(f func(s *Scope) error) (err error) {
	s := &Scope{device: d}
	defer func() {
		s.Close()
		if p := recover(); p != nil {
			err = fmt.Errorf("panic on device: %v", p)
		}
	}()
	if err = f(s); err == nil {
		err = s.Err()
	}
	return err
}

// Do runs f on the device's thread with a fresh scope, which is closed afterwards, and returns f's error, or else the
// scope's. It waits until f has returned; ctx only keeps it from starting.
func (d *Device) Do(ctx context.Context, f func(s *Scope) error) error {
	result := make(chan error, 1)
	run := func() { result <- d.scoped(f) }
	select {
	case d.work <- run:
		return <-result
	case <-d.done:
		return fmt.Errorf("device is closed")
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Close ends the device's thread after the work in progress. Tensors made on it must be freed before.
func (d *Device) Close() {
	d.once.Do(func() { close(d.quit) })
	<-d.done
}

// IsCPU reports whether the device is the CPU.
func (d *Device) IsCPU() bool { return d.config.GPU == CPU }

// Threads returns the intra-op threads of the device.
func (d *Device) Threads() int { return int(d.threads.Load()) }

// String names the device as PyTorch does: "cpu", "cuda:1".
func (d *Device) String() string {
	if d.IsCPU() {
		return "cpu"
	}
	return fmt.Sprintf("cuda:%d", d.config.GPU)
}

// SetThreads changes the intra-op threads of the device, at least 1.
func (d *Device) SetThreads(ctx context.Context, threads int) error {
	return d.Do(ctx, func(s *Scope) error {
		var message [C.MP_ERR]C.char
		if err := check(C.mp_set_threads(C.int(threads), &message[0]), "set threads", &message); err != nil {
			return err
		}
		d.now = threads
		d.threads.Store(int64(threads))
		return nil
	})
}

// Synchronize waits until the device has done everything asked of it.
func (d *Device) Synchronize(ctx context.Context) error {
	return d.Do(ctx, func(s *Scope) error {
		var message [C.MP_ERR]C.char
		return check(C.mp_synchronize(C.int(d.config.GPU), &message[0]), "synchronize "+d.String(), &message)
	})
}

// MemoryInUse is what this process occupies of the device's memory, in bytes: for the CPU its resident memory, mapped files
// such as packs left out; on a GPU libtorch's allocations.
func (d *Device) MemoryInUse() (int64, error) {
	if !d.IsCPU() {
		var message [C.MP_ERR]C.char
		var out [4]C.int64_t
		err := check(C.mp_cuda_memory(C.int(d.config.GPU), &out[0], &message[0]), "memory of "+d.String(), &message)
		return int64(out[0]), err
	}
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0, fmt.Errorf("resident memory: %w", err)
	}
	var size, pages, mapped int64
	if _, err := fmt.Sscan(string(text), &size, &pages, &mapped); err != nil {
		return 0, fmt.Errorf("resident memory: %w", err)
	}
	return (pages - mapped) * int64(os.Getpagesize()), nil
}

// Memory is what tensors occupy, in bytes.
type Memory struct {
	Used   int64 // by tensors now
	Peak   int64 // the most since ResetPeak
	Cached int64 // kept by the allocator for the next tensors
}

// HostMemory returns what CPU tensors of this process occupy.
func HostMemory() Memory {
	var used, peak, cached C.int64_t
	C.mp_memory_stats(&used, &peak, &cached)
	return Memory{Used: int64(used), Peak: int64(peak), Cached: int64(cached)}
}

// ResetPeak starts a new measurement of HostMemory's peak.
func ResetPeak() { C.mp_memory_reset_peak() }

// TrimMemory gives the blocks that the allocator keeps back to the system, as after a change of image size.
func TrimMemory() { C.mp_memory_trim() }
