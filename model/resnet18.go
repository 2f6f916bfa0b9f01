package model

import (
	"fmt"

	torch "github.com/wangkuiyi/gotorch"

	"mp/ops"
)

// Legend: N samples, C channels, H height, W width, K classes. Shapes in comments are those of 128 x 128 images.

// resNet18 is the residual network of 18 layers (He et al., 2015) with torchvision's layout, names and initialisation.
type resNet18 struct {
	stem   sequence
	blocks sequence
	fc     *linear
}

func newResNet18(b *builder) layer {
	n := &resNet18{stem: sequence{
		resConv(b, "conv1", conv2d{In: 3, Out: 64, Kernel: 7, Stride: 2, Padding: 3}), // [N 64 64 64]
		b.rectifiedNorm("bn1", 64),
		b.maxPool("maxpool", [3]int64{3, 2, 1}), // [N 64 32 32]
	}}
	in := int64(64)
	for i, out := range []int64{64, 128, 256, 512} { // [N 64 32 32], [N 128 16 16], [N 256 8 8], [N 512 4 4]
		stride := int64(min(i+1, 2))
		n.blocks = append(n.blocks,
			newBasicBlock(b, fmt.Sprintf("layer%d.0", i+1), conv2d{In: in, Out: out, Stride: stride}),
			newBasicBlock(b, fmt.Sprintf("layer%d.1", i+1), conv2d{In: out, Out: out, Stride: 1}))
		in = out
	}
	n.fc = b.head(b.linear("fc", 512, int64(b.options.Classes)))
	return n
}

// forward maps images [N 3 H W] to logits [N K].
func (n *resNet18) forward(s *ops.Scope, x torch.Tensor, m Mode) torch.Tensor {
	x = n.stem.forward(s, x, m)
	x = n.blocks.forward(s, x, m)
	x = s.GlobalAvgPool(x) // [N 512]
	return n.fc.forward(s, x, m)
}

// basicBlock is x + norm(branch(x)), both through a rectifier; skip projects x where the shape changes.
type basicBlock struct {
	branch sequence
	norm   *batchNorm
	skip   sequence
	out    relu
}

func newBasicBlock(b *builder, name string, c conv2d) *basicBlock {
	block := &basicBlock{branch: sequence{
		resConv(b, name+".conv1", conv2d{In: c.In, Out: c.Out, Kernel: 3, Stride: c.Stride, Padding: 1}),
		b.rectifiedNorm(name+".bn1", c.Out),
		resConv(b, name+".conv2", conv2d{In: c.Out, Out: c.Out, Kernel: 3, Padding: 1}),
	}}
	block.norm = b.batchNorm(name+".bn2", c.Out, 1)
	if c.In != c.Out || c.Stride != 1 {
		block.skip = sequence{
			resConv(b, name+".downsample.0", conv2d{In: c.In, Out: c.Out, Kernel: 1, Stride: c.Stride}),
			b.batchNorm(name+".downsample.1", c.Out, 1),
		}
	}
	block.out = b.relu(name)
	return block
}

// forward maps x [N C H W] to [N C' H' W'].
func (r *basicBlock) forward(s *ops.Scope, x torch.Tensor, m Mode) torch.Tensor {
	return s.Run(func(c *ops.Scope) torch.Tensor {
		y := r.branch.forward(c, x, m)
		if r.skip != nil {
			x = r.skip.forward(c, x, m)
		}
		return r.norm.join(c, y, x, r.out, m)
	})
}

// resConv declares a convolution without bias that starts as torchvision's do.
func resConv(b *builder, name string, c conv2d) *conv {
	c.NoBias, c.Init = true, kaimingNormal(c.Out*c.Kernel*c.Kernel)
	return b.conv(name, c)
}
