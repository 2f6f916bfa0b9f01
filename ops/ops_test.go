package ops

import (
	"context"
	"errors"
	"math"
	"os"
	"strings"
	"testing"

	torch "github.com/wangkuiyi/gotorch"
)

// on runs f on a fresh CPU device with one thread and fails the test on its error.
func on(t *testing.T, f func(s *Scope) error) {
	t.Helper()
	d, err := OpenDevice(DeviceConfig{GPU: CPU, Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if err := d.Do(context.Background(), f); err != nil {
		t.Fatal(err)
	}
}

func TestEveryBadCallIsAnErrorThatNamesItself(t *testing.T) {
	cases := []struct {
		name string
		call func(s *Scope)
		want string
	}{
		{"conv2d channels", func(s *Scope) {
			s.Conv2d(s.Zeros(Float32, 2, 3, 8, 8), s.Zeros(Float32, 4, 5, 3, 3), torch.Tensor{}, ConvGeometry{})
		}, "conv2d [2 3 8 8] x [4 5 3 3]"},
		{"linear shapes", func(s *Scope) { s.Linear(s.Zeros(Float32, 2, 3), s.Zeros(Float32, 4, 5), torch.Tensor{}) }, "linear [2 3] x [4 5]"},
		{"matmul shapes", func(s *Scope) { s.MatMul(s.Zeros(Float32, 2, 3), s.Zeros(Float32, 2, 3)) }, "matmul [2 3] x [2 3]"},
		{"matmul dtypes", func(s *Scope) { s.MatMul(s.Zeros(Float32, 3, 3), s.Zeros(Float64, 3, 3)) }, "matmul"},
		{"undefined input", func(s *Scope) { s.GELU(torch.Tensor{}) }, "undefined tensor"},
		{"undefined input through gotorch", func(s *Scope) { s.ReLU(torch.Tensor{}) }, "undefined tensor"},
		{"freed input", func(s *Scope) {
			x := s.Release(s.Zeros(Float32, 2))
			Free(x)
			s.ReLU(x)
		}, "undefined tensor"},
		{"wrong label dtype", func(s *Scope) {
			s.CrossEntropy(s.Zeros(Float32, 2, 3), s.Zeros(Int32, 2), 0, ReduceMean)
		}, "cross_entropy_loss"},
		{"label out of range", func(s *Scope) {
			s.CrossEntropy(s.Zeros(Float32, 2, 3), From(s, []int64{0, 3}, 2), 0, ReduceMean)
		}, "out of bounds"},
		{"absurd allocation", func(s *Scope) { s.Zeros(Float32, 1<<44) }, "memory"},
		{"values for shape", func(s *Scope) { From(s, []float32{1, 2, 3}, 2, 2) }, "3 values for shape [2 2]"},
		{"gradient without graph", func(s *Scope) { s.Grad(s.Sum(s.Zeros(Float32, 2)), s.Leaf(s.Zeros(Float32, 2))) }, "gradient"},
		{"gradient of a vector", func(s *Scope) {
			x := s.Leaf(s.Zeros(Float32, 2))
			s.Grad(s.Scale(x, 2), x)
		}, "2 elements"},
		{"gradient of a constant", func(s *Scope) {
			x := s.Leaf(s.Zeros(Float32, 2))
			s.Grad(s.Sum(x), s.Zeros(Float32, 2))
		}, "asks for no gradient"},
		{"input used nowhere", func(s *Scope) {
			x, y := s.Leaf(s.Zeros(Float32, 2)), s.Leaf(s.Zeros(Float32, 2))
			s.Grad(s.Sum(x), x, y)
		}, "does not depend on input 1"},
		{"dropout probability", func(s *Scope) { s.Dropout(s.Zeros(Float32, 2, 3), 1.5, []uint64{1, 2}) }, "not in [0, 1)"},
		{"dropout keys", func(s *Scope) { s.Dropout(s.Zeros(Float32, 2, 3), .5, []uint64{1}) }, "1 keys for shape [2, 3]"},
		{"topk too many", func(s *Scope) { s.TopK(s.Zeros(Float32, 2, 3), 4) }, "topk [2 3]"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			d, err := OpenDevice(DeviceConfig{GPU: CPU, Threads: 1})
			if err != nil {
				t.Fatal(err)
			}
			defer d.Close()
			err = d.Do(context.Background(), func(s *Scope) error { c.call(s); return nil })
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error is %v, want one that says %q", err, c.want)
			}
		})
	}
}

func TestBackwardErrorsComeBack(t *testing.T) {
	d, err := OpenDevice(DeviceConfig{GPU: CPU, Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	// The graph needs x as it was; overwriting x makes libtorch throw inside the backward pass.
	err = d.Do(context.Background(), func(s *Scope) error {
		x := s.Leaf(From(s, []float32{1, 2}, 2))
		y := s.Scale(x, 3)
		loss := s.Sum(s.Mul(y, y))
		s.NoGrad(func() { s.AddInPlace(y, y) })
		s.Grad(loss, x)
		return nil
	})
	if err == nil || !strings.Contains(err.Error(), "inplace operation") {
		t.Errorf("error is %v, want one that names the in-place operation", err)
	}
}

func TestOutOfMemoryIsTold(t *testing.T) {
	d, err := OpenDevice(DeviceConfig{GPU: CPU, Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	err = d.Do(context.Background(), func(s *Scope) error { s.Zeros(Float32, 1<<44); return nil })
	if !errors.Is(err, ErrOutOfMemory) {
		t.Errorf("error %v does not wrap ErrOutOfMemory", err)
	}
	if err := d.Do(context.Background(), func(s *Scope) error { s.Zeros(Float32, 8); return nil }); err != nil {
		t.Errorf("after an allocation that failed, a small one gives %v", err)
	}
}

func TestGPUThatIsNotThere(t *testing.T) {
	if _, err := os.Stat("/dev/nvidia0"); err == nil {
		t.Skip("this machine has a GPU")
	}
	_, err := OpenDevice(DeviceConfig{GPU: 3, LibDir: "/nowhere"})
	if !errors.Is(err, ErrNoDevice) || !strings.Contains(err.Error(), "--cpu") {
		t.Errorf("error is %v, want one that wraps ErrNoDevice and says what to do", err)
	}
}

func TestGPUBeyondTheLast(t *testing.T) {
	for _, c := range []struct {
		gpu, of int
		says    string
	}{{0, 1, ""}, {3, 4, ""}, {1, 1, "this machine has one, GPU 0"}, {4, 4, "this machine has 4, GPU 0 to 3"}} {
		err := within(c.gpu, c.of)
		if c.says == "" && err != nil || c.says != "" && (!errors.Is(err, ErrNoDevice) || !strings.Contains(err.Error(), c.says)) {
			t.Errorf("GPU %d of %d: %v, want %q", c.gpu, c.of, err, c.says)
		}
	}
}

func TestInputGradientAlone(t *testing.T) {
	on(t, func(s *Scope) error {
		x, w := s.Leaf(From(s, []float32{1, 2, 3}, 1, 3)), s.Leaf(From(s, []float32{4, 5, 6}, 1, 3))
		loss := s.Sum(s.Linear(x, w, torch.Tensor{}))
		got := Values[float32](s, s.Grad(loss, x)[0])
		for i, want := range []float32{4, 5, 6} {
			if got[i] != want {
				t.Errorf("d loss / d x[%d] is %g, want %g", i, got[i], want)
			}
		}
		return nil
	})
}

func TestScopeFreesAtOnce(t *testing.T) {
	d, err := OpenDevice(DeviceConfig{GPU: CPU, Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	before := HostMemory().Used
	var inside int64
	if err := d.Do(context.Background(), func(s *Scope) error {
		x := s.Run(func(c *Scope) torch.Tensor { return c.ReLU(c.Offset(c.Zeros(Float32, 1<<20), 1)) })
		inside = HostMemory().Used - before
		s.Tidy(x)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if want := int64(4 << 20); inside < want || inside > want+want/8 {
		t.Errorf("a scope that kept one tensor of %d bytes held %d, rounding included", want, inside)
	}
	if left := HostMemory().Used - before; left != 0 {
		t.Errorf("%d bytes are left after the scope ended", left)
	}
}

func TestFlatKeepsOrderAndLayout(t *testing.T) {
	on(t, func(s *Scope) error {
		conv := &Param{Name: "b.weight", Shape: []int64{2, 3, 2, 2}}
		bias := &Param{Name: "a.bias", Shape: []int64{2}}
		f, err := NewFlat(s, []*Param{conv, bias}, Float32, true, true)
		if err != nil {
			return err
		}
		defer f.Free()
		if f.Params()[0] != bias || f.Params()[1] != conv {
			t.Errorf("parameters are not in name order")
		}
		like, err := f.Like(s)
		if err != nil {
			return err
		}
		defer like.Free()
		for i, p := range f.Params() {
			at, _ := f.Span(p)
			twin, _ := like.Span(like.Params()[i])
			if want := map[*Param]int64{conv: 0, bias: 32}[p]; at != want || twin != want {
				t.Errorf("%s lies at %d, in a Flat like it at %d, want %d: as given", p.Name, at, twin, want)
			}
		}
		bytes := make([]byte, 24*4)
		for i := range bytes {
			bytes[i] = byte(i * 7 % 64)
		}
		f.WriteParam(s, conv, bytes)
		back, err := f.ReadParam(conv)
		if err != nil {
			return err
		}
		if string(back) != string(bytes) {
			t.Errorf("read back %v, want %v", back, bytes)
		}
		info, err := Describe(conv.Tensor())
		if err != nil {
			return err
		}
		if !info.ChannelsLast || !info.RequiresGrad {
			t.Errorf("convolution weight is %+v, want a channels-last leaf", info)
		}
		grads := s.Grad(s.Add(s.Sum(s.Scale(conv.Tensor(), 2)), s.Sum(bias.Tensor())), f.Leaves()...)
		flat := s.Zeros(Float32, f.Len())
		f.Gather(s, grads, flat)
		if got, want := s.Item(s.Sum(flat)), 2.0*24+2; got != want {
			t.Errorf("gathered gradients sum to %g, want %g", got, want)
		}
		return nil
	})
}

// keep is the plain twin of mp_keep in csrc/random.h.
func keep(key, position uint64, p float64) bool {
	z := key + (position+1)*0x9e3779b97f4a7c15
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	z ^= z >> 31
	return float64(z>>11)/(1<<53) >= p
}

func TestDropoutMaskEqualsItsTwin(t *testing.T) {
	on(t, func(s *Scope) error {
		keys := []uint64{7, 1 << 60}
		x := s.Offset(s.Zeros(Float32, 2, 3, 5, 7), 1)
		got := Values[float32](s, s.Dropout(s.ChannelsLast(x), .3, keys))
		kept := 0
		for i, g := range got {
			want := float32(0)
			if keep(keys[i/105], uint64(i%105), .3) {
				want = float32(1 / .7)
				kept++
			}
			if math.Abs(float64(g-want)) > 1e-6 {
				t.Fatalf("element %d is %g, want %g", i, g, want)
			}
		}
		if kept < 110 || kept > 180 {
			t.Errorf("%d of 210 elements are kept, want about 147", kept)
		}
		return nil
	})
}
