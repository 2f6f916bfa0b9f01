// What an optimizer does to one element, in one source for the CPU (update.cc) and the GPU (update.cu). Both compile it
// without fused multiply-adds, so that they give the same bits. The plain-Go twins are in ops/update_test.go.
#pragma once

#include <math.h>

#include "hostdevice.h"
#include "ops.h"

namespace mp {

// One flat buffer is MP_BLOCK elements to a block; decay has one element a block.
struct Update {
  float *weights;
  const float *grads;
  const float *decay;
  float *first;    // momentum, or Adam's first moment
  float *second;   // Adam's second moment; null for SGD
  float *average;  // of the weights; null for none
  int64_t length;
};

// The factor of the gradient: rule.scale, lowered so that the norm of the scaled gradient is at most rule.max_norm
// (torch.nn.utils.clip_grad_norm_). norm is that of the gradient before scaling.
MP_HOST_DEVICE inline float gradient_factor(const mp_rule &r, const double *norm) {
  if (!norm) return static_cast<float>(r.scale);
  double clip = r.max_norm / (r.scale * *norm + 1e-6);
  return static_cast<float>(clip < 1 ? r.scale * clip : r.scale);
}

// torch.optim.SGD, dampening 0: b <- mu b + g; w <- w - rate b, or w - rate (g + mu b) with Nesterov.
struct SGD {
  static constexpr bool has_second = false;
  static MP_HOST_DEVICE inline float next(const mp_rule &r, float w, float g, float decay, float &b, float &) {
    g += decay * w;
    b = r.beta1 * b + g;
    return w - r.rate * (r.nesterov ? g + r.beta1 * b : b);
  }
};

// torch.optim.AdamW (Loshchilov & Hutter, 2019); rule.rate is lr / (1 - beta1^t), rule.root is sqrt(1 - beta2^t).
struct AdamW {
  static constexpr bool has_second = true;
  static MP_HOST_DEVICE inline float next(const mp_rule &r, float w, float g, float decay, float &m, float &v) {
    w -= r.decay_rate * decay * w;
    m += r.rest1 * (g - m);
    v = r.beta2 * v + r.rest2 * g * g;
    return w - r.rate * m / (sqrtf(v) / r.root + r.eps);
  }
};

MP_HOST_DEVICE inline float average_next(const mp_rule &r, float average, float w) {
  return average + r.follow * (w - average);
}

// The norm is a sum of squares in float64 in an order that no thread count changes: kNormChunk elements a chunk, added up
// in kNormLanes interleaved lanes; the chunks' sums in kChunkLanes interleaved lanes; lanes are halved until one is left.
constexpr int kNormChunk = 1024;
constexpr int kNormLanes = 16;
constexpr int kChunkLanes = 256;

}  // namespace mp

// The launchers of update.cu, found by dlsym. stream is a cudaStream_t of that GPU; a result other than 0 is a cudaError_t.
extern "C" {
int mp_cuda_update(const mp_rule *rule, const mp::Update *u, const double *norm, int gpu, void *stream);
int mp_cuda_norm(const float *grads, int64_t length, double *partial, double *norm, int gpu, void *stream);
}
