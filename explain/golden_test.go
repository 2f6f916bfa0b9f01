package explain_test

import (
	"context"
	"encoding/binary"
	"math"
	"os"
	"path/filepath"
	"testing"

	torch "github.com/wangkuiyi/gotorch"

	"mp/checkpoint"
	"mp/explain"
	"mp/internal/shared"
	"mp/model"
	"mp/ops"
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

// network makes a model explainable, as mp explain does.
type network struct{ *model.Model }

func (n network) Logits(s *ops.Scope, x torch.Tensor, p *explain.Probe) torch.Tensor {
	return n.Forward(s, x, model.Mode{Probe: (*model.Probe)(p)})
}

func (n network) Traits() explain.Traits {
	return explain.Traits{Rectifiers: n.Arch != "simplevit", Attention: n.Arch == "simplevit"}
}

// TestSaliencyIsTheReferences compares with the maps that PyTorch computed in float64 from the public SimpleNet.
func TestSaliencyIsTheReferences(t *testing.T) {
	const n, side = 10, 128
	// In even areas of this image thousands of max-pool windows hold their maximum several times; which of them gets the
	// gradient hangs on the last bit of a matrix product of the machine.
	const tied = 2
	dir := shared.Dir(t)
	read := func(name string) []byte {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	raw, golden := read("golden/val100_rgb_u8_NHWC_100x128x128x3.bin"), read("golden/val10_saliency_absmax_10x128x128.f32")
	state, err := checkpoint.Read(filepath.Join(dir, "checkpoints", "simplenet_44.02.pth.tar"))
	if err != nil {
		t.Fatal(err)
	}
	mean, std := []float32{.485, .456, .406}, []float32{.229, .224, .225} // as the golden's
	pixels := make([]float64, n*3*side*side)
	for i := range n {
		for p := range side * side {
			for c := range 3 {
				pixels[(i*3+c)*side*side+p] = (float64(raw[(i*side*side+p)*3+c])/255 - float64(mean[c])) / float64(std[c])
			}
		}
	}
	on(t, func(s *ops.Scope) error {
		m, err := model.New(s, "simplenet", model.Options{Classes: 100, DType: ops.Float64})
		if err != nil {
			return err
		}
		arrays := map[string]model.Array{}
		for _, x := range state.Model {
			arrays[x.Name] = model.Array{Shape: x.Shape, Data: x.Data}
		}
		if _, err := m.Load(s, arrays, model.Exact); err != nil {
			return err
		}
		images := ops.From(s, pixels, n, 3, side, side)
		var labels []int64
		s.NoGrad(func() {
			logits := ops.Values[float64](s, m.Forward(s, images, model.Mode{}))
			for i := range n {
				best := 0
				for k, v := range logits[i*100 : (i+1)*100] {
					if v > logits[i*100+best] {
						best = k
					}
				}
				labels = append(labels, int64(best))
			}
		})
		got := ops.Values[float64](s, explain.Saliency{}.Attribute(s, network{m}, explain.Batch{Images: images, Labels: labels}))
		if s.Err() != nil {
			return s.Err()
		}
		for i := range n {
			worst, largest := 0., 0.
			for p := range side * side {
				at := i*side*side + p
				want := n * float64(math.Float32frombits(binary.LittleEndian.Uint32(golden[4*at:]))) // the golden's loss is a mean
				worst, largest = max(worst, math.Abs(got[at]-want)), max(largest, want)
			}
			t.Logf("image %d: largest difference %.2g of the map's largest value", i+1, worst/largest)
			if i != tied && !(worst <= 1e-5*largest) {
				t.Errorf("image %d differs by %.2g of the map's largest value, want at most 1e-5", i+1, worst/largest)
			}
		}
		return nil
	})
}
