// Loops over float32 and bfloat16 in memory, several at a time, in float32, for the sources that compute on the CPU by themselves.
// Memory sets their pace: AVX2 is as wide as they need.
#pragma once

#include <c10/util/BFloat16.h>

#include <cstdint>
#include <cstring>
#include <type_traits>

// A function that is compiled for processors with AVX2 and for all others, and what it is made of.
#define MP_CLONES __attribute__((target_clones("avx2", "default")))
#define MP_INLINE [[gnu::always_inline]] inline

namespace mp {

// Eight channels at a time; the rest one by one.
typedef float Eight __attribute__((vector_size(32)));

template <class V>
constexpr int64_t kWidth = sizeof(V) / sizeof(float);

// As many words, and halves of them.
typedef uint32_t EightWords __attribute__((vector_size(32)));
typedef uint16_t EightHalves __attribute__((vector_size(16)));
template <class V>
using Words = std::conditional_t<std::is_same_v<V, Eight>, EightWords, uint32_t>;
template <class V>
using Halves = std::conditional_t<std::is_same_v<V, Eight>, EightHalves, uint16_t>;

// The k-th V from there; memory is aligned to nothing.
template <class V>
MP_INLINE void load(V &v, const float *from, int k = 0) { std::memcpy(&v, from + k * kWidth<V>, sizeof v); }
template <class V>
MP_INLINE void store(float *to, const V &v, int k = 0) { std::memcpy(to + k * kWidth<V>, &v, sizeof v); }

// A bfloat16 is the upper half of a float32, rounded to the nearest and of two to the even one. (A NaN stays one: no operation
// makes those whose every bit is set.)
template <class V>
MP_INLINE void round_to(Words<V> &w, const V &v) {
  std::memcpy(&w, &v, sizeof w);
  w += 0x7fff + ((w >> 16) & 1);
}

template <class To, class From>
MP_INLINE void turn(To &to, const From &from) {
  if constexpr (std::is_integral_v<From>) to = static_cast<To>(from);
  else to = __builtin_convertvector(from, To);
}

template <class V>
MP_INLINE void load(V &v, const c10::BFloat16 *from, int k = 0) {
  Halves<V> h;
  Words<V> w;
  std::memcpy(&h, from + k * kWidth<V>, sizeof h);
  turn(w, h);
  w <<= 16;
  std::memcpy(&v, &w, sizeof v);
}
template <class V>
MP_INLINE void store(c10::BFloat16 *to, const V &v, int k = 0) {
  Halves<V> h;
  Words<V> w;
  round_to(w, v);
  w >>= 16;
  turn(h, w);
  std::memcpy(static_cast<void *>(to + k * kWidth<V>), &h, sizeof h);
}

// The two rounded, side by side, the first one first.
template <class V>
MP_INLINE void store_pairs(c10::BFloat16 *to, const V &first, const V &second) {
  Words<V> a, b;
  round_to(a, first), round_to(b, second);
  a = (a >> 16) | (b & 0xffff0000u);
  std::memcpy(static_cast<void *>(to), &a, sizeof a);
}

// Calls f<V>(i) for the channels of a V from channel i, until all had their turn.
template <class F>
MP_INLINE void lanes(int64_t c, F &&f) {
  int64_t i = 0;
  for (; i + kWidth<Eight> <= c; i += kWidth<Eight>) f.template operator()<Eight>(i);
  for (; i < c; i++) f.template operator()<float>(i);
}

}  // namespace mp
