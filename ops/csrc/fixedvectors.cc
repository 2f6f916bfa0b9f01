// Shared-exponent fixed point of vectors where they are: on a GPU by our kernels, or without these, as on the CPU, by the loops of
// fixed.cc.
#include <ATen/Functions.h>

#include <algorithm>

#include "cuda.h"
#include "fixed.h"
#include "guard.h"

namespace {

constexpr int64_t kStride = 16 * MP_FIXED_BLOCK;  // elements of all vectors one after another: their sum stays in a cache

int64_t blocks(int64_t n) { return (n + MP_FIXED_BLOCK - 1) / MP_FIXED_BLOCK; }

const float *elements(const at::Tensor &v, int64_t lo, int64_t hi) {
  TORCH_CHECK(v.scalar_type() == at::kFloat && v.dim() == 1 && v.is_contiguous(), "a vector must be one-dimensional float32 without gaps");
  TORCH_CHECK(lo >= 0 && lo <= hi && hi <= v.numel() && lo % MP_FIXED_BLOCK == 0, "elements ", lo, " to ", hi, " of ", v.numel());
  return v.const_data_ptr<float>() + lo;
}

void launched(int failed) { TORCH_CHECK(!failed, "launch fixed point: CUDA error ", failed); }

// Calls f(elements, n) for those of each vector in host memory, wherever it is.
template <class F>
void host(const mp_tensor *vectors, int n, int64_t lo, int64_t hi, F &&f) {
  for (int i = 0; i < n; i++) {
    const at::Tensor &v = mp::tensor(vectors[i]);
    elements(v, lo, hi);
    const at::Tensor here = v.is_cpu() ? v.slice(0, lo, hi) : v.slice(0, lo, hi).cpu();
    f(i, here.const_data_ptr<float>());
  }
}

}  // namespace

int mp_fixed_vectors_exponents(uint8_t *exponents, const mp_tensor *vectors, int n, int64_t lo, int64_t hi, char *err) {
  return mp::guard(err, [&] {
    auto *launch = mp::launcher<decltype(mp_cuda_fixed_exponents)>("mp_cuda_fixed_exponents");
    if (n == 0) return;
    if (mp::tensor(vectors[0]).is_cpu() || !launch) {
      host(vectors, n, lo, hi, [&](int, const float *x) { mp_fixed_exponents(exponents, x, hi - lo); });
      return;
    }
    at::Tensor here = at::from_blob(exponents, {blocks(hi - lo)}, at::kByte), there = here.to(mp::tensor(vectors[0]).device());
    for (int i = 0; i < n; i++) {
      const at::Tensor &v = mp::tensor(vectors[i]);
      launched(launch(there.mutable_data_ptr<uint8_t>(), elements(v, lo, hi), hi - lo, there.get_device(), mp::stream_of(v)));
    }
    here.copy_(there);
  });
}

int mp_fixed_vectors_quantize(int32_t *q, const uint8_t *exponents, const mp_tensor *vectors, int n, int64_t lo, int64_t hi, int bits,
                              char *err) {
  return mp::guard(err, [&] {
    auto *launch = mp::launcher<decltype(mp_cuda_fixed_quantize)>("mp_cuda_fixed_quantize");
    if (n == 0) {
      std::fill(q, q + (hi - lo), 0);
      return;
    }
    if (mp::tensor(vectors[0]).is_cpu() || !launch) {
      for (int64_t from = lo; from < hi; from += kStride) {
        const int64_t to = std::min(hi, from + kStride);
        host(vectors, n, from, to, [&](int i, const float *x) {
          mp_fixed_quantize(q + (from - lo), x, exponents + (from - lo) / MP_FIXED_BLOCK, to - from, bits, i > 0);
        });
      }
      return;
    }
    const at::Device gpu = mp::tensor(vectors[0]).device();
    const at::Tensor scales = at::from_blob(const_cast<uint8_t *>(exponents), {blocks(hi - lo)}, at::kByte).to(gpu);
    at::Tensor sum = at::empty({hi - lo}, at::TensorOptions().dtype(at::kInt).device(gpu));
    for (int i = 0; i < n; i++) {
      const at::Tensor &v = mp::tensor(vectors[i]);
      launched(launch(sum.mutable_data_ptr<int32_t>(), elements(v, lo, hi), scales.const_data_ptr<uint8_t>(), hi - lo, bits, i > 0,
                      sum.get_device(), mp::stream_of(v)));
    }
    at::from_blob(q, {hi - lo}, at::kInt).copy_(sum);
  });
}
