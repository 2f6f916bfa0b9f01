package devicecheck

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"strings"

	torch "github.com/wangkuiyi/gotorch"

	"mp/model"
	"mp/ops"
)

// Legend: N samples, S side of the images, K classes.

const (
	samples = 4
	side    = 128 // simplevit takes no other
	classes = 100
)

// dropsPaths is the network that drops paths in training.
const dropsPaths = "simplevit"

// form is a way to compute a network.
type form struct {
	name     string
	options  model.Options
	images   ops.DType
	logits   float64 // limits
	gradient float64 // in float32, rounding crosses a few kinks of ReLU and max-pool; in bfloat16, batch norms of few images amplify it
}

func forms() []form {
	return []form{
		{"float64", model.Options{DType: ops.Float64}, ops.Float64, 1e-9, 1e-9},
		{"float32", model.Options{}, ops.Float32, 1e-4, 2e-2},
		{"float32 channels last", model.Options{ChannelsLast: true}, ops.Float32, 1e-4, 2e-2},
		{"float32 own convolution", model.Options{ChannelsLast: true, OwnConv: true}, ops.Float32, 1e-4, 2e-2},
		{"bfloat16", model.Options{ChannelsLast: true}, ops.BFloat16, 1e-1, 6e-1},
	}
}

// pass is what a network made of a batch.
type pass struct {
	logits, loss []float64
	grads        [][]float64 // by parameter, in name order
	flat         []byte      // the same, as a training step has them
	statistics   [][]float64 // running ones, after the pass
}

// networks computes every network in every form: logits, loss, gradients and running statistics of a training pass, and
// whether a second one gives the same bits.
func (c *check) networks(ctx context.Context) error {
	for _, arch := range model.Names() {
		want, err := c.train(ctx, c.Host, arch, forms()[0])
		if err != nil {
			return fmt.Errorf("compute %s on the CPU: %w", arch, err)
		}
		for _, f := range forms() {
			var got pass
			err := c.hold(ctx, "networks, "+f.name, arch, f.logits, func() (float64, error) {
				got, err = c.train(ctx, c.Device, arch, f)
				return max(distance(got.logits, want.logits), distance(got.loss, want.loss), furthest(got.statistics, want.statistics)), err
			})
			if err != nil {
				return err
			}
			if got.grads == nil {
				continue
			}
			err = c.hold(ctx, "gradients of networks, "+f.name, arch, f.gradient, func() (float64, error) {
				return distance(slices.Concat(got.grads...), slices.Concat(want.grads...)), nil
			})
			if err == nil && f.images != ops.Float64 {
				err = c.hold(ctx, "same bits twice, "+f.name, arch, 0, func() (float64, error) {
					again, err := c.train(ctx, c.Device, arch, f)
					if err == nil && !bytes.Equal(again.flat, got.flat) {
						return 1, nil
					}
					return 0, err
				})
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// train makes one training pass of a network. What drops paths is not in training mode: others draw other paths.
func (c *check) train(ctx context.Context, d *ops.Device, arch string, f form) (p pass, err error) {
	err = withModel(ctx, d, arch, f.options, func(s *ops.Scope, m *model.Model) error {
		x := tensor(s, "images", f.images, samples, 3, side, side)
		if f.options.ChannelsLast {
			x = s.ChannelsLast(x)
		}
		labels := make([]int64, samples)
		keys := make([]uint64, samples)
		for i := range labels {
			labels[i], keys[i] = int64(7*i%classes), uint64(i)
		}
		logits := m.Forward(s, x, model.Mode{Train: arch != dropsPaths, Keys: keys})
		loss := s.CrossEntropy(logits, ops.From(s, labels, samples), 0, ops.ReduceMean)
		saves := d == c.Device && f.name == forms()[1].name
		if saves {
			c.keep(s, arch+"/images", x)
			c.keep(s, arch+"/logits", logits)
		}
		p.logits, p.loss = ops.Values[float64](s, logits), ops.Values[float64](s, loss)
		whole := s.Zeros(m.Params.Buffer().Dtype(), m.Params.Len())
		s.GradInto(loss, m.Params, whole, nil)
		if err := s.Err(); err != nil {
			return err
		}
		p.flat = make([]byte, m.Params.Len()*int64(ops.SizeOf(whole.Dtype())))
		if err := ops.Read(whole, p.flat); err != nil {
			return err
		}
		for _, q := range m.Params.Params() {
			at, n := m.Params.Span(q)
			g := inOrder(s, s.Narrow(whole, 0, at, n), q.Shape, f.options.ChannelsLast)
			p.grads = append(p.grads, ops.Values[float64](s, g))
			if saves {
				c.keep(s, arch+"/gradients/"+q.Name, g)
				c.keep(s, arch+"/weights/"+q.Name, q.Tensor())
			}
		}
		for _, q := range m.Buffers.Params() {
			p.statistics = append(p.statistics, ops.Values[float64](s, q.Tensor()))
		}
		return s.Err()
	})
	return p, err
}

// withModel runs f with a network. Its weights are functions of their names, so that no gradient is 0, as some are at a
// network's own first values.
func withModel(ctx context.Context, d *ops.Device, arch string, o model.Options, f func(*ops.Scope, *model.Model) error) error {
	return d.Do(ctx, func(s *ops.Scope) error {
		o.Classes = classes
		m, err := model.New(s, arch, o)
		if err != nil {
			return err
		}
		defer m.Free()
		weights := map[string]model.Array{}
		for _, flat := range []*ops.Flat{m.Params, m.Buffers} {
			for _, p := range flat.Params() {
				weights[p.Name] = weight(p.Name, p.Shape)
			}
		}
		if _, err := m.Load(s, weights, model.Exact); err != nil {
			return err
		}
		return f(s, m)
	})
}

// weight is a tensor of a network.
func weight(name string, shape []int64) model.Array {
	n := ops.Numel(shape)
	scale, offset := .1, 0.
	switch {
	case name == "pos_embed":
		scale = .5
	case len(shape) > 1: // what goes in keeps its size
		scale = math.Sqrt(6 / float64(n/shape[0]))
	case strings.HasSuffix(name, ".running_var"):
		scale, offset = .5, 1
	case strings.HasSuffix(name, ".weight"):
		scale, offset = .25, 1
	}
	a := model.Array{Shape: shape}
	for _, v := range draw(name, n) {
		a.Data = binary.LittleEndian.AppendUint32(a.Data, math.Float32bits(float32(offset+scale*v)))
	}
	return a
}

// inOrder returns a parameter's gradient in C order from where it lies in a flat buffer.
func inOrder(s *ops.Scope, flat torch.Tensor, shape []int64, channelsLast bool) torch.Tensor {
	if channelsLast && len(shape) == 4 {
		return s.Permute(s.Reshape(flat, shape[0], shape[2], shape[3], shape[1]), 0, 3, 1, 2)
	}
	return s.Reshape(flat, shape...)
}
