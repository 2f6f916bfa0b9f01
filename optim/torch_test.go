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
	for _, arch := range []string{"simplenet", "simplevit", "resnet18"} {
		t.Run(arch, func(t *testing.T) {
			t.Parallel()
			g, err := modeltest.Read("../model/testdata/" + arch + ".json")
			if err != nil {
				t.Fatal(err)
			}
			for _, run := range g.Runs {
				follow(t, g, run, false)
			}
			if arch == "simplenet" { // the layout is a matter of the network, not of the optimizer
				follow(t, g, g.Runs[0], true)
			}
		})
	}
}

func follow(t *testing.T, g *modeltest.Golden, run modeltest.Run, channelsLast bool) {
	tolerance := 1e-4
	if g.Arch == "resnet18" { // its loss falls a hundredfold, and rounding grows: with AVX2 we differ by 8e-6, with AVX-512 by 1.3e-4
		tolerance = 3e-4
	}
	what := fmt.Sprintf("%s, Nesterov %t, clip %g, decay all %t, channels last %t", run.Optimizer, run.Nesterov, run.Clip, run.DecayAll, channelsLast)
	losses, err := train(g, run, channelsLast)
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	worst := 0.0
	for step, want := range run.Losses {
		worst = math.Max(worst, math.Abs(losses[step]-want))
	}
	if t.Logf("%s: largest difference %.1e", what, worst); !(worst <= tolerance) {
		t.Errorf("%s: losses differ by up to %.1e, want at most %g: %.5f, PyTorch's %.5f", what, worst, tolerance, losses, run.Losses)
	}
}

// train returns the losses before each update of a golden's run.
func train(g *modeltest.Golden, run modeltest.Run, channelsLast bool) ([]float64, error) {
	d, err := ops.OpenDevice(ops.DeviceConfig{GPU: ops.CPU, Threads: 1})
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
