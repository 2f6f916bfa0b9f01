package model

import (
	"fmt"

	torch "github.com/wangkuiyi/gotorch"

	"mp/ops"
)

// Legend: N samples, H height and W width in patches, D features (192), A heads (4), T tokens that attend to one another,
// B groups of such tokens, P window side (4), K classes.

// The reference's sizes. LayerNorm's epsilon is PyTorch's default 1e-5, since the reference makes its norms by
// nn.LayerNorm(dim), as ViTDet's class does by default.
const (
	vitImage    = 128
	vitPatch    = 16
	vitGrid     = vitImage / vitPatch
	vitWidth    = 192
	vitDepth    = 4
	vitHeads    = 4
	vitMLP      = 4
	vitWindow   = 4
	vitDropPath = 0.1
	vitStd      = 0.02
)

// simpleViT is the reference's vision transformer, a small ViTDet backbone (Li et al., 2022): window attention in blocks 0
// and 2, global attention in 1 and 3, mean over tokens, linear head. No norm follows the last block: 1,958,692 parameters
// with 100 classes (1,959,076 with one; the reference names neither the norm nor the exact count).
type simpleViT struct {
	patch  *conv
	pos    *ops.Param // [1 H W D]
	blocks sequence
	head   *linear
}

func newSimpleViT(b *builder) layer {
	n := &simpleViT{
		patch: b.conv("patch_embed.proj", conv2d{In: 3, Out: vitWidth, Kernel: vitPatch, Stride: vitPatch}),
		pos:   b.vector("pos_embed", truncNormal(vitStd), 1, vitGrid, vitGrid, vitWidth),
	}
	for i := range vitDepth {
		window := int64(0)
		if i%2 == 0 {
			window = vitWindow
		}
		n.blocks = append(n.blocks, newVitBlock(b, i, window))
	}
	n.head = b.head(vitLinear(b, "head", vitWidth, int64(b.options.Classes)))
	return n
}

// forward maps images [N 3 128 128] to logits [N K].
func (n *simpleViT) forward(s *ops.Scope, x torch.Tensor, m Mode) torch.Tensor {
	if shape := x.Shape(); shape[2] != vitImage || shape[3] != vitImage {
		s.Fail(fmt.Errorf("simplevit: images of shape %v, but its positions are learned for [N 3 %d %d]", shape, vitImage, vitImage))
		return torch.Tensor{}
	}
	x = s.Run(func(c *ops.Scope) torch.Tensor {
		x := c.Permute(n.patch.forward(c, x, m), 0, 2, 3, 1)          // [N H W D]
		return c.Contiguous(c.Add(x, c.To(tensor(n.pos), x.Dtype()))) // one copy here instead of one in every norm
	})
	x = n.blocks.forward(s, x, m)
	x = s.Mean(x, 1, 2) // [N D]
	return n.head.forward(s, x, m)
}

// vitBlock is a pre-norm transformer block: x + attention(norm x), then x + MLP(norm x), each branch dropped for a whole
// sample with probability drop when training.
type vitBlock struct {
	name         string
	index        int
	drop         float64
	window       int64 // side of the windows; 0 means global attention
	norm1, norm2 *layerNorm
	attn         *attention
	fc1, fc2     *linear
}

func newVitBlock(b *builder, i int, window int64) *vitBlock {
	name := fmt.Sprintf("blocks.%d", i)
	b.maps = append(b.maps, name)
	return &vitBlock{
		name:   name,
		index:  i,
		drop:   vitDropPath * float64(i) / (vitDepth - 1),
		window: window,
		norm1:  b.layerNorm(name+".norm1", vitWidth),
		attn:   newAttention(b, name+".attn"),
		norm2:  b.layerNorm(name+".norm2", vitWidth),
		fc1:    vitLinear(b, name+".mlp.fc1", vitWidth, vitMLP*vitWidth),
		fc2:    vitLinear(b, name+".mlp.fc2", vitMLP*vitWidth, vitWidth),
	}
}

// forward maps x [N H W D] to the same shape.
func (v *vitBlock) forward(s *ops.Scope, x torch.Tensor, m Mode) torch.Tensor {
	x = s.Run(func(c *ops.Scope) torch.Tensor {
		y := windowed(c, v.norm1.forward(c, x, m), v.window, func(t torch.Tensor) torch.Tensor { return v.attn.forward(c, t, m) })
		return c.Add(x, v.dropPath(c, y, m, 0))
	})
	return s.Run(func(c *ops.Scope) torch.Tensor {
		y := v.fc1.forward(c, v.norm2.forward(c, x, m), m) // [N H W 4D]
		y = v.fc2.forward(c, c.GELU(y), m)
		return m.tokens(c, v.name, c.Add(x, v.dropPath(c, y, m, 1)))
	})
}

func (v *vitBlock) dropPath(s *ops.Scope, y torch.Tensor, m Mode, branch int) torch.Tensor {
	if !m.Train || v.drop == 0 {
		return y
	}
	return s.DropPath(y, v.drop, mixKeys(m.Keys, uint64(2*v.index+branch)))
}

// windowed applies attend [B T D] -> [B T D] to x [N H W D]: to all its tokens (side 0), or to each window of side x side
// tokens alone. Zeros pad x at the bottom and right to a multiple of side; they are attended to like any other token.
func windowed(s *ops.Scope, x torch.Tensor, side int64, attend func(torch.Tensor) torch.Tensor) torch.Tensor {
	if s.Err() != nil {
		return torch.Tensor{}
	}
	shape := x.Shape()
	n, h, w, d := shape[0], shape[1], shape[2], shape[3]
	if side == 0 {
		return s.Reshape(attend(s.Reshape(x, n, h*w, d)), n, h, w, d)
	}
	rows, columns := (h+side-1)/side, (w+side-1)/side
	if rows*side != h || columns*side != w {
		x = s.Pad(x, 0, 0, 0, columns*side-w, 0, rows*side-h)
	}
	x = s.Permute(s.Reshape(x, n, rows, side, columns, side, d), 0, 1, 3, 2, 4, 5)
	x = attend(s.Reshape(x, n*rows*columns, side*side, d))
	x = s.Permute(s.Reshape(x, n, rows, columns, side, side, d), 0, 1, 3, 2, 4, 5)
	x = s.Reshape(x, n, rows*side, columns*side, d)
	if rows*side != h || columns*side != w {
		x = s.Narrow(s.Narrow(x, 1, 0, h), 2, 0, w)
	}
	return x
}

// attention is multi-head self-attention (Vaswani et al., 2017).
type attention struct {
	name      string
	qkv, proj *linear
	trace     *trace
}

func newAttention(b *builder, name string) *attention {
	return &attention{
		name:  name,
		qkv:   vitLinear(b, name+".qkv", vitWidth, 3*vitWidth),
		proj:  vitLinear(b, name+".proj", vitWidth, vitWidth),
		trace: b.trace,
	}
}

// forward maps tokens x [B T D] to [B T D].
func (a *attention) forward(s *ops.Scope, x torch.Tensor, m Mode) torch.Tensor {
	if s.Err() != nil {
		return torch.Tensor{}
	}
	shape := x.Shape()
	n, t, d := shape[0], shape[1], shape[2]
	qkv := s.Reshape(a.qkv.forward(s, x, m), n, t, 3, vitHeads, d/vitHeads)
	qkv = s.Permute(qkv, 2, 0, 3, 1, 4) // [3 B A T D/A]
	parts := s.Unbind(qkv, 3)           // 3 x [B A T D/A]
	m.attention(s, a.name, parts[0], parts[1])
	y := s.Attention(parts[0], parts[1], parts[2]) // [B A T D/A]
	y = s.Reshape(s.Permute(y, 0, 2, 1, 3), n, t, d)
	a.trace.layer(a.name, "attention", y, func([]int64) int64 { return 2 * n * t * t * d })
	return a.proj.forward(s, y, m)
}

// vitLinear declares a linear layer that starts as the reference's do.
func vitLinear(b *builder, name string, in, out int64) *linear {
	return b.linearFrom(name, [2]int64{in, out}, truncNormal(vitStd), constant(0))
}
