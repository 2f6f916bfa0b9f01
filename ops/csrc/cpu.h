// What this processor has, and whether a tensor is one for our own loops on it.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/cpu/Utils.h>

namespace mp {

// Whether it has instructions, by libtorch's name for them.
inline bool cpu_has(const char *instructions) {
  const auto has = at::cpu::get_cpu_capabilities();
  const auto found = has.find(instructions);
  return found != has.end() && found->second.toBool();
}

// Numbers of that type in this machine's memory.
inline bool plain(const at::Tensor &t, at::ScalarType type = at::kFloat) {
  return t.is_cpu() && t.scalar_type() == type && t.layout() == at::kStrided;
}

// Images of that kind, N H W C and not empty.
inline bool plain_images(const at::Tensor &t, at::ScalarType type = at::kFloat) {
  return plain(t, type) && t.dim() == 4 && t.numel() > 0 && t.is_contiguous(at::MemoryFormat::ChannelsLast);
}

}  // namespace mp
