// The rectifier of guided backpropagation.
#include <ATen/ops/clamp_min.h>
#include <ATen/ops/gt.h>
#include <ATen/ops/mul.h>
#include <torch/csrc/autograd/custom_function.h>

#include "guard.h"
#include "guided.h"

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct GuidedReLU : torch::autograd::Function<GuidedReLU> {
  static at::Tensor forward(AutogradContext *ctx, const at::Tensor &x) {
    at::Tensor y = at::clamp_min(x, 0);
    ctx->save_for_backward({y});
    return y;
  }

  static variable_list backward(AutogradContext *ctx, variable_list dys) {
    at::Tensor y = ctx->get_saved_variables()[0];
    return {at::clamp_min(dys[0], 0).mul_(at::gt(y, 0))};
  }
};

}  // namespace

int mp_guided_relu(mp_tensor x, mp_tensor *y, char *err) {
  return mp::guard(err, [&] { *y = mp::handle(GuidedReLU::apply(mp::tensor(x))); });
}
