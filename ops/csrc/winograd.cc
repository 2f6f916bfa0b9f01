// Winograd's convolution as an operation with gradients: where it pays, what it keeps.
#include "winograd.h"

#include <ATen/record_function.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>

#include "guard.h"

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct WinogradConv : torch::autograd::Function<WinogradConv> {
  static at::Tensor forward(AutogradContext *ctx, const at::Tensor &x, const at::Tensor &w, const std::optional<at::Tensor> &bias) {
    RECORD_FUNCTION("mp::winograd", c10::ArrayRef<const c10::IValue>{});
    // A gradient of w needs x, one of x needs w.
    ctx->save_for_backward({w.requires_grad() ? x : at::Tensor(), w});
    ctx->saved_data["bias"] = bias.has_value();
    return mp::winograd::forward(x, w, bias.value_or(at::Tensor()));
  }

  static variable_list backward(AutogradContext *ctx, variable_list dys) {
    TORCH_CHECK(!at::GradMode::is_enabled(), "Winograd's convolution has no second derivative");
    RECORD_FUNCTION("mp::winograd_backward", c10::ArrayRef<const c10::IValue>{});
    const auto saved = ctx->get_saved_variables();
    const at::Tensor dy = dys[0].contiguous(at::MemoryFormat::ChannelsLast);
    at::Tensor dx, dw, db;
    if (ctx->needs_input_grad(0)) dx = mp::winograd::input_gradient(dy, saved[1]);
    if (ctx->needs_input_grad(1)) dw = mp::winograd::weight_gradient(saved[0], dy);
    if (ctx->saved_data["bias"].toBool() && ctx->needs_input_grad(2)) db = mp::winograd::bias_gradient(dy);
    return {dx, dw, db};
  }
};

bool plain(const at::Tensor &t) { return t.is_cpu() && t.scalar_type() == at::kFloat && t.layout() == at::kStrided; }

// Whether Winograd's algorithm is there for what is asked. What is wrong is the library's to refuse.
bool covered(const at::Tensor &x, const at::Tensor &w, const at::Tensor *b) {
  return plain(x) && x.dim() == 4 && x.numel() > 0 && x.is_contiguous(at::MemoryFormat::ChannelsLast) && plain(w) && w.dim() == 4 &&
         w.numel() > 0 && w.size(1) == x.size(1) && w.size(2) == 3 && w.size(3) == 3 && (!b || (plain(*b) && b->dim() == 1 && b->size(0) == w.size(0)));
}

// Whether Winograd's algorithm takes less time than the library, forward and for both gradients. The number of threads has no
// say: results may not depend on it. Shares of the library's time, one thread of a Zen 4 (forward, dx, dw):
//
//   16 samples  64@32x32 .55 .52 .67   128@16x16 .55 .54 .62   256@8x8 .65 .56 .60   384@4x4 .87 .76 .52   512@4x4 .94 .72 .55
//   32 samples  64@32x32 .58 .57 .69   128@16x16 .56 .55 .63   256@8x8 .61 .59 .60   384@4x4 .85 .67 .55   512@4x4 .84 .77 .53
//   8 samples at 32x32: 8 channels .9 .9 2, 16 channels 1 1.1 1.3, 24 channels .7 .75 .8, 16 to 64 channels at 16x16 .6 .6 .9
//   384@4x4 of 1, 2 and 4 samples: 3.4 1.3 2.6, 1.3 .7 .6, .9 .8 .55
bool pays(const at::Tensor &x, const at::Tensor &w) {
  const int64_t c = w.size(1), o = w.size(0), tiles = x.size(0) * ((x.size(2) + 1) / 2) * ((x.size(3) + 1) / 2);
  return std::min(c, o) >= 16 && c + o >= 48 && tiles >= 16;
}

}  // namespace

int mp_winograd_conv2d(mp_tensor x, mp_tensor w, mp_tensor b, int always, mp_tensor *y, char *err) {
  return mp::guard(err, [&] {
    const at::Tensor &input = mp::tensor(x), &weight = mp::tensor(w);
    *y = nullptr;
    if (!covered(input, weight, b ? &mp::tensor(b) : nullptr) || !(always || pays(input, weight))) return;
    auto bias = b ? std::optional<at::Tensor>(mp::tensor(b)) : std::nullopt;
    *y = mp::handle(WinogradConv::apply(input, weight, bias));
  });
}
