// Our own convolution from ATen operations, on any device: pad, view the patches, copy them into columns, multiply.
#include <ATen/ops/addmm.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>

#include "ownconv.h"

namespace mp::conv {
namespace {

at::MemoryFormat format(bool last) { return last ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous; }

// Samples whose columns take chunk bytes.
int64_t samples(const Geometry &g, const at::Tensor &like, int64_t chunk) {
  return std::max<int64_t>(1, chunk / std::max<int64_t>(1, g.positions() * g.columns() * like.element_size()));
}

// x [m c h w] as columns [m*ho*wo K].
at::Tensor columns_of(const at::Tensor &x, const Geometry &g) {
  at::Tensor padded = g.padding ? at::constant_pad_nd(x, {g.padding, g.padding, g.padding, g.padding}) : x;
  return padded.unfold(2, g.kh, g.stride)  // [m c ho w kh]
      .unfold(3, g.kw, g.stride)           // [m c ho wo kh kw]
      .permute({0, 2, 3, 4, 5, 1})
      .reshape({-1, g.columns()});
}

at::TensorOptions sums(const at::Tensor &t) {
  return t.scalar_type() == at::kBFloat16 ? t.options().dtype(at::kFloat) : t.options();
}

// The transpose of columns_of: cols [m*ho*wo K] added up into [m c h w].
at::Tensor folded(const at::Tensor &cols, const Geometry &g, int64_t m) {
  at::Tensor padded = at::zeros({m, g.h + 2 * g.padding, g.w + 2 * g.padding, g.c}, sums(cols));
  at::Tensor patches = cols.view({m, g.ho, g.wo, g.kh, g.kw, g.c});
  for (int64_t u = 0; u < g.kh; u++) {
    for (int64_t v = 0; v < g.kw; v++) {
      padded.slice(1, u, u + g.stride * (g.ho - 1) + 1, g.stride)
          .slice(2, v, v + g.stride * (g.wo - 1) + 1, g.stride)
          .add_(patches.select(3, u).select(3, v));
    }
  }
  return padded.narrow(1, g.padding, g.h).narrow(2, g.padding, g.w).permute({0, 3, 1, 2});
}

at::Tensor rows_of(const at::Tensor &w, const Geometry &g) { return w.permute({0, 2, 3, 1}).reshape({g.o, g.columns()}); }

}  // namespace

at::Tensor forward_any(const at::Tensor &x, const at::Tensor &w, const at::Tensor &b, const Geometry &g, bool last,
                       int64_t chunk) {
  at::Tensor y = at::empty({g.n, g.o, g.ho, g.wo}, x.options(), format(last));
  at::Tensor weights = rows_of(w, g).t();
  for (int64_t n = 0, step = samples(g, x, chunk); n < g.n; n += step) {
    int64_t m = std::min(step, g.n - n);
    at::Tensor columns = columns_of(x.narrow(0, n, m), g);
    at::Tensor sums = b.defined() ? at::addmm(b, columns, weights) : columns.mm(weights);
    y.narrow(0, n, m).copy_(sums.view({m, g.ho, g.wo, g.o}).permute({0, 3, 1, 2}));
  }
  return y;
}

Gradients backward_any(const at::Tensor &x, const at::Tensor &w, const at::Tensor &dy, const Geometry &g, bool last,
                       int64_t chunk, Wanted wanted) {
  Gradients out;
  at::Tensor weights = rows_of(w, g);
  at::Tensor dw, db;
  if (wanted[0]) out.x = at::empty({g.n, g.c, g.h, g.w}, dy.options(), format(last));
  if (wanted[1]) dw = at::zeros({g.o, g.columns()}, sums(w));
  if (wanted[2]) db = at::zeros({g.o}, sums(w));
  for (int64_t n = 0, step = samples(g, dy, chunk); n < g.n; n += step) {
    int64_t m = std::min(step, g.n - n);
    at::Tensor rows = dy.narrow(0, n, m).permute({0, 2, 3, 1}).reshape({-1, g.o});
    if (wanted[0]) out.x.narrow(0, n, m).copy_(folded(rows.mm(weights), g, m));
    if (wanted[1]) dw.add_(rows.t().mm(columns_of(x.narrow(0, n, m), g)));
    if (wanted[2]) db.add_(rows.to(sums(w).dtype()).sum(0));
  }
  if (wanted[1]) out.w = dw.to(w.scalar_type()).view({g.o, g.kh, g.kw, g.c}).permute({0, 3, 1, 2});
  if (wanted[2]) out.b = db.to(w.scalar_type());
  return out;
}

}  // namespace mp::conv
