// The launcher for the GPU: a few blocks an image, a thread a pixel at a time, the arithmetic of warp.h.
#include <cuda_runtime.h>

#include <cstdio>

#include "warp.h"

namespace mpp {
namespace {

constexpr int kThreads = 256;
constexpr int kBlocks = 8;  // an image; each takes every eighth row

// What a block knows of one image.
struct Shared {
  uint32_t count[3][256];
  unsigned long long sum[3];
  uint8_t table[3 * 256];
};

// Fills p and, in shared memory, what it points at. All threads of the block call it.
__device__ void prepare(const uint8_t *record, const mpp_warp *warp, Shared *shared, Prepared *p) {
  const mpp_warp &w = *warp;
  p->record = record;
  p->warp = warp;
  p->table = shared->table;
  const bool wants = wants_statistics(w);  // the same for all threads
  if (wants) {
    for (int i = threadIdx.x; i < 3 * 256; i += kThreads) shared->count[i / 256][i % 256] = 0;
    if (threadIdx.x < 3) shared->sum[threadIdx.x] = 0;
    __syncthreads();
    unsigned long long sum[3] = {0, 0, 0};
    for (int i = threadIdx.x; i < MPP_SIDE * MPP_SIDE; i += kThreads) {
      for (int c = 0; c < 3; c++) {
        const uint8_t v = record[3 * i + c];
        atomicAdd(&shared->count[c][v], 1u);
        sum[c] += v;
      }
    }
    for (int c = 0; c < 3; c++) atomicAdd(&shared->sum[c], sum[c]);
    __syncthreads();
  }
  const uint64_t grey = wants ? grey_sum(shared->sum[0], shared->sum[1], shared->sum[2]) : 0;
  for (int c = 0; c < 3; c++) p->offset[c] = matrix_offset(w, grey, c);
  if (w.tone != MPP_TONE_NONE && threadIdx.x < 3) {
    tone_table(w, shared->count[threadIdx.x], shared->table + 256 * threadIdx.x);
  }
  __syncthreads();
}

template <class Out>
__device__ inline Out rounded(float f);
template <>
__device__ inline float rounded<float>(float f) {
  return f;
}
template <>
__device__ inline uint16_t rounded<uint16_t>(float f) {
  return bf16(f);
}

template <class Out>
__global__ void __launch_bounds__(kThreads)
    gather_kernel(const uint8_t *records, const int32_t *index, const mpp_warp *warps, mpp_out out, Out *dst) {
  __shared__ Shared own_shared, mate_shared;
  const int64_t image = blockIdx.x;
  const mpp_warp &w = warps[image];
  Prepared own, mate;
  prepare(records + static_cast<int64_t>(index[image]) * MPP_RECORD, &w, &own_shared, &own);
  if (w.mix != MPP_MIX_NONE) {
    prepare(records + static_cast<int64_t>(index[w.mate]) * MPP_RECORD, warps + w.mate, &mate_shared, &mate);
  }
  const int size = out.size;
  Out *to = dst + image * size * size * 3;
  for (int y = blockIdx.y; y < size; y += gridDim.y) {
    for (int x = threadIdx.x; x < size; x += kThreads) {
      int v[3], other[3];
      const bool pasted = w.mix == MPP_MIX_PASTE && within(w.paste, x, y);
      if (!pasted) pixel(own, x, y, v);
      if (pasted || w.mix == MPP_MIX_BLEND) pixel(mate, x, y, other);
      for (int c = 0; c < 3; c++) {
        int q15 = w.mix == MPP_MIX_BLEND ? blended(v[c], other[c], w.share) : (pasted ? other[c] : v[c]) << 15;
        const int64_t at = out.layout == MPP_NHWC ? (static_cast<int64_t>(y) * size + x) * 3 + c
                                                  : (static_cast<int64_t>(c) * size + y) * size + x;
        to[at] = rounded<Out>(normalised(q15, out.mean[c], out.scale[c]));
      }
    }
  }
}

}  // namespace
}  // namespace mpp

int mpp_cuda_gather(const uint8_t *records, const int32_t *index, const mpp_warp *warps, int64_t n, const mpp_out *out,
                    void *dst, int gpu, void *stream, char *error) {
  if (n == 0) return MPP_OK;
  const cudaError_t taken = cudaSetDevice(gpu);  // this library's own CUDA runtime does not know which is libtorch's current one
  const dim3 grid(static_cast<unsigned>(n), mpp::kBlocks);
  auto *s = static_cast<cudaStream_t>(stream);
  if (out->dtype == MPP_BF16) {
    mpp::gather_kernel<<<grid, mpp::kThreads, 0, s>>>(records, index, warps, *out, static_cast<uint16_t *>(dst));
  } else {
    mpp::gather_kernel<<<grid, mpp::kThreads, 0, s>>>(records, index, warps, *out, static_cast<float *>(dst));
  }
  const cudaError_t failed = taken == cudaSuccess ? cudaGetLastError() : taken;
  if (failed == cudaSuccess) return MPP_OK;
  std::snprintf(error, MPP_ERROR_BYTES, "launch gather: %s", cudaGetErrorString(failed));
  return failed == cudaErrorMemoryAllocation ? MPP_MEMORY : MPP_ARGUMENT;
}
