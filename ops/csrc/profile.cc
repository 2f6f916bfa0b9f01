// Where the time of ATen's operations goes, by libtorch's own observers: the same that PyTorch's profiler uses.
#include <ATen/record_function.h>

#include <algorithm>
#include <chrono>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "guard.h"

namespace {

using Clock = std::chrono::steady_clock;

struct Cost {
  int64_t calls = 0, nanoseconds = 0;  // without what was called meanwhile
};

std::mutex mu;  // guards costs and handle
std::unordered_map<std::string, Cost> costs;
at::CallbackHandle handle = at::INVALID_CALLBACK_HANDLE;

// Where a thread is: when each operation under way began, and what those that it called took.
struct Frame {
  Clock::time_point began;
  int64_t within;
};
thread_local std::vector<Frame> stack;

std::unique_ptr<at::ObserverContext> enter(const at::RecordFunction &) {
  stack.push_back({Clock::now(), 0});
  return nullptr;
}

void leave(const at::RecordFunction &f, at::ObserverContext *) {
  if (stack.empty()) return;  // it began before anybody looked
  Frame frame = stack.back();
  stack.pop_back();
  int64_t took = std::chrono::nanoseconds(Clock::now() - frame.began).count();
  if (!stack.empty()) stack.back().within += took;
  std::lock_guard<std::mutex> lock(mu);
  Cost &c = costs[f.name()];
  c.calls++, c.nanoseconds += took - frame.within;
}

}  // namespace

int mp_profile_start(char *err) {
  return mp::guard(err, [&] {
    std::lock_guard<std::mutex> lock(mu);
    TORCH_CHECK(handle == at::INVALID_CALLBACK_HANDLE, "somebody looks at the operations already");
    costs.clear();
    handle = at::addGlobalCallback(
        at::RecordFunctionCallback(enter, leave).scopes({at::RecordScope::FUNCTION, at::RecordScope::BACKWARD_FUNCTION}));
  });
}

int mp_profile_stop(mp_cost *rows, int max, int *n, char *err) {
  return mp::guard(err, [&] {
    std::lock_guard<std::mutex> lock(mu);
    if (handle != at::INVALID_CALLBACK_HANDLE) at::removeCallback(handle);
    handle = at::INVALID_CALLBACK_HANDLE;
    std::vector<std::pair<std::string, Cost>> all(costs.begin(), costs.end());
    std::sort(all.begin(), all.end(), [](auto &a, auto &b) { return a.second.nanoseconds > b.second.nanoseconds; });
    *n = std::min<int>(max, all.size());
    for (int i = 0; i < *n; i++) {
      std::snprintf(rows[i].name, sizeof rows[i].name, "%s", all[i].first.c_str());
      rows[i].calls = all[i].second.calls, rows[i].nanoseconds = all[i].second.nanoseconds;
    }
  });
}
