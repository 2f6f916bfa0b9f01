package ops

// #include "csrc/ops.h"
import "C"

import (
	"fmt"
	"runtime"
	"unsafe"

	torch "github.com/wangkuiyi/gotorch"
)

// FixedBlock is the number of elements that share an exponent in the Fixed functions: allreduce.Block.
const FixedBlock = C.MP_FIXED_BLOCK

// FixedExponents raises exponents, one for each FixedBlock elements of x, to the greatest biased exponents in x. This and the
// other Fixed functions are the fast twins of package allreduce's Kernels: host memory, one thread, the same bits.
func FixedExponents(exponents []byte, x []float32) {
	checkFixed(len(exponents), len(x), len(x))
	C.mp_fixed_exponents(first[C.uint8_t](exponents), first[C.float](x), C.int64_t(len(x)))
}

// FixedQuantize sets q to the integers that x's elements are in fixed point, or adds them.
func FixedQuantize(q []int32, x []float32, exponents []byte, bits int, add bool) {
	checkFixed(len(exponents), len(x), len(q))
	C.mp_fixed_quantize(first[C.int32_t](q), first[C.float](x), first[C.uint8_t](exponents), C.int64_t(len(x)), C.int(bits), C.int(truth(add)))
}

// FixedDequantize sets x to what the integers stand for.
func FixedDequantize(x []float32, q []int32, exponents []byte, bits int) {
	checkFixed(len(exponents), len(x), len(q))
	C.mp_fixed_dequantize(first[C.float](x), first[C.int32_t](q), first[C.uint8_t](exponents), C.int64_t(len(x)), C.int(bits))
}

// FixedAdd adds src to dst.
func FixedAdd(dst, src []int32) {
	checkFixed((len(src)+FixedBlock-1)/FixedBlock, len(src), len(dst))
	C.mp_fixed_add(first[C.int32_t](dst), first[C.int32_t](src), C.int64_t(len(src)))
}

// FixedAccumulate adds src to dst.
func FixedAccumulate(dst, src []float32) {
	checkFixed((len(src)+FixedBlock-1)/FixedBlock, len(src), len(dst))
	C.mp_fixed_accumulate(first[C.float](dst), first[C.float](src), C.int64_t(len(src)))
}

// FixedShorten sets pairs to x's integers, two in one, and leaves in x what rounding took away.
func FixedShorten(pairs []int32, x []float32, exponents []byte, bits int) {
	checkFixed(len(exponents), len(x), len(x))
	checkPairs(len(pairs), len(x))
	C.mp_fixed_shorten(first[C.int32_t](pairs), first[C.float](x), first[C.uint8_t](exponents), C.int64_t(len(x)), C.int(bits))
}

// FixedLengthen sets x to what the pairs stand for.
func FixedLengthen(x []float32, pairs []int32, exponents []byte, bits int) {
	checkFixed(len(exponents), len(x), len(x))
	checkPairs(len(pairs), len(x))
	C.mp_fixed_lengthen(first[C.float](x), first[C.int32_t](pairs), first[C.uint8_t](exponents), C.int64_t(len(x)), C.int(bits))
}

// FixedVectorsExponents is FixedExponents of elements lo to hi of vectors [L] on the scope's device, which looks at them where they
// are. lo is a multiple of FixedBlock.
func (s *Scope) FixedVectorsExponents(exponents []byte, vectors []torch.Tensor, lo, hi int) {
	if s.err != nil {
		return
	}
	checkFixed(len(exponents), hi-lo, hi-lo)
	all, message := handles(vectors), s.message()
	status := C.mp_fixed_vectors_exponents(first[C.uint8_t](exponents), unsafe.SliceData(all), C.int(len(all)), C.int64_t(lo), C.int64_t(hi), &message[0])
	runtime.KeepAlive(vectors)
	if err := check(status, "exponents", message); err != nil {
		s.Fail(err)
	}
}

// FixedVectorsQuantize sets q to the sum of the integers that the elements of vectors [L] from lo on are. lo is a multiple of
// FixedBlock.
func (s *Scope) FixedVectorsQuantize(q []int32, exponents []byte, vectors []torch.Tensor, lo, bits int) {
	if s.err != nil {
		return
	}
	checkFixed(len(exponents), len(q), len(q))
	all, message := handles(vectors), s.message()
	status := C.mp_fixed_vectors_quantize(first[C.int32_t](q), first[C.uint8_t](exponents), unsafe.SliceData(all), C.int(len(all)), C.int64_t(lo),
		C.int64_t(lo+len(q)), C.int(bits), &message[0])
	runtime.KeepAlive(vectors)
	if err := check(status, "quantize", message); err != nil {
		s.Fail(err)
	}
}

// handles are what C calls tensors.
func handles(tensors []torch.Tensor) []C.mp_tensor {
	all := make([]C.mp_tensor, len(tensors))
	for i, t := range tensors {
		all[i] = handle(t)
	}
	return all
}

// checkPairs panics where C would leave its pairs.
func checkPairs(pairs, x int) {
	if pairs != x/FixedBlock*(FixedBlock/2)+(x%FixedBlock+1)/2 {
		panic(fmt.Sprintf("fixed point: %d elements beside %d pairs", x, pairs))
	}
}

// checkFixed panics where C would leave its vectors.
func checkFixed(exponents, x, q int) {
	if x != q || exponents != (x+FixedBlock-1)/FixedBlock {
		panic(fmt.Sprintf("fixed point: %d elements beside %d with %d exponents", x, q, exponents))
	}
}

// first is the address of a slice's first element, as C calls its type.
func first[C, Go any](s []Go) *C { return (*C)(unsafe.Pointer(unsafe.SliceData(s))) }
