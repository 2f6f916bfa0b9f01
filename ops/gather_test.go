package ops

import (
	"bytes"
	"context"
	"errors"
	"testing"

	"mp/ops/pixel"
)

// What a device gathers is what the loader would, to the bit, in every type and layout.
func TestGatherIsThePixelRooms(t *testing.T) {
	records := make([]byte, 3*pixel.RecordBytes)
	for i := range records {
		records[i] = byte(i * i >> 3)
	}
	turn := pixel.Identity(40)
	turn.Map = pixel.Rotate(.3, 40, 40).Then(pixel.Scale(100, 100, 40, 40)).Fixed()
	turn.Mix, turn.Share, turn.Mate = pixel.Blend, pixel.GainOne/3, 1
	index, warps := []int32{2, 0}, []pixel.Warp{turn, pixel.Identity(40)}
	on(t, func(s *Scope) error {
		for _, c := range []struct {
			dtype  pixel.DType
			layout pixel.Layout
			want   DType
		}{{pixel.F32, pixel.NCHW, Float32}, {pixel.F32, pixel.NHWC, Float32}, {pixel.BF16, pixel.NCHW, BFloat16}, {pixel.BF16, pixel.NHWC, BFloat16}} {
			spec := pixel.OutSpec{Size: 40, DType: c.dtype, Layout: c.layout}.ImageNet()
			want := make([]byte, 2*spec.Bytes())
			if err := pixel.Gather(want, records, index, warps, spec); err != nil {
				return err
			}
			x := s.Gather(records, index, warps, spec)
			got, err := Bytes(x)
			if err != nil {
				return err
			}
			if !bytes.Equal(got, want) {
				t.Errorf("%v: other bytes than the loader's", spec)
			}
			info, err := Describe(x)
			if err != nil {
				return err
			}
			if info.DType != c.want || info.ChannelsLast != (c.layout == pixel.NHWC) || Numel(info.Shape) != 2*3*40*40 || info.Shape[1] != 3 {
				t.Errorf("%v: %+v", spec, info)
			}
		}
		return nil
	})
}

func TestGatherRefusesWhatAGPUCouldNotTell(t *testing.T) {
	d, err := OpenDevice(DeviceConfig{GPU: CPU, Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	far := pixel.Identity(8)
	far.Map[2] = 1<<31 - 1
	for name, c := range map[string]struct {
		index []int32
		warps []pixel.Warp
	}{
		"an image beyond the last": {[]int32{1}, []pixel.Warp{pixel.Identity(8)}},
		"a map that leads away":    {[]int32{0}, []pixel.Warp{far}},
		"more images than warps":   {[]int32{0, 0}, []pixel.Warp{pixel.Identity(8)}},
	} {
		err := d.Do(context.Background(), func(s *Scope) error {
			s.Gather(make([]byte, pixel.RecordBytes), c.index, c.warps, pixel.OutSpec{Size: 8}.ImageNet())
			return nil
		})
		if !errors.Is(err, pixel.ErrArgument) {
			t.Errorf("%s: %v, want ErrArgument", name, err)
		}
	}
}

// A GPU gets index and warps as one piece of memory, which its kernel takes apart again.
func TestOrdersLieAsTheKernelReadsThem(t *testing.T) {
	warps := []pixel.Warp{pixel.Identity(8), pixel.Identity(16)}
	b := orders([]int32{7, 258}, warps)
	if want := 2*4 + len(warps)*warpBytes; len(b) != want || !bytes.Equal(b[:8], []byte{7, 0, 0, 0, 2, 1, 0, 0}) || warpBytes%4 != 0 {
		t.Errorf("%d bytes that begin with %v, want %d", len(b), b[:8], want)
	}
	if first, second := b[8:8+warpBytes], b[8+warpBytes:]; bytes.Equal(first, second) {
		t.Error("two warps are the same")
	}
}
