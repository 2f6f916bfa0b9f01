// Our own convolution, inside: a cross-correlation from patch extraction and matrix products.
//
//   y[n,o,i,j] = b[o] + sum over u,v,c of w[o,c,u,v] x[n,c, i*stride - padding + u, j*stride - padding + v]
//
// As a product of matrices, with one row for each output position and K = kh*kw*c columns in the order (u, v, c):
//   y = cols(x) wT,   dw = dyT cols(x),   dx = fold(dy w)   or, for stride 1,   dx = cols(dy) w'
// where w' is w flipped in u and v with its channels exchanged. The columns never exist as a whole: they are made again,
// a chunk at a time, wherever they are needed.
//
// Two implementations: ownconv_cpu.cc, and ownconv_any.cc, a composition of ATen operations for any device that is also
// the plain reference of the first. Neither calls a convolution of a library.
#pragma once

#include <ATen/core/Tensor.h>

#include <array>

namespace mp::conv {

// n samples of c channels, h by w; o output channels, ho by wo; kernel kh by kw.
struct Geometry {
  int64_t n, c, h, w, o, kh, kw, stride, padding, ho, wo;
  int64_t positions() const { return ho * wo; }
  int64_t columns() const { return kh * kw * c; }
  bool pointwise() const { return kh == 1 && kw == 1 && stride == 1 && padding == 0; }
};

// The element type of the columns for bfloat16 tensors on the CPU. Wide: float32, exact products by sgemm, for processors
// that have no bfloat16 arithmetic. Narrow: bfloat16 with float32 sums, by the BLAS. Pairs: as wide, but for dx of images channels
// last, whose float32 columns come from bfloat16 products by the library's small kernels, for processors with AVX-512's
// instructions for these.
enum class Columns { wide, narrow, pairs };

struct Gradients {
  at::Tensor x, w, b;  // undefined where not asked for
};
using Wanted = std::array<bool, 3>;  // x, w, b

// x [n c h w], w [o c kh kw], b [o] or undefined, of one dtype and device; y [n o ho wo] is channels last where last is
// set, else contiguous, and x and dy must be laid out so.
at::Tensor forward_cpu(const at::Tensor &x, const at::Tensor &w, const at::Tensor &b, const Geometry &g, bool last, Columns);
Gradients backward_cpu(const at::Tensor &x, const at::Tensor &w, const at::Tensor &dy, const Geometry &g, bool last, Columns,
                       Wanted);

// The same from ATen operations; chunk is the most bytes that the columns may take at a time.
at::Tensor forward_any(const at::Tensor &x, const at::Tensor &w, const at::Tensor &b, const Geometry &g, bool last,
                       int64_t chunk);
Gradients backward_any(const at::Tensor &x, const at::Tensor &w, const at::Tensor &dy, const Geometry &g, bool last,
                       int64_t chunk, Wanted);

}  // namespace mp::conv
