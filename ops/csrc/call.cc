// Calling ATen by name, and gradients.
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/grad_mode.h>

#include <mutex>
#include <string>
#include <unordered_map>

#include "guard.h"

namespace {

c10::OperatorHandle find(const char *name, const char *overload) {
  static std::mutex mu;
  static std::unordered_map<std::string, c10::OperatorHandle> known;
  std::string key = std::string(name) + "." + overload;
  std::lock_guard<std::mutex> lock(mu);
  auto at = known.find(key);
  if (at == known.end()) {
    at = known.emplace(key, c10::Dispatcher::singleton().findSchemaOrThrow(name, overload)).first;
  }
  return at->second;
}

c10::IValue value(const mp_value &v) {
  switch (v.kind) {
    case MP_NONE:
      return {};
    case MP_TENSOR:
      return v.t ? c10::IValue(mp::tensor(v.t)) : c10::IValue();
    case MP_INT:
      return v.i;
    case MP_FLOAT:
      return v.f;
    case MP_BOOL:
      return v.i != 0;
    case MP_INTS:
      return c10::IValue(c10::List<int64_t>(at::IntArrayRef(v.ints, v.n)));
    case MP_BOOLS: {
      c10::List<bool> list;
      for (int i = 0; i < v.n; i++) list.push_back(v.ints[i] != 0);
      return list;
    }
    case MP_DEVICE:
      return v.i < 0 ? at::Device(at::kCPU) : at::Device(at::kCUDA, static_cast<c10::DeviceIndex>(v.i));
    case MP_TENSORS: {
      c10::List<at::Tensor> list;
      list.reserve(v.n);
      for (int i = 0; i < v.n; i++) list.push_back(mp::tensor(v.tensors[i]));
      return list;
    }
  }
  TORCH_CHECK(false, "argument of unknown kind ", v.kind);
}

}  // namespace

int mp_call(const char *name, const char *overload, const mp_value *args, int nargs, mp_tensor *results, int max, int *n,
            char *err) {
  return mp::guard(err, [&] {
    c10::OperatorHandle op = find(name, overload);
    const auto &schema = op.schema().arguments();
    TORCH_CHECK(nargs <= static_cast<int>(schema.size()), "takes ", schema.size(), " arguments, was given ", nargs);
    torch::jit::Stack stack;
    stack.reserve(schema.size());
    for (size_t i = 0; i < schema.size(); i++) {
      if (static_cast<int>(i) < nargs) {
        stack.push_back(value(args[i]));
      } else {
        TORCH_CHECK(schema[i].default_value().has_value(), "argument ", schema[i].name(), " is missing");
        stack.push_back(*schema[i].default_value());
      }
    }
    op.callBoxed(&stack);
    TORCH_CHECK(static_cast<int>(stack.size()) <= max, "has ", stack.size(), " results, room for ", max);
    *n = static_cast<int>(stack.size());
    for (int i = 0; i < *n; i++) {
      TORCH_CHECK(stack[i].isTensor(), "result ", i, " is no tensor");
    }
    for (int i = 0; i < *n; i++) results[i] = mp::handle(stack[i].toTensor());
  });
}

namespace {

// Gradients of y, weighted with dy (undefined: y is a scalar), with respect to n inputs.
void gradients(const at::Tensor &y, const at::Tensor &dy, const mp_tensor *inputs, int n, bool allow_unused,
               mp_tensor *results) {
  torch::autograd::variable_list wanted, weights;
  wanted.reserve(n);
  for (int i = 0; i < n; i++) {
    TORCH_CHECK(mp::tensor(inputs[i]).requires_grad(), "input ", i, " asks for no gradient (it is no leaf)");
    wanted.push_back(mp::tensor(inputs[i]));
  }
  if (dy.defined()) weights.push_back(dy);
  auto grads = torch::autograd::grad({y}, wanted, weights, /*retain_graph=*/std::nullopt, /*create_graph=*/false,
                                     /*allow_unused=*/true);
  for (int i = 0; i < n; i++) {
    TORCH_CHECK(allow_unused || grads[i].defined(), "the loss does not depend on input ", i);
  }
  for (int i = 0; i < n; i++) results[i] = mp::handle(std::move(grads[i]));
}

}  // namespace

int mp_grad(mp_tensor loss, const mp_tensor *inputs, int n, int allow_unused, mp_tensor *results, char *err) {
  return mp::guard(err, [&] {
    TORCH_CHECK(mp::tensor(loss).numel() == 1, "the loss has ", mp::tensor(loss).numel(), " elements, not one");
    gradients(mp::tensor(loss), {}, inputs, n, allow_unused != 0, results);
  });
}

int mp_pullback(mp_tensor y, mp_tensor dy, const mp_tensor *inputs, int n, mp_tensor *results, char *err) {
  return mp::guard(err, [&] {
    TORCH_CHECK(mp::tensor(dy).sizes() == mp::tensor(y).sizes(), "the result has shape ", mp::tensor(y).sizes(),
                ", its gradient ", mp::tensor(dy).sizes());
    gradients(mp::tensor(y), mp::tensor(dy), inputs, n, false, results);
  });
}

int mp_leaf(mp_tensor t, mp_tensor *result, char *err) {
  return mp::guard(err, [&] {
    at::Tensor leaf = mp::tensor(t).detach();
    leaf.set_requires_grad(true);
    *result = mp::handle(std::move(leaf));
  });
}

int mp_set_grad_enabled(int enabled) {
  int before = c10::GradMode::is_enabled();
  c10::GradMode::set_enabled(enabled != 0);
  return before;
}
