package explain_test

import (
	"errors"
	"math"
	"strings"
	"testing"

	"mp/explain"
	"mp/model"
	"mp/ops"
)

// small is a network with its first values, and a batch for it.
func small(t *testing.T, s *ops.Scope, arch string, samples int) (network, explain.Batch) {
	t.Helper()
	m, err := model.New(s, arch, model.Options{Classes: 10, DType: ops.Float64, Seed: 1})
	if err != nil {
		t.Fatal(err)
	}
	side := 64
	if arch == "simplevit" {
		side = 128 // its positions are learned for that
	}
	v := make([]float64, samples*3*side*side)
	for i := range v {
		v[i] = math.Sin(float64(i)*.37) + math.Cos(float64(i/side)*.11)
	}
	b := explain.Batch{Images: ops.From(s, v, int64(samples), 3, int64(side), int64(side))}
	for i := range samples {
		b.Labels, b.Keys = append(b.Labels, int64(i%10)), append(b.Keys, explain.Key(1, uint64(i)))
	}
	return network{m}, b
}

// quick are settings with few passes.
func quick() explain.Config {
	c := explain.DefaultConfig()
	c.Samples, c.Steps, c.Window, c.Stride, c.Masks = 2, 5, 32, 32, 8
	return c
}

// What a method finds in a sample must not depend on the samples beside it.
func TestNoMapDependsOnItsBatch(t *testing.T) {
	for _, arch := range []string{"scenenet", "simplevit"} {
		on(t, func(s *ops.Scope) error {
			n, b := small(t, s, arch, 2)
			all, err := explain.Find([]string{"all"}, n, quick())
			if err != nil {
				return err
			}
			for _, e := range all {
				m := e.New(quick())
				both := ops.Values[float64](s, s.To(m.Attribute(s, n, b), ops.Float64))
				alone := explain.Batch{Images: s.Narrow(b.Images, 0, 1, 1), Labels: b.Labels[1:], Keys: b.Keys[1:]}
				one := ops.Values[float64](s, s.To(m.Attribute(s, n, alone), ops.Float64))
				if s.Err() != nil {
					return s.Err()
				}
				if len(both) != 2*len(one) {
					t.Errorf("%s, %s: %d values of two samples, %d of one", arch, e.Name, len(both), len(one))
					continue
				}
				scale, worst, spread := 0., 0., 0.
				for i, v := range one {
					scale, worst = max(scale, math.Abs(v)), max(worst, math.Abs(v-both[len(one)+i]))
					spread = max(spread, math.Abs(v-one[0]))
				}
				if !(worst <= 1e-9*scale) || scale == 0 || spread == 0 {
					t.Errorf("%s, %s: differs by %.2g beside another sample; largest value %.2g, spread %.2g", arch, e.Name, worst, scale, spread)
				}
			}
			return nil
		})
	}
}

// Integrated gradients add up to what the image adds to the logit (Sundararajan et al., 2017, section 3).
func TestIntegratedGradientsAreComplete(t *testing.T) {
	on(t, func(s *ops.Scope) error {
		n, b := small(t, s, "simplevit", 2) // smooth: a quadrature converges fast
		gap := func(steps int) float64 {
			worst := 0.
			for _, g := range explain.Completeness(s, n, b, explain.IntegratedGradients{Steps: steps}.Attribute(s, n, b)) {
				worst = max(worst, g.Relative())
			}
			return worst
		}
		few, many := gap(2), gap(40)
		if s.Err() == nil && !(many < 1e-4 && many < few) {
			t.Errorf("gap of %.2g with 2 steps, %.2g with 40", few, many)
		}
		return s.Err()
	})
}

// A square that hides the whole image takes away all that the image adds.
func TestOcclusionOfEverythingIsTheWholeLogit(t *testing.T) {
	on(t, func(s *ops.Scope) error {
		n, b := small(t, s, "scenenet", 2)
		map1 := ops.Values[float64](s, explain.Occlusion{Window: 64, Stride: 64}.Attribute(s, n, b))
		gaps := explain.Completeness(s, n, b, b.Images)
		if s.Err() != nil {
			return s.Err()
		}
		for i, g := range gaps {
			if got := map1[i*64*64]; math.Abs(got-g.Want) > 1e-9*math.Abs(g.Want) {
				t.Errorf("sample %d: got %g, want %g", i, got, g.Want)
			}
		}
		return nil
	})
}

func TestWhatCannotBeExplainedIsRefused(t *testing.T) {
	on(t, func(s *ops.Scope) error {
		cnn, _ := small(t, s, "scenenet", 1)
		vit, _ := small(t, s, "simplevit", 1)
		layer := quick()
		layer.Layer = "nowhere"
		none := quick()
		none.Steps = 0
		for _, c := range []struct {
			name   string
			n      network
			config explain.Config
			want   string
		}{
			{"lime", cnn, quick(), "saliency, inputxgradient"},
			{"rollout", cnn, quick(), "attention"},
			{"guidedbackprop", vit, quick(), "rectifier"},
			{"gradcam", cnn, layer, "nowhere"},
			{"integratedgradients", cnn, none, "steps"},
		} {
			if _, err := explain.Find([]string{c.name}, c.n, c.config); !errors.Is(err, explain.ErrConfig) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s: got %v, want an ErrConfig that speaks of %q", c.name, err, c.want)
			}
		}
		return nil
	})
}
