package optim_test

import (
	"context"
	"fmt"
	"math"
	"testing"

	"mp/model"
	"mp/model/modeltest"
	"mp/ops"
	"mp/optim"
)

// Ten updates from a fixed start follow PyTorch's losses in float32: the network, its gradients, clipping, the groups of
// weight decay and the optimizer together. model/testdata/generate.py is the generator.
func TestTenStepsFollowPyTorch(t *testing.T) {
	const tolerance = 1e-4
	for _, arch := range []string{"simplenet", "simplevit", "resnet18"} {
		g, err := modeltest.Read("../model/testdata/" + arch + ".json")
		if err != nil {
			t.Fatal(err)
		}
		for i, run := range g.Runs {
			for _, last := range []bool{false, true} {
				if last && i > 0 {
					continue // the layout is a matter of the network, not of the optimizer
				}
				losses, err := train(g, run, last)
				if err != nil {
					t.Fatalf("%s %s: %v", arch, run.Optimizer, err)
				}
				worst := 0.0
				for step, want := range run.Losses {
					worst = math.Max(worst, math.Abs(losses[step]-want))
				}
				what := fmt.Sprintf("%s, %s, Nesterov %t, clip %g, channels last %t: largest difference %.1e", arch, run.Optimizer, run.Nesterov, run.Clip, last, worst)
				if t.Log(what); !(worst <= tolerance) {
					t.Errorf("%s, want at most %g: losses %.5f, PyTorch's %.5f", what, tolerance, losses, run.Losses)
				}
			}
		}
	}
}

// train returns the losses before each update of a golden's run.
func train(g *modeltest.Golden, run modeltest.Run, channelsLast bool) ([]float64, error) {
	d, err := ops.OpenDevice(ops.DeviceConfig{GPU: ops.CPU, Threads: 2})
	if err != nil {
		return nil, err
	}
	defer d.Close()
	var losses []float64
	err = d.Do(context.Background(), func(s *ops.Scope) error {
		m, err := g.New(s, model.Options{ChannelsLast: channelsLast})
		if err != nil {
			return err
		}
		defer m.Free()
		o, err := optim.New(s, optim.Config{
			Kind: run.Optimizer, Momentum: run.Momentum, Nesterov: run.Nesterov,
			Beta1: run.Beta1, Beta2: run.Beta2, Eps: run.Eps, WeightDecay: run.WeightDecay,
		}, m.Params, func(name string) bool { return run.DecayAll || !m.NoDecay(name) })
		if err != nil {
			return err
		}
		defer o.Free()
		x, labels := g.Images(s, ops.Float32), g.Labels(s)
		if channelsLast {
			x = s.ChannelsLast(x)
		}
		mode := model.Mode{Train: g.Arch != "simplevit"} // PyTorch's ran without drop-path; there is nothing else to switch
		grads := s.Zeros(ops.Float32, m.Params.Len())
		for range run.Losses {
			c := s.Child()
			loss := c.CrossEntropy(m.Forward(c, x, mode), labels, 0, ops.ReduceMean)
			losses = append(losses, c.Item(loss))
			m.Params.Gather(c, c.Grad(loss, m.Params.Leaves()...), grads)
			u := optim.Update{Rate: run.LR, Scale: 1, MaxNorm: run.Clip}
			if run.Clip > 0 {
				u.Norm = c.Norm(grads)
			}
			o.Step(c, grads, u)
			c.Close()
		}
		return s.Err()
	})
	return losses, err
}
