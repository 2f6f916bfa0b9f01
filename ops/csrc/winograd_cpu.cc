// Winograd's convolution on the CPU.
//
// Sixteen matrices of tiles do for all taps at once what a convolution does one tap at a time: four pixels of y take 16
// multiplications a pair of channels instead of 36. Blocks of tiles are so small that what lies between the images and the
// products stays in the processor's cache. Their size, and how the sums over tiles are cut, depend on shapes alone, so no bit
// depends on the number of threads.
#include "winograd.h"

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/cpu/Utils.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cstring>

#include "gemm.h"

namespace mp::winograd {
namespace {

#define MP_CLONES __attribute__((target_clones("avx2", "default")))
#define MP_INLINE [[gnu::always_inline]] inline
#define MP_UNROLL _Pragma("GCC unroll 16")

constexpr int64_t kPoints = 16;       // products to a tile
constexpr int64_t kBlock = 8192;      // elements of a row of tiles' matrices: 64 tiles of 64 channels in and 64 out
constexpr int64_t kSumBlock = 32768;  // the same where only a quarter of the matrices lies in the cache
constexpr int64_t kGap = 16;          // elements between matrices, which would else lie on the same lines of the cache
constexpr int64_t kGrain = 16;        // tiles that are worth a thread
constexpr int64_t kPart = 1024;       // tiles of a part of a sum, and
constexpr int64_t kParts = 4;         // the most parts

// Images [n h w] and their tiles, each of 2 x 2 pixels, the last ones of odd sides cut.
struct Grid {
  int64_t n, h, w, down, across;
  explicit Grid(const at::Tensor &images)
      : n(images.size(0)), h(images.size(2)), w(images.size(3)), down((h + 1) / 2), across((w + 1) / 2) {}
  int64_t tiles() const { return n * down * across; }
};

// Eight channels at a time; the rest one by one.
typedef float Eight __attribute__((vector_size(32)));

template <class V>
MP_INLINE void load(V &v, const float *from) { std::memcpy(&v, from, sizeof v); }
template <class V>
MP_INLINE void store(float *to, const V &v) { std::memcpy(to, &v, sizeof v); }

// Calls f<V>(i) for the channels of a V from channel i, until all had their turn.
template <class F>
MP_INLINE void lanes(int64_t c, F &&f) {
  constexpr int64_t kWidth = sizeof(Eight) / sizeof(float);
  int64_t i = 0;
  for (; i + kWidth <= c; i += kWidth) f.template operator()<Eight>(i);
  for (; i < c; i++) f.template operator()<float>(i);
}

// Calls f(t, image, row, column) with the first pixel of each tile from first to last.
template <class F>
MP_INLINE void each(const Grid &g, int64_t first, int64_t last, F &&f) {
  int64_t across = first % g.across, down = first / g.across % g.down, image = first / g.across / g.down;
  for (int64_t t = first; t < last; t++) {
    f(t - first, image, 2 * down, 2 * across);
    if (++across < g.across) continue;
    across = 0;
    if (++down < g.down) continue;
    down = 0, image++;
  }
}

// The K by K pixels of c channels from a row and a column on; outside stands for those outside the image.
template <int K, class P>
MP_INLINE void pixels(P *image, const Grid &g, int64_t c, int64_t row, int64_t column, P *outside, P **d) {
  MP_UNROLL
  for (int r = 0; r < K; r++) {
    MP_UNROLL
    for (int s = 0; s < K; s++) {
      const int64_t y = row + r, x = column + s;
      d[r * K + s] = y >= 0 && y < g.h && x >= 0 && x < g.w ? image + (y * g.w + x) * c : outside;
    }
  }
}

// Row I of BT d B.
template <int I>
MP_INLINE void input_row(const float *const *d, int64_t c, float *to, int64_t step) {
  constexpr int kPlus[] = {0, 1, 2, 3}, kOther[] = {2, 2, 1, 1};
  lanes(c, [&]<class V>(int64_t at) __attribute__((always_inline)) {
    V t[4], p, q;
    MP_UNROLL
    for (int j = 0; j < 4; j++) {
      load(p, d[4 * kPlus[I] + j] + at), load(q, d[4 * kOther[I] + j] + at);
      t[j] = I == 1 ? p + q : p - q;
    }
    store(to + at, t[0] - t[2]);
    store(to + step + at, t[1] + t[2]);
    store(to + 2 * step + at, t[2] - t[1]);
    store(to + 3 * step + at, t[3] - t[1]);
  });
}

// Row I of A d AT.
template <int I>
MP_INLINE void slope_row(const float *const *d, int64_t c, float *to, int64_t step) {
  lanes(c, [&]<class V>(int64_t at) __attribute__((always_inline)) {
    V t[2], p, q;
    MP_UNROLL
    for (int j = 0; j < 2; j++) {
      if constexpr (I != 3) load(p, d[j] + at);
      if constexpr (I != 0) load(q, d[2 + j] + at);
      if constexpr (I == 0) t[j] = p;
      if constexpr (I == 1) t[j] = p + q;
      if constexpr (I == 2) t[j] = p - q;
      if constexpr (I == 3) t[j] = q;
    }
    store(to + at, t[0]);
    store(to + step + at, t[0] + t[1]);
    store(to + 2 * step + at, t[0] - t[1]);
    store(to + 3 * step + at, t[1]);
  });
}

// Rows of 4 matrices [tiles c] each, from..to, step elements from one matrix to the next.
struct Rows {
  int from, to;
  float *data;
  int64_t step;
};

// BT d B of the tiles first..last.
MP_CLONES void transform_inputs(const float *images, const Grid &g, int64_t c, int64_t first, int64_t last, const float *zeros,
                                const Rows &rows) {
  each(g, first, last, [&](int64_t t, int64_t image, int64_t row, int64_t column) __attribute__((always_inline)) {
    const float *d[16];
    pixels<4>(images + image * g.h * g.w * c, g, c, row - 1, column - 1, zeros, d);
    float *to = rows.data + t * c;
    for (int i = rows.from; i < rows.to; i++, to += 4 * rows.step) {
      switch (i) {
        case 0: input_row<0>(d, c, to, rows.step); break;
        case 1: input_row<1>(d, c, to, rows.step); break;
        case 2: input_row<2>(d, c, to, rows.step); break;
        case 3: input_row<3>(d, c, to, rows.step); break;
      }
    }
  });
}

// A d AT of the tiles first..last.
MP_CLONES void transform_slopes(const float *images, const Grid &g, int64_t c, int64_t first, int64_t last, const float *zeros,
                                const Rows &rows) {
  each(g, first, last, [&](int64_t t, int64_t image, int64_t row, int64_t column) __attribute__((always_inline)) {
    const float *d[4];
    pixels<2>(images + image * g.h * g.w * c, g, c, row, column, zeros, d);
    float *to = rows.data + t * c;
    for (int i = rows.from; i < rows.to; i++, to += 4 * rows.step) {
      switch (i) {
        case 0: slope_row<0>(d, c, to, rows.step); break;
        case 1: slope_row<1>(d, c, to, rows.step); break;
        case 2: slope_row<2>(d, c, to, rows.step); break;
        case 3: slope_row<3>(d, c, to, rows.step); break;
      }
    }
  });
}

// AT m A + bias of the tiles first..last, whose matrices [tiles c] lie step elements apart. What lies outside goes to waste.
MP_CLONES void transform_outputs(const float *from, int64_t step, const Grid &g, int64_t c, int64_t first, int64_t last,
                                 const float *bias, float *waste, float *images) {
  each(g, first, last, [&](int64_t t, int64_t image, int64_t row, int64_t column) __attribute__((always_inline)) {
    float *y[4];
    pixels<2>(images + image * g.h * g.w * c, g, c, row, column, waste, y);
    const float *m = from + t * c;
    lanes(c, [&]<class V>(int64_t at) __attribute__((always_inline)) {
      V up[4], low[4], v[4], b;
      MP_UNROLL
      for (int j = 0; j < 4; j++) {
        MP_UNROLL
        for (int i = 0; i < 4; i++) load(v[i], m + (4 * i + j) * step + at);
        up[j] = v[0] + v[1] + v[2], low[j] = v[1] - v[2] + v[3];
      }
      load(b, bias + at);
      store(y[0] + at, up[0] + up[1] + up[2] + b);
      store(y[1] + at, up[1] - up[2] + up[3] + b);
      store(y[2] + at, low[0] + low[1] + low[2] + b);
      store(y[3] + at, low[1] - low[2] + low[3] + b);
    });
  });
}

// G w GT of c weights, whose taps (u, v) are tap[3u + v]: 16 vectors, step elements apart.
MP_CLONES void transform_weights(const float *const *tap, int64_t c, float *to, int64_t step) {
  lanes(c, [&]<class V>(int64_t at) __attribute__((always_inline)) {
    V t[4][3], a, b, d;
    MP_UNROLL
    for (int j = 0; j < 3; j++) {
      load(a, tap[j] + at), load(b, tap[3 + j] + at), load(d, tap[6 + j] + at);
      t[0][j] = a, t[1][j] = .5f * (a + d + b), t[2][j] = .5f * (a + d - b), t[3][j] = d;
    }
    MP_UNROLL
    for (int i = 0; i < 4; i++) {
      a = t[i][0], b = t[i][1], d = t[i][2];
      store(to + 4 * i * step + at, a);
      store(to + (4 * i + 1) * step + at, .5f * (a + d + b));
      store(to + (4 * i + 2) * step + at, .5f * (a + d - b));
      store(to + (4 * i + 3) * step + at, d);
    }
  });
}

// GT m G of c weights as 9 vectors, c elements apart, of 16 vectors, step elements apart, each the sum of parts, apart elements apart.
MP_CLONES void gather_weights(const float *from, int64_t step, int64_t parts, int64_t apart, int64_t c, float *to) {
  lanes(c, [&]<class V>(int64_t at) __attribute__((always_inline)) {
    V t[3][4], v[4], part;
    MP_UNROLL
    for (int j = 0; j < 4; j++) {
      MP_UNROLL
      for (int i = 0; i < 4; i++) {
        const float *m = from + (4 * i + j) * step + at;
        load(v[i], m);
        for (int64_t p = 1; p < parts; p++) load(part, m + p * apart), v[i] += part;
      }
      t[0][j] = v[0] + .5f * (v[1] + v[2]), t[1][j] = .5f * (v[1] - v[2]), t[2][j] = .5f * (v[1] + v[2]) + v[3];
    }
    MP_UNROLL
    for (int i = 0; i < 3; i++) {
      store(to + 3 * i * c + at, t[i][0] + .5f * (t[i][1] + t[i][2]));
      store(to + (3 * i + 1) * c + at, .5f * (t[i][1] - t[i][2]));
      store(to + (3 * i + 2) * c + at, .5f * (t[i][1] + t[i][2]) + t[i][3]);
    }
  });
}

// c [m n] = a [m k] b [k n], row by row. The library's small kernels need no copies of their operands.
void product(int64_t m, int64_t n, int64_t k, const float *a, const float *b, float *c) {
  static const bool small = [] {
    auto has = at::cpu::get_cpu_capabilities();
    auto avx2 = has.find("avx2");
    return avx2 != has.end() && avx2->second.toBool();
  }();
  if (small && at::globalContext().userEnabledMkldnn()) {
    at::native::cpublas::brgemm(m, n, k, k, n, n, false, a, b, c, false);
  } else {
    gemm<float, float>(n, m, k, {b, n}, {a, k}, 0, c, n);
  }
}

at::Tensor scratch(int64_t n) { return at::empty({n}, at::TensorOptions().dtype(at::kFloat)); }

int64_t gapped(int64_t n) { return (n + kGap - 1) / kGap * kGap + kGap; }

// images [n c h w], channels last, correlated with weights of which transformed holds G w GT as 16 matrices [c o].
at::Tensor correlate(const at::Tensor &images, const float *transformed, int64_t o, const float *bias) {
  const Grid g(images);
  const int64_t c = images.size(1), tiles = g.tiles();
  const int64_t length = std::min(tiles, std::max<int64_t>(kBlock / (c + o), 32)), blocks = (tiles + length - 1) / length;
  const int64_t in = gapped(length * c), out = gapped(length * o), weights = gapped(c * o);
  at::Tensor y = at::empty({g.n, o, g.h, g.w}, images.options(), at::MemoryFormat::ChannelsLast);
  at::Tensor nothing = at::zeros({std::max(c, o)}, images.options());
  const float *from = images.const_data_ptr<float>(), *zeros = nothing.const_data_ptr<float>();
  float *to = y.mutable_data_ptr<float>();
  const int64_t bytes = kPoints * (in + out) + o;
  // Parallel within a block only outside of a parallel region.
  auto block = [&](int64_t b, float *v) {
    const int64_t first = b * length, last = std::min(tiles, first + length);
    float *m = v + kPoints * in, *waste = m + kPoints * out;
    at::parallel_for(first, last, kGrain, [&](int64_t begin, int64_t end) {
      transform_inputs(from, g, c, begin, end, zeros, {0, 4, v + (begin - first) * c, in});
    });
    at::parallel_for(0, kPoints, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; i++) product(last - first, o, c, v + i * in, transformed + i * weights, m + i * out);
    });
    at::parallel_for(first, last, kGrain, [&](int64_t begin, int64_t end) {
      transform_outputs(m + (begin - first) * o, out, g, o, begin, end, bias ? bias : zeros, waste, to);
    });
  };
  if (blocks < at::get_num_threads()) {
    at::Tensor space = scratch(bytes);
    for (int64_t b = 0; b < blocks; b++) block(b, space.mutable_data_ptr<float>());
    return y;
  }
  at::parallel_for(0, blocks, 1, [&](int64_t begin, int64_t end) {
    at::Tensor space = scratch(bytes);
    for (int64_t b = begin; b < end; b++) block(b, space.mutable_data_ptr<float>());
  });
  return y;
}

// G w GT as 16 matrices [rows c], of which row r has its taps at from + r*row + tap*k, tap = 3u + v, or 8 - 3u - v.
at::Tensor transform(const float *from, int64_t rows, int64_t row, int64_t tap, int64_t c, bool flipped) {
  const int64_t step = gapped(rows * c);
  at::Tensor out = scratch(kPoints * step);
  float *to = out.mutable_data_ptr<float>();
  at::parallel_for(0, rows, kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; r++) {
      const float *taps[9];
      for (int i = 0; i < 9; i++) taps[i] = from + r * row + (flipped ? 8 - i : i) * tap;
      transform_weights(taps, c, to + r * c, step);
    }
  });
  return out;
}

// from [rows columns] into to [columns rows], by way of squares: rows far apart lie on the same lines of the cache.
void turn(const float *from, int64_t rows, int64_t columns, float *to) {
  constexpr int64_t kSide = 16;
  at::parallel_for(0, (columns + kSide - 1) / kSide, kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t j = begin * kSide; j < std::min(columns, end * kSide); j += kSide) {
      const int64_t wide = std::min(kSide, columns - j);
      for (int64_t i = 0; i < rows; i += kSide) {
        const int64_t high = std::min(kSide, rows - i);
        float square[kSide][kSide + 1];
        for (int64_t r = 0; r < high; r++) std::memcpy(square[r], from + (i + r) * columns + j, wide * sizeof(float));
        for (int64_t s = 0; s < wide; s++) {
          for (int64_t r = 0; r < high; r++) to[(j + s) * rows + i + r] = square[r][s];
        }
      }
    }
  });
}

at::Tensor last(const at::Tensor &t) { return t.contiguous(at::MemoryFormat::ChannelsLast); }

// sums [c] of a block of rows [c].
MP_CLONES void add_rows(const float *from, int64_t rows, int64_t c, float *sums) {
  lanes(c, [&]<class V>(int64_t at) __attribute__((always_inline)) {
    V sum = {}, v;
    for (int64_t r = 0; r < rows; r++) load(v, from + r * c + at), sum += v;
    store(sums + at, sum);
  });
}

}  // namespace

at::Tensor forward(const at::Tensor &x, const at::Tensor &w, const at::Tensor &b) {
  const int64_t o = w.size(0), c = w.size(1);
  const at::Tensor weights = last(w), bias = b.defined() ? b.contiguous() : b;
  at::Tensor turned = scratch(w.numel());  // [3 3 c o]
  turn(weights.const_data_ptr<float>(), o, 9 * c, turned.mutable_data_ptr<float>());
  at::Tensor u = transform(turned.const_data_ptr<float>(), c, o, c * o, o, false);
  return correlate(x, u.const_data_ptr<float>(), o, b.defined() ? bias.const_data_ptr<float>() : nullptr);
}

at::Tensor input_gradient(const at::Tensor &dy, const at::Tensor &w) {
  const int64_t o = w.size(0), c = w.size(1);
  const at::Tensor weights = last(w);  // [o 3 3 c]
  at::Tensor u = transform(weights.const_data_ptr<float>(), o, 9 * c, c, c, true);
  return correlate(dy, u.const_data_ptr<float>(), c, nullptr);
}

// A part of the tiles and a row of the 4 x 4 points are one thread's: no two add to the same sums.
at::Tensor weight_gradient(const at::Tensor &x, const at::Tensor &dy) {
  const Grid g(x);
  const int64_t c = x.size(1), o = dy.size(1), tiles = g.tiles();
  const int64_t parts = std::clamp<int64_t>(tiles / kPart, 1, kParts), part = (tiles + parts - 1) / parts;
  const int64_t length = std::min(part, std::max<int64_t>(kSumBlock / (c + o), 64));
  const int64_t in = gapped(length * c), out = gapped(length * o), weights = gapped(c * o), apart = kPoints * weights;
  at::Tensor nothing = at::zeros({std::max(c, o)}, x.options()), partial = scratch(parts * apart);
  const float *from = x.const_data_ptr<float>(), *slopes = dy.const_data_ptr<float>(), *zeros = nothing.const_data_ptr<float>();
  float *sums = partial.mutable_data_ptr<float>();
  at::parallel_for(0, parts * 4, 1, [&](int64_t begin, int64_t end) {
    at::Tensor space = scratch(4 * (in + out));
    float *v = space.mutable_data_ptr<float>(), *d = v + 4 * in;
    for (int64_t task = begin; task < end; task++) {
      const int64_t p = task / 4, stop = std::min(tiles, (p + 1) * part);
      const int row = static_cast<int>(task % 4);
      for (int64_t first = p * part; first < stop; first += length) {
        const int64_t end = std::min(stop, first + length);
        transform_inputs(from, g, c, first, end, zeros, {row, row + 1, v, in});
        transform_slopes(slopes, g, o, first, end, zeros, {row, row + 1, d, out});
        for (int64_t j = 0; j < 4; j++) {  // [o c], row by row
          gemm<float, float>(c, o, end - first, {v + j * in, c}, {d + j * out, o, 'T'}, first == p * part ? 0 : 1,
                             sums + p * apart + (4 * row + j) * weights, c);
        }
      }
    }
  });
  at::Tensor dw = at::empty({o, c, 3, 3}, x.options(), at::MemoryFormat::ChannelsLast);
  float *to = dw.mutable_data_ptr<float>();
  at::parallel_for(0, o, kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) gather_weights(sums + i * c, weights, parts, apart, c, to + i * 9 * c);
  });
  return dw;
}

at::Tensor bias_gradient(const at::Tensor &dy) {
  constexpr int64_t kRows = 256;
  const int64_t o = dy.size(1), rows = dy.numel() / o, blocks = (rows + kRows - 1) / kRows;
  at::Tensor partial = scratch(blocks * o), db = at::empty({o}, dy.options());
  const float *from = dy.const_data_ptr<float>();
  float *sums = partial.mutable_data_ptr<float>(), *to = db.mutable_data_ptr<float>();
  at::parallel_for(0, blocks, 4, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; b++) add_rows(from + b * kRows * o, std::min(kRows, rows - b * kRows), o, sums + b * o);
  });
  for (int64_t i = 0; i < o; i++) {
    double sum = 0;
    for (int64_t b = 0; b < blocks; b++) sum += sums[b * o + i];
    to[i] = static_cast<float>(sum);
  }
  return db;
}

}  // namespace mp::winograd
