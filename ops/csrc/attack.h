// What attacks on images need of the boundary beside ops.h; the same conventions.
#pragma once

#include "ops.h"

#ifdef __cplusplus
extern "C" {
#endif

// Random numbers in like's shape, dtype, layout and device (new), a function of the sample's key and of the position in the
// sample (C-order of the logical shape): uniform in [-1, 1), or standard normal. keys: one per sample (first dimension).
enum { MP_UNIFORM, MP_NORMAL };
int mp_noise(mp_tensor like, const uint64_t *keys, int n, int kind, mp_tensor *noise, char *err);

// clamp(x + alpha * sign(grad), x0 - eps, x0 + eps), then to [lo, hi] (new). The sign of NaN is 0.
int mp_sign_step(mp_tensor x, mp_tensor grad, mp_tensor x0, double alpha, double eps, double lo, double hi, mp_tensor *next,
                 char *err);

// As mp_pullback for one input; with keep the graph stays for another call.
int mp_pullback_keep(mp_tensor y, mp_tensor dy, mp_tensor input, int keep, mp_tensor *result, char *err);

#ifdef __cplusplus
}
#endif
