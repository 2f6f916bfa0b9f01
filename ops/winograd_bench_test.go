package ops

import (
	"context"
	"fmt"
	"testing"

	torch "github.com/wangkuiyi/gotorch"
)

// What the convolutions of scenenet and resnet18 cost by the library, by Winograd's algorithm with either tile, and by what
// Conv2d chooses: forward, and the gradients of x and of w with their forward pass; one thread, channels last.
func BenchmarkWinograd(b *testing.B) {
	d, err := OpenDevice(DeviceConfig{GPU: CPU, Threads: 1})
	if err != nil {
		b.Fatal(err)
	}
	defer d.Close()
	ways := map[string]convolution{"library": library, "2x2": winograd(2), "4x4": winograd(4), "chosen": (*Scope).Conv2d}
	for _, dtype := range []DType{Float32, BFloat16} {
		for _, v := range [][2]int64{{64, 32}, {128, 16}, {256, 8}, {384, 4}, {512, 4}} { // channels, side
			for _, n := range []int64{16, 32} {
				for _, what := range []string{"forward", "dx", "dw"} {
					for _, way := range []string{"library", "2x2", "4x4", "chosen"} {
						b.Run(fmt.Sprintf("%s/%d@%dx%d/batch=%d/%s/%s", map[DType]string{Float32: "fp32", BFloat16: "bf16"}[dtype], v[0], v[1], v[1], n, what, way), func(b *testing.B) {
							if err := d.Do(context.Background(), func(s *Scope) error {
								x := s.ChannelsLast(s.Offset(s.Zeros(dtype, n, v[0], v[1], v[1]), .5))
								w := s.ChannelsLast(s.Offset(s.Zeros(Float32, v[0], v[0], 3, 3), .1))
								leaf := x
								switch what {
								case "dx":
									x = s.Leaf(x)
									leaf = x
								case "dw":
									w = s.Leaf(w)
									leaf = w
								}
								for b.Loop() {
									c := s.Child()
									y := ways[way](c, x, w, torch.Tensor{}, ConvGeometry{Padding: 1})
									if what != "forward" {
										c.Pullback(y, y, leaf)
									}
									c.Close()
								}
								return s.Err()
							}); err != nil {
								b.Fatal(err)
							}
						})
					}
				}
			}
		}
	}
}
