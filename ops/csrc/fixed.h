// What shared-exponent fixed point makes of one element, in one source for the CPU (fixed.cc) and the GPU (fixed.cu). Package
// allreduce describes it and has it in plain Go, with the same bits.
#pragma once

#include <math.h>
#include <string.h>

#include "hostdevice.h"
#include "ops.h"

namespace mp::fixed {

constexpr int kMinExponent = 32;  // allreduce: minExponent

// 2^n for -126 <= n <= 127.
MP_HOST_DEVICE inline float power(int n) {
  const uint32_t bits = static_cast<uint32_t>(n + 127) << 23;
  float f;
  memcpy(&f, &bits, sizeof f);
  return f;
}

MP_HOST_DEVICE inline int scale_of(uint8_t exponent, int bits) { return bits + 126 - (exponent > kMinExponent ? exponent : kMinExponent); }

// The integer that x is where the block's factor is power(scale_of(its exponent, bits)).
MP_HOST_DEVICE inline int32_t integer(float x, float factor) { return static_cast<int32_t>(rintf(x * factor)); }

}  // namespace mp::fixed

// The launchers of fixed.cu, found by dlsym, on memory of a GPU. stream is a cudaStream_t of that GPU; a result other than 0 is a
// cudaError_t.
extern "C" {
int mp_cuda_fixed_exponents(uint8_t *exponents, const float *x, int64_t n, int gpu, void *stream);
int mp_cuda_fixed_quantize(int32_t *q, const float *x, const uint8_t *exponents, int64_t n, int bits, int add, int gpu, void *stream);
}
