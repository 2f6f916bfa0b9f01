package devicecheck

import (
	"context"
	"fmt"

	torch "github.com/wangkuiyi/gotorch"

	"mp/ops"
)

// operation is one of package ops', as a function of tensors of these shapes.
type operation struct {
	name string // of the method of ops.Scope, and what is special about the case
	in   [][]int64
	f    func(s *ops.Scope, x []torch.Tensor) torch.Tensor
	flat bool // it has no gradient
	up   bool // its arguments are positive, from 0.1 on
}

// Legend: N samples, C channels, H W height and width, K classes, D features, T tokens.

// operations is a case at least for every method of ops.Scope that computes something.
func operations() []operation {
	type xs = []torch.Tensor
	type sc = *ops.Scope
	image, small := [][]int64{{2, 6, 9, 11}}, [][]int64{{3, 4, 5}}
	pair := [][]int64{{3, 4, 5}, {4, 1}}
	conv := func(o, k int64) [][]int64 { return [][]int64{{2, 6, 9, 11}, {o, 6, k, k}, {o}} }
	keys := []uint64{3, 1 << 40}
	rows := func(s sc, v ...int64) torch.Tensor { return ops.From(s, v, int64(len(v))) }
	var all []operation
	add := func(name string, in [][]int64, f func(s sc, x xs) torch.Tensor) *operation {
		all = append(all, operation{name: name, in: in, f: f})
		return &all[len(all)-1]
	}
	add("Add", pair, func(s sc, x xs) torch.Tensor { return s.Add(x[0], x[1]) })
	add("AddInPlace", pair, func(s sc, x xs) torch.Tensor { return s.AddInPlace(s.Scale(x[0], 2), x[1]) })
	add("Sub", pair, func(s sc, x xs) torch.Tensor { return s.Sub(x[0], x[1]) })
	add("Mul", pair, func(s sc, x xs) torch.Tensor { return s.Mul(x[0], x[1]) })
	add("Div", pair, func(s sc, x xs) torch.Tensor { return s.Div(x[0], x[1]) }).up = true
	add("Scale", small, func(s sc, x xs) torch.Tensor { return s.Scale(x[0], -1.75) })
	add("Offset", small, func(s sc, x xs) torch.Tensor { return s.Offset(x[0], .375) })
	add("Log", small, func(s sc, x xs) torch.Tensor { return s.Log(x[0]) }).up = true
	add("Sqrt", small, func(s sc, x xs) torch.Tensor { return s.Sqrt(x[0]) }).up = true
	add("Tanh", small, func(s sc, x xs) torch.Tensor { return s.Tanh(x[0]) })
	add("Atanh", small, func(s sc, x xs) torch.Tensor { return s.Atanh(s.Scale(x[0], .9)) })
	add("Abs", small, func(s sc, x xs) torch.Tensor { return s.Abs(x[0]) })
	add("Sign", small, func(s sc, x xs) torch.Tensor { return s.Sign(x[0]) }).flat = true
	add("ReLU", small, func(s sc, x xs) torch.Tensor { return s.ReLU(x[0]) })
	add("ReLUInPlace", small, func(s sc, x xs) torch.Tensor { return s.ReLUInPlace(s.Scale(x[0], 2)) })
	add("GuidedReLU", small, func(s sc, x xs) torch.Tensor { return s.GuidedReLU(x[0]) })
	add("GELU", small, func(s sc, x xs) torch.Tensor { return s.GELU(x[0]) })
	add("Sigmoid", small, func(s sc, x xs) torch.Tensor { return s.Sigmoid(x[0]) })
	add("Clamp", small, func(s sc, x xs) torch.Tensor { return s.Clamp(x[0], -.5, .25) })
	add("Minimum", pair, func(s sc, x xs) torch.Tensor { return s.Minimum(x[0], x[1]) })
	add("Where Less", pair, func(s sc, x xs) torch.Tensor { return s.Where(s.Less(x[0], x[1]), x[0], s.Scale(x[1], 3)) })
	add("Reshape", small, func(s sc, x xs) torch.Tensor { return s.Reshape(x[0], 5, -1) })
	add("Permute", small, func(s sc, x xs) torch.Tensor { return s.Contiguous(s.Permute(x[0], 2, 0, 1)) })
	add("Contiguous ChannelsLast", image, func(s sc, x xs) torch.Tensor { return s.Contiguous(s.Scale(s.ChannelsLast(x[0]), 2)) })
	add("Narrow", small, func(s sc, x xs) torch.Tensor { return s.Narrow(x[0], 1, 1, 2) })
	add("Flip", image, func(s sc, x xs) torch.Tensor { return s.Flip(x[0], 3) })
	add("Pad", image, func(s sc, x xs) torch.Tensor { return s.Pad(x[0], 1, 2, 0, 3) })
	add("Unbind Concat", small, func(s sc, x xs) torch.Tensor { return s.Concat(1, s.Unbind(x[0], 3)...) })
	add("MatMul", [][]int64{{3, 7, 33}, {33, 6}}, func(s sc, x xs) torch.Tensor { return s.MatMul(x[0], x[1]) })
	add("Linear", [][]int64{{5, 33}, {7, 33}, {7}}, func(s sc, x xs) torch.Tensor { return s.Linear(x[0], x[1], x[2]) })
	add("Sum", image, func(s sc, x xs) torch.Tensor { return s.Sum(x[0], 1, 3) })
	add("SumKeep", image, func(s sc, x xs) torch.Tensor { return s.SumKeep(x[0], 2) })
	add("Mean", image, func(s sc, x xs) torch.Tensor { return s.Mean(x[0], 0, 2) })
	add("Largest", image, func(s sc, x xs) torch.Tensor { return s.Largest(x[0], 1, 2) })
	add("TopK", small, func(s sc, x xs) torch.Tensor { v, _ := s.TopK(x[0], 3); return v })
	add("TopK places", small, func(s sc, x xs) torch.Tensor { _, at := s.TopK(x[0], 3); return at }).flat = true
	add("Rows", image, func(s sc, x xs) torch.Tensor { return s.Rows(x[0], rows(s, 1, 0, 1)) })
	add("Pick", [][]int64{{3, 7}}, func(s sc, x xs) torch.Tensor { return s.Pick(x[0], ops.From(s, []int64{6, 0, 2}, 3, 1)) })
	add("PutRows", [][]int64{{4, 5}, {2, 5}}, func(s sc, x xs) torch.Tensor {
		y := s.Scale(x[0], 1)
		s.PutRows(y, rows(s, 3, 0), x[1])
		return y
	}).flat = true
	add("CopyInto Lerp", [][]int64{{4, 5}, {4, 5}}, func(s sc, x xs) torch.Tensor {
		y := s.Scale(x[0], 0)
		s.CopyInto(y, x[0])
		s.Lerp(y, x[1], .25)
		return y
	}).flat = true
	for _, g := range []struct {
		what    string
		o, k    int64
		how     ops.ConvGeometry
		grouped bool
	}{{"7x7 stride 2", 5, 7, ops.ConvGeometry{Stride: 2, Padding: 3}, false}, {"1x1", 5, 1, ops.ConvGeometry{}, false},
		{"3x3", 5, 3, ops.ConvGeometry{Padding: 1}, false}, {"3x3 in 2 groups", 4, 3, ops.ConvGeometry{Padding: 1, Groups: 2}, true}} {
		in := conv(g.o, g.k)
		if g.grouped {
			in[1][1] = 3
		}
		add("Conv2d "+g.what, in, func(s sc, x xs) torch.Tensor { return s.Conv2d(x[0], x[1], x[2], g.how) })
		add("Conv2d channels last "+g.what, in, func(s sc, x xs) torch.Tensor {
			return s.Conv2d(s.ChannelsLast(x[0]), s.ChannelsLast(x[1]), x[2], g.how)
		})
		if !g.grouped {
			add("OwnConv2d "+g.what, in, func(s sc, x xs) torch.Tensor { return s.OwnConv2d(x[0], x[1], x[2], g.how) })
			add("OwnConv2d channels last "+g.what, in, func(s sc, x xs) torch.Tensor {
				return s.OwnConv2d(s.ChannelsLast(x[0]), s.ChannelsLast(x[1]), x[2], g.how)
			})
		}
	}
	add("MaxPool2d", image, func(s sc, x xs) torch.Tensor { return s.MaxPool2d(x[0], 3, 2, 1) })
	add("MaxPool2d channels last", image, func(s sc, x xs) torch.Tensor { return s.MaxPool2d(s.ChannelsLast(x[0]), 3, 2, 1) })
	add("AvgPool2d", image, func(s sc, x xs) torch.Tensor { return s.AvgPool2d(x[0], 2, 2) })
	add("GlobalAvgPool", image, func(s sc, x xs) torch.Tensor { return s.GlobalAvgPool(x[0]) })
	norm := [][]int64{{2, 6, 9, 11}, {6}, {6}, {6}, {6}}
	for _, training := range []bool{true, false} {
		running := func(s sc, x xs, f func(n ops.Norm) torch.Tensor) torch.Tensor {
			n := ops.Norm{Weight: x[1], Bias: x[2], Mean: tensor(s, "mean", x[0].Dtype(), 6), Var: s.Offset(tensor(s, "var", x[0].Dtype(), 6), 1.5)}
			y := f(n)
			return s.Add(y, s.Reshape(s.Add(n.Mean, n.Var), 1, 6, 1, 1)) // the running ones too
		}
		add(fmt.Sprintf("BatchNorm training=%v", training), norm[:3], func(s sc, x xs) torch.Tensor {
			return running(s, x, func(n ops.Norm) torch.Tensor { return s.BatchNorm(x[0], n, training) })
		})
		add(fmt.Sprintf("BatchNormReLU training=%v", training), append(norm[:3:3], norm[0]), func(s sc, x xs) torch.Tensor {
			return running(s, x, func(n ops.Norm) torch.Tensor {
				return s.BatchNormReLU(s.ChannelsLast(x[0]), n, s.ChannelsLast(x[3]), training)
			})
		})
	}
	add("LayerNorm", [][]int64{{3, 5, 16}, {16}, {16}}, func(s sc, x xs) torch.Tensor { return s.LayerNorm(x[0], x[1], x[2], 1e-6) })
	add("Softmax", small, func(s sc, x xs) torch.Tensor { return s.Softmax(x[0], 1) })
	add("LogSoftmax", small, func(s sc, x xs) torch.Tensor { return s.LogSoftmax(x[0], 2) })
	add("CrossEntropy", [][]int64{{3, 7}}, func(s sc, x xs) torch.Tensor { return s.CrossEntropy(x[0], rows(s, 6, 0, 2), .1, ops.ReduceMean) })
	add("CrossEntropy mixed", [][]int64{{3, 7}, {3, 7}}, func(s sc, x xs) torch.Tensor {
		return s.CrossEntropy(x[0], s.Softmax(x[1], 1), 0, ops.ReduceNone)
	})
	add("Dropout", [][]int64{{2, 40}}, func(s sc, x xs) torch.Tensor { return s.Dropout(x[0], .4, keys) })
	add("DropPath", [][]int64{{2, 40}}, func(s sc, x xs) torch.Tensor { return s.DropPath(x[0], .4, keys) })
	add("Uniform", [][]int64{{2, 40}}, func(s sc, x xs) torch.Tensor { return s.Uniform(x[0], keys) }).flat = true
	add("Normal", [][]int64{{2, 40}}, func(s sc, x xs) torch.Tensor { return s.Normal(x[0], keys) }).flat = true
	add("Unfold", image, func(s sc, x xs) torch.Tensor { return s.Unfold(x[0], [2]int64{3, 2}, [2]int64{2, 1}, [2]int64{1, 0}) })
	add("Fold", [][]int64{{2, 12, 20}}, func(s sc, x xs) torch.Tensor {
		return s.Fold(x[0], [2]int64{6, 5}, [2]int64{2, 2}, [2]int64{1, 1}, [2]int64{0, 0})
	})
	heads := [][]int64{{2, 3, 5, 8}, {2, 3, 5, 8}, {2, 3, 5, 8}}
	add("Attention", heads, func(s sc, x xs) torch.Tensor { return s.Attention(x[0], x[1], x[2]) })
	add("AttentionWeights", heads[:2], func(s sc, x xs) torch.Tensor { return s.AttentionWeights(x[0], x[1]) })
	add("Interpolate", image, func(s sc, x xs) torch.Tensor { return s.Interpolate(x[0], [2]int64{16, 7}) })
	add("Affine", [][]int64{{2, 6, 9, 11}, {2, 2, 3}}, func(s sc, x xs) torch.Tensor { return s.Affine(x[0], x[1]) })
	add("SignStep", [][]int64{{2, 40}, {2, 40}, {2, 40}}, func(s sc, x xs) torch.Tensor {
		return s.SignStep(x[0], x[1], x[2], .03, ops.SignBall{Eps: .5, Lo: -.9, Hi: .8})
	}).flat = true
	add("Norm", [][]int64{{4096}}, func(s sc, x xs) torch.Tensor { return s.Norm(s.To(x[0], ops.Float32)) }).flat = true
	return all
}

// operations computes every operation in float64 and float32, and its gradients by every argument.
func (c *check) operations(ctx context.Context) error {
	for _, o := range operations() {
		want, wantGrads, err := o.compute(ctx, c.Host, ops.Float64)
		if err != nil {
			return fmt.Errorf("compute %s on the CPU: %w", o.name, err)
		}
		for _, p := range []struct {
			dtype ops.DType
			limit float64
		}{{ops.Float64, 1e-10}, {ops.Float32, 2e-5}} {
			var grads [][]float64
			err := c.hold(ctx, "operations, "+nameOf(p.dtype), o.name, p.limit, func() (float64, error) {
				var got []float64
				var err error
				got, grads, err = o.compute(ctx, c.Device, p.dtype)
				return distance(got, want), err
			})
			if err == nil && !o.flat && grads != nil {
				err = c.hold(ctx, "gradients, "+nameOf(p.dtype), o.name, p.limit, func() (float64, error) { return furthest(grads, wantGrads), nil })
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// compute returns an operation's result, and the gradients of its weighted sum by every argument.
func (o operation) compute(ctx context.Context, d *ops.Device, dtype ops.DType) (out []float64, grads [][]float64, err error) {
	err = d.Do(ctx, func(s *ops.Scope) error {
		x := make([]torch.Tensor, len(o.in))
		for i, shape := range o.in {
			x[i] = tensor(s, fmt.Sprintf("%s/%d", o.name, i), dtype, shape...)
			if o.up {
				x[i] = s.Offset(s.Abs(x[i]), .1)
			}
			if !o.flat {
				x[i] = s.Leaf(x[i])
			}
		}
		y := o.f(s, x)
		out = ops.Values[float64](s, y)
		if o.flat || s.Err() != nil {
			return s.Err()
		}
		weights := s.To(ops.From(s, draw(o.name+"/weights", int64(len(out))), y.Shape()...), y.Dtype())
		for _, g := range s.Grad(s.Sum(s.Mul(y, weights)), x...) {
			grads = append(grads, ops.Values[float64](s, g))
		}
		return s.Err()
	})
	return out, grads, err
}
