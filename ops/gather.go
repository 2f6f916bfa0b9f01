package ops

// #include "csrc/ops.h"
import "C"

import (
	"context"
	"fmt"
	"slices"
	"unsafe"

	torch "github.com/wangkuiyi/gotorch"

	"mp/ops/pixel"
)

// Legend: N images, S side of the image.

// Gathers says whether Gather runs on the device itself: on a CPU, and on a GPU with our CUDA library.
func (d *Device) Gathers() bool { return d.IsCPU() || C.mp_gather_kernel() != 0 }

// Keep copies records to a GPU, for Gather, unless they would take more than half of what is free there; Kept then says that
// they are there, for as long as the device is open. They must never change. On a CPU it does nothing.
func (d *Device) Keep(ctx context.Context, records []byte) error {
	if d.IsCPU() || d.Kept(records) || len(records) == 0 {
		return nil
	}
	return d.Do(ctx, func(s *Scope) error {
		var message [C.MP_ERR]C.char
		var memory [4]C.int64_t
		if err := check(C.mp_cuda_memory(C.int(d.config.GPU), &memory[0], &message[0]), "memory of "+d.String(), &message); err != nil {
			return err
		}
		if int64(len(records)) > int64(memory[2])/2 {
			return nil
		}
		there := s.ToDevice(s.Wrap(records, Uint8, false, int64(len(records))))
		if err := s.Err(); err != nil {
			return fmt.Errorf("keep %d bytes of images on %s: %w", len(records), d, err)
		}
		d.kept.Store(unsafe.SliceData(records), s.Release(there))
		return nil
	})
}

// Kept says whether Keep has put these records on the device.
func (d *Device) Kept(records []byte) bool {
	_, ok := d.kept.Load(unsafe.SliceData(records))
	return ok
}

// Gather returns what pixel.Gather makes of records, in spec's dtype and layout: images [N 3 S S]. Records that are kept are
// read where they are; others, outside Go's heap, are copied to the device first, unless its Stage has done so.
func (s *Scope) Gather(records []byte, index []int32, warps []pixel.Warp, spec pixel.OutSpec) torch.Tensor {
	if s.err != nil {
		return torch.Tensor{}
	}
	if err := pixel.Check(len(records)/pixel.RecordBytes, index, warps, spec); err != nil {
		s.Fail(err)
		return torch.Tensor{}
	}
	n, d, format := len(index), Float32, formatContiguous
	if spec.DType == pixel.BF16 {
		d = BFloat16
	}
	if spec.Layout == pixel.NHWC {
		format = formatChannelsLast
	}
	images := s.call("empty.memory_format", []int64{int64(n), 3, int64(spec.Size), int64(spec.Size)}, d, nil, s.device, nil, format)
	if s.err != nil || n == 0 {
		return images
	}
	if s.device.IsCPU() {
		memory, err := Bytes(images)
		if err == nil {
			err = pixel.Gather(memory, records, index, warps, spec)
		}
		if err != nil {
			s.Fail(err)
		}
		return images
	}
	c := s.Child()
	defer c.Close()
	c.gather(images, records, orders(index, warps), n, spec)
	return images
}

// gather runs the kernel.
func (s *Scope) gather(images torch.Tensor, records, orders []byte, n int, spec pixel.OutSpec) {
	what, from := From(s, orders, int64(len(orders))), s.there(records)
	if s.err != nil {
		return
	}
	out := C.mpp_out{size: C.int32_t(spec.Size), dtype: C.int32_t(spec.DType), layout: C.int32_t(spec.Layout)}
	mean, scale := spec.Factors()
	for i := range mean {
		out.mean[i], out.scale[i] = C.float(mean[i]), C.float(scale[i])
	}
	message := s.message()
	if status := C.mp_gather(handle(from), handle(what), C.int64_t(n), &out, handle(images), &message[0]); status != C.MP_OK {
		s.Fail(check(status, "gather", message))
	}
}

const warpBytes = int(unsafe.Sizeof(pixel.Warp{}))

// orders are index and warps as they lie in memory, one after the other.
func orders(index []int32, warps []pixel.Warp) []byte {
	return slices.Concat(unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(index))), 4*len(index)),
		unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(warps))), warpBytes*len(warps)))
}
