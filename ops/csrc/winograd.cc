// Winograd's convolution as an operation with gradients: where it pays, what it keeps.
#include "winograd.h"

#include <ATen/record_function.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>

#include "cpu.h"
#include "guard.h"

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// The sides of the tiles; 0 leaves the convolution to the library.
struct Tiles {
  int64_t forward, backward;
};

struct WinogradConv : torch::autograd::Function<WinogradConv> {
  static at::Tensor forward(AutogradContext *ctx, const at::Tensor &x, const at::Tensor &w, const std::optional<at::Tensor> &bias,
                            Tiles tiles) {
    RECORD_FUNCTION("mp::winograd", c10::ArrayRef<const c10::IValue>{});
    // A gradient of w needs x, one of x needs w.
    ctx->save_for_backward({w.requires_grad() ? x : at::Tensor(), w});
    ctx->saved_data["bias"] = bias.has_value(), ctx->saved_data["tile"] = tiles.backward;
    return mp::winograd::forward(x, w, bias.value_or(at::Tensor()), tiles.forward);
  }

  static variable_list backward(AutogradContext *ctx, variable_list dys) {
    TORCH_CHECK(!at::GradMode::is_enabled(), "Winograd's convolution has no second derivative");
    RECORD_FUNCTION("mp::winograd_backward", c10::ArrayRef<const c10::IValue>{});
    const auto saved = ctx->get_saved_variables();
    const at::Tensor dy = dys[0].contiguous(at::MemoryFormat::ChannelsLast);
    const int64_t tile = ctx->saved_data["tile"].toInt();
    at::Tensor dx, dw, db;
    if (ctx->needs_input_grad(0)) dx = mp::winograd::input_gradient(dy, saved[1], tile);
    if (ctx->needs_input_grad(1)) dw = mp::winograd::weight_gradient(saved[0], dy, tile);
    if (ctx->saved_data["bias"].toBool() && ctx->needs_input_grad(2)) db = mp::winograd::bias_gradient(dy);
    return {dx, dw, db, {}};
  }
};

// Whether Winograd's algorithm is there for what is asked. What is wrong is the library's to refuse.
bool covered(const at::Tensor &x, const at::Tensor &w, const at::Tensor *b) {
  if (!mp::winograd::has(x.scalar_type()) || !mp::plain_images(x, x.scalar_type()) || !mp::plain(w) || w.dim() != 4) return false;
  const int64_t o = w.size(0), c = w.size(1), whole = x.scalar_type() == at::kBFloat16 ? 16 : 1;
  return w.numel() > 0 && c == x.size(1) && c % whole == 0 && o % whole == 0 && w.size(2) == 3 && w.size(3) == 3 &&
         (!b || (mp::plain(*b) && b->dim() == 1 && b->size(0) == o));
}

// The tiles with which Winograd's algorithm takes least time, or 0 where the library takes less. The number of threads has no
// say: results may not depend on it. In bfloat16 the forward pass takes tiles of 2 x 2, which are as exact as the library. Shares
// of the library's time, one thread of a Zen 4, tiles of 2 x 2 and of 4 x 4, each forward, dx, dw, in float32:
//
//   16 samples   64@32x32 .53 .54 .66, .42 .44 .48   128@16x16 .57 .55 .62, .40 .46 .41   256@8x8 .62 .58 .58, .55 .52 .50
//                384@4x4  .86 .73 .55, 1.4 .84 .72   512@4x4   .93 .69 .50, 2.5 2.4 1.7
//   32 samples   64@32x32 .58 .57 .69, .43 .39 .54   128@16x16 .56 .55 .63, .37 .38 .44   256@8x8 .61 .59 .60, .54 .46 .45
//                384@4x4  .85 .67 .55, .79 .62 .55   512@4x4   .84 .77 .53, 1.7 1.5 .86
//   8 samples    128@13x13 .64 .62 .76, .64 .59 .66   at 32x32 2 x 2: 8 channels .9 .9 2, 16 1 1.1 1.3, 24 .7 .75 .8
//   384@4x4 of 1, 2 and 4 samples, 2 x 2: 3.4 1.3 2.6, 1.3 .7 .6, .9 .8 .55
//
// and in bfloat16, 32 samples, the gradients with the forward pass in them:
//
//   64@32x32 .63 .68 .86, .45 .48 .63   128@16x16 .61 .62 .69, .42 .43 .59   256@8x8 .65 .65 .67, .54 .50 .54
//   384@4x4  .92 .92 .77, 1.1 1.0 .82   512@4x4   1.3 1.1 .82, 1.5 1.3 .92
//
// What weights cost to transform must be shared by many tiles. A tile of 4 x 4 takes 36 multiplications, four of 2 x 2 take 64.
Tiles fastest(const at::Tensor &x, const at::Tensor &w) {
  const int64_t c = w.size(1), o = w.size(0), n = x.size(0), h = x.size(2), side = x.size(3);
  const int64_t small = n * ((h + 1) / 2) * ((side + 1) / 2), large = n * ((h + 3) / 4) * ((side + 3) / 4);
  if (std::min(c, o) < 16 || c + o < 48 || small < 16) return {0, 0};
  const int64_t tile = large >= 64 && 3 * large <= small && c * o <= 400 * 400 ? 4 : 2;
  return {x.scalar_type() == at::kBFloat16 ? 2 : tile, tile};
}

}  // namespace

int mp_winograd_conv2d(mp_tensor x, mp_tensor w, mp_tensor b, int64_t tile, mp_tensor *y, char *err) {
  return mp::guard(err, [&] {
    const at::Tensor &input = mp::tensor(x), &weight = mp::tensor(w);
    *y = nullptr;
    TORCH_CHECK(tile == 0 || tile == 2 || tile == 4, "there are tiles of 2 x 2 and of 4 x 4, not of ", tile);
    if (!covered(input, weight, b ? &mp::tensor(b) : nullptr)) return;
    const Tiles tiles = tile == 0 ? fastest(input, weight) : Tiles{tile, tile};
    if (tiles.forward == 0) return;
    auto bias = b ? std::optional<at::Tensor>(mp::tensor(b)) : std::nullopt;
    *y = mp::handle(WinogradConv::apply(input, weight, bias, tiles));
  });
}
