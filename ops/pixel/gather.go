package pixel

/*
#include "csrc/pixel.h"
*/
import "C"

import (
	"fmt"
	"math"
	"runtime"
	"unsafe"
)

// DType is the type of the values that Gather writes.
type DType int32

const (
	F32  DType = C.MPP_F32
	BF16 DType = C.MPP_BF16 // rounded to nearest, ties to even
)

// Bytes is the size of one value.
func (d DType) Bytes() int {
	if d == BF16 {
		return 2
	}
	return 4
}

// Layout is the order of the values that Gather writes.
type Layout int32

const (
	NHWC Layout = C.MPP_NHWC // channels_last
	NCHW Layout = C.MPP_NCHW
)

// OutSpec says what Gather writes: Size x Size pixels an image, each value v of 0..255 as (v/255 - Mean) / Std.
type OutSpec struct {
	Size      int
	DType     DType
	Layout    Layout
	Mean, Std [3]float32
}

// Mean and Std are what the reference normalises red, green and blue with, of values from 0 to 1.
func Mean() []float64 { return []float64{0.485, 0.456, 0.406} }
func Std() []float64  { return []float64{0.229, 0.224, 0.225} }

// ImageNet fills in Mean and Std.
func (s OutSpec) ImageNet() OutSpec {
	for c := range 3 {
		s.Mean[c], s.Std[c] = float32(Mean()[c]), float32(Std()[c])
	}
	return s
}

// Bytes is the size of one image written.
func (s OutSpec) Bytes() int { return s.Size * s.Size * 3 * s.DType.Bytes() }

// Factors are what a value v becomes (v - mean) * scale by: 255 Mean and 1/(255 Std), both rounded to float32 once.
func (s OutSpec) Factors() (mean, scale [3]float32) {
	for i := range 3 {
		mean[i] = float32(float64(s.Mean[i]) * 255)
		scale[i] = float32(1 / (float64(s.Std[i]) * 255))
	}
	return mean, scale
}

// c is the same for C.
func (s OutSpec) c() C.mpp_out {
	out := C.mpp_out{size: C.int32_t(s.Size), dtype: C.int32_t(s.DType), layout: C.int32_t(s.Layout)}
	mean, scale := s.Factors()
	for i := range 3 {
		out.mean[i], out.scale[i] = C.float(mean[i]), C.float(scale[i])
	}
	return out
}

// Gather writes the records index, each warped by the Warp at its place, to dst: N, H, W, C or N, C, H, W values of
// len(index)*spec.Bytes() bytes. records holds records of RecordBytes one after another, such as a mapped pack. One pass, on
// the calling thread; safe for concurrent use. The error is ErrArgument: an index beyond the records, a Warp out of range.
func Gather(dst, records []byte, index []int32, warps []Warp, spec OutSpec) error {
	if err := fits(dst, records, index, warps, spec.Bytes()); err != nil {
		return err
	}
	for _, s := range spec.Std {
		if !(s > 0) || math.IsInf(float64(s), 0) {
			return fmt.Errorf("gather: %w: standard deviation %v", ErrArgument, s)
		}
	}
	if len(index) == 0 {
		return nil
	}
	var why message
	out := spec.c()
	status := C.mpp_gather((*C.uint8_t)(unsafe.SliceData(records)), C.int64_t(len(records)/RecordBytes),
		(*C.int32_t)(unsafe.SliceData(index)), (*C.mpp_warp)(unsafe.Pointer(unsafe.SliceData(warps))), C.int64_t(len(index)),
		&out, unsafe.Pointer(unsafe.SliceData(dst)), why.buffer())
	runtime.KeepAlive(warps)
	return why.check("gather", status)
}

// Check says whether Gather can do this with so many records: for whoever does it elsewhere, on a GPU.
func Check(records int, index []int32, warps []Warp, spec OutSpec) error {
	if len(index) != len(warps) {
		return fmt.Errorf("gather: %w: %d images but %d warps", ErrArgument, len(index), len(warps))
	}
	var why message
	out := spec.c()
	status := C.mpp_check(C.int64_t(records), (*C.int32_t)(unsafe.SliceData(index)), (*C.mpp_warp)(unsafe.Pointer(unsafe.SliceData(warps))),
		C.int64_t(len(index)), &out, why.buffer())
	runtime.KeepAlive(warps)
	return why.check("gather", status)
}

// GatherBytes is Gather before normalisation: it writes N, size, size, 3 bytes.
func GatherBytes(dst, records []byte, index []int32, warps []Warp, size int) error {
	if err := fits(dst, records, index, warps, size*size*3); err != nil || len(index) == 0 {
		return err
	}
	var why message
	out := C.mpp_out{size: C.int32_t(size)}
	status := C.mpp_gather_u8((*C.uint8_t)(unsafe.SliceData(records)), C.int64_t(len(records)/RecordBytes),
		(*C.int32_t)(unsafe.SliceData(index)), (*C.mpp_warp)(unsafe.Pointer(unsafe.SliceData(warps))), C.int64_t(len(index)),
		&out, (*C.uint8_t)(unsafe.SliceData(dst)), why.buffer())
	runtime.KeepAlive(warps)
	return why.check("gather", status)
}

// fits checks what the C library cannot see: the lengths of slices.
func fits(dst, records []byte, index []int32, warps []Warp, each int) error {
	switch {
	case len(records)%RecordBytes != 0:
		return fmt.Errorf("gather: %w: %d bytes of records, not a multiple of %d", ErrArgument, len(records), RecordBytes)
	case len(index) != len(warps):
		return fmt.Errorf("gather: %w: %d images but %d warps", ErrArgument, len(index), len(warps))
	case each < 1 || len(dst) != len(index)*each:
		return fmt.Errorf("gather: %w: %d images of %d bytes into %d", ErrArgument, len(index), each, len(dst))
	}
	return nil
}
