package devicecheck

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"slices"

	torch "github.com/wangkuiyi/gotorch"

	"mp/ops"
	"mp/ops/pixel"
)

// updates makes three steps of each optimizer on flat buffers: with our CUDA library the bits are the CPU's.
func (c *check) updates(ctx context.Context) error {
	for name, rule := range map[string]ops.Rule{
		"sgd":   {Nesterov: true, Rate: .05, Beta1: .9, Follow: .1, Scale: .5, MaxNorm: 1},
		"adamw": {Adam: true, Rate: .01, DecayRate: .001, Beta1: .9, Beta2: .999, Root: .0316, Eps: 1e-8, Follow: .1, Scale: 1, MaxNorm: 2},
	} {
		want, err := moved(ctx, c.Host, rule)
		if err != nil {
			return fmt.Errorf("update on the CPU: %w", err)
		}
		err = c.hold(ctx, "updates, bits", name, 0, func() (float64, error) {
			got, err := moved(ctx, c.Device, rule)
			if err == nil && !bytes.Equal(got, want) {
				return 1, nil
			}
			return 0, err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// moved is what three steps make of weights, state and average.
func moved(ctx context.Context, d *ops.Device, rule ops.Rule) (out []byte, err error) {
	const n = 5 * 1024
	err = d.Do(ctx, func(s *ops.Scope) error {
		buffer := func(name string) torch.Tensor { return tensor(s, name, ops.Float32, n) }
		f := ops.Flats{Weights: buffer("weights"), Decay: s.Abs(tensor(s, "decay", ops.Float32, n/16)), First: s.Zeros(ops.Float32, n), Average: buffer("average")}
		if rule.Adam {
			f.Second = s.Zeros(ops.Float32, n)
		}
		for step := range 3 {
			f.Grads = buffer(fmt.Sprint("gradient ", step))
			f.Norm = s.Norm(f.Grads)
			s.Update(rule, f)
		}
		for _, t := range []torch.Tensor{f.Weights, f.First, f.Second, f.Average} {
			if !ops.Defined(t) || s.Err() != nil {
				continue
			}
			part := make([]byte, 4*n)
			if err := ops.Read(t, part); err != nil {
				return err
			}
			out = append(out, part...)
		}
		return s.Err()
	})
	return out, err
}

// sums quantises vectors where they are, as a sum over shards wants them: the integers are the CPU's.
func (c *check) sums(ctx context.Context) error {
	const n, lo, bits = 40*ops.FixedBlock + 99, 3 * ops.FixedBlock, 28
	var vectors [3][]float32
	for i := range vectors {
		for at, v := range draw(fmt.Sprint("vector ", i), n) { // magnitudes differ from block to block
			vectors[i] = append(vectors[i], float32(math.Ldexp(v, at/ops.FixedBlock*37%200-100)))
		}
	}
	quantised := func(d *ops.Device) (exponents []byte, q []int32, err error) {
		exponents, q = make([]byte, (n-lo+ops.FixedBlock-1)/ops.FixedBlock), make([]int32, n-lo)
		err = d.Do(ctx, func(s *ops.Scope) error {
			var there []torch.Tensor
			for _, v := range vectors {
				there = append(there, ops.From(s, v, n))
			}
			s.FixedVectorsExponents(exponents, there, lo, n)
			s.FixedVectorsQuantize(q, exponents, there, lo, bits)
			return s.Err()
		})
		return exponents, q, err
	}
	exponents, q, err := quantised(c.Host)
	if err != nil {
		return fmt.Errorf("quantise on the CPU: %w", err)
	}
	return c.hold(ctx, "sums over shards, bits", "fixed point", 0, func() (float64, error) {
		e, got, err := quantised(c.Device)
		if err == nil && !(bytes.Equal(e, exponents) && slices.Equal(got, q)) {
			return 1, nil
		}
		return 0, err
	})
}

// images gathers records with every kind of warp, on a GPU from memory of Go and from its stage: the bits are the CPU's.
func (c *check) images(ctx context.Context) error {
	const n = 12
	records := make([]byte, n*pixel.RecordBytes)
	for i := range records {
		records[i] = byte(i*2654435761>>13) ^ byte(i>>9)
	}
	index, warps := make([]int32, n), make([]pixel.Warp, n)
	for i := range warps {
		w := pixel.Identity(96)
		m := pixel.Scale(90, 80+i, 96, 96).Then(pixel.Rotate(.1*float64(i-6), 96, 96)).Then(pixel.Shift(float64(3*i)-10, 7))
		if i%2 == 1 {
			m = pixel.Mirror(96).Then(m)
		}
		w.Map, w.Interpolation, w.Border, w.Fill = m.Fixed(), pixel.Interpolation(i%3), pixel.Border(i/3%2), [3]uint8{9, 99, 199}
		w.Steps, w.Tone, w.ToneLevel = pixel.Steps(i+3), pixel.Tone(i%5), 5
		w.Sharpness, w.Gain = 400, [3]uint16{30000, 33000, 36000}
		w.Matrix[1], w.Matrix[3] = 9000, -7000
		w.Erase, w.EraseRGB = pixel.Box{X0: 10, Y0: 20, X1: 40, Y1: 50}, [3]uint8{1, 2, 3}
		w.Mix, w.Share, w.Mate, w.Paste = pixel.Mix(i%3), 20000, int32((i+5)%n), pixel.Box{X0: 30, Y0: 5, X1: 80, Y1: 60}
		index[i], warps[i] = int32(n-1-i), w
	}
	type place struct {
		what    string
		records []byte
	}
	places := []place{{"images from records, bits", records}}
	if stage := c.Device.Stage(); stage != nil {
		room, free, err := stage.Room(len(records))
		if err != nil {
			return err
		}
		defer free()
		copy(room, records)
		if err := stage.Filled(room); err != nil {
			return err
		}
		defer stage.Emptied(room)
		places = append(places, place{"images from staged records, bits", room})
	}
	for _, spec := range []pixel.OutSpec{{DType: pixel.F32, Layout: pixel.NCHW}, {DType: pixel.F32, Layout: pixel.NHWC}, {DType: pixel.BF16, Layout: pixel.NCHW}, {DType: pixel.BF16, Layout: pixel.NHWC}} {
		spec.Size = 96
		spec = spec.ImageNet()
		want := make([]byte, n*spec.Bytes())
		if err := pixel.Gather(want, records, index, warps, spec); err != nil {
			return fmt.Errorf("gather on the CPU: %w", err)
		}
		name := map[pixel.DType]string{pixel.F32: "float32", pixel.BF16: "bfloat16"}[spec.DType] + map[pixel.Layout]string{pixel.NCHW: "", pixel.NHWC: " channels last"}[spec.Layout]
		for _, from := range places {
			err := c.hold(ctx, from.what, name, 0, func() (float64, error) {
				same := false
				err := c.Device.Do(ctx, func(s *ops.Scope) error {
					x := s.Gather(from.records, index, warps, spec)
					if spec.Layout == pixel.NHWC {
						x = s.Permute(x, 0, 2, 3, 1) // in the order in which it lies
					}
					got := make([]byte, len(want))
					if s.Err() != nil {
						return s.Err()
					}
					err := ops.Read(x, got)
					same = bytes.Equal(got, want)
					return err
				})
				if err == nil && !same {
					return 1, nil
				}
				return 0, err
			})
			if err != nil {
				return err
			}
		}
	}
	return nil
}
