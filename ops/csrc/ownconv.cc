// Our own convolution as an operation with gradients: what it checks, what it keeps, which implementation runs.
#include <ATen/ops/convolution.h>
#include <ATen/ops/convolution_backward.h>
#include <torch/csrc/autograd/custom_function.h>

#include "gemm.h"
#include "cpu.h"
#include "guard.h"
#include "ownconv.h"

namespace {

using mp::conv::Columns;
using mp::conv::Geometry;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// The most bytes of columns at a time in the composition: enough to fill a GPU, little beside its memory.
constexpr int64_t kComposedChunk = 128 << 20;

bool channels_last(const at::Tensor &t) { return t.suggest_memory_format() == at::MemoryFormat::ChannelsLast; }

at::Tensor laid_out(const at::Tensor &t, bool last) {
  return t.contiguous(last ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous);
}

Geometry geometry(const at::Tensor &x, const at::Tensor &w, const at::Tensor &b, int64_t stride, int64_t padding) {
  TORCH_CHECK(x.dim() == 4, "input has shape ", x.sizes(), ", want [N Ci H W]");
  TORCH_CHECK(w.dim() == 4 && w.numel() > 0, "weight has shape ", w.sizes(), ", want [Co Ci Kh Kw]");
  TORCH_CHECK(x.size(1) == w.size(1), "input of shape ", x.sizes(), " has ", x.size(1), " channels, weight of shape ",
              w.sizes(), " wants ", w.size(1));
  TORCH_CHECK(!b.defined() || (b.dim() == 1 && b.size(0) == w.size(0)), "bias has shape ",
              b.defined() ? b.sizes() : at::IntArrayRef(), ", want [", w.size(0), "]");
  TORCH_CHECK(stride > 0 && padding >= 0, "stride ", stride, " must be positive and padding ", padding, " not negative");
  at::ScalarType d = x.scalar_type();
  TORCH_CHECK(d == at::kFloat || d == at::kDouble || d == at::kBFloat16, "input is ", d,
              ", want float32, float64 or bfloat16");
  TORCH_CHECK(w.scalar_type() == d && (!b.defined() || b.scalar_type() == d), "input is ", d, ", weight ", w.scalar_type(),
              ", bias ", b.defined() ? b.scalar_type() : d, ": want one dtype");
  TORCH_CHECK(w.device() == x.device() && (!b.defined() || b.device() == x.device()), "input is on ", x.device(),
              ", weight on ", w.device(), ": want one device");
  Geometry g{x.size(0), x.size(1), x.size(2), x.size(3), w.size(0), w.size(2), w.size(3), stride, padding, 0, 0};
  int64_t high = g.h + 2 * padding - g.kh, wide = g.w + 2 * padding - g.kw;
  TORCH_CHECK(high >= 0 && wide >= 0, "kernel ", g.kh, " x ", g.kw, " does not fit into the padded input ",
              g.h + 2 * padding, " x ", g.w + 2 * padding);
  g.ho = high / stride + 1, g.wo = wide / stride + 1;
  return g;
}

struct OwnConv : torch::autograd::Function<OwnConv> {
  static at::Tensor forward(AutogradContext *ctx, const at::Tensor &x, const at::Tensor &w,
                            const std::optional<at::Tensor> &bias, int64_t stride, int64_t padding, int64_t how) {
    at::Tensor b = bias.value_or(at::Tensor());
    Geometry g = geometry(x, w, b, stride, padding);
    bool last = channels_last(x) || channels_last(w);
    at::Tensor input = laid_out(x, last);
    ctx->saved_data["stride"] = stride, ctx->saved_data["padding"] = padding;
    ctx->saved_data["how"] = how, ctx->saved_data["last"] = last, ctx->saved_data["bias"] = b.defined();
    // A gradient of w needs x, one of x needs w: never the columns.
    ctx->save_for_backward({w.requires_grad() ? input : at::Tensor(), w});
    ctx->saved_data["shape"] = x.sizes().vec();
    if (how == MP_CONV_COMPOSED) return mp::conv::forward_any(input, w, b, g, last, kComposedChunk);
    return mp::conv::forward_cpu(input, w, b, g, last, columns(how));
  }

  static variable_list backward(AutogradContext *ctx, variable_list dys) {
    auto saved = ctx->get_saved_variables();
    int64_t how = ctx->saved_data["how"].toInt();
    bool last = ctx->saved_data["last"].toBool();
    mp::conv::Wanted wanted{ctx->needs_input_grad(0), ctx->needs_input_grad(1),
                             ctx->saved_data["bias"].toBool() && ctx->needs_input_grad(2)};
    at::Tensor x = saved[0], w = saved[1], dy = laid_out(dys[0], last);
    auto shape = ctx->saved_data["shape"].toIntVector();
    Geometry g{shape[0], shape[1], shape[2], shape[3], w.size(0), w.size(2), w.size(3),
               ctx->saved_data["stride"].toInt(), ctx->saved_data["padding"].toInt(), dy.size(2), dy.size(3)};
    auto grads = how == MP_CONV_COMPOSED ? mp::conv::backward_any(x, w, dy, g, last, kComposedChunk, wanted)
                                         : mp::conv::backward_cpu(x, w, dy, g, last, columns(how), wanted);
    return {grads.x, grads.w, grads.b, {}, {}, {}};
  }

  static Columns columns(int64_t how) { return how == MP_CONV_NARROW ? Columns::narrow : Columns::wide; }
};

// The implementation for x where the caller leaves the choice.
int pick(const at::Tensor &x) {
  if (!x.is_cpu()) return MP_CONV_COMPOSED;
  static const bool narrow = mp::cpu_has("amx_bf16") && mp::has_bf16_gemm();
  return narrow ? MP_CONV_NARROW : MP_CONV_WIDE;
}

// The library's convolution, of images with few channels, with our own gradient of the images.
struct ImageConv : torch::autograd::Function<ImageConv> {
  static at::Tensor forward(AutogradContext *ctx, const at::Tensor &x, const at::Tensor &w,
                            const std::optional<at::Tensor> &bias, int64_t stride, int64_t padding) {
    geometry(x, w, bias.value_or(at::Tensor()), stride, padding);
    ctx->saved_data["stride"] = stride, ctx->saved_data["padding"] = padding, ctx->saved_data["bias"] = bias.has_value();
    ctx->saved_data["last"] = channels_last(x) || channels_last(w);
    ctx->save_for_backward({x, w});
    return at::convolution(x, w, bias, {stride, stride}, {padding, padding}, {1, 1}, false, {0, 0}, 1);
  }

  static variable_list backward(AutogradContext *ctx, variable_list dys) {
    auto saved = ctx->get_saved_variables();
    const int64_t stride = ctx->saved_data["stride"].toInt(), padding = ctx->saved_data["padding"].toInt();
    const bool last = ctx->saved_data["last"].toBool(), biased = ctx->saved_data["bias"].toBool();
    at::Tensor x = saved[0], w = saved[1], dy = laid_out(dys[0], last), dx, dw, db;
    const std::array<bool, 3> wanted{false, ctx->needs_input_grad(1), biased && ctx->needs_input_grad(2)};
    if (wanted[1] || wanted[2]) {
      auto sizes = biased ? at::OptionalIntArrayRef(w.sizes().slice(0, 1)) : std::nullopt;
      std::tie(std::ignore, dw, db) = at::convolution_backward(dy, x, w, sizes, {stride, stride}, {padding, padding}, {1, 1},
                                                               false, {0, 0}, 1, wanted);
    }
    if (ctx->needs_input_grad(0)) {
      Geometry g = geometry(x, w, at::Tensor(), stride, padding);
      static const bool pairs = mp::cpu_has("avx512_bf16");
      auto columns = OwnConv::columns(pick(x));
      if (pairs && columns == Columns::wide) columns = Columns::pairs;
      dx = mp::conv::backward_cpu(x, w, dy, g, last, columns, {true, false, false}).x;
    }
    return {dx, dw, db, {}, {}};
  }
};

}  // namespace

int mp_own_conv2d(mp_tensor x, mp_tensor w, mp_tensor b, int64_t stride, int64_t padding, int how, mp_tensor *y, char *err) {
  return mp::guard(err, [&] {
    const at::Tensor &input = mp::tensor(x);
    if (how == MP_CONV_AUTO) how = pick(input);
    TORCH_CHECK(how == MP_CONV_COMPOSED || input.is_cpu(), "input is on ", input.device(),
                ", where only the composition runs");
    TORCH_CHECK(how != MP_CONV_NARROW || mp::has_bf16_gemm(), "the BLAS of this libtorch multiplies no bfloat16");
    auto bias = b ? std::optional<at::Tensor>(mp::tensor(b)) : std::nullopt;
    if (how == MP_CONV_IMAGES) {
      *y = mp::handle(ImageConv::apply(input, mp::tensor(w), bias, stride, padding));
      return;
    }
    *y = mp::handle(OwnConv::apply(input, mp::tensor(w), bias, stride, padding, static_cast<int64_t>(how)));
  });
}
