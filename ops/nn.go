package ops

// #include "csrc/ops.h"
import "C"

import (
	"fmt"
	"math"
	"runtime"

	torch "github.com/wangkuiyi/gotorch"
	F "github.com/wangkuiyi/gotorch/nn/functional"
)

// Legend: N samples, C channels, H W height and width, K classes, D features, T tokens, G groups.
//
// A layer computes in the dtype of its input: weights kept in float32 are cast on the way, and their gradients come back
// in float32 (mixed precision with master weights).

// ConvGeometry is what a convolution's weight [Co Ci/Groups Kh Kw] does not say. Zero Stride and Groups mean 1.
type ConvGeometry struct {
	Stride, Padding, Groups int64
}

// Conv2d returns the cross-correlation of x [N Ci H W] with w [Co Ci/G Kh Kw], plus b [Co] where it is defined:
// [N Co (H+2P-Kh)/S+1 (W+2P-Kw)/S+1]. On a CPU the gradient of images is our own convolution's, and kernels of 3 x 3 go by
// Winograd's algorithm where that pays.
func (s *Scope) Conv2d(x, w, b torch.Tensor, g ConvGeometry) torch.Tensor {
	if g.Groups <= 1 && s.slowGradient(x) {
		return s.widened(x, func(s *Scope, x torch.Tensor) torch.Tensor { return s.ownConv2d(x, w, b, g, ownConvImages) })
	}
	return s.widened(x, func(s *Scope, x torch.Tensor) torch.Tensor {
		if y, ok := s.winogradConv2d(x, w, b, g, fastestTile); ok {
			return y
		}
		return s.libraryConv2d(x, w, b, g)
	})
}

func (s *Scope) libraryConv2d(x, w, b torch.Tensor, g ConvGeometry) torch.Tensor {
	stride, groups := max(g.Stride, 1), max(g.Groups, 1)
	return s.widened(x, func(s *Scope, x torch.Tensor) torch.Tensor {
		w, b := s.like(w, x), s.like(b, x)
		return s.viaGotorch("conv2d", []torch.Tensor{x, w}, func() torch.Tensor {
			return F.Conv2d(x, w, b, []int64{stride, stride}, []int64{g.Padding, g.Padding}, []int64{1, 1}, groups)
		})
	})
}

// slowGradient says whether x are images, on a CPU, that ask for a gradient: of few channels it takes the library several
// times as long as our own convolution (BenchmarkImageGradient), and attacks ask for nothing else.
func (s *Scope) slowGradient(x torch.Tensor) bool {
	const few = 4
	if s.err != nil || !Defined(x) || len(x.Shape()) != 4 || x.Shape()[1] > few {
		return false
	}
	info, err := Describe(x)
	return err == nil && info.RequiresGrad && info.GPU == CPU
}

// Linear returns x wT + b for x [... D], w [Dout D], b [Dout] (or undefined).
func (s *Scope) Linear(x, w, b torch.Tensor) torch.Tensor {
	return s.widened(x, func(s *Scope, x torch.Tensor) torch.Tensor {
		w, b := s.like(w, x), s.like(b, x)
		return s.viaGotorch("linear", []torch.Tensor{x, w}, func() torch.Tensor { return F.Linear(x, w, b) })
	})
}

// widened runs a layer of matrix products. Where x is bfloat16 and the processor has no instructions for it, f computes in
// float32 and its result is rounded to bfloat16, as with such instructions, which add up in float32 too: the library's
// bfloat16 loops for such processors take 8 to 14 times as long.
func (s *Scope) widened(x torch.Tensor, f func(s *Scope, x torch.Tensor) torch.Tensor) torch.Tensor {
	if s.err != nil || !s.device.widen || !Defined(x) || x.Dtype() != BFloat16 {
		return f(s, x)
	}
	return s.inFloat32(x, f)
}

// inFloat32 runs f on x in float32 and rounds its result to bfloat16.
func (s *Scope) inFloat32(x torch.Tensor, f func(s *Scope, x torch.Tensor) torch.Tensor) torch.Tensor {
	return s.Run(func(c *Scope) torch.Tensor { return c.To(f(c, c.To(x, Float32)), BFloat16) })
}

// like casts a parameter to x's dtype; an undefined one (no bias) stays so.
func (s *Scope) like(p, x torch.Tensor) torch.Tensor {
	if s.err != nil || !Defined(p) || !Defined(x) {
		return p
	}
	return s.To(p, x.Dtype())
}

// MaxPool2d returns the maximum over windows of x [N C H W].
func (s *Scope) MaxPool2d(x torch.Tensor, kernel, stride, padding int64) torch.Tensor {
	return s.viaGotorch("max_pool2d", []torch.Tensor{x}, func() torch.Tensor {
		return F.MaxPool2d(x, []int64{kernel, kernel}, []int64{stride, stride}, []int64{padding, padding}, []int64{1, 1}, false)
	})
}

// AvgPool2d returns the mean over windows of x [N C H W]; windows that stick out at the far edges average what is there.
func (s *Scope) AvgPool2d(x torch.Tensor, kernel, stride int64) torch.Tensor {
	return s.call("avg_pool2d", x, []int64{kernel, kernel}, []int64{stride, stride}, []int64{0, 0}, true, false)
}

// GlobalAvgPool returns the mean of x [N C H W] over H and W: [N C].
func (s *Scope) GlobalAvgPool(x torch.Tensor) torch.Tensor {
	return s.call("mean.dim", x, []int64{2, 3}, false)
}

// LayerNorm normalises the last dimension of x [... D] (Ba et al., 2016), with w, b [D].
func (s *Scope) LayerNorm(x, w, b torch.Tensor, eps float64) torch.Tensor {
	if s.err != nil || !Defined(w) {
		return s.call("layer_norm", x, []int64{}, w, b, eps)
	}
	return s.call("layer_norm", x, w.Shape(), s.like(w, x), s.like(b, x), eps)
}

// Softmax over dimension dim.
func (s *Scope) Softmax(x torch.Tensor, dim int64) torch.Tensor {
	return s.call("softmax.int", x, dim, nil)
}

// LogSoftmax over dimension dim.
func (s *Scope) LogSoftmax(x torch.Tensor, dim int64) torch.Tensor {
	return s.viaGotorch("log_softmax", []torch.Tensor{x}, func() torch.Tensor { return x.LogSoftmax(dim) })
}

// Reductions of a loss over the batch (ATen/core/Reduction.h).
type Reduction int

// What CrossEntropy returns: a loss a sample, their mean, or their sum.
const (
	ReduceNone Reduction = 0
	ReduceMean Reduction = 1
	ReduceSum  Reduction = 2
)

const ignoreNothing = -100

// CrossEntropy compares logits [N K] with target, int64 labels [N] or probabilities [N K], in float32 at least. smoothing
// in [0, 1) moves that share of the target to the uniform distribution (Szegedy et al., 2015).
func (s *Scope) CrossEntropy(logits, target torch.Tensor, smoothing float64, r Reduction) torch.Tensor {
	if s.err == nil && Defined(logits) && logits.Dtype() == BFloat16 {
		logits = s.To(logits, Float32)
	}
	return s.call("cross_entropy_loss", logits, target, nil, int(r), ignoreNothing, smoothing)
}

// Dropout zeroes each element with probability p and scales the rest by 1/(1-p). keys has one entry a sample (first
// dimension): the mask depends on a sample's key and position alone, on no worker, batch or device.
func (s *Scope) Dropout(x torch.Tensor, p float64, keys []uint64) torch.Tensor {
	if p == 0 {
		return x
	}
	mask := s.dropoutMask(x, p, keys)
	return s.Mul(x, mask)
}

func (s *Scope) dropoutMask(x torch.Tensor, p float64, keys []uint64) torch.Tensor {
	if s.err != nil {
		return torch.Tensor{}
	}
	if !Defined(x) || len(keys) == 0 {
		s.Fail(fmt.Errorf("dropout: %d keys, input %s", len(keys), shapes([]torch.Tensor{x})))
		return torch.Tensor{}
	}
	message := s.message()
	var mask C.mp_tensor
	status := C.mp_dropout_mask(handle(x), (*C.uint64_t)(&keys[0]), C.int(len(keys)), C.double(p), &mask, &message[0])
	runtime.KeepAlive(x)
	if status != C.MP_OK {
		s.Fail(check(status, "dropout", message))
		return torch.Tensor{}
	}
	return s.own(adopt(mask))
}

// DropPath zeroes whole samples of a residual branch with probability p (stochastic depth, Huang et al., 2016), keyed as
// Dropout, and scales the rest by 1/(1-p).
func (s *Scope) DropPath(x torch.Tensor, p float64, keys []uint64) torch.Tensor {
	if p == 0 || s.err != nil {
		return x
	}
	shape := x.Shape()
	first := s.call("new_ones", x, []int64{shape[0], 1})
	for i := 1; i < len(shape); i++ {
		shape[i] = 1
	}
	return s.Mul(x, s.Reshape(s.dropoutMask(first, p, keys), shape...))
}

// Unfold returns the patches of x [N C H W] as columns [N C*Kh*Kw L], L output positions (im2col).
func (s *Scope) Unfold(x torch.Tensor, kernel, stride, padding [2]int64) torch.Tensor {
	return s.call("im2col", x, kernel[:], []int64{1, 1}, padding[:], stride[:])
}

// Fold adds columns [N C*Kh*Kw L] up into an image [N C H W] (col2im), the transpose of Unfold.
func (s *Scope) Fold(columns torch.Tensor, size, kernel, stride, padding [2]int64) torch.Tensor {
	return s.call("col2im", columns, size[:], kernel[:], []int64{1, 1}, padding[:], stride[:])
}

// Attention is softmax(q kT / sqrt(D)) v for q, k, v [... T D] (Vaswani et al., 2017). On a CPU bfloat16 is computed in float32: the
// library's pass backward of bfloat16 takes four times as long, on a Zen 4 that multiplies it.
func (s *Scope) Attention(q, k, v torch.Tensor) torch.Tensor {
	attend := func(s *Scope, q torch.Tensor) torch.Tensor {
		return s.call("scaled_dot_product_attention", q, s.like(k, q), s.like(v, q))
	}
	if s.err == nil && Defined(q) && q.Dtype() == BFloat16 && s.device.IsCPU() {
		return s.inFloat32(q, attend)
	}
	return attend(s, q)
}

// AttentionWeights is softmax(q kT / sqrt(D)) [... T T] for q, k [... T D]: what Attention averages v with.
func (s *Scope) AttentionWeights(q, k torch.Tensor) torch.Tensor {
	return s.Run(func(c *Scope) torch.Tensor {
		if c.err != nil || !Defined(q) || !Defined(k) {
			return c.MatMul(q, k)
		}
		scores := c.MatMul(q, c.call("transpose.int", k, -2, -1))
		return c.Softmax(c.Scale(scores, 1/math.Sqrt(float64(q.Shape()[len(q.Shape())-1]))), -1)
	})
}

// Interpolate resizes x [N C H W] to size bilinearly, with half-pixel centres.
func (s *Scope) Interpolate(x torch.Tensor, size [2]int64) torch.Tensor {
	return s.call("upsample_bilinear2d", x, size[:], false)
}
