// Opening CUDA when a GPU is asked for. Nothing here links against it.
#include <ATen/Context.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <dlfcn.h>

#include <string>

#include "guard.h"

namespace {

// What libtorch warns of while it counts GPUs: why it finds none.
struct Warnings : c10::WarningHandler {
  std::string first;
  void process(const c10::Warning &w) override {
    if (first.empty()) first = w.msg();
  }
};

}  // namespace

int mp_open_cuda(const char *torch_cuda, const char *mp_cuda, int *gpus, char *err) {
  return mp::guard(err, [&] {
    TORCH_CHECK(dlopen(torch_cuda, RTLD_NOW | RTLD_GLOBAL), dlerror());
    if (mp_cuda && *mp_cuda) TORCH_CHECK(dlopen(mp_cuda, RTLD_NOW | RTLD_GLOBAL), dlerror());
    Warnings warnings;
    c10::WarningUtils::WarningHandlerGuard listen(&warnings);
    const auto &hooks = at::detail::getCUDAHooks();
    TORCH_CHECK(hooks.hasCUDA(), warnings.first.empty() ? "libtorch finds no GPU" : warnings.first);
    *gpus = hooks.deviceCount();
    at::Context &context = at::globalContext();
    context.setBenchmarkCuDNN(false);
    context.setDeterministicCuDNN(true);
    context.setAllowTF32CuDNN(false);
  });
}

int mp_take_gpu(int gpu, char *err) {
  return mp::guard(err, [&] {
    c10::impl::VirtualGuardImpl cuda(at::kCUDA);
    cuda.setDevice(c10::Device(at::kCUDA, static_cast<c10::DeviceIndex>(gpu)));
    cuda.synchronizeDevice(static_cast<c10::DeviceIndex>(gpu));
  });
}

int mp_gpu_place(int gpu, char *place, char *err) {
  return mp::guard(err, [&] {
    void *driver = dlopen("libcuda.so.1", RTLD_NOW);
    TORCH_CHECK(driver, dlerror());
    auto *ask = reinterpret_cast<int (*)(char *, int, int)>(dlsym(driver, "cuDeviceGetPCIBusId"));
    TORCH_CHECK(ask, dlerror());
    const int failed = ask(place, MP_PLACE, gpu);
    TORCH_CHECK(!failed, "CUDA error ", failed);
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
