// Loops over float32 in memory, several at a time, for the sources that compute on the CPU by themselves. Memory sets their pace:
// AVX2 is as wide as they need.
#pragma once

#include <cstdint>
#include <cstring>

// A function that is compiled for processors with AVX2 and for all others, and what it is made of.
#define MP_CLONES __attribute__((target_clones("avx2", "default")))
#define MP_INLINE [[gnu::always_inline]] inline

namespace mp {

// Eight channels at a time; the rest one by one.
typedef float Eight __attribute__((vector_size(32)));

template <class V>
constexpr int64_t kWidth = sizeof(V) / sizeof(float);

// The k-th V from there; memory is aligned to nothing.
template <class V>
MP_INLINE void load(V &v, const float *from, int k = 0) { std::memcpy(&v, from + k * kWidth<V>, sizeof v); }
template <class V>
MP_INLINE void store(float *to, const V &v, int k = 0) { std::memcpy(to + k * kWidth<V>, &v, sizeof v); }

// Calls f<V>(i) for the channels of a V from channel i, until all had their turn.
template <class F>
MP_INLINE void lanes(int64_t c, F &&f) {
  int64_t i = 0;
  for (; i + kWidth<Eight> <= c; i += kWidth<Eight>) f.template operator()<Eight>(i);
  for (; i < c; i++) f.template operator()<float>(i);
}

}  // namespace mp
