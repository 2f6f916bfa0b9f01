// Winograd's convolution on the CPU.
//
// For each of the points of a tile, 4 x 4 or 6 x 6, there is one product of matrices [tiles c] [c o]: four pixels of y take 16
// multiplications a pair of channels instead of 36, sixteen pixels 36 instead of 144. Blocks of tiles are so small that what
// lies between the images and the products stays in the processor's cache. Their size, and how the sums over tiles are cut,
// depend on shapes alone, so no bit depends on the number of threads.
#include "winograd.h"

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <utility>

#include "cpu.h"
#include "gemm.h"
#include "lanes.h"
#include "patches.h"

namespace mp::winograd {
namespace {

#define MP_UNROLL _Pragma("GCC unroll 16")

constexpr int64_t kBlock = 128 << 10;  // elements of the matrices of a block
constexpr int64_t kGap = 16;           // elements between matrices, which would else lie on the same lines of the cache
constexpr int64_t kGrain = 16;         // tiles that are worth a thread
constexpr int64_t kPart = 4096;        // pixels of a part of a sum, and
constexpr int64_t kParts = 4;          // the most parts

// Images [n h w] and their tiles, each of tile x tile pixels, the last ones cut where a side is no multiple of it.
struct Grid {
  int64_t tile, n, h, w, down, across;
  Grid(const at::Tensor &images, int64_t tile)
      : tile(tile), n(images.size(0)), h(images.size(2)), w(images.size(3)), down((h + tile - 1) / tile),
        across((w + tile - 1) / tile) {}
  int64_t tiles() const { return n * down * across; }
  int64_t side() const { return tile + 2; }  // of a tile's points, and of the pixels of x under it
  int64_t points() const { return side() * side(); }
  // Tiles of a block of which matrices of so many points and channels lie in the cache.
  int64_t block(int64_t points, int64_t channels, int64_t least, int64_t most) const {
    return std::min(most, std::max(kBlock / (points * channels), least));
  }
};

// Calls f(t, image, row, column) with the first pixel of each tile from first to last.
template <class F>
MP_INLINE void each(const Grid &g, int64_t first, int64_t last, F &&f) {
  int64_t across = first % g.across, down = first / g.across % g.down, image = first / g.across / g.down;
  for (int64_t t = first; t < last; t++) {
    f(t - first, image, g.tile * down, g.tile * across);
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

// The matrices of winograd.h times a vector, for tiles of 2 x 2 pixels.
struct Two {
  static constexpr int kTile = 2, kSide = 4;
  template <class V>
  MP_INLINE static void input(const V *x, V *to) {  // BT x
    to[0] = x[0] - x[2], to[1] = x[1] + x[2], to[2] = x[2] - x[1], to[3] = x[3] - x[1];
  }
  template <class V>
  MP_INLINE static void output(const V *m, V *to) {  // AT m
    to[0] = m[0] + m[1] + m[2], to[1] = m[1] - m[2] + m[3];
  }
  template <class V>
  MP_INLINE static void slope(const V *y, V *to) {  // A y
    to[0] = y[0], to[1] = y[0] + y[1], to[2] = y[0] - y[1], to[3] = y[1];
  }
  template <class V>
  MP_INLINE static void weight(const V *w, V *to) {  // G w
    const V even = .5f * (w[0] + w[2]), odd = .5f * w[1];
    to[0] = w[0], to[1] = even + odd, to[2] = even - odd, to[3] = w[2];
  }
  template <class V>
  MP_INLINE static void gathered(const V *m, V *to) {  // GT m
    const V even = .5f * (m[1] + m[2]);
    to[0] = m[0] + even, to[1] = .5f * (m[1] - m[2]), to[2] = even + m[3];
  }
};

// The same for tiles of 4 x 4.
struct Four {
  static constexpr int kTile = 4, kSide = 6;
  static constexpr float a = .70710678f, b = 1.41421356f, a2 = .5f, b2 = 2, a3 = a2 * a, b3 = b2 * b, kG = -2.f / 3, kH = 1.f / 6;
  template <class V>
  MP_INLINE static void input(const V *x, V *to) {
    const V even = x[4] - b2 * x[2], odd = a * (x[3] - b2 * x[1]), other = x[4] - a2 * x[2], rest = b * (x[3] - a2 * x[1]);
    to[0] = x[0] - 2.5f * x[2] + x[4], to[5] = x[1] - 2.5f * x[3] + x[5];
    to[1] = even + odd, to[2] = even - odd, to[3] = other + rest, to[4] = other - rest;
  }
  template <class V>
  MP_INLINE static void output(const V *m, V *to) {
    const V even = m[1] + m[2], odd = m[1] - m[2], other = m[3] + m[4], rest = m[3] - m[4];
    to[0] = m[0] + even + other, to[1] = a * odd + b * rest, to[2] = a2 * even + b2 * other, to[3] = a3 * odd + b3 * rest + m[5];
  }
  template <class V>
  MP_INLINE static void slope(const V *y, V *to) {
    const V even = y[0] + a2 * y[2], odd = a * y[1] + a3 * y[3], other = y[0] + b2 * y[2], rest = b * y[1] + b3 * y[3];
    to[0] = y[0], to[1] = even + odd, to[2] = even - odd, to[3] = other + rest, to[4] = other - rest, to[5] = y[3];
  }
  template <class V>
  MP_INLINE static void weight(const V *w, V *to) {
    const V even = kG * (w[0] + a2 * w[2]), odd = kG * a * w[1], other = kH * (w[0] + b2 * w[2]), rest = kH * b * w[1];
    to[0] = w[0], to[1] = even + odd, to[2] = even - odd, to[3] = other + rest, to[4] = other - rest, to[5] = w[2];
  }
  template <class V>
  MP_INLINE static void gathered(const V *m, V *to) {
    const V even = kG * (m[1] + m[2]), other = kH * (m[3] + m[4]);
    to[0] = m[0] + even + other, to[1] = kG * a * (m[1] - m[2]) + kH * b * (m[3] - m[4]), to[2] = a2 * even + b2 * other + m[5];
  }
};

// Rows first..last of a tile's points of L vt LT [S S] for the K x K vectors v, whose matrix L is applied by f.
template <int first, int last, int K, int S, class F>
MP_INLINE void widen(const float *const *v, int64_t c, float *to, int64_t step, F &&f) {
  lanes(c, [&]<class V>(int64_t at) __attribute__((always_inline)) {
    V t[S][K], x[S];
    MP_UNROLL
    for (int j = 0; j < K; j++) {
      V column[K];
      MP_UNROLL
      for (int i = 0; i < K; i++) load(column[i], v[K * i + j] + at);
      f(column, x);
      MP_UNROLL
      for (int i = first; i < last; i++) t[i][j] = x[i];
    }
    MP_UNROLL
    for (int i = first; i < last; i++) {
      f(t[i], x);
      MP_UNROLL
      for (int j = 0; j < S; j++) store(to + (S * (i - first) + j) * step + at, x[j]);
    }
  });
}

// Where the points of tiles go: matrices [tiles c], step elements apart, of all points or of one row of them.
struct Points {
  float *data;
  int64_t step;
  int row = kAll;
  static constexpr int kAll = -1;
};

// Calls f<first, last>() with the rows of points that are asked for.
template <int S, class F>
MP_INLINE void asked(int row, F &&f) {
  if (row == Points::kAll) return f.template operator()<0, S>();
  [&]<int... I>(std::integer_sequence<int, I...>) __attribute__((always_inline)) {
    ((row == I ? f.template operator()<I, I + 1>() : void()), ...);
  }(std::make_integer_sequence<int, S>());
}

template <class A>
MP_INLINE void inputs(const float *images, const Grid &g, int64_t c, int64_t first, int64_t last, const float *zeros, const Points &to) {
  each(g, first, last, [&](int64_t t, int64_t image, int64_t row, int64_t column) __attribute__((always_inline)) {
    constexpr int S = A::kSide;
    const float *d[S * S];
    pixels<S>(images + image * g.h * g.w * c, g, c, row - 1, column - 1, zeros, d);
    asked<S>(to.row, [&]<int from, int end>() __attribute__((always_inline)) {
      widen<from, end, S, S>(d, c, to.data + t * c, to.step, [](const auto *v, auto *x) __attribute__((always_inline)) { A::input(v, x); });
    });
  });
}

// BT d B of the tiles first..last.
MP_CLONES void transform_inputs(const float *images, const Grid &g, int64_t c, int64_t first, int64_t last, const float *zeros,
                                const Points &to) {
  g.tile == 4 ? inputs<Four>(images, g, c, first, last, zeros, to) : inputs<Two>(images, g, c, first, last, zeros, to);
}

template <class A>
MP_INLINE void slopes(const float *images, const Grid &g, int64_t c, int64_t first, int64_t last, const float *zeros, const Points &to) {
  each(g, first, last, [&](int64_t t, int64_t image, int64_t row, int64_t column) __attribute__((always_inline)) {
    constexpr int K = A::kTile, S = A::kSide;
    const float *d[K * K];
    pixels<K>(images + image * g.h * g.w * c, g, c, row, column, zeros, d);
    asked<S>(to.row, [&]<int from, int end>() __attribute__((always_inline)) {
      widen<from, end, K, S>(d, c, to.data + t * c, to.step, [](const auto *v, auto *x) __attribute__((always_inline)) { A::slope(v, x); });
    });
  });
}

// A dy AT of the tiles first..last.
MP_CLONES void transform_slopes(const float *images, const Grid &g, int64_t c, int64_t first, int64_t last, const float *zeros,
                                const Points &to) {
  g.tile == 4 ? slopes<Four>(images, g, c, first, last, zeros, to) : slopes<Two>(images, g, c, first, last, zeros, to);
}

template <class A>
MP_INLINE void outputs(const float *from, int64_t step, const Grid &g, int64_t c, int64_t first, int64_t last, const float *bias,
                       float *waste, float *images) {
  each(g, first, last, [&](int64_t t, int64_t image, int64_t row, int64_t column) __attribute__((always_inline)) {
    constexpr int K = A::kTile, S = A::kSide;
    float *y[K * K];
    pixels<K>(images + image * g.h * g.w * c, g, c, row, column, waste, y);
    const float *m = from + t * c;
    lanes(c, [&]<class V>(int64_t at) __attribute__((always_inline)) {
      V v[K][S], x[K], b;
      MP_UNROLL
      for (int j = 0; j < S; j++) {
        V points[S];
        MP_UNROLL
        for (int i = 0; i < S; i++) load(points[i], m + (S * i + j) * step + at);
        A::output(points, x);
        MP_UNROLL
        for (int i = 0; i < K; i++) v[i][j] = x[i];
      }
      load(b, bias + at);
      MP_UNROLL
      for (int i = 0; i < K; i++) {
        A::output(v[i], x);
        MP_UNROLL
        for (int j = 0; j < K; j++) store(y[K * i + j] + at, x[j] + b);
      }
    });
  });
}

// AT m A + bias of the tiles first..last, whose matrices [tiles c] lie step elements apart. What lies outside goes to waste.
MP_CLONES void transform_outputs(const float *from, int64_t step, const Grid &g, int64_t c, int64_t first, int64_t last,
                                 const float *bias, float *waste, float *images) {
  g.tile == 4 ? outputs<Four>(from, step, g, c, first, last, bias, waste, images)
              : outputs<Two>(from, step, g, c, first, last, bias, waste, images);
}

// G w GT of c weights, whose taps (u, v) are taps[3u + v]: vectors step elements apart.
MP_CLONES void transform_weights(int64_t tile, const float *const *taps, int64_t c, float *to, int64_t step) {
  if (tile == 4) widen<0, 6, 3, 6>(taps, c, to, step, [](const auto *v, auto *x) __attribute__((always_inline)) { Four::weight(v, x); });
  else widen<0, 4, 3, 4>(taps, c, to, step, [](const auto *v, auto *x) __attribute__((always_inline)) { Two::weight(v, x); });
}

// Sums over tiles: a vector for each point, step elements apart, is the sum of parts, apart elements apart.
struct Sums {
  const float *data;
  int64_t step, parts, apart;
};

template <class A>
MP_INLINE void gather(const Sums &sums, int64_t c, float *to) {
  lanes(c, [&]<class V>(int64_t at) __attribute__((always_inline)) {
    constexpr int S = A::kSide;
    V v[3][S], x[3];
    MP_UNROLL
    for (int j = 0; j < S; j++) {
      V points[S], part;
      MP_UNROLL
      for (int i = 0; i < S; i++) {
        const float *from = sums.data + (S * i + j) * sums.step + at;
        load(points[i], from);
        for (int64_t p = 1; p < sums.parts; p++) load(part, from + p * sums.apart), points[i] += part;
      }
      A::gathered(points, x);
      MP_UNROLL
      for (int i = 0; i < 3; i++) v[i][j] = x[i];
    }
    MP_UNROLL
    for (int i = 0; i < 3; i++) {
      A::gathered(v[i], x);
      MP_UNROLL
      for (int j = 0; j < 3; j++) store(to + (3 * i + j) * c + at, x[j]);
    }
  });
}

// GT m G of c weights: 9 vectors, c elements apart.
MP_CLONES void gather_weights(int64_t tile, const Sums &sums, int64_t c, float *to) {
  tile == 4 ? gather<Four>(sums, c, to) : gather<Two>(sums, c, to);
}

// c [m n] = a [m k] b [k n], row by row. The library's small kernels need no copies of their operands.
void product(int64_t m, int64_t n, int64_t k, const float *a, const float *b, float *c) {
  static const bool small = cpu_has("avx2");
  if (small && at::globalContext().userEnabledMkldnn()) {
    at::native::cpublas::brgemm(m, n, k, k, n, n, false, a, b, c, false);
  } else {
    gemm<float, float>(n, m, k, {b, n}, {a, k}, 0, c, n);
  }
}

at::Tensor scratch(int64_t n) { return at::empty({n}, at::TensorOptions().dtype(at::kFloat)); }

int64_t gapped(int64_t n) { return (n + kGap - 1) / kGap * kGap + kGap; }

// images [n c h w], channels last, correlated with weights of which transformed holds G w GT as matrices [c o].
at::Tensor correlate(const at::Tensor &images, const Grid &g, const float *transformed, int64_t o, const float *bias) {
  const int64_t c = images.size(1), tiles = g.tiles(), points = g.points();
  const int64_t length = g.block(points, c + o, 32, tiles), blocks = (tiles + length - 1) / length;
  const int64_t in = gapped(length * c), out = gapped(length * o), weights = gapped(c * o);
  at::Tensor y = at::empty({g.n, o, g.h, g.w}, images.options(), at::MemoryFormat::ChannelsLast);
  at::Tensor nothing = at::zeros({std::max(c, o)}, images.options());
  const float *from = images.const_data_ptr<float>(), *zeros = nothing.const_data_ptr<float>();
  float *to = y.mutable_data_ptr<float>();
  const int64_t size = points * (in + out) + o;
  // Parallel within a block only outside of a parallel region.
  auto block = [&](int64_t b, float *v) {
    const int64_t first = b * length, last = std::min(tiles, first + length);
    float *m = v + points * in, *waste = m + points * out;
    at::parallel_for(first, last, kGrain, [&](int64_t begin, int64_t end) {
      transform_inputs(from, g, c, begin, end, zeros, {v + (begin - first) * c, in});
    });
    at::parallel_for(0, points, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; i++) product(last - first, o, c, v + i * in, transformed + i * weights, m + i * out);
    });
    at::parallel_for(first, last, kGrain, [&](int64_t begin, int64_t end) {
      transform_outputs(m + (begin - first) * o, out, g, o, begin, end, bias ? bias : zeros, waste, to);
    });
  };
  if (blocks < at::get_num_threads()) {
    at::Tensor space = scratch(size);
    for (int64_t b = 0; b < blocks; b++) block(b, space.mutable_data_ptr<float>());
    return y;
  }
  at::parallel_for(0, blocks, 1, [&](int64_t begin, int64_t end) {
    at::Tensor space = scratch(size);
    for (int64_t b = begin; b < end; b++) block(b, space.mutable_data_ptr<float>());
  });
  return y;
}

// G w GT as matrices [rows c], of which row r has its taps at from + r*row + tap*k, tap = 3u + v, or 8 - 3u - v.
at::Tensor transform(const Grid &g, const float *from, int64_t rows, int64_t row, int64_t tap, int64_t c, bool flipped) {
  const int64_t step = gapped(rows * c);
  at::Tensor out = scratch(g.points() * step);
  float *to = out.mutable_data_ptr<float>();
  at::parallel_for(0, rows, kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; r++) {
      const float *taps[9];
      for (int i = 0; i < 9; i++) taps[i] = from + r * row + (flipped ? 8 - i : i) * tap;
      transform_weights(g.tile, taps, c, to + r * c, step);
    }
  });
  return out;
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

at::Tensor forward(const at::Tensor &x, const at::Tensor &w, const at::Tensor &b, int64_t tile) {
  const Grid g(x, tile);
  const int64_t o = w.size(0), c = w.size(1);
  const at::Tensor weights = last(w), bias = b.defined() ? b.contiguous() : b;
  at::Tensor turned = scratch(w.numel());  // [3 3 c o]
  conv::transpose(weights.const_data_ptr<float>(), o, 9 * c, turned.mutable_data_ptr<float>());
  at::Tensor u = transform(g, turned.const_data_ptr<float>(), c, o, c * o, o, false);
  return correlate(x, g, u.const_data_ptr<float>(), o, b.defined() ? bias.const_data_ptr<float>() : nullptr);
}

at::Tensor input_gradient(const at::Tensor &dy, const at::Tensor &w, int64_t tile) {
  const Grid g(dy, tile);
  const int64_t o = w.size(0), c = w.size(1);
  const at::Tensor weights = last(w);  // [o 3 3 c]
  at::Tensor u = transform(g, weights.const_data_ptr<float>(), o, 9 * c, c, c, true);
  return correlate(dy, g, u.const_data_ptr<float>(), c, nullptr);
}

// A part of the tiles and a row of the points are one thread's: no two add to the same sums.
at::Tensor weight_gradient(const at::Tensor &x, const at::Tensor &dy, int64_t tile) {
  const Grid g(x, tile);
  const int64_t c = x.size(1), o = dy.size(1), tiles = g.tiles(), side = g.side();
  const int64_t parts = std::clamp<int64_t>(tiles * tile * tile / kPart, 1, kParts), part = (tiles + parts - 1) / parts;
  const int64_t length = g.block(side, c + o, 64, part);
  const int64_t in = gapped(length * c), out = gapped(length * o), weights = gapped(c * o), apart = g.points() * weights;
  at::Tensor nothing = at::zeros({std::max(c, o)}, x.options()), partial = scratch(parts * apart);
  const float *from = x.const_data_ptr<float>(), *slopes = dy.const_data_ptr<float>(), *zeros = nothing.const_data_ptr<float>();
  float *sums = partial.mutable_data_ptr<float>();
  at::parallel_for(0, parts * side, 1, [&](int64_t begin, int64_t end) {
    at::Tensor space = scratch(side * (in + out));
    float *v = space.mutable_data_ptr<float>(), *d = v + side * in;
    for (int64_t task = begin; task < end; task++) {
      const int64_t p = task / side, row = task % side, stop = std::min(tiles, (p + 1) * part);
      float *to = sums + p * apart + row * side * weights;
      for (int64_t first = p * part; first < stop; first += length) {
        const int64_t last = std::min(stop, first + length);
        transform_inputs(from, g, c, first, last, zeros, {v, in, static_cast<int>(row)});
        transform_slopes(slopes, g, o, first, last, zeros, {d, out, static_cast<int>(row)});
        for (int64_t j = 0; j < side; j++) {  // [o c], row by row
          gemm<float, float>(c, o, last - first, {v + j * in, c}, {d + j * out, o, 'T'}, first == p * part ? 0 : 1,
                             to + j * weights, c);
        }
      }
    }
  });
  at::Tensor dw = at::empty({o, c, 3, 3}, x.options(), at::MemoryFormat::ChannelsLast);
  float *to = dw.mutable_data_ptr<float>();
  at::parallel_for(0, o, kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) gather_weights(tile, {sums + i * c, weights, parts, apart}, c, to + i * 9 * c);
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
