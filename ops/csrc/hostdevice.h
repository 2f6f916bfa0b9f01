// Functions that the CPU's compiler and the GPU's both compile.
#pragma once

#ifdef __CUDACC__
#define MP_HOST_DEVICE __host__ __device__
#else
#define MP_HOST_DEVICE
#endif
