package model

import (
	"fmt"

	torch "github.com/wangkuiyi/gotorch"

	"mp/ops"
)

// Legend: N samples, C channels, H height, W width, K classes. Shapes in comments are those of 128 x 128 images.

// sceneNet is our own design: a residual network that reaches 32 x 32 by two strided 3x3 convolutions and spends most of its
// work at 16 x 16 and 8 x 8. 4.77 million parameters with 100 classes, 328 million multiply-adds. DESIGN.md says why.
type sceneNet struct {
	stem   sequence
	blocks sequence
	fc     *linear
}

func newSceneNet(b *builder) layer {
	n := &sceneNet{stem: sequence{
		resConv(b, "stem.0", conv2d{In: 3, Out: 32, Kernel: 3, Stride: 2, Padding: 1}), // [N 32 64 64]
		b.rectifiedNorm("stem.1", 32),
		resConv(b, "stem.3", conv2d{In: 32, Out: 64, Kernel: 3, Stride: 2, Padding: 1}), // [N 64 32 32]
		b.rectifiedNorm("stem.4", 64),
	}}
	in := int64(64)
	for i, stage := range []struct{ out, blocks int64 }{{64, 1}, {128, 1}, {256, 2}, {384, 1}} { // 32 x 32, 16, 8, 4
		for j := range stage.blocks {
			stride := int64(1)
			if j == 0 && i > 0 {
				stride = 2
			}
			name := fmt.Sprintf("layer%d.%d", i+1, j)
			n.blocks = append(n.blocks, newSceneBlock(b, name, conv2d{In: in, Out: stage.out, Stride: stride}))
			in = stage.out
		}
	}
	n.fc = b.head(b.linearFrom("fc", [2]int64{in, int64(b.options.Classes)}, truncNormal(.01), constant(0)))
	return n
}

// forward maps images [N 3 H W] of any size to logits [N K].
func (n *sceneNet) forward(s *ops.Scope, x torch.Tensor, m Mode) torch.Tensor {
	x = n.stem.forward(s, x, m)
	x = n.blocks.forward(s, x, m)
	x = s.GlobalAvgPool(x) // [N 384]
	return n.fc.forward(s, x, m)
}

// newSceneBlock is a basic block whose branch starts as nothing (its last norm's weight is 0: Goyal et al., 2017) and whose
// skip averages pixels before it projects, instead of dropping three of four (ResNet-D: He et al., 2018).
func newSceneBlock(b *builder, name string, c conv2d) *basicBlock {
	block := &basicBlock{branch: sequence{
		resConv(b, name+".conv1", conv2d{In: c.In, Out: c.Out, Kernel: 3, Stride: c.Stride, Padding: 1}),
		b.rectifiedNorm(name+".bn1", c.Out),
		resConv(b, name+".conv2", conv2d{In: c.Out, Out: c.Out, Kernel: 3, Padding: 1}),
	}}
	block.norm = b.batchNorm(name+".bn2", c.Out, 0)
	if c.In != c.Out || c.Stride != 1 {
		if c.Stride != 1 {
			block.skip = append(block.skip, avgPool{c.Stride})
		}
		block.skip = append(block.skip,
			resConv(b, name+".downsample.1", conv2d{In: c.In, Out: c.Out, Kernel: 1}),
			b.batchNorm(name+".downsample.2", c.Out, 1))
	}
	block.out = b.relu(name)
	return block
}

// avgPool averages windows of stride x stride; those that stick out at the far edges average what is there.
type avgPool struct{ stride int64 }

func (l avgPool) forward(s *ops.Scope, x torch.Tensor, _ Mode) torch.Tensor {
	return s.AvgPool2d(x, l.stride, l.stride)
}
