// The GPU's launchers of fixed.h: a block of threads for each block of elements, which share an exponent.
#include <cuda_runtime.h>

#include "fixed.h"

namespace {

constexpr int kWarp = 32;

__global__ void exponents_of(uint8_t *exponents, const float *x, int64_t n) {
  __shared__ uint32_t greatest[MP_FIXED_BLOCK / kWarp];
  const int64_t at = static_cast<int64_t>(blockIdx.x) * MP_FIXED_BLOCK + threadIdx.x;
  uint32_t mine = at < n ? __float_as_uint(x[at]) & 0x7fffffffu : 0;
  mine = __reduce_max_sync(0xffffffffu, mine);
  if (threadIdx.x % kWarp == 0) greatest[threadIdx.x / kWarp] = mine;
  __syncthreads();
  if (threadIdx.x > 0) return;
  for (const uint32_t v : greatest) mine = max(mine, v);
  exponents[blockIdx.x] = max(exponents[blockIdx.x], static_cast<uint8_t>(mine >> 23));
}

__global__ void quantize(int32_t *q, const float *x, const uint8_t *exponents, int64_t n, int bits, bool add) {
  const int64_t at = static_cast<int64_t>(blockIdx.x) * MP_FIXED_BLOCK + threadIdx.x;
  if (at >= n) return;
  const int32_t mine = mp::fixed::integer(x[at], mp::fixed::power(mp::fixed::scale_of(exponents[blockIdx.x], bits)));
  q[at] = add ? q[at] + mine : mine;
}

unsigned blocks(int64_t n) { return static_cast<unsigned>((n + MP_FIXED_BLOCK - 1) / MP_FIXED_BLOCK); }

}  // namespace

int mp_cuda_fixed_exponents(uint8_t *exponents, const float *x, int64_t n, int gpu, void *stream) {
  if (n == 0) return 0;
  if (const cudaError_t failed = cudaSetDevice(gpu); failed != cudaSuccess) return failed;
  exponents_of<<<blocks(n), MP_FIXED_BLOCK, 0, static_cast<cudaStream_t>(stream)>>>(exponents, x, n);
  return cudaGetLastError();
}

int mp_cuda_fixed_quantize(int32_t *q, const float *x, const uint8_t *exponents, int64_t n, int bits, int add, int gpu, void *stream) {
  if (n == 0) return 0;
  if (const cudaError_t failed = cudaSetDevice(gpu); failed != cudaSuccess) return failed;
  quantize<<<blocks(n), MP_FIXED_BLOCK, 0, static_cast<cudaStream_t>(stream)>>>(q, x, exponents, n, bits, add != 0);
  return cudaGetLastError();
}
