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

constexpr int64_t kBlock = 512 << 10;  // bytes of the matrices of a block
constexpr int64_t kGap = 16;           // elements between matrices, which would else lie on the same lines of the cache
constexpr int64_t kGrain = 16;         // tiles that are worth a thread
constexpr int64_t kPart = 4096;        // pixels of a part of a sum, and
constexpr int64_t kParts = 4;          // the most parts

using c10::BFloat16;
struct Pair {
  BFloat16 first, second;
};

// Images [n h w] and their tiles, each of tile x tile pixels, the last ones cut where a side is no multiple of it.
struct Grid {
  int64_t tile, n, h, w, down, across;
  Grid(const at::Tensor &images, int64_t tile)
      : tile(tile), n(images.size(0)), h(images.size(2)), w(images.size(3)), down((h + tile - 1) / tile),
        across((w + tile - 1) / tile) {}
  int64_t tiles() const { return n * down * across; }
  int64_t side() const { return tile + 2; }  // of a tile's points, and of the pixels of x under it
  int64_t points() const { return side() * side(); }
  // Tiles of a block, an even number, whose matrices of so many bytes a tile lie in the cache.
  int64_t block(int64_t bytes, int64_t least, int64_t most) const {
    return (std::min(most, std::max(kBlock / bytes, least)) + 1) / 2 * 2;
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
template <int first, int last, int K, int S, class From, class To, class F>
MP_INLINE void widen(const From *const *v, int64_t c, To *to, int64_t step, F &&f) {
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
constexpr int kAll = -1;
template <class E>
struct Points {
  E *data;
  int64_t step;
  int row = kAll;
};

// Calls f<first, last>() with the rows of points that are asked for.
template <int S, class F>
MP_INLINE void asked(int row, F &&f) {
  if (row == kAll) return f.template operator()<0, S>();
  [&]<int... I>(std::integer_sequence<int, I...>) __attribute__((always_inline)) {
    ((row == I ? f.template operator()<I, I + 1>() : void()), ...);
  }(std::make_integer_sequence<int, S>());
}

template <class A, class E>
MP_INLINE void inputs(const E *images, const Grid &g, int64_t c, int64_t first, int64_t last, const E *zeros, const Points<E> &to) {
  each(g, first, last, [&](int64_t t, int64_t image, int64_t row, int64_t column) __attribute__((always_inline)) {
    constexpr int S = A::kSide;
    const E *d[S * S];
    pixels<S>(images + image * g.h * g.w * c, g, c, row - 1, column - 1, zeros, d);
    asked<S>(to.row, [&]<int from, int end>() __attribute__((always_inline)) {
      widen<from, end, S, S>(d, c, to.data + t * c, to.step, [](const auto *v, auto *x) __attribute__((always_inline)) { A::input(v, x); });
    });
  });
}

// BT d B of the tiles first..last.
MP_CLONES void transform_inputs(const float *images, const Grid &g, int64_t c, int64_t first, int64_t last, const float *zeros,
                                const Points<float> &to) {
  g.tile == 4 ? inputs<Four>(images, g, c, first, last, zeros, to) : inputs<Two>(images, g, c, first, last, zeros, to);
}
MP_CLONES void transform_inputs(const BFloat16 *images, const Grid &g, int64_t c, int64_t first, int64_t last, const BFloat16 *zeros,
                                const Points<BFloat16> &to) {
  g.tile == 4 ? inputs<Four>(images, g, c, first, last, zeros, to) : inputs<Two>(images, g, c, first, last, zeros, to);
}

template <class A, class E>
MP_INLINE void slopes(const E *images, const Grid &g, int64_t c, int64_t first, int64_t last, const E *zeros, const Points<E> &to) {
  each(g, first, last, [&](int64_t t, int64_t image, int64_t row, int64_t column) __attribute__((always_inline)) {
    constexpr int K = A::kTile, S = A::kSide;
    const E *d[K * K];
    pixels<K>(images + image * g.h * g.w * c, g, c, row, column, zeros, d);
    asked<S>(to.row, [&]<int from, int end>() __attribute__((always_inline)) {
      widen<from, end, K, S>(d, c, to.data + t * c, to.step, [](const auto *v, auto *x) __attribute__((always_inline)) { A::slope(v, x); });
    });
  });
}

// A dy AT of the tiles first..last.
MP_CLONES void transform_slopes(const float *images, const Grid &g, int64_t c, int64_t first, int64_t last, const float *zeros,
                                const Points<float> &to) {
  g.tile == 4 ? slopes<Four>(images, g, c, first, last, zeros, to) : slopes<Two>(images, g, c, first, last, zeros, to);
}
MP_CLONES void transform_slopes(const BFloat16 *images, const Grid &g, int64_t c, int64_t first, int64_t last, const BFloat16 *zeros,
                                const Points<BFloat16> &to) {
  g.tile == 4 ? slopes<Four>(images, g, c, first, last, zeros, to) : slopes<Two>(images, g, c, first, last, zeros, to);
}

template <class A, class E>
MP_INLINE void outputs(const float *from, int64_t step, const Grid &g, int64_t c, int64_t first, int64_t last, const float *bias,
                       E *waste, E *images) {
  each(g, first, last, [&](int64_t t, int64_t image, int64_t row, int64_t column) __attribute__((always_inline)) {
    constexpr int K = A::kTile, S = A::kSide;
    E *y[K * K];
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
MP_CLONES void transform_outputs(const float *from, int64_t step, const Grid &g, int64_t c, int64_t first, int64_t last,
                                 const float *bias, BFloat16 *waste, BFloat16 *images) {
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

// Two rows [n] side by side, as the instructions for bfloat16 take them.
template <class E>
MP_INLINE void pair(const E *first, const E *second, int64_t n, BFloat16 *to) {
  lanes(n, [&]<class V>(int64_t at) __attribute__((always_inline)) {
    V a, b;
    load(a, first + at), load(b, second + at);
    store_pairs(to + 2 * at, a, b);
  });
}
MP_CLONES void pair_rows(const float *first, const float *second, int64_t n, BFloat16 *to) { pair(first, second, n, to); }
MP_CLONES void pair_rows(const BFloat16 *from, int64_t rows, int64_t n, BFloat16 *to) {
  for (int64_t r = 0; r < rows; r += 2) pair(from + r * n, from + (r + 1) * n, n, to + r * n);
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

// The same, of b's rows in pairs; it adds to c if asked to.
void product(int64_t m, int64_t n, int64_t k, const BFloat16 *a, const BFloat16 *b, float *c, bool add = false) {
  at::native::cpublas::brgemm(m, n, k, k, n, n, add, a, b, c);
  at::native::cpublas::brgemm_release();
}

template <class E>
at::Tensor scratch(int64_t n) { return at::empty({n}, at::TensorOptions().dtype(c10::CppTypeToScalarType<E>::value)); }

int64_t gapped(int64_t n) { return (n + kGap - 1) / kGap * kGap + kGap; }

// What the tiles of a block need.
struct Space {
  at::Tensor points, products, waste;
};

// images [n c h w], channels last, correlated with weights of which transformed holds G w GT as matrices [c o].
template <class E>
at::Tensor correlate(const at::Tensor &images, const Grid &g, const at::Tensor &transformed, int64_t o, const float *bias) {
  const int64_t c = images.size(1), tiles = g.tiles(), points = g.points();
  const int64_t length = g.block(points * (c * sizeof(E) + o * sizeof(float)), 32, tiles), blocks = (tiles + length - 1) / length;
  const int64_t in = gapped(length * c), out = gapped(length * o), weights = gapped(c * o);
  at::Tensor y = at::empty({g.n, o, g.h, g.w}, images.options(), at::MemoryFormat::ChannelsLast);
  at::Tensor nothing = at::zeros({c}, images.options());
  at::Tensor unbiased = bias ? at::Tensor() : at::zeros({o});
  if (!bias) bias = unbiased.const_data_ptr<float>();
  const E *from = images.const_data_ptr<E>(), *zeros = nothing.const_data_ptr<E>(), *u = transformed.const_data_ptr<E>();
  E *to = y.mutable_data_ptr<E>();
  auto space = [&] { return Space{scratch<E>(points * in), scratch<float>(points * out), scratch<E>(o)}; };
  // Parallel within a block only outside of a parallel region.
  auto block = [&](int64_t b, const Space &space) {
    const int64_t first = b * length, last = std::min(tiles, first + length);
    E *v = space.points.mutable_data_ptr<E>(), *waste = space.waste.mutable_data_ptr<E>();
    float *m = space.products.mutable_data_ptr<float>();
    at::parallel_for(first, last, kGrain, [&](int64_t begin, int64_t end) {
      transform_inputs(from, g, c, begin, end, zeros, {v + (begin - first) * c, in});
    });
    at::parallel_for(0, points, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; i++) product(last - first, o, c, v + i * in, u + i * weights, m + i * out);
    });
    at::parallel_for(first, last, kGrain, [&](int64_t begin, int64_t end) {
      transform_outputs(m + (begin - first) * o, out, g, o, begin, end, bias, waste, to);
    });
  };
  if (blocks < at::get_num_threads()) {
    const Space s = space();
    for (int64_t b = 0; b < blocks; b++) block(b, s);
    return y;
  }
  at::parallel_for(0, blocks, 1, [&](int64_t begin, int64_t end) {
    const Space s = space();
    for (int64_t b = begin; b < end; b++) block(b, s);
  });
  return y;
}

// G w GT as matrices [rows c], in pairs of rows for bfloat16, of which row r has its taps at from + r*row + tap*k, tap = 3u + v,
// or 8 - 3u - v.
template <class E>
at::Tensor transform(const Grid &g, const float *from, int64_t rows, int64_t row, int64_t tap, int64_t c, bool flipped) {
  const int64_t step = gapped(rows * c);
  at::Tensor out = scratch<E>(g.points() * step);
  E *to = out.mutable_data_ptr<E>();
  auto row_of = [&](int64_t r, float *to, int64_t step) {
    const float *taps[9];
    for (int i = 0; i < 9; i++) taps[i] = from + r * row + (flipped ? 8 - i : i) * tap;
    transform_weights(g.tile, taps, c, to, step);
  };
  if constexpr (std::is_same_v<E, float>) {
    at::parallel_for(0, rows, kGrain, [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; r++) row_of(r, to + r * c, step);
    });
  } else {
    at::parallel_for(0, rows / 2, kGrain / 2, [&](int64_t begin, int64_t end) {
      at::Tensor two = scratch<float>(2 * g.points() * c);
      float *first = two.mutable_data_ptr<float>(), *second = first + c;
      for (int64_t r = begin; r < end; r++) {
        row_of(2 * r, first, 2 * c), row_of(2 * r + 1, second, 2 * c);
        for (int64_t i = 0; i < g.points(); i++) pair_rows(first + 2 * i * c, second + 2 * i * c, c, to + i * step + 2 * r * c);
      }
    });
  }
  return out;
}

at::Tensor last(const at::Tensor &t) { return t.contiguous(at::MemoryFormat::ChannelsLast); }

// sums [c] of a block of rows [c].
template <class E>
MP_INLINE void sum_rows(const E *from, int64_t rows, int64_t c, float *sums) {
  lanes(c, [&]<class V>(int64_t at) __attribute__((always_inline)) {
    V sum = {}, v;
    for (int64_t r = 0; r < rows; r++) load(v, from + r * c + at), sum += v;
    store(sums + at, sum);
  });
}
MP_CLONES void add_rows(const float *from, int64_t rows, int64_t c, float *sums) { sum_rows(from, rows, c, sums); }
MP_CLONES void add_rows(const BFloat16 *from, int64_t rows, int64_t c, float *sums) { sum_rows(from, rows, c, sums); }

// to [o c] = d [tiles o] transposed times v [tiles c], or that added to it.
void gather_product(int64_t tiles, int64_t o, int64_t c, float *v, float *d, float *to, bool add, float *) {
  gemm<float, float>(c, o, tiles, {v, c}, {d, o, 'T'}, add ? 1 : 0, to, c);  // column by column
}

// The same in bfloat16. There is room for an even number of tiles, and for as many in pairs.
void gather_product(int64_t tiles, int64_t o, int64_t c, BFloat16 *v, BFloat16 *d, float *to, bool add, BFloat16 *pairs) {
  if (tiles % 2) std::fill_n(v + tiles * c, c, BFloat16(0.f)), std::fill_n(d + tiles * o, o, BFloat16(0.f)), tiles++;
  BFloat16 *slopes = pairs + tiles * c, *turned = slopes + tiles * o;
  pair_rows(v, tiles, c, pairs), pair_rows(d, tiles, o, slopes);
  conv::transpose(reinterpret_cast<const Pair *>(slopes), tiles / 2, o, reinterpret_cast<Pair *>(turned));
  product(o, c, tiles, turned, pairs, to, add);
}

// A part of the tiles and a row of the points are one thread's: no two add to the same sums.
template <class E>
at::Tensor gradient(const at::Tensor &x, const at::Tensor &dy, int64_t tile) {
  const Grid g(x, tile);
  const int64_t c = x.size(1), o = dy.size(1), tiles = g.tiles(), side = g.side();
  const int64_t parts = std::clamp<int64_t>(tiles * tile * tile / kPart, 1, kParts), part = (tiles + parts - 1) / parts;
  const int64_t length = g.block(side * (c + o) * sizeof(E), 64, part);
  const int64_t in = gapped(length * c), out = gapped(length * o), weights = gapped(c * o), apart = g.points() * weights;
  at::Tensor nothing = at::zeros({std::max(c, o)}, x.options()), partial = scratch<float>(parts * apart);
  const E *from = x.const_data_ptr<E>(), *slopes = dy.const_data_ptr<E>(), *zeros = nothing.const_data_ptr<E>();
  float *sums = partial.mutable_data_ptr<float>();
  at::parallel_for(0, parts * side, 1, [&](int64_t begin, int64_t end) {
    at::Tensor space = scratch<E>(side * (in + out)), more = scratch<E>(std::is_same_v<E, BFloat16> ? length * (c + 2 * o) : 0);
    E *v = space.mutable_data_ptr<E>(), *d = v + side * in, *pairs = more.mutable_data_ptr<E>();
    for (int64_t task = begin; task < end; task++) {
      const int64_t p = task / side, row = task % side, stop = std::min(tiles, (p + 1) * part);
      float *to = sums + p * apart + row * side * weights;
      for (int64_t first = p * part; first < stop; first += length) {
        const int64_t last = std::min(stop, first + length);
        transform_inputs(from, g, c, first, last, zeros, {v, in, static_cast<int>(row)});
        transform_slopes(slopes, g, o, first, last, zeros, {d, out, static_cast<int>(row)});
        for (int64_t j = 0; j < side; j++) {
          gather_product(last - first, o, c, v + j * in, d + j * out, to + j * weights, first > p * part, pairs);
        }
      }
    }
  });
  at::Tensor dw = at::empty({o, c, 3, 3}, partial.options(), at::MemoryFormat::ChannelsLast);
  float *to = dw.mutable_data_ptr<float>();
  at::parallel_for(0, o, kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) gather_weights(tile, {sums + i * c, weights, parts, apart}, c, to + i * 9 * c);
  });
  return dw;
}

template <class E>
at::Tensor sums(const at::Tensor &dy) {
  constexpr int64_t kRows = 256;
  const int64_t o = dy.size(1), rows = dy.numel() / o, blocks = (rows + kRows - 1) / kRows;
  at::Tensor partial = scratch<float>(blocks * o), db = scratch<float>(o);
  const E *from = dy.const_data_ptr<E>();
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

// Calls f<E>() with the type of the images.
template <class F>
at::Tensor by_type(const at::Tensor &images, F &&f) {
  return images.scalar_type() == at::kBFloat16 ? f.template operator()<BFloat16>() : f.template operator()<float>();
}

}  // namespace

bool has(at::ScalarType d) {
  static const bool narrow = cpu_has("avx512_bf16") && !cpu_has("amx_bf16");
  return d == at::kFloat || (d == at::kBFloat16 && narrow && at::globalContext().userEnabledMkldnn());
}

at::Tensor forward(const at::Tensor &x, const at::Tensor &w, const at::Tensor &b, int64_t tile) {
  const Grid g(x, tile);
  const int64_t o = w.size(0), c = w.size(1);
  const at::Tensor weights = last(w), bias = b.defined() ? b.contiguous() : b;
  at::Tensor turned = scratch<float>(w.numel());  // [3 3 c o]
  conv::transpose(weights.const_data_ptr<float>(), o, 9 * c, turned.mutable_data_ptr<float>());
  return by_type(x, [&]<class E> {
    const at::Tensor u = transform<E>(g, turned.const_data_ptr<float>(), c, o, c * o, o, false);
    return correlate<E>(x, g, u, o, b.defined() ? bias.const_data_ptr<float>() : nullptr);
  });
}

at::Tensor input_gradient(const at::Tensor &dy, const at::Tensor &w, int64_t tile) {
  const Grid g(dy, tile);
  const int64_t o = w.size(0), c = w.size(1);
  const at::Tensor weights = last(w);  // [o 3 3 c]
  return by_type(dy, [&]<class E> {
    const at::Tensor u = transform<E>(g, weights.const_data_ptr<float>(), o, 9 * c, c, c, true);
    return correlate<E>(dy, g, u, c, nullptr);
  });
}

at::Tensor weight_gradient(const at::Tensor &x, const at::Tensor &dy, int64_t tile) {
  return by_type(x, [&]<class E> { return gradient<E>(x, dy, tile); });
}

at::Tensor bias_gradient(const at::Tensor &dy) {
  return by_type(dy, [&]<class E> { return sums<E>(dy); });
}

}  // namespace mp::winograd
