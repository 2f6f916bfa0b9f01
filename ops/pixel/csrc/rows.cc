#include "rows.h"

#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#define MPP_ROW __attribute__((target_clones("avx2", "default")))
#else
#define MPP_ROW
#endif
#define MPP_INLINE __attribute__((always_inline)) inline

namespace mpp {
namespace {

typedef uint8_t Byte16 __attribute__((vector_size(16)));
typedef int32_t Int4 __attribute__((vector_size(16)));  // r, g, b and what comes after

MPP_INLINE Int4 load(const uint8_t *at) {
  int32_t word;
  std::memcpy(&word, at, 4);
  constexpr Byte16 spread = {0, 4, 4, 4, 1, 4, 4, 4, 2, 4, 4, 4, 3, 4, 4, 4};
  return reinterpret_cast<Int4>(__builtin_shuffle(reinterpret_cast<Byte16>(Int4{word, 0, 0, 0}), spread));
}

MPP_INLINE void store(Int4 v, uint8_t *to) {
  constexpr Byte16 close = {0, 4, 8, 12, 0, 4, 8, 12, 0, 4, 8, 12, 0, 4, 8, 12};
  int32_t word = reinterpret_cast<Int4>(__builtin_shuffle(reinterpret_cast<Byte16>(v), close))[0];
  std::memcpy(to, &word, 4);
}

MPP_INLINE Int4 to_bytes(Int4 v) {
  v &= ~(v < 0);
  return (v > 255) ? Int4{255, 255, 255, 255} : v;
}

MPP_INLINE int fraction(int32_t u) { return (u >> (kCoordBits - kWeightBits)) & (kWeightOne - 1); }

constexpr int kHalf = 1 << (2 * kWeightBits - 1);

template <class T, class Out>
MPP_INLINE void normalise(const T *__restrict v, const float *__restrict mean, const float *__restrict scale, int n,
                          Out *__restrict to) {
  constexpr float unit = sizeof(T) == 1 ? 1.0f : 1.0f / 32768.0f;
  for (int i = 0; i < n; i++) {
    float f = (static_cast<float>(v[i]) * unit - mean[i]) * scale[i];
    if constexpr (sizeof(Out) == 4) {
      to[i] = f;
    } else {
      uint32_t u;
      std::memcpy(&u, &f, 4);
      to[i] = static_cast<uint16_t>((u + 0x7FFF + (u >> 16 & 1)) >> 16);
    }
  }
}

#if defined(__x86_64__)
// The same for AVX2, by hand: compilers widen bytes in steps and pack words with more shuffles than are needed.

__attribute__((target("avx2"))) inline __m256 widen(const uint8_t *v) {
  return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i *>(v))));
}

__attribute__((target("avx2"))) inline __m256 widen(const int32_t *v) {
  const __m256 f = _mm256_cvtepi32_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(v)));
  return _mm256_mul_ps(f, _mm256_set1_ps(1.0f / 32768.0f));
}

// bfloat16 in the high halves. Without ties, nearest is nearest.
template <bool ties>
__attribute__((target("avx2"))) inline __m256i rounded(__m256 f) {
  __m256i u = _mm256_castps_si256(f), half = _mm256_set1_epi32(0x8000);
  if constexpr (ties) {
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
    half = _mm256_add_epi32(_mm256_set1_epi32(0x7FFF), odd);
  }
  return _mm256_add_epi32(u, half);
}

template <class T, class Out>
__attribute__((target("avx2"))) void normalise_avx2(const T *v, const float *mean, const float *scale, int n, Out *to) {
  auto eight = [&](int i) __attribute__((always_inline, target("avx2"))) {
    return _mm256_mul_ps(_mm256_sub_ps(widen(v + i), _mm256_loadu_ps(mean + i)), _mm256_loadu_ps(scale + i));
  };
  int i = 0;
  for (; i + 16 <= n; i += 16) {
    const __m256 low = eight(i), high = eight(i + 8);
    if constexpr (sizeof(Out) == 4) {
      _mm256_storeu_ps(to + i, low);
      _mm256_storeu_ps(to + i + 8, high);
    } else {
      // Packing works in halves of 128 bits: put the four quarters in order after it.
      const __m256i packed = _mm256_packus_epi32(_mm256_srli_epi32(rounded<true>(low), 16), _mm256_srli_epi32(rounded<true>(high), 16));
      _mm256_storeu_si256(reinterpret_cast<__m256i *>(to + i), _mm256_permute4x64_epi64(packed, 0xD8));
    }
  }
  normalise(v + i, mean + i, scale + i, n - i, to + i);
}

// From bytes to bfloat16, the path of most batches: values at even and at odd places apart, so that the halves that remain of
// both need no packing, only a blend.
template <bool ties>
__attribute__((target("avx2"))) void normalise_avx2(const uint8_t *v, const Norm &norm, int n, uint16_t *to) {
  const __m256i evens = _mm256_setr_epi8(0, -1, -1, -1, 2, -1, -1, -1, 4, -1, -1, -1, 6, -1, -1, -1,  //
                                         8, -1, -1, -1, 10, -1, -1, -1, 12, -1, -1, -1, 14, -1, -1, -1);
  const __m256i odds = _mm256_setr_epi8(1, -1, -1, -1, 3, -1, -1, -1, 5, -1, -1, -1, 7, -1, -1, -1,  //
                                        9, -1, -1, -1, 11, -1, -1, -1, 13, -1, -1, -1, 15, -1, -1, -1);
  auto eight = [&](__m256i x, int i) __attribute__((always_inline, target("avx2"))) {
    const __m256 centred = _mm256_sub_ps(_mm256_cvtepi32_ps(x), _mm256_loadu_ps(norm.split_mean + i));
    return rounded<ties>(_mm256_mul_ps(centred, _mm256_loadu_ps(norm.split_scale + i)));
  };
  int i = 0;
  for (; i + 16 <= n; i += 16) {
    const __m256i x = _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i *>(v + i)));
    const __m256i even = eight(_mm256_shuffle_epi8(x, evens), i), odd = eight(_mm256_shuffle_epi8(x, odds), i + 8);
    _mm256_storeu_si256(reinterpret_cast<__m256i *>(to + i), _mm256_blend_epi16(_mm256_srli_epi32(even, 16), odd, 0xAA));
  }
  normalise(v + i, norm.mean + i, norm.scale + i, n - i, to + i);
}

// Five pixels at a time, so that every vector begins with the first channel; its sixteenth value is nobody's.
template <bool ties>
class Fives {
 public:
  __attribute__((target("avx2"))) explicit Fives(const Norm &norm)
      : even_mean_(_mm256_loadu_ps(norm.split_mean)), odd_mean_(_mm256_loadu_ps(norm.split_mean + 8)),
        even_scale_(_mm256_loadu_ps(norm.split_scale)), odd_scale_(_mm256_loadu_ps(norm.split_scale + 8)) {}

  // evens and odds spread the bytes at even and odd places.
  __attribute__((target("avx2"), always_inline)) __m256i operator()(__m128i bytes, __m256i evens, __m256i odds) const {
    const __m256i x = _mm256_broadcastsi128_si256(bytes);
    const __m256 even = _mm256_cvtepi32_ps(_mm256_shuffle_epi8(x, evens)), odd = _mm256_cvtepi32_ps(_mm256_shuffle_epi8(x, odds));
    return _mm256_blend_epi16(_mm256_srli_epi32(rounded<ties>(_mm256_mul_ps(_mm256_sub_ps(even, even_mean_), even_scale_)), 16),
                              rounded<ties>(_mm256_mul_ps(_mm256_sub_ps(odd, odd_mean_), odd_scale_)), 0xAA);
  }

 private:
  __m256 even_mean_, odd_mean_, even_scale_, odd_scale_;
};

template <bool ties>
__attribute__((target("avx2"))) void reverse_avx2(const uint8_t *from, const Norm &norm, int n, uint16_t *to) {
  const __m256i evens = _mm256_setr_epi8(12, -1, -1, -1, 14, -1, -1, -1, 10, -1, -1, -1, 6, -1, -1, -1,  //
                                         8, -1, -1, -1, 4, -1, -1, -1, 0, -1, -1, -1, 2, -1, -1, -1);
  const __m256i odds = _mm256_setr_epi8(13, -1, -1, -1, 9, -1, -1, -1, 11, -1, -1, -1, 7, -1, -1, -1,  //
                                        3, -1, -1, -1, 5, -1, -1, -1, 1, -1, -1, -1, -1, -1, -1, -1);
  const Fives<ties> fives(norm);
  for (; n > 5; n -= 5, from -= 15, to += 15) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i *>(from - 12));
    _mm256_storeu_si256(reinterpret_cast<__m256i *>(to), fives(bytes, evens, odds));
  }
  uint8_t rest[16] = {};
  std::memcpy(rest + 3 * (5 - n), from - 3 * (n - 1), static_cast<size_t>(n) * 3);
  const __m256i values = fives(_mm_loadu_si128(reinterpret_cast<const __m128i *>(rest)), evens, odds);
  std::memcpy(to, &values, static_cast<size_t>(n) * 6);
}

template <bool ties>
__attribute__((target("avx2"))) void repeat_avx2(const uint8_t *pixel, const Norm &norm, int n, uint16_t *to) {
  const __m256i evens = _mm256_setr_epi8(0, -1, -1, -1, 2, -1, -1, -1, 1, -1, -1, -1, 0, -1, -1, -1,  //
                                         2, -1, -1, -1, 1, -1, -1, -1, 0, -1, -1, -1, 2, -1, -1, -1);
  const __m256i odds = _mm256_setr_epi8(1, -1, -1, -1, 0, -1, -1, -1, 2, -1, -1, -1, 1, -1, -1, -1,  //
                                        0, -1, -1, -1, 2, -1, -1, -1, 1, -1, -1, -1, -1, -1, -1, -1);
  int32_t word;
  std::memcpy(&word, pixel, 4);
  const __m256i values = Fives<ties>(norm)(_mm_cvtsi32_si128(word), evens, odds);
  for (; n > 5; n -= 5, to += 15) _mm256_storeu_si256(reinterpret_cast<__m256i *>(to), values);
  std::memcpy(to, &values, static_cast<size_t>(n) * 6);
}
#endif

}  // namespace

MPP_ROW void nearest_row(const uint8_t *record, Line line, int n, uint8_t *rgb) {
  constexpr int kHalfPixel = 1 << (kCoordBits - 1);
  int32_t u = line.u + kHalfPixel, v = line.v + kHalfPixel;
  for (int i = 0; i < n; i++, u += line.du, v += line.dv) {
    int x = clamp(u >> kCoordBits, 0, MPP_SIDE - 1), y = clamp(v >> kCoordBits, 0, MPP_SIDE - 1);
    std::memcpy(rgb + 3 * i, record + (y * MPP_SIDE + x) * 3, 4);
  }
}

MPP_ROW void bilinear_row(const uint8_t *record, Line line, int n, uint8_t *rgb) {
  int32_t u = line.u, v = line.v;
  for (int i = 0; i < n; i++, u += line.du, v += line.dv) {
    int x = u >> kCoordBits, y = v >> kCoordBits, fx = fraction(u), fy = fraction(v);
    int x0 = clamp(x, 0, MPP_SIDE - 1) * 3, x1 = clamp(x + 1, 0, MPP_SIDE - 1) * 3;
    const uint8_t *row0 = record + clamp(y, 0, MPP_SIDE - 1) * (MPP_SIDE * 3);
    const uint8_t *row1 = record + clamp(y + 1, 0, MPP_SIDE - 1) * (MPP_SIDE * 3);
    int w11 = fx * fy, w01 = (fx << kWeightBits) - w11, w10 = (fy << kWeightBits) - w11;
    int w00 = (1 << (2 * kWeightBits)) - w01 - w10 - w11;
    Int4 sum = load(row0 + x0) * w00 + load(row0 + x1) * w01 + load(row1 + x0) * w10 + load(row1 + x1) * w11;
    store((sum + kHalf) >> (2 * kWeightBits), rgb + 3 * i);
  }
}

// The weights of cubic() for all fractions.
struct Cubics {
  int16_t weight[kWeightOne][4];
  Cubics() {
    for (int f = 0; f < kWeightOne; f++) {
      int w[4];
      cubic(f, w);
      for (int k = 0; k < 4; k++) weight[f][k] = static_cast<int16_t>(w[k]);
    }
  }
};

MPP_ROW void bicubic_row(const uint8_t *record, Line line, int n, uint8_t *rgb) {
  static const Cubics cubics;
  int32_t u = line.u, v = line.v;
  for (int i = 0; i < n; i++, u += line.du, v += line.dv) {
    int x = u >> kCoordBits, y = v >> kCoordBits, column[4];
    const int16_t *wx = cubics.weight[fraction(u)], *wy = cubics.weight[fraction(v)];
    for (int k = 0; k < 4; k++) column[k] = clamp(x + k - 1, 0, MPP_SIDE - 1) * 3;
    Int4 sum = {kHalf, kHalf, kHalf, kHalf};
    for (int j = 0; j < 4; j++) {
      const uint8_t *row = record + clamp(y + j - 1, 0, MPP_SIDE - 1) * (MPP_SIDE * 3);
      Int4 h = load(row + column[0]) * wx[0] + load(row + column[1]) * wx[1] + load(row + column[2]) * wx[2] +
               load(row + column[3]) * wx[3];
      sum += h * wy[j];
    }
    store(to_bytes(sum >> (2 * kWeightBits)), rgb + 3 * i);
  }
}

MPP_ROW void gain_row(const uint16_t *gain, int n, uint8_t *rgb) {
  constexpr int kPeriod = 48;
  uint16_t g[kPeriod];
  for (int j = 0; j < kPeriod; j++) g[j] = gain[j % 3];
  // 2 v times gain has its high half where v times gain has its whole part.
  auto one = [&](uint8_t v, int j) __attribute__((always_inline)) {
    uint16_t w = static_cast<uint16_t>(static_cast<uint32_t>(static_cast<uint16_t>(2 * v)) * g[j] >> 16);
    return static_cast<uint8_t>(w > 255 ? 255 : w);
  };
  int i = 0;
  for (; i + kPeriod <= 3 * n; i += kPeriod) {
    for (int j = 0; j < kPeriod; j++) rgb[i + j] = one(rgb[i + j], j);
  }
  for (int j = 0; i + j < 3 * n; j++) rgb[i + j] = one(rgb[i + j], j);
}

MPP_ROW void matrix_row(const int32_t *matrix, const int32_t *offset, int n, uint8_t *rgb) {
  Int4 r = {matrix[0], matrix[4], matrix[8]}, g = {matrix[1], matrix[5], matrix[9]};
  Int4 b = {matrix[2], matrix[6], matrix[10]}, o = {offset[0], offset[1], offset[2]};
  for (int i = 0; i < n; i++) {
    uint8_t *at = rgb + 3 * i, next = at[3];
    store(to_bytes((r * at[0] + g * at[1] + b * at[2] + o) >> 16), at);
    at[3] = next;
  }
}

MPP_ROW void reverse_row(const uint8_t *from, int n, uint8_t *to) {
  constexpr Byte16 turn = {13, 14, 15, 10, 11, 12, 7, 8, 9, 4, 5, 6, 1, 2, 3, 0};
  int i = 0;
  for (; i + 6 <= n; i += 5) {
    Byte16 v;  // five pixels and the last byte of the one before
    std::memcpy(&v, from + 3 * (n - i) - 16, 16);
    v = __builtin_shuffle(v, turn);
    std::memcpy(to + 3 * i, &v, 16);
  }
  for (; i < n; i++) {
    const uint8_t *at = from + 3 * (n - 1 - i);
    for (int c = 0; c < 3; c++) to[3 * i + c] = at[c];
  }
}

void repeat_row(const uint8_t *pixel, int n, uint8_t *to) {
  if (n <= 0) return;
  uint8_t five[16];  // and one channel
  for (int i = 0; i < 16; i++) five[i] = pixel[i % 3];
  for (int i = 0; i < n; i += 5) std::memcpy(to + 3 * i, five, 16);
}

MPP_ROW void channel_row(const uint8_t *rgb, int channel, int n, uint8_t *plane) {
  // Of 16 pixels, 11 begin in the first two vectors (r, g) or 10 (b); the rest come from the third.
  Byte16 first, second;
  for (int i = 0; i < 16; i++) {
    const int at = 3 * i + channel;
    first[i] = static_cast<uint8_t>(at < 32 ? at : 0);
    second[i] = static_cast<uint8_t>(at < 32 ? i : at - 16);
  }
  int i = 0;
  for (; i + 16 <= n; i += 16) {
    Byte16 v[3];
    std::memcpy(v, rgb + 3 * i, sizeof v);
    const Byte16 plain = __builtin_shuffle(__builtin_shuffle(v[0], v[1], first), v[2], second);
    std::memcpy(plane + i, &plain, 16);
  }
  for (; i < n; i++) plane[i] = rgb[3 * i + channel];
}

template <class T, class Out>
static void pick(const T *v, const Norm &norm, int n, Out *to) {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2")) {
    if constexpr (sizeof(T) == 1 && sizeof(Out) == 2) {
      return norm.ties ? normalise_avx2<true>(v, norm, n, to) : normalise_avx2<false>(v, norm, n, to);
    } else {
      return normalise_avx2(v, norm.mean, norm.scale, n, to);
    }
  }
#endif
  normalise(v, norm.mean, norm.scale, n, to);
}

void normalise_row(const uint8_t *v, const Norm &norm, int n, float *to) {
  pick(v, norm, n, to);
}
void normalise_row(const uint8_t *v, const Norm &norm, int n, uint16_t *to) {
  pick(v, norm, n, to);
}
void normalise_row(const int32_t *v, const Norm &norm, int n, float *to) {
  pick(v, norm, n, to);
}
void normalise_row(const int32_t *v, const Norm &norm, int n, uint16_t *to) {
  pick(v, norm, n, to);
}

void normalise_reverse_row(const uint8_t *from, const Norm &norm, int n, uint16_t *to) {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2")) {
    return norm.ties ? reverse_avx2<true>(from, norm, n, to) : reverse_avx2<false>(from, norm, n, to);
  }
#endif
  for (int i = 0; i < n; i++) normalise(from - 3 * i, norm.mean, norm.scale, 3, to + 3 * i);
}

void normalise_repeat_row(const uint8_t *pixel, const Norm &norm, int n, uint16_t *to) {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2")) {
    return norm.ties ? repeat_avx2<true>(pixel, norm, n, to) : repeat_avx2<false>(pixel, norm, n, to);
  }
#endif
  for (int i = 0; i < n; i++) normalise(pixel, norm.mean, norm.scale, 3, to + 3 * i);
}

}  // namespace mpp
