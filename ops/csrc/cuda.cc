// Opening CUDA when a GPU is asked for. Nothing here links against it.
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <dlfcn.h>

#include "guard.h"

int mp_open_cuda(const char *torch_cuda, const char *mp_cuda, int *gpus, char *err) {
  return mp::guard(err, [&] {
    TORCH_CHECK(dlopen(torch_cuda, RTLD_NOW | RTLD_GLOBAL), dlerror());
    if (mp_cuda && *mp_cuda) TORCH_CHECK(dlopen(mp_cuda, RTLD_NOW | RTLD_GLOBAL), dlerror());
    const auto &hooks = at::detail::getCUDAHooks();
    TORCH_CHECK(hooks.hasCUDA(), "no NVIDIA driver that works with this libtorch");
    *gpus = hooks.deviceCount();
  });
}

int mp_synchronize(int device, char *err) {
  return mp::guard(err, [&] {
    if (device < 0) return;
    c10::impl::VirtualGuardImpl(at::kCUDA).synchronizeDevice(static_cast<c10::DeviceIndex>(device));
  });
}

int mp_cuda_memory(int gpu, int64_t out[4], char *err) {
  return mp::guard(err, [&] {
    auto *allocator = c10::GetAllocator(at::kCUDA);
    auto *device = dynamic_cast<c10::DeviceAllocator *>(allocator);
    TORCH_CHECK(device, "this libtorch's CUDA allocator reports no statistics");
    auto stats = device->getDeviceStats(static_cast<c10::DeviceIndex>(gpu));
    auto [free, total] = device->getMemoryInfo(static_cast<c10::DeviceIndex>(gpu));
    out[0] = stats.allocated_bytes[0].current, out[1] = stats.allocated_bytes[0].peak;
    out[2] = static_cast<int64_t>(free), out[3] = static_cast<int64_t>(total);
  });
}
