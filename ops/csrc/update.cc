// One optimizer step over flat buffers, in one pass over memory, and the norm of a flat gradient.
#include "update.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/record_function.h>
#include <c10/core/Stream.h>

#include <cmath>

#include "cuda.h"
#include "guard.h"
#include "lanes.h"

namespace {

using mp::Update;

template <class Rule>
[[gnu::always_inline]] inline void step(const mp_rule &rule, const Update &u, float factor, int64_t begin, int64_t end) {
  const mp_rule r = rule;
  for (int64_t block = begin; block < end; block++) {
    const int64_t at = block * MP_BLOCK;
    float *w = u.weights + at;
    const float *g = u.grads + at;
    float *first = u.first + at;
    float *second = Rule::has_second ? u.second + at : nullptr;
    const float decay = u.decay[block];
#pragma GCC ivdep
    for (int i = 0; i < MP_BLOCK; i++) {
      float none = 0;
      w[i] = Rule::next(r, w[i], g[i] * factor, decay, first[i], Rule::has_second ? second[i] : none);
    }
    if (u.average) {
      float *average = u.average + at;
#pragma GCC ivdep
      for (int i = 0; i < MP_BLOCK; i++) average[i] = mp::average_next(r, average[i], w[i]);
    }
  }
}

MP_CLONES void step_sgd(const mp_rule &r, const Update &u, float factor, int64_t begin, int64_t end) {
  step<mp::SGD>(r, u, factor, begin, end);
}

MP_CLONES void step_adamw(const mp_rule &r, const Update &u, float factor, int64_t begin, int64_t end) {
  step<mp::AdamW>(r, u, factor, begin, end);
}

// Halves the lanes until one is left.
double fold(double *lanes, int n) {
  for (int half = n / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; i++) lanes[i] += lanes[i + half];
  }
  return lanes[0];
}

// length is a multiple of MP_BLOCK, which is kNormLanes.
MP_CLONES void square_lanes(const float *g, int64_t length, double *lanes) {
  double sums[mp::kNormLanes] = {};
  for (int64_t i = 0; i < length; i += mp::kNormLanes) {
    for (int l = 0; l < mp::kNormLanes; l++) sums[l] += static_cast<double>(g[i + l]) * static_cast<double>(g[i + l]);
  }
  for (int l = 0; l < mp::kNormLanes; l++) lanes[l] = sums[l];
}

static_assert(MP_BLOCK == mp::kNormLanes);

double host_norm(const float *g, int64_t length) {
  const int64_t chunks = (length + mp::kNormChunk - 1) / mp::kNormChunk;
  std::vector<double> partial(chunks);
  at::parallel_for(0, chunks, 32, [&](int64_t begin, int64_t end) {
    for (int64_t c = begin; c < end; c++) {
      double lanes[mp::kNormLanes];
      int64_t from = c * mp::kNormChunk;
      square_lanes(g + from, std::min<int64_t>(mp::kNormChunk, length - from), lanes);
      partial[c] = fold(lanes, mp::kNormLanes);
    }
  });
  double lanes[mp::kChunkLanes] = {};
  for (int64_t c = 0; c < chunks; c++) lanes[c % mp::kChunkLanes] += partial[c];
  return std::sqrt(fold(lanes, mp::kChunkLanes));
}

void launched(int error, const char *what) { TORCH_CHECK(error == 0, what, ": CUDA error ", error); }

const float *floats(mp_tensor t, int64_t length, const at::Tensor &like, const char *what) {
  at::Tensor &x = mp::tensor(t);
  TORCH_CHECK(x.scalar_type() == at::kFloat && x.is_contiguous() && x.dim() == 1 && x.numel() == length && x.device() == like.device(),
              what, " must be float32 [", length, "] on ", like.device(), ", it is ", x.scalar_type(), " ", x.sizes(), " on ", x.device());
  return x.const_data_ptr<float>();
}

float *writable(mp_tensor t, int64_t length, const at::Tensor &like, const char *what) {
  return const_cast<float *>(floats(t, length, like, what));
}

const double *double_scalar(mp_tensor t, const at::Tensor &like) {
  at::Tensor &x = mp::tensor(t);
  TORCH_CHECK(x.scalar_type() == at::kDouble && x.numel() == 1 && x.device() == like.device(), "the norm must be one float64 on ", like.device());
  return x.const_data_ptr<double>();
}

}  // namespace

int mp_update_kernel(mp_tensor weights) {
  return !mp::tensor(weights).is_cuda() || mp::launcher<decltype(mp_cuda_update)>("mp_cuda_update") != nullptr;
}

int mp_update(const mp_rule *rule, const mp_flats *flats, char *err) {
  return mp::guard(err, [&] {
    RECORD_FUNCTION("mp::update", c10::ArrayRef<const c10::IValue>{});
    at::Tensor &weights = mp::tensor(flats->weights);
    const int64_t n = weights.numel();
    TORCH_CHECK(n % MP_BLOCK == 0, "a flat buffer has a multiple of ", MP_BLOCK, " elements, not ", n);
    Update u{};
    u.length = n;
    u.weights = writable(flats->weights, n, weights, "weights");
    u.grads = floats(flats->grads, n, weights, "gradient");
    u.decay = floats(flats->decay, n / MP_BLOCK, weights, "decay");
    u.first = writable(flats->first, n, weights, "first state");
    if (rule->kind == MP_ADAMW) u.second = writable(flats->second, n, weights, "second state");
    if (flats->average) u.average = writable(flats->average, n, weights, "average");
    const double *norm = flats->norm ? double_scalar(flats->norm, weights) : nullptr;
    if (weights.is_cuda()) {
      launched(mp::launcher<decltype(mp_cuda_update)>("mp_cuda_update")(rule, &u, norm, weights.get_device(), mp::stream_of(weights)), "update");
      return;
    }
    const float factor = mp::gradient_factor(*rule, norm);
    at::parallel_for(0, n / MP_BLOCK, 1024, [&](int64_t begin, int64_t end) {
      rule->kind == MP_ADAMW ? step_adamw(*rule, u, factor, begin, end) : step_sgd(*rule, u, factor, begin, end);
    });
  });
}

int mp_norm(mp_tensor grads, mp_tensor *norm, char *err) {
  return mp::guard(err, [&] {
    RECORD_FUNCTION("mp::norm", c10::ArrayRef<const c10::IValue>{});
    at::Tensor &g = mp::tensor(grads);
    const int64_t n = g.numel();
    const float *data = floats(grads, n, g, "gradient");
    TORCH_CHECK(n % MP_BLOCK == 0, "a flat buffer has a multiple of ", MP_BLOCK, " elements, not ", n);
    at::Tensor out = at::empty({1}, g.options().dtype(at::kDouble));
    if (g.is_cuda()) {
      at::Tensor partial = at::empty({(n + mp::kNormChunk - 1) / mp::kNormChunk}, out.options());
      launched(mp::launcher<decltype(mp_cuda_norm)>("mp_cuda_norm")(data, n, partial.data_ptr<double>(), out.data_ptr<double>(), g.get_device(), mp::stream_of(g)), "norm");
    } else {
      *out.data_ptr<double>() = host_norm(data, n);
    }
    *norm = mp::handle(out);
  });
}
