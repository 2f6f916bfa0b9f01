// How the CPU's side finds and calls the launchers of our CUDA library, which may not be there.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <dlfcn.h>

namespace mp {

// The launcher of that name in our CUDA library, null where it is not loaded.
template <class F>
F *launcher(const char *name) {
  return reinterpret_cast<F *>(dlsym(RTLD_DEFAULT, name));
}

inline void *stream_of(const at::Tensor &x) { return c10::impl::VirtualGuardImpl(at::kCUDA).getStream(x.device()).native_handle(); }

}  // namespace mp
