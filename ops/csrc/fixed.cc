// Shared-exponent fixed point: the loops that package allreduce describes and has in plain Go. Memory sets the pace: AVX2 is
// as wide as it needs.
#include <immintrin.h>

#include <cmath>
#include <cstring>

#include "ops.h"

namespace {

#define MP_CLONES __attribute__((target_clones("avx2", "default")))

// One memory may be seen as floats and as integers.
typedef float __attribute__((may_alias)) real;
typedef int32_t __attribute__((may_alias)) whole;
typedef uint32_t __attribute__((may_alias)) word;

constexpr int kMinExponent = 32;  // allreduce: minExponent

// 2^n for -126 <= n <= 127.
inline float power(int n) {
  uint32_t bits = static_cast<uint32_t>(n + 127) << 23;
  float f;
  std::memcpy(&f, &bits, sizeof f);
  return f;
}

inline int scale_of(uint8_t exponent, int bits) { return bits + 126 - (exponent > kMinExponent ? exponent : kMinExponent); }

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

MP_CLONES void quantize(whole *q, const real *x, const uint8_t *exponents, int64_t n, int bits) {
  blocks(n, [&](int64_t lo, int length) {
    const float factor = power(scale_of(exponents[lo / MP_FIXED_BLOCK], bits));
#pragma GCC ivdep
    for (int i = 0; i < length; i++) q[lo + i] = static_cast<int32_t>(__builtin_rintf(x[lo + i] * factor));
  });
}

MP_CLONES void quantize_add(whole *q, const real *x, const uint8_t *exponents, int64_t n, int bits) {
  blocks(n, [&](int64_t lo, int length) {
    const float factor = power(scale_of(exponents[lo / MP_FIXED_BLOCK], bits));
#pragma GCC ivdep
    for (int i = 0; i < length; i++) q[lo + i] += static_cast<int32_t>(__builtin_rintf(x[lo + i] * factor));
  });
}

MP_CLONES void dequantize(real *x, const whole *q, const uint8_t *exponents, int64_t n, int bits) {
  blocks(n, [&](int64_t lo, int length) {
    const float factor = power(-scale_of(exponents[lo / MP_FIXED_BLOCK], bits));
#pragma GCC ivdep
    for (int i = 0; i < length; i++) x[lo + i] = static_cast<float>(q[lo + i]) * factor;
  });
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
  if (reinterpret_cast<uintptr_t>(x) % 32 == 0 && n % MP_FIXED_BLOCK == 0 && __builtin_cpu_supports("avx2")) {
    dequantize_far(x, q, exponents, n, bits);
  } else {
    dequantize(x, q, exponents, n, bits);
  }
}

void mp_fixed_add(int32_t *dst, const int32_t *src, int64_t n) { add(dst, src, n); }
