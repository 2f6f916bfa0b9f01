// Copies of host memory to a GPU beside what it computes, on a stream of their own.
#include <ATen/Functions.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/Event.h>
#include <c10/core/StreamGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <map>
#include <memory>
#include <mutex>

#include "guard.h"

struct mp_stage {
  at::Tensor there;
  c10::Event arrived{at::kCUDA};
};

namespace {

// The stream of a GPU's copies.
c10::Stream copies(c10::Device gpu) {
  static std::mutex mutex;
  static std::map<int, c10::Stream> streams;
  const std::lock_guard<std::mutex> lock(mutex);
  auto found = streams.find(gpu.index());
  if (found == streams.end()) {
    found = streams.emplace(gpu.index(), c10::impl::VirtualGuardImpl(at::kCUDA).getStreamFromGlobalPool(gpu, false)).first;
  }
  return found->second;
}

}  // namespace

int mp_stage_room(int64_t bytes, mp_tensor *room, char *err) {
  return mp::guard(err, [&] { *room = mp::handle(at::empty({bytes}, at::TensorOptions().dtype(at::kByte).pinned_memory(true))); });
}

int mp_stage_copy(const void *from, int64_t bytes, int gpu, mp_stage **stage, char *err) {
  return mp::guard(err, [&] {
    const c10::Device device(at::kCUDA, static_cast<c10::DeviceIndex>(gpu));
    const c10::DeviceGuard on(device);
    const c10::StreamGuard beside(copies(device));
    auto made = std::make_unique<mp_stage>();
    made->there = at::empty({bytes}, at::TensorOptions().dtype(at::kByte).device(device));
    made->there.copy_(at::from_blob(const_cast<void *>(from), {bytes}, at::kByte), /*non_blocking=*/true);
    made->arrived.record(copies(device));
    *stage = made.release();
  });
}

int mp_stage_take(mp_stage *stage, mp_tensor *records, char *err) {
  return mp::guard(err, [&] {
    const c10::impl::VirtualGuardImpl cuda(at::kCUDA);
    const c10::Stream computes = cuda.getStream(stage->there.device());
    stage->arrived.block(computes);
    cuda.recordDataPtrOnStream(stage->there.storage().data_ptr(), computes);  // its memory outlives what computes with it
    *records = mp::handle(stage->there);
  });
}

void mp_stage_free(mp_stage *stage) { delete stage; }
