// The rectifier of guided backpropagation; ops.h says how the boundary works.
#pragma once

#include "ops.h"

#ifdef __cplusplus
extern "C" {
#endif

// y (new) = max(x, 0), whose pullback lets through what is positive alone: dx = max(dy, 0) where x > 0, else 0.
int mp_guided_relu(mp_tensor x, mp_tensor *y, char *err);

#ifdef __cplusplus
}
#endif
