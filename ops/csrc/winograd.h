// Convolutions with kernels of 3 x 3, stride 1 and padding 1 by Winograd's algorithms F(2x2, 3x3) and F(4x4, 3x3) (Lavin and
// Gray, "Fast Algorithms for Convolutional Neural Networks", 2015), of float32 or bfloat16 images channels last on the CPU.
//
//   y tile = AT [sum over c of (G w GT) (BT d B)] A + b,  d the pixels of x under the 2 x 2 or 4 x 4 pixels of y and around them
//   dx = the same of dy, with w flipped and its channels exchanged
//   dw = GT [sum over tiles of (A dy AT) (BT d B)] G
//
//               | 1  0 -1  0 |        | 1   0   0 |
//   2 x 2: BT = | 0  1  1  0 |   G =  | .5  .5 .5 |   AT = | 1  1  1  0 |
//               | 0 -1  1  0 |        | .5 -.5 .5 |        | 0  1 -1  1 |
//               | 0 -1  0  1 |        | 0   0   1 |
//
// 4 x 4 evaluates polynomials at 0, a, -a, b, -b and infinity, a = sqrt(1/2), b = sqrt(2). Its results of 64 to 256 channels are
// off by 2 to 3e-6 of the largest (dw 1 to 2e-6), where the library's are by 1 to 2e-6 (dw .3 to 1e-6) and those of 2 x 2 by
// .3 to .8e-6. With 1 and 2, the paper's points, it is 8e-6 to 1.1e-5. In bfloat16, whose products are of points rounded to it and
// whose sums are float32, 2 x 2 is off by .0045 to .0053 of the largest, 4 x 4 by .014 to .018 and the library by .003 to .004.
//
//        | 1   0      -5/2   0      1   0 |         |   1      0      0   |         | 1  1   1    1   1    0 |
//        | 0  -a b^2  -b^2   a      1   0 |         | -2/3  -2a/3   -1/3  |    AT = | 0  a  -a    b  -b    0 |
//   BT = | 0   a b^2  -b^2  -a      1   0 |     G = | -2/3   2a/3   -1/3  |         | 0 a^2  a^2  b^2 b^2  0 |
//        | 0  -a^2 b  -a^2   b      1   0 |         |  1/6    b/6    1/3  |         | 0 a^3 -a^3  b^3 -b^3 1 |
//        | 0   a^2 b  -a^2  -b      1   0 |         |  1/6   -b/6    1/3  |
//        | 0   1       0    -5/2    0   1 |         |   0      0      1   |
#pragma once

#include <ATen/core/Tensor.h>

namespace mp::winograd {

// Whether there is one for images of that type: bfloat16 takes AVX-512's instructions for it. (AMX multiplies so fast that the
// library's convolutions need no other algorithm.)
bool has(at::ScalarType);

// x [n c h w] and dy [n o h w] are channels last and not empty, w is [o c 3 3], b [o] or undefined, tile is 2 or 4;
// the results are channels last too. w, b and their gradients are float32 where x is bfloat16 too; then c and o are multiples of 16.
at::Tensor forward(const at::Tensor &x, const at::Tensor &w, const at::Tensor &b, int64_t tile);
at::Tensor input_gradient(const at::Tensor &dy, const at::Tensor &w, int64_t tile);
at::Tensor weight_gradient(const at::Tensor &x, const at::Tensor &dy, int64_t tile);
at::Tensor bias_gradient(const at::Tensor &dy);

}  // namespace mp::winograd
