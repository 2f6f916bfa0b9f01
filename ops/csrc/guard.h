// MP_GUARD turns every C++ exception into a status and a message, so that nothing is thrown across the C boundary.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <c10/util/Exception.h>

#include <cstdio>
#include <cstring>
#include <new>

#include "ops.h"

namespace mp {

inline at::Tensor &tensor(mp_tensor t) { return *static_cast<at::Tensor *>(t); }
inline mp_tensor handle(at::Tensor t) { return t.defined() ? new at::Tensor(std::move(t)) : nullptr; }

// The first line of what, without C++ addresses and backtraces.
inline void say(char *err, const char *what) {
  size_t n = std::strcspn(what, "\n");
  std::snprintf(err, MP_ERR, "%.*s", static_cast<int>(n), what);
}

template <class F>
int guard(char *err, F &&f) {
  try {
    f();
    return MP_OK;
  } catch (const c10::Error &e) {
    say(err, e.what_without_backtrace());
    return MP_FAILED;
  } catch (const std::bad_alloc &) {
    say(err, "out of memory");
    return MP_FAILED;
  } catch (const std::exception &e) {
    say(err, e.what());
    return MP_FAILED;
  } catch (...) {
    say(err, "unknown C++ exception");
    return MP_FAILED;
  }
}

}  // namespace mp
