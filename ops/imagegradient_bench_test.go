package ops

import (
	"context"
	"fmt"
	"testing"

	torch "github.com/wangkuiyi/gotorch"
)

// What a first convolution and the gradient of its images cost, by the library, by our own, and by the library with our own gradient: one thread, channels last.
func BenchmarkImageGradient(b *testing.B) {
	d, err := OpenDevice(DeviceConfig{GPU: CPU, Threads: 1})
	if err != nil {
		b.Fatal(err)
	}
	defer d.Close()
	for _, v := range []struct {
		model                         string
		co, kernel, stride, pad, side int64
	}{{"simplenet", 64, 7, 2, 3, 128}, {"scenenet", 32, 3, 2, 1, 128}, {"simplevit", 192, 8, 8, 0, 128}} {
		for _, dtype := range []DType{Float32, BFloat16} {
			for _, way := range []string{"library", "own", "both"} {
				b.Run(fmt.Sprintf("%s/bf16=%v/%s", v.model, dtype == BFloat16, way), func(b *testing.B) {
					if err := d.Do(context.Background(), func(s *Scope) error {
						x := s.ChannelsLast(s.Offset(s.Zeros(dtype, 16, 3, v.side, v.side), .5))
						w := s.ChannelsLast(s.Offset(s.Zeros(dtype, v.co, 3, v.kernel, v.kernel), .1))
						g := ConvGeometry{Stride: v.stride, Padding: v.pad}
						for b.Loop() {
							c := s.Child()
							convolve, leaf := c.libraryConv2d, c.Leaf(x)
							switch way {
							case "own":
								convolve = c.OwnConv2d
							case "both":
								convolve = c.Conv2d
							}
							c.Grad(c.Sum(convolve(leaf, w, torch.Tensor{}, g)), leaf)
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
