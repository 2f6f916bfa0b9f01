// Shared-exponent fixed point: the loops that package allreduce describes and has in plain Go.
#include <immintrin.h>

#include "fixed.h"
#include "lanes.h"

namespace {

typedef uint32_t __attribute__((may_alias)) word;  // a float's bits

using mp::fixed::integer;
using mp::fixed::power;
using mp::fixed::scale_of;

template <class F>
[[gnu::always_inline]] inline void blocks(int64_t n, F &&f) {
  int64_t lo = 0;
  for (; lo + MP_FIXED_BLOCK <= n; lo += MP_FIXED_BLOCK) f(lo, MP_FIXED_BLOCK);
  if (lo < n) f(lo, static_cast<int>(n - lo));
}

MP_CLONES void exponents_of(uint8_t *exponents, const word *x, int64_t n) {
  blocks(n, [&](int64_t lo, int length) {
    uint32_t greatest = 0;
    for (int i = 0; i < length; i++) {
      uint32_t v = x[lo + i] & 0x7fffffffu;
      greatest = v > greatest ? v : greatest;
    }
    uint8_t &e = exponents[lo / MP_FIXED_BLOCK];
    const uint8_t mine = static_cast<uint8_t>(greatest >> 23);
    e = mine > e ? mine : e;
  });
}

MP_CLONES void quantize(int32_t *q, const float *x, const uint8_t *exponents, int64_t n, int bits) {
  blocks(n, [&](int64_t lo, int length) {
    const float factor = power(scale_of(exponents[lo / MP_FIXED_BLOCK], bits));
#pragma GCC ivdep
    for (int i = 0; i < length; i++) q[lo + i] = integer(x[lo + i], factor);
  });
}

MP_CLONES void quantize_add(int32_t *q, const float *x, const uint8_t *exponents, int64_t n, int bits) {
  blocks(n, [&](int64_t lo, int length) {
    const float factor = power(scale_of(exponents[lo / MP_FIXED_BLOCK], bits));
#pragma GCC ivdep
    for (int i = 0; i < length; i++) q[lo + i] += integer(x[lo + i], factor);
  });
}

MP_CLONES void dequantize(float *x, const int32_t *q, const uint8_t *exponents, int64_t n, int bits) {
  blocks(n, [&](int64_t lo, int length) {
    const float factor = power(-scale_of(exponents[lo / MP_FIXED_BLOCK], bits));
#pragma GCC ivdep
    for (int i = 0; i < length; i++) x[lo + i] = static_cast<float>(q[lo + i]) * factor;
  });
}

MP_CLONES void accumulate(float *dst, const float *src, int64_t n) {
#pragma GCC ivdep
  for (int64_t i = 0; i < n; i++) dst[i] += src[i];
}

// Elements lo + i and lo + half + i share pair lo / 2 + i. A short last block may have an element too few for that.
MP_CLONES void shorten(int32_t *pairs, float *x, const uint8_t *exponents, int64_t n, int bits) {
  blocks(n, [&](int64_t lo, int length) {
    const int scale = scale_of(exponents[lo / MP_FIXED_BLOCK], bits), half = (length + 1) / 2;
    const float there = power(scale), back = power(-scale);
    float *upper = x + lo, *lower = x + lo + half;
    int32_t *q = pairs + lo / 2;
#pragma GCC ivdep
    for (int i = 0; i < length - half; i++) {
      const float u = rintf(upper[i] * there), l = rintf(lower[i] * there);
      upper[i] -= u * back;
      lower[i] -= l * back;
      q[i] = static_cast<int32_t>(u) * 65536 + static_cast<int32_t>(l);
    }
    if (length % 2) {
      const float u = rintf(upper[half - 1] * there);
      upper[half - 1] -= u * back;
      q[half - 1] = static_cast<int32_t>(u) * 65536;
    }
  });
}

MP_CLONES void lengthen(float *x, const int32_t *pairs, const uint8_t *exponents, int64_t n, int bits) {
  blocks(n, [&](int64_t lo, int length) {
    const int half = (length + 1) / 2;
    const float back = power(-scale_of(exponents[lo / MP_FIXED_BLOCK], bits));
    float *upper = x + lo, *lower = x + lo + half;
    const int32_t *q = pairs + lo / 2;
#pragma GCC ivdep
    for (int i = 0; i < half; i++) upper[i] = static_cast<float>((q[i] - static_cast<int16_t>(q[i])) >> 16) * back;
#pragma GCC ivdep
    for (int i = 0; i < length - half; i++) lower[i] = static_cast<float>(static_cast<int16_t>(q[i])) * back;
  });
}

// As lengthen, past the caches.
__attribute__((target("avx2"))) void lengthen_far(float *x, const int32_t *pairs, const uint8_t *exponents, int64_t n, int bits) {
  constexpr int kHalf = MP_FIXED_BLOCK / 2;
  for (int64_t lo = 0; lo < n; lo += MP_FIXED_BLOCK) {
    const __m256 back = _mm256_set1_ps(power(-scale_of(exponents[lo / MP_FIXED_BLOCK], bits)));
    for (int i = 0; i < kHalf; i += 8) {
      const __m256i q = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(pairs + lo / 2 + i));
      const __m256i l = _mm256_srai_epi32(_mm256_slli_epi32(q, 16), 16), u = _mm256_srai_epi32(_mm256_sub_epi32(q, l), 16);
      _mm256_stream_ps(x + lo + i, _mm256_mul_ps(_mm256_cvtepi32_ps(u), back));
      _mm256_stream_ps(x + lo + kHalf + i, _mm256_mul_ps(_mm256_cvtepi32_ps(l), back));
    }
  }
  _mm_sfence();
}

// Whether a vector can go past the caches.
bool far(const float *x, int64_t n) {
  return reinterpret_cast<uintptr_t>(x) % 32 == 0 && n % MP_FIXED_BLOCK == 0 && __builtin_cpu_supports("avx2");
}

// As dequantize, past the caches: what is written is longer than they are, and is not read first. x is aligned.
__attribute__((target("avx2"))) void dequantize_far(float *x, const int32_t *q, const uint8_t *exponents, int64_t n, int bits) {
  for (int64_t lo = 0; lo < n; lo += MP_FIXED_BLOCK) {
    const __m256 factor = _mm256_set1_ps(power(-scale_of(exponents[lo / MP_FIXED_BLOCK], bits)));
    for (int64_t i = lo; i < lo + MP_FIXED_BLOCK; i += 8) {
      const __m256i v = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(q + i));
      _mm256_stream_ps(x + i, _mm256_mul_ps(_mm256_cvtepi32_ps(v), factor));
    }
  }
  _mm_sfence();
}

MP_CLONES void add(int32_t *dst, const int32_t *src, int64_t n) {
#pragma GCC ivdep
  for (int64_t i = 0; i < n; i++) dst[i] += src[i];
}

}  // namespace

void mp_fixed_exponents(uint8_t *exponents, const float *x, int64_t n) { exponents_of(exponents, reinterpret_cast<const word *>(x), n); }

void mp_fixed_quantize(int32_t *q, const float *x, const uint8_t *exponents, int64_t n, int bits, int into) {
  (into ? quantize_add : quantize)(q, x, exponents, n, bits);
}

void mp_fixed_dequantize(float *x, const int32_t *q, const uint8_t *exponents, int64_t n, int bits) {
  (far(x, n) ? dequantize_far : dequantize)(x, q, exponents, n, bits);
}

void mp_fixed_add(int32_t *dst, const int32_t *src, int64_t n) { add(dst, src, n); }

void mp_fixed_accumulate(float *dst, const float *src, int64_t n) { accumulate(dst, src, n); }

void mp_fixed_shorten(int32_t *pairs, float *x, const uint8_t *exponents, int64_t n, int bits) { shorten(pairs, x, exponents, n, bits); }

void mp_fixed_lengthen(float *x, const int32_t *pairs, const uint8_t *exponents, int64_t n, int bits) {
  (far(x, n) ? lengthen_far : lengthen)(x, pairs, exponents, n, bits);
}
