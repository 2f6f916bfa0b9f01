package model_test

import (
	"bytes"
	"testing"

	torch "github.com/wangkuiyi/gotorch"

	"mp/model"
	"mp/model/modeltest"
	"mp/ops"
)

// Gradients written during the backward pass have the bits of those gathered after it, for every network and layout.
func TestGradIntoGivesTheSameBits(t *testing.T) {
	for _, arch := range model.Names() {
		g := &modeltest.Golden{Arch: arch, Classes: 100, Batch: 2, Size: 128}
		for _, o := range []model.Options{{Classes: 100}, {Classes: 100, ChannelsLast: true}, {Classes: 100, OwnConv: true}} {
			on(t, func(s *ops.Scope) error {
				m, err := model.New(s, arch, o)
				if err != nil {
					return err
				}
				defer m.Free()
				x, labels := g.Images(s, ops.Float32), g.Labels(s)
				if o.ChannelsLast {
					x = s.ChannelsLast(x)
				}
				keys := make([]uint64, g.Batch)
				gathered, written := s.Zeros(ops.Float32, m.Params.Len()), s.Zeros(ops.Float32, m.Params.Len())
				forward := func() torch.Tensor {
					return s.CrossEntropy(m.Forward(s, x, model.Mode{Train: true, Keys: keys}), labels, .1, ops.ReduceMean)
				}
				m.Params.Gather(s, s.Grad(forward(), m.Params.Leaves()...), gathered)
				s.GradInto(forward(), m.Params, written, nil)
				got, err := ops.Bytes(written)
				if err != nil {
					return err
				}
				want, err := ops.Bytes(gathered)
				if err != nil {
					return err
				}
				if !bytes.Equal(got, want) {
					t.Errorf("%s %+v: gradients differ", arch, o)
				}
				return nil
			})
		}
	}
}
