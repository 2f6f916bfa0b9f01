// Batch norm and what follows it in one operation; ops.h says how the boundary works.
#pragma once

#include "ops.h"

#ifdef __cplusplus
extern "C" {
#endif

// A batch norm's tensors, all [C]; mean and variance are the running ones.
typedef struct {
  mp_tensor weight, bias, mean, variance;
  double momentum, eps;
  int32_t training;  // use the batch's statistics and move the running ones, else use the running ones
  int32_t rectify;   // max(..., 0) of the result
} mp_norm_rule;

// y (new) = the norm of x [N C H W], plus residual (as x; may be null) where rectify is set, rectified where that is asked
// for; with a graph of one node. y is null where there is no implementation: the caller composes it of ATen operations. There
// is one for float32 on the CPU that lies N H W C. No bit depends on the number of threads.
int mp_fused_norm(mp_tensor x, const mp_norm_rule *rule, mp_tensor residual, mp_tensor *y, char *err);

#ifdef __cplusplus
}
#endif
