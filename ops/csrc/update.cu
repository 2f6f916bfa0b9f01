// The GPU's launchers of update.h. Memory sets the pace: a thread handles four elements that lie together.
#include <cuda_runtime.h>

#include "update.h"

namespace {

constexpr int kThreads = 256;
constexpr int kWide = 4;

template <class Rule>
__global__ void step(mp_rule r, mp::Update u, const double *norm) {
  const int64_t at = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * kWide;
  if (at >= u.length) return;
  const float factor = mp::gradient_factor(r, norm);
  const float decay = u.decay[at / MP_BLOCK];
  union Four {
    float4 v;
    float f[kWide];
  };
  Four w, g, first, second = {};
  w.v = *reinterpret_cast<const float4 *>(u.weights + at);
  g.v = *reinterpret_cast<const float4 *>(u.grads + at);
  first.v = *reinterpret_cast<const float4 *>(u.first + at);
  if (Rule::has_second) second.v = *reinterpret_cast<const float4 *>(u.second + at);
  for (int i = 0; i < kWide; i++) w.f[i] = Rule::next(r, w.f[i], g.f[i] * factor, decay, first.f[i], second.f[i]);
  *reinterpret_cast<float4 *>(u.weights + at) = w.v;
  *reinterpret_cast<float4 *>(u.first + at) = first.v;
  if (Rule::has_second) *reinterpret_cast<float4 *>(u.second + at) = second.v;
  if (u.average) {
    Four a;
    a.v = *reinterpret_cast<const float4 *>(u.average + at);
    for (int i = 0; i < kWide; i++) a.f[i] = mp::average_next(r, a.f[i], w.f[i]);
    *reinterpret_cast<float4 *>(u.average + at) = a.v;
  }
}

// A chunk to kNormLanes threads; the lanes are halved by shuffles within them, as fold in update.cc does.
__global__ void square_chunks(const float *g, int64_t length, double *partial, int64_t chunks) {
  const int lane = threadIdx.x % mp::kNormLanes;
  const int64_t chunk = static_cast<int64_t>(blockIdx.x) * (kThreads / mp::kNormLanes) + threadIdx.x / mp::kNormLanes;
  double sum = 0;
  const int64_t from = chunk * mp::kNormChunk;
  const int64_t to = from + mp::kNormChunk < length ? from + mp::kNormChunk : length;
  for (int64_t i = from + lane; i < to; i += mp::kNormLanes) sum += static_cast<double>(g[i]) * static_cast<double>(g[i]);
  for (int half = mp::kNormLanes / 2; half > 0; half /= 2) sum += __shfl_down_sync(0xffffffff, sum, half, mp::kNormLanes);
  if (lane == 0 && chunk < chunks) partial[chunk] = sum;
}

__global__ void sum_chunks(const double *partial, int64_t chunks, double *norm) {
  __shared__ double lanes[mp::kChunkLanes];
  double sum = 0;
  for (int64_t c = threadIdx.x; c < chunks; c += mp::kChunkLanes) sum += partial[c];
  lanes[threadIdx.x] = sum;
  for (int half = mp::kChunkLanes / 2; half > 0; half /= 2) {
    __syncthreads();
    if (static_cast<int>(threadIdx.x) < half) lanes[threadIdx.x] += lanes[threadIdx.x + half];
  }
  if (threadIdx.x == 0) *norm = sqrt(lanes[0]);
}

unsigned blocks(int64_t items, int64_t each) { return static_cast<unsigned>((items + each - 1) / each); }

}  // namespace

// This library has a CUDA runtime of its own, which does not know what libtorch's takes for the current GPU.

int mp_cuda_update(const mp_rule *rule, const mp::Update *u, const double *norm, int gpu, void *stream) {
  if (u->length == 0) return 0;
  if (const cudaError_t failed = cudaSetDevice(gpu); failed != cudaSuccess) return failed;
  auto *s = static_cast<cudaStream_t>(stream);
  const unsigned grid = blocks(u->length, kThreads * kWide);
  if (rule->kind == MP_ADAMW) {
    step<mp::AdamW><<<grid, kThreads, 0, s>>>(*rule, *u, norm);
  } else {
    step<mp::SGD><<<grid, kThreads, 0, s>>>(*rule, *u, norm);
  }
  return cudaGetLastError();
}

int mp_cuda_norm(const float *grads, int64_t length, double *partial, double *norm, int gpu, void *stream) {
  if (const cudaError_t failed = cudaSetDevice(gpu); failed != cudaSuccess) return failed;
  auto *s = static_cast<cudaStream_t>(stream);
  const int64_t chunks = blocks(length, mp::kNormChunk);
  if (chunks > 0) square_chunks<<<blocks(chunks, kThreads / mp::kNormLanes), kThreads, 0, s>>>(grads, length, partial, chunks);
  sum_chunks<<<1, mp::kChunkLanes, 0, s>>>(partial, chunks, norm);
  return cudaGetLastError();
}
