// The CPU allocator behind every tensor.
//
// A training step asks for the same sizes again and again. glibc gives large blocks back to the kernel at once, and the
// next step pays for fresh, zeroed pages: a fifth of a small network's step. This allocator keeps freed blocks in lists
// by size and hands them out again. It counts what is in use, so that memory can be reported and compared.
//
// Where sizes change all the time, as in an attack that images leave, every size would keep blocks of its own. So what is
// held, in use or not, stays below twice the most that has been in use, and kSlack: beyond, all free blocks are given back.
#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>
#include <sys/mman.h>

#include <cstdlib>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "guard.h"

namespace {

constexpr size_t kAlign = 64;
constexpr size_t kHuge = 2 << 20;  // blocks from this size on ask for huge pages
constexpr int64_t kSlack = 64 << 20;

// Blocks are rounded up so that nearly equal sizes share a list: to 64 bytes below 4 KiB, else to 1/8 of the power of
// two below (at most 12.5 % lost).
size_t rounded(size_t n) {
  size_t step = kAlign;
  for (size_t p = 4096; p <= n; p <<= 1) step = p / 8;
  return (n + step - 1) / step * step;
}

// A block is its size, in the first kAlign bytes, and the data after them: oneDNN frees by the data's address alone.
size_t &size_of(void *data) { return *reinterpret_cast<size_t *>(static_cast<char *>(data) - kAlign); }

class Keeper final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t n) override {
    if (n == 0) return {nullptr, nullptr, &release, at::Device(at::kCPU)};
    void *data = take(rounded(n + kAlign));
    return {data, data, &release, at::Device(at::kCPU)};
  }

  c10::DeleterFnPtr raw_deleter() const override { return &release; }

  void copy_data(void *to, const void *from, std::size_t n) const override { std::memcpy(to, from, n); }

  void stats(int64_t *used, int64_t *peak, int64_t *cached) {
    std::lock_guard<std::mutex> lock(mu_);
    *used = used_, *peak = peak_, *cached = cached_;
  }

  void reset_peak() {
    std::lock_guard<std::mutex> lock(mu_);
    peak_ = used_;
  }

  void trim() {
    std::lock_guard<std::mutex> lock(mu_);
    trim_locked();
    most_ = used_;
  }

  static Keeper &instance() {
    static auto *keeper = new Keeper;  // never destroyed: tensors may outlive main
    return *keeper;
  }

 private:
  void *take(size_t size) {
    std::lock_guard<std::mutex> lock(mu_);
    void *data = nullptr;
    auto &list = free_[size];
    if (!list.empty()) {
      data = list.back();
      list.pop_back();
      cached_ -= size;
    } else {
      if (cached_ > 0 && used_ + cached_ + static_cast<int64_t>(size) > 2 * most_ + kSlack) trim_locked();
      data = fresh(size);
      if (!data) {
        trim_locked();
        data = fresh(size);
      }
      if (!data) {
        TORCH_CHECK_WITH(OutOfMemoryError, false, "can't allocate memory: asked for ", size, " bytes, ", used_,
                         " in use; lower the batch size or the image size");
      }
    }
    used_ += size;
    if (used_ > peak_) peak_ = used_;
    if (used_ > most_) most_ = used_;
    return data;
  }

  static void *fresh(size_t size) {
    void *block = nullptr;
    if (posix_memalign(&block, size >= kHuge ? kHuge : kAlign, size) != 0) return nullptr;
    if (size >= kHuge) madvise(block, size, MADV_HUGEPAGE);
    void *data = static_cast<char *>(block) + kAlign;
    size_of(data) = size;
    return data;
  }

  static void release(void *data) {
    if (!data) return;
    Keeper &k = instance();
    size_t size = size_of(data);
    std::lock_guard<std::mutex> lock(k.mu_);
    k.free_[size].push_back(data);
    k.used_ -= size;
    k.cached_ += size;
  }

  void trim_locked() {
    for (auto &[size, list] : free_) {
      for (void *data : list) std::free(static_cast<char *>(data) - kAlign);
      cached_ -= size * list.size();
      list.clear();
    }
  }

  std::mutex mu_;
  std::unordered_map<size_t, std::vector<void *>> free_;
  int64_t used_ = 0, peak_ = 0, cached_ = 0;
  int64_t most_ = 0;  // in use since the last trim()
};

}  // namespace

void mp_memory_install(void) { c10::SetCPUAllocator(&Keeper::instance(), 1); }
void mp_memory_stats(int64_t *used, int64_t *peak, int64_t *cached) { Keeper::instance().stats(used, peak, cached); }
void mp_memory_reset_peak(void) { Keeper::instance().reset_peak(); }
void mp_memory_trim(void) { Keeper::instance().trim(); }
