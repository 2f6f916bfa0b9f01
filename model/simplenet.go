package model

import (
	torch "github.com/wangkuiyi/gotorch"

	"mp/ops"
)

// Legend: N samples, H height, W width, K classes. Shapes in comments are those of 128 x 128 images.

// simpleNet is the reference's small CNN: bottleneck convolutions, no normalisation, 365,028 parameters with 100 classes.
type simpleNet struct {
	features sequence
	fc       *linear
}

func newSimpleNet(b *builder) layer {
	return &simpleNet{
		features: sequence{
			b.conv("features.0", conv2d{In: 3, Out: 64, Kernel: 7, Stride: 2, Padding: 3}), // [N 64 64 64]
			b.rectifiedPool("features.1", "features.2", [3]int64{3, 2, 1}),                 // [N 64 32 32]
			b.conv("features.3", conv2d{In: 64, Out: 64, Kernel: 1}), b.relu("features.4"), // [N 64 32 32]
			b.conv("features.5", conv2d{In: 64, Out: 64, Kernel: 3, Padding: 1}), b.relu("features.6"),
			b.conv("features.7", conv2d{In: 64, Out: 256, Kernel: 1}),      // [N 256 32 32]
			b.rectifiedPool("features.8", "features.9", [3]int64{3, 2, 1}), // [N 256 16 16]
			b.conv("features.10", conv2d{In: 256, Out: 128, Kernel: 1}), b.relu("features.11"),
			b.conv("features.12", conv2d{In: 128, Out: 128, Kernel: 3, Padding: 1}), b.relu("features.13"),
			b.conv("features.14", conv2d{In: 128, Out: 512, Kernel: 1}), b.relu("features.15"), // [N 512 16 16]
		},
		fc: b.head(b.linear("fc", 512, int64(b.options.Classes))),
	}
}

// forward maps images [N 3 H W] to logits [N K].
func (n *simpleNet) forward(s *ops.Scope, x torch.Tensor, m Mode) torch.Tensor {
	x = n.features.forward(s, x, m)
	x = s.GlobalAvgPool(x) // [N 512]
	return n.fc.forward(s, x, m)
}
