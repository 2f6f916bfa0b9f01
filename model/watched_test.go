package model_test

import (
	"slices"
	"testing"

	torch "github.com/wangkuiyi/gotorch"

	"mp/model"
	"mp/ops"
)

// What a probe that changes nothing looks into computes the same bits as what runs unseen, where norms, sums and rectifiers are
// one operation and pools come before rectifiers.
func TestAProbeThatChangesNothingChangesNoBit(t *testing.T) {
	for _, arch := range []string{"simplenet", "resnet18", "scenenet"} {
		for _, last := range []bool{true, false} {
			for _, train := range []bool{true, false} {
				want, got := passes(t, arch, last, model.Mode{Train: train}), passes(t, arch, last, model.Mode{Train: train, Probe: &model.Probe{
					Layer: func(_ *ops.Scope, _ string, y torch.Tensor) torch.Tensor { return y },
					ReLU:  func(s *ops.Scope, x torch.Tensor) torch.Tensor { return s.ReLUInPlace(x) },
				}})
				for what := range want {
					if !slices.Equal(got[what], want[what]) {
						t.Errorf("%s, channels last %v, train %v: %s under a probe differ", arch, last, train, what)
					}
				}
			}
		}
	}
}

// passes returns the logits, gradients and buffers of a step on four images.
func passes(t *testing.T, arch string, last bool, mode model.Mode) map[string][]float32 {
	t.Helper()
	out := map[string][]float32{}
	on(t, func(s *ops.Scope) error {
		m, err := model.New(s, arch, model.Options{Classes: 7, ChannelsLast: last})
		if err != nil {
			return err
		}
		defer m.Free()
		pixels := make([]float32, 4*3*40*40)
		for i := range pixels {
			pixels[i] = float32(i*7919%1009)/500 - 1
		}
		x := ops.From(s, pixels, 4, 3, 40, 40)
		if last {
			x = s.ChannelsLast(x)
		}
		x, mode.Keys = s.Leaf(x), []uint64{1, 2, 3, 4}
		logits := m.Forward(s, x, mode)
		grads := s.Zeros(ops.Float32, m.Params.Len())
		asked := append(m.Params.Leaves(), x)
		all := s.Grad(s.CrossEntropy(logits, ops.From(s, []int64{0, 3, 5, 6}, 4), 0, ops.ReduceMean), asked...)
		m.Params.Gather(s, all[:len(all)-1], grads)
		out["logits"], out["gradients of images"] = ops.Values[float32](s, logits), ops.Values[float32](s, all[len(all)-1])
		out["gradients"], out["running statistics"] = ops.Values[float32](s, grads), ops.Values[float32](s, m.Buffers.Buffer())
		return s.Err()
	})
	return out
}
