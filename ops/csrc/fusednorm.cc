// Batch norm, the sum with a residual and the rectifier, in two passes over memory forward (statistics, result) and two back
// (sums, gradient) where a composition of ATen operations takes up to five and four.
//
//   v[m,c] = x[m,c] scale[c] + shift[c] (+ residual[m,c]),  y = max(v, 0),  scale = weight/sigma, shift = bias - mean scale
//   g = dy where v > 0, else 0; the residual's gradient is g
//   dbias = sum g,  dweight = sum g (x - mean) / sigma
//   dx = scale (g - mean of g - (x - mean) mean of g (x - mean) / sigma^2);  of running statistics dx = scale g
//
// Rows m are all pixels of all samples. They are cut into blocks whose size depends on C alone; a block's sums are float32,
// the blocks' sums are added up in float64 in their order, so no bit depends on the number of threads. Without fused
// multiply-adds (Makefile) v is the same bits whenever it is computed: the backward pass computes it again instead of reading y.
#include "fusednorm.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/record_function.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "cpu.h"
#include "guard.h"
#include "lanes.h"

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr int64_t kBlock = 8192;  // elements of a block: what is read twice is still in the processor's cache
constexpr int64_t kGrain = 4;     // blocks that are worth a thread

// What follows the norm.
enum class Tail { bare, rectified, joined };  // joined: with a residual, and rectified

struct Shape {
  int64_t m, c, rows;  // rows of a block
  Shape(const at::Tensor &x) : m(x.numel() / x.size(1)), c(x.size(1)), rows(std::clamp<int64_t>(kBlock / c, 8, 256)) {}
  int64_t blocks() const { return (m + rows - 1) / rows; }
  int64_t length(int64_t block) const { return std::min(rows, m - block * rows); }

  // Runs f(first element of a block, its rows, block).
  template <class F>
  void each(F &&f) const {
    at::parallel_for(0, blocks(), kGrain, [&](int64_t begin, int64_t end) {
      for (int64_t b = begin; b < end; b++) f(b * rows * c, length(b), b);
    });
  }
};

// Constants of the channels, the rows of a tensor [4 C].
struct Channels {
  float *mean, *invstd, *scale, *shift;
  static constexpr int64_t kRows = 4;
  Channels(const at::Tensor &t) : mean(t.data_ptr<float>()) {
    const int64_t c = t.size(1);
    invstd = mean + c, scale = invstd + c, shift = scale + c;
  }
};

using mp::Eight, mp::kWidth, mp::load, mp::store;
typedef int32_t Bits __attribute__((vector_size(32)));

#define MP_UNROLL _Pragma("GCC unroll 4")

// g where v > 0, else 0. What is no number passes.
MP_INLINE void mask(Eight &g, const Eight &v) { g = reinterpret_cast<Eight>(reinterpret_cast<Bits>(g) & ~(v <= 0)); }
MP_INLINE void mask(float &g, const float &v) { g = v <= 0 ? 0 : g; }

// Calls f<V, K>(i) for the channels of K V's from channel i, until all had their turn.
template <class F>
MP_INLINE void groups(int64_t c, F &&f) {
  int64_t i = 0;
  for (; i + 4 * kWidth<Eight> <= c; i += 4 * kWidth<Eight>) f.template operator()<Eight, 4>(i);
  for (; i + kWidth<Eight> <= c; i += kWidth<Eight>) f.template operator()<Eight, 1>(i);
  for (; i < c; i++) f.template operator()<float, 1>(i);
}

// sums and squares [c] of a block: of x, and of the squared distances from the block's own mean.
MP_CLONES void block_statistics(const float *x, int64_t rows, int64_t c, float *sums, float *squares) {
  const float share = 1.f / static_cast<float>(rows);
  groups(c, [&]<class V, int K>(int64_t i) __attribute__((always_inline)) {
    V sum[K] = {}, square[K] = {}, mean[K], v;
    for (int64_t r = 0; r < rows; r++) {
      MP_UNROLL
      for (int k = 0; k < K; k++) {
        load(v, x + r * c + i, k);
        sum[k] += v;
      }
    }
    MP_UNROLL
    for (int k = 0; k < K; k++) mean[k] = sum[k] * share;
    for (int64_t r = 0; r < rows; r++) {
      MP_UNROLL
      for (int k = 0; k < K; k++) {
        load(v, x + r * c + i, k);
        v -= mean[k];
        square[k] += v * v;
      }
    }
    MP_UNROLL
    for (int k = 0; k < K; k++) store(sums + i, sum[k], k), store(squares + i, square[k], k);
  });
}

// y of a block.
template <Tail tail>
MP_INLINE void result(const float *__restrict x, const float *__restrict residual, const float *__restrict scale,
                      const float *__restrict shift, int64_t rows, int64_t c, float *__restrict y) {
  for (int64_t r = 0; r < rows; r++, x += c, y += c) {
    for (int64_t i = 0; i < c; i++) {
      float v = x[i] * scale[i] + shift[i];
      if constexpr (tail == Tail::joined) v += residual[i];
      y[i] = tail != Tail::bare && v < 0 ? 0 : v;  // what is no number stays so
    }
    if constexpr (tail == Tail::joined) residual += c;
  }
}

MP_CLONES void block_result(Tail tail, const float *x, const float *residual, const Channels &a, int64_t rows, int64_t c, float *y) {
  switch (tail) {
    case Tail::bare: return result<Tail::bare>(x, residual, a.scale, a.shift, rows, c, y);
    case Tail::rectified: return result<Tail::rectified>(x, residual, a.scale, a.shift, rows, c, y);
    case Tail::joined: return result<Tail::joined>(x, residual, a.scale, a.shift, rows, c, y);
  }
}

// sums and products [c] of a block: of g, and of g (x - mean), from dy where rectified is set, else from g.
template <bool rectified>
MP_INLINE void sum(const float *x, const float *g, const Channels &a, int64_t rows, int64_t c, float *sums, float *products) {
  groups(c, [&]<class V, int K>(int64_t i) __attribute__((always_inline)) {
    V sum[K] = {}, product[K] = {}, mean[K], scale[K], shift[K], d, v;
    MP_UNROLL
    for (int k = 0; k < K; k++) load(mean[k], a.mean + i, k), load(scale[k], a.scale + i, k), load(shift[k], a.shift + i, k);
    for (int64_t r = 0; r < rows; r++) {
      MP_UNROLL
      for (int k = 0; k < K; k++) {
        load(d, g + r * c + i, k);
        load(v, x + r * c + i, k);
        if constexpr (rectified) mask(d, v * scale[k] + shift[k]);
        sum[k] += d;
        product[k] += d * (v - mean[k]);
      }
    }
    MP_UNROLL
    for (int k = 0; k < K; k++) store(sums + i, sum[k], k), store(products + i, product[k], k);
  });
}

MP_CLONES void block_sums(bool rectified, const float *x, const float *g, const Channels &a, int64_t rows, int64_t c, float *sums,
                          float *products) {
  rectified ? sum<true>(x, g, a, rows, c, sums, products) : sum<false>(x, g, a, rows, c, sums, products);
}

// g of n elements: dy where y > 0, else 0.
MP_CLONES void block_mask(const float *__restrict y, const float *__restrict dy, int64_t n, float *__restrict g) {
  for (int64_t i = 0; i < n; i++) g[i] = y[i] <= 0 ? 0 : dy[i];
}

// The means of g, and of g (x - mean) / sigma^2 [c].
struct Means {
  std::vector<float> level, ratio;
};

// dx of a block, from dy where rectified is set, else from g.
template <bool rectified, bool training>
MP_INLINE void slope(const float *__restrict x, const float *__restrict g, const Channels &a, const Means &of, int64_t rows, int64_t c,
                     float *__restrict dx) {
  const float *__restrict mean = a.mean, *__restrict scale = a.scale, *__restrict shift = a.shift;
  const float *__restrict level = of.level.data(), *__restrict ratio = of.ratio.data();
  for (int64_t r = 0; r < rows; r++, g += c, dx += c) {
    for (int64_t i = 0; i < c; i++) {
      float d = g[i];
      if constexpr (rectified) d = x[i] * scale[i] + shift[i] <= 0 ? 0 : d;
      if constexpr (training) d -= level[i] + (x[i] - mean[i]) * ratio[i];
      dx[i] = d * scale[i];
    }
    if constexpr (rectified || training) x += c;
  }
}

MP_CLONES void block_slope(bool rectified, bool training, const float *x, const float *g, const Channels &a, const Means &of,
                           int64_t rows, int64_t c, float *dx) {
  if (rectified) {
    training ? slope<true, true>(x, g, a, of, rows, c, dx) : slope<true, false>(x, g, a, of, rows, c, dx);
  } else {
    training ? slope<false, true>(x, g, a, of, rows, c, dx) : slope<false, false>(x, g, a, of, rows, c, dx);
  }
}

// Adds up the blocks' rows of partial [blocks 2 C], each a pair, in their order: f(block, first row, second row, channel).
template <class F>
void fold(const at::Tensor &partial, F &&f) {
  const int64_t c = partial.size(2);
  const float *at = partial.const_data_ptr<float>();
  for (int64_t b = 0; b < partial.size(0); b++, at += 2 * c) {
    for (int64_t i = 0; i < c; i++) f(b, at[i], at[c + i], i);
  }
}

using Sums = std::vector<double>;

// The batch's mean and variance [C], unbiased by nothing.
void statistics(const at::Tensor &x, Sums &mean, Sums &var) {
  const Shape s(x);
  at::Tensor partial = at::empty({s.blocks(), 2, s.c}, x.options(), at::MemoryFormat::Contiguous);
  const float *in = x.const_data_ptr<float>();
  float *out = partial.data_ptr<float>();
  s.each([&](int64_t from, int64_t rows, int64_t b) { block_statistics(in + from, rows, s.c, out + 2 * b * s.c, out + (2 * b + 1) * s.c); });
  const double m = static_cast<double>(s.m);
  fold(partial, [&](int64_t, float sum, float, int64_t i) { mean[i] += sum; });
  for (double &v : mean) v /= m;
  fold(partial, [&](int64_t b, float sum, float square, int64_t i) {
    const double rows = static_cast<double>(s.length(b)), off = sum / rows - mean[i];
    var[i] += square + rows * off * off;
  });
  for (double &v : var) v /= m;
}

float *vector_of(const at::Tensor &t) { return t.data_ptr<float>(); }

// Fills in the constants of the channels; moves the running statistics when training.
void prepare(const at::Tensor &x, const mp_norm_rule &r, const Channels &a) {
  const int64_t c = x.size(1), m = x.numel() / c;
  const at::Tensor &running_mean = mp::tensor(r.mean), &running_var = mp::tensor(r.variance);
  const float *weight = vector_of(mp::tensor(r.weight)), *bias = vector_of(mp::tensor(r.bias));
  float *rm = vector_of(running_mean), *rv = vector_of(running_var);
  Sums mean(c), var(c);
  if (r.training) statistics(x, mean, var);
  for (int64_t i = 0; i < c; i++) {
    if (r.training) {
      const double unbiased = var[i] * static_cast<double>(m) / static_cast<double>(m - 1);
      rm[i] = static_cast<float>((1 - r.momentum) * rm[i] + r.momentum * mean[i]);
      rv[i] = static_cast<float>((1 - r.momentum) * rv[i] + r.momentum * unbiased);
    } else {
      mean[i] = rm[i], var[i] = rv[i];
    }
    const double invstd = 1 / std::sqrt(var[i] + r.eps), scale = invstd * weight[i];
    a.mean[i] = static_cast<float>(mean[i]), a.invstd[i] = static_cast<float>(invstd);
    a.scale[i] = static_cast<float>(scale), a.shift[i] = static_cast<float>(bias[i] - mean[i] * scale);
  }
  if (!r.training) return;
  torch::autograd::impl::bump_version(running_mean);
  torch::autograd::impl::bump_version(running_var);
}

struct FusedNorm : torch::autograd::Function<FusedNorm> {
  // weight and bias are those of the rule.
  static at::Tensor forward(AutogradContext *ctx, const at::Tensor &x, const at::Tensor &, const at::Tensor &,
                            const std::optional<at::Tensor> &residual, const mp_norm_rule *r) {
    RECORD_FUNCTION("mp::fused_norm", c10::ArrayRef<const c10::IValue>{});
    const Shape s(x);
    const Tail tail = residual ? Tail::joined : r->rectify ? Tail::rectified : Tail::bare;
    at::Tensor constants = at::empty({Channels::kRows, s.c}, x.options(), at::MemoryFormat::Contiguous);
    const Channels a(constants);
    prepare(x, *r, a);
    at::Tensor y = at::empty_like(x);
    const float *in = x.const_data_ptr<float>(), *beside = residual ? residual->const_data_ptr<float>() : nullptr;
    float *out = y.data_ptr<float>();
    s.each([&](int64_t from, int64_t rows, int64_t) {
      block_result(tail, in + from, beside ? beside + from : nullptr, a, rows, s.c, out + from);
    });
    ctx->save_for_backward({x, constants, residual ? y : at::Tensor()});
    ctx->saved_data["tail"] = static_cast<int64_t>(tail), ctx->saved_data["training"] = r->training != 0;
    return y;
  }

  static variable_list backward(AutogradContext *ctx, variable_list dys) {
    TORCH_CHECK(!at::GradMode::is_enabled(), "our batch norm has no second derivative");
    RECORD_FUNCTION("mp::fused_norm_backward", c10::ArrayRef<const c10::IValue>{});
    const auto saved = ctx->get_saved_variables();
    const at::Tensor &x = saved[0], &y = saved[2];
    const auto tail = static_cast<Tail>(ctx->saved_data["tail"].toInt());
    const bool training = ctx->saved_data["training"].toBool(), joined = tail == Tail::joined;
    const bool of_x = ctx->needs_input_grad(0), of_weight = ctx->needs_input_grad(1), of_bias = ctx->needs_input_grad(2);
    const bool summed = of_weight || of_bias || (of_x && training);
    const Shape s(x);
    const Channels a(saved[1]);
    const at::Tensor dy = dys[0].contiguous(at::MemoryFormat::ChannelsLast);
    at::Tensor g = joined ? at::empty_like(x) : dy, partial, dx, dweight, dbias;
    const float *in = x.const_data_ptr<float>(), *slopes = g.const_data_ptr<float>();
    float *sums = nullptr;
    if (summed) {
      partial = at::empty({s.blocks(), 2, s.c}, x.options(), at::MemoryFormat::Contiguous);
      sums = partial.data_ptr<float>();
    }
    if (joined) {
      const float *out = y.const_data_ptr<float>(), *back = dy.const_data_ptr<float>();
      float *to = g.data_ptr<float>();
      s.each([&](int64_t at, int64_t rows, int64_t b) {
        block_mask(out + at, back + at, rows * s.c, to + at);
        if (summed) block_sums(false, in + at, to + at, a, rows, s.c, sums + 2 * b * s.c, sums + (2 * b + 1) * s.c);
      });
    } else if (summed) {
      s.each([&](int64_t at, int64_t rows, int64_t b) {
        block_sums(tail == Tail::rectified, in + at, slopes + at, a, rows, s.c, sums + 2 * b * s.c, sums + (2 * b + 1) * s.c);
      });
    }
    Means means;
    if (summed) {
      Sums sum(s.c), product(s.c);
      fold(partial, [&](int64_t, float of_g, float of_product, int64_t i) { sum[i] += of_g, product[i] += of_product; });
      dweight = at::empty({s.c}, saved[1].options()), dbias = at::empty({s.c}, saved[1].options());
      means.level.resize(s.c), means.ratio.resize(s.c);
      const double m = static_cast<double>(s.m);
      for (int64_t i = 0; i < s.c; i++) {
        const double invstd = a.invstd[i];
        vector_of(dweight)[i] = static_cast<float>(product[i] * invstd), vector_of(dbias)[i] = static_cast<float>(sum[i]);
        means.level[i] = static_cast<float>(sum[i] / m), means.ratio[i] = static_cast<float>(product[i] * invstd * invstd / m);
      }
    }
    if (of_x) {
      dx = at::empty_like(x);
      float *to = dx.data_ptr<float>();
      s.each([&](int64_t at, int64_t rows, int64_t) {
        block_slope(tail == Tail::rectified, training, in + at, slopes + at, a, means, rows, s.c, to + at);
      });
    }
    return {dx, of_weight ? dweight : at::Tensor(), of_bias ? dbias : at::Tensor(), joined ? g : at::Tensor(), {}};
  }
};

// Whether the loops above do what is asked. One row has no variance: that is the library's to refuse.
bool covered(const at::Tensor &x, const mp_norm_rule &r, const at::Tensor *residual) {
  if (!mp::plain_images(x) || (r.training && x.numel() == x.size(1))) return false;
  for (mp_tensor t : {r.weight, r.bias, r.mean, r.variance}) {
    const at::Tensor &v = mp::tensor(t);
    if (!mp::plain(v) || v.dim() != 1 || v.size(0) != x.size(1) || !v.is_contiguous()) return false;
  }
  return !residual || (r.rectify && mp::plain_images(*residual) && residual->sizes() == x.sizes());
}

}  // namespace

int mp_fused_norm(mp_tensor x, const mp_norm_rule *rule, mp_tensor residual, mp_tensor *y, char *err) {
  return mp::guard(err, [&] {
    const at::Tensor &input = mp::tensor(x);
    *y = nullptr;
    if (!covered(input, *rule, residual ? &mp::tensor(residual) : nullptr)) return;
    auto beside = residual ? std::optional<at::Tensor>(mp::tensor(residual)) : std::nullopt;
    *y = mp::handle(FusedNorm::apply(input, mp::tensor(rule->weight), mp::tensor(rule->bias), beside, rule));
  });
}
