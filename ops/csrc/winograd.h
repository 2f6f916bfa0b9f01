// Convolutions with kernels of 3 x 3, stride 1 and padding 1 by Winograd's algorithm F(2x2, 3x3) (Lavin and Gray, "Fast
// Algorithms for Convolutional Neural Networks", 2015), of float32 images channels last on the CPU.
//
//   y tile = AT [sum over c of (G w GT) (BT d B)] A + b,  d the 4 x 4 pixels of x under the 2 x 2 pixels of y
//   dx = the same of dy, with w flipped and its channels exchanged
//   dw = GT [sum over tiles of (A dy AT) (BT d B)] G
//
//        | 1  0 -1  0 |        | 1   0   0 |
//   BT = | 0  1  1  0 |   G =  | .5  .5 .5 |   AT = | 1  1  1  0 |
//        | 0 -1  1  0 |        | .5 -.5 .5 |        | 0  1 -1  1 |
//        | 0 -1  0  1 |        | 0   0   1 |
#pragma once

#include <ATen/core/Tensor.h>

namespace mp::winograd {

// x [n c h w] and dy [n o h w] are channels last and not empty, w is [o c 3 3], b [o] or undefined; so are the results.
at::Tensor forward(const at::Tensor &x, const at::Tensor &w, const at::Tensor &b);
at::Tensor input_gradient(const at::Tensor &dy, const at::Tensor &w);
at::Tensor weight_gradient(const at::Tensor &x, const at::Tensor &dy);
at::Tensor bias_gradient(const at::Tensor &dy);

}  // namespace mp::winograd
