package model_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"

	torch "github.com/wangkuiyi/gotorch"

	"mp/checkpoint"
	"mp/internal/shared"
	"mp/model"
	"mp/model/modeltest"
	"mp/ops"
	"mp/ops/pixel"
)

// on runs f on a fresh CPU device.
func on(t *testing.T, f func(s *ops.Scope) error) {
	t.Helper()
	d, err := ops.OpenDevice(ops.DeviceConfig{GPU: ops.CPU, Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if err := d.Do(context.Background(), f); err != nil {
		t.Fatal(err)
	}
}

// arrays reads a checkpoint file as a state dict.
func arrays(t *testing.T, path string) map[string]model.Array {
	t.Helper()
	state, err := checkpoint.Read(path)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]model.Array{}
	for _, x := range state.Model {
		if x.DType != checkpoint.F32 {
			t.Fatalf("%s holds %s of type %v, want F32", path, x.Name, x.DType)
		}
		out[x.Name] = model.Array{Shape: x.Shape, Data: x.Data}
	}
	return out
}

func largest(got, want []float64) float64 {
	if len(got) != len(want) {
		return math.Inf(1)
	}
	d := 0.0
	for i := range got {
		if e := math.Abs(got[i] - want[i]); !(e <= d) { // NaN is large
			d = e
		}
	}
	return d
}

func TestPyTorchAgreesAtTheStart(t *testing.T) {
	for _, arch := range []string{"simplenet", "simplevit", "resnet18"} {
		g, err := modeltest.Read(filepath.Join("testdata", arch+".json"))
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range []struct {
			name     string
			options  model.Options
			logits   float64 // tolerance, absolute
			gradient float64 // tolerance, relative to the norm. In float32, rounding crosses a few kinks of ReLU and max-pool
		}{
			{"float64", model.Options{DType: ops.Float64}, 1e-10, 1e-10},
			{"float32", model.Options{}, 2e-4, 2e-2},
			{"float64 channels last", model.Options{DType: ops.Float64, ChannelsLast: true}, 1e-10, 1e-10},
			{"float64 own convolution", model.Options{DType: ops.Float64, OwnConv: true}, 1e-10, 1e-10},
		} {
			t.Run(arch+" "+c.name, func(t *testing.T) {
				on(t, func(s *ops.Scope) error { return compare(t, s, g, c.options, tolerance{c.logits, c.gradient}) })
			})
		}
	}
}

type tolerance struct{ logits, gradient float64 }

func compare(t *testing.T, s *ops.Scope, g *modeltest.Golden, o model.Options, tol tolerance) error {
	m, err := g.New(s, o)
	if err != nil {
		return err
	}
	defer m.Free()
	d := o.DType
	if d == 0 {
		d = ops.Float32
	}
	x := g.Images(s, d)
	if o.ChannelsLast {
		x = s.ChannelsLast(x)
	}
	var eval []float64
	s.NoGrad(func() { eval = ops.Values[float64](s, m.Forward(s, x, model.Mode{})) })
	if got := largest(eval, slices.Concat(g.LogitsEval...)); !(got <= tol.logits) {
		t.Errorf("evaluation logits differ by up to %g, want %g", got, tol.logits)
	}
	if g.Arch == "simplevit" { // its goldens are without drop-path
		return gradients(t, s, g, m, x, model.Mode{}, tol)
	}
	return gradients(t, s, g, m, x, model.Mode{Train: true}, tol)
}

func gradients(t *testing.T, s *ops.Scope, g *modeltest.Golden, m *model.Model, x torch.Tensor, mode model.Mode, tol tolerance) error {
	logits := m.Forward(s, x, mode)
	loss := s.CrossEntropy(logits, g.Labels(s), 0, ops.ReduceMean)
	if got := largest(ops.Values[float64](s, logits), slices.Concat(g.LogitsTrain...)); !(got <= tol.logits) {
		t.Errorf("training logits differ by up to %g, want %g", got, tol.logits)
	}
	if got := s.Item(loss); !(math.Abs(got-g.Loss) <= tol.logits) {
		t.Errorf("loss is %.12f, want %.12f", got, g.Loss)
	}
	grads := s.Grad(loss, m.Params.Leaves()...)
	if len(grads) != len(g.Gradients) {
		t.Fatalf("%d parameters, PyTorch has %d", len(grads), len(g.Gradients))
	}
	worst := 0.0
	for i, p := range m.Params.Params() {
		want := g.Gradients[i]
		if p.Name != want.Name || !slices.Equal(p.Shape, want.Shape) {
			t.Fatalf("parameter %d is %s %v, want %s %v", i, p.Name, p.Shape, want.Name, want.Shape)
		}
		norm, probe := 0.0, 0.0
		u := modeltest.Uniform(p.Name+"/probe", ops.Numel(p.Shape))
		for j, v := range ops.Values[float64](s, grads[i]) {
			norm += v * v
			probe += v * u[j]
		}
		off := max(math.Abs(math.Sqrt(norm)-want.Norm), math.Abs(probe-want.Probe)) / want.Norm
		if worst = max(worst, off); !(off <= tol.gradient) {
			t.Errorf("gradient of %s has norm %g and probe %g, want %g and %g", p.Name, math.Sqrt(norm), probe, want.Norm, want.Probe)
		}
	}
	for i, p := range m.Buffers.Params() {
		want, norm := g.Buffers[i], 0.0
		for _, v := range ops.Values[float64](s, p.Tensor()) {
			norm += v * v
		}
		if p.Name != want.Name || !(math.Abs(math.Sqrt(norm)-want.Norm) <= tol.logits*want.Norm) {
			t.Errorf("after one training pass %s has norm %g, want %s with %g", p.Name, math.Sqrt(norm), want.Name, want.Norm)
		}
	}
	t.Logf("largest relative difference of a gradient: %.1e", worst)
	return s.Err()
}

// The reference's published checkpoint on 100 real images, against PyTorch's logits in shared/golden.
func TestReferenceCheckpointGivesPyTorchsLogits(t *testing.T) {
	dir := shared.Dir(t)
	raw := readFile(t, filepath.Join(dir, "golden", "val100_rgb_u8_NHWC_100x128x128x3.bin"))
	linear := readFile(t, filepath.Join(dir, "golden", "val100_scale144_crop128_linear_u8_NHWC.bin"))
	on(t, func(s *ops.Scope) error {
		m, err := model.New(s, "simplenet", model.Options{Classes: 100})
		if err != nil {
			return err
		}
		defer m.Free()
		if _, err := m.Load(s, arrays(t, filepath.Join(dir, "checkpoints", "simplenet_44.02.pth.tar")), model.Exact); err != nil {
			return err
		}
		logits := func(pixels []byte, mirror bool) []float64 {
			x := normalised(s, pixels)
			if mirror {
				x = s.Flip(x, 3)
			}
			var out []float64
			s.NoGrad(func() { out = ops.Values[float64](s, m.Forward(s, x, model.Mode{})) })
			return out
		}
		check := func(variant string, got []float64) {
			want := floats(t, filepath.Join(dir, "golden", "val100_logits_"+variant+"_100x100.f32"))
			d := largest(got, want)
			t.Logf("%-12s largest difference of a logit %.1e", variant, d)
			if !(d <= 1e-3) {
				t.Errorf("%s: logits differ by up to %g, want 1e-3", variant, d)
			}
		}
		none := logits(raw, false)
		check("none", none)
		mirrored := logits(raw, true)
		for i := range mirrored {
			mirrored[i] = (mirrored[i] + none[i]) / 2
		}
		check("none_flipTTA", mirrored)
		bilinear := scaled(t, raw, pixel.Bilinear)
		if !bytes.Equal(bilinear, linear) {
			t.Error("bilinear pixels differ from the golden's")
		}
		check("linear", logits(bilinear, false))
		check("nearest", logits(scaled(t, raw, pixel.Nearest), false))
		check("cubic", logits(scaled(t, raw, pixel.Bicubic), false))
		return s.Err()
	})
}

// scaled returns pixels N H W C, 128 x 128, scaled to 144 x 144 and cropped to the middle.
func scaled(t *testing.T, pixels []byte, how pixel.Interpolation) []byte {
	t.Helper()
	out := make([]byte, 0, len(pixels))
	for ; len(pixels) > 0; pixels = pixels[pixel.RecordBytes:] {
		m, err := pixel.Resize(pixel.Image{Pix: pixels[:pixel.RecordBytes], W: pixel.Side, H: pixel.Side}, 144, 144, how)
		if err != nil {
			t.Fatal(err)
		}
		if m, err = pixel.CropCentre(m, pixel.Side, pixel.Side); err != nil {
			t.Fatal(err)
		}
		out = append(out, m.Pix...)
	}
	return out
}

// normalised turns pixels N H W C into images [N 3 128 128] with the reference's mean and deviation.
func normalised(s *ops.Scope, pixels []byte) torch.Tensor {
	mean, std := [3]float32{.485, .456, .406}, [3]float32{.229, .224, .225}
	n := len(pixels) / (128 * 128 * 3)
	v := make([]float32, len(pixels))
	for i := range n {
		for p := range 128 * 128 {
			for c := range 3 {
				v[(i*3+c)*128*128+p] = (float32(pixels[(i*128*128+p)*3+c])/255 - mean[c]) / std[c]
			}
		}
	}
	return ops.From(s, v, int64(n), 3, 128, 128)
}

func readFile(t *testing.T, path string) []byte {
	t.Helper()
	bytes, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return bytes
}

func floats(t *testing.T, path string) []float64 {
	t.Helper()
	bytes := readFile(t, path)
	out := make([]float64, len(bytes)/4)
	for i := range out {
		out[i] = float64(math.Float32frombits(binary.LittleEndian.Uint32(bytes[4*i:])))
	}
	return out
}
