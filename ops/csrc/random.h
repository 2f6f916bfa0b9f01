// splitmix64 as a function of (key, position). The plain-Go twin is keep in ops/dropout_test.go.
#pragma once

#include <stdint.h>

#include "hostdevice.h"

MP_HOST_DEVICE inline uint64_t mp_mix(uint64_t z) {
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
  return z ^ (z >> 31);
}

// True with probability 1-p.
MP_HOST_DEVICE inline bool mp_keep(uint64_t key, uint64_t position, double p) {
  uint64_t z = mp_mix(key + (position + 1) * 0x9e3779b97f4a7c15ULL);
  return static_cast<double>(z >> 11) * 0x1.0p-53 >= p;
}
