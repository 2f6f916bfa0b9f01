package model_test

import (
	"context"
	"errors"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	torch "github.com/wangkuiyi/gotorch"

	"mp/internal/shared"
	"mp/model"
	"mp/ops"
)

func TestParametersAreTheReferences(t *testing.T) {
	on(t, func(s *ops.Scope) error {
		for _, c := range []struct {
			arch            string
			params, buffers int64
			first, last     string
		}{
			{"simplenet", 365028, 0, "fc.bias", "features.7.weight"},
			{"simplevit", 1958692, 0, "blocks.0.attn.proj.bias", "pos_embed"},
			{"resnet18", 11227812, 9600, "bn1.bias", "layer4.1.conv2.weight"},
		} {
			m, err := model.New(s, c.arch, model.Options{Classes: 100})
			if err != nil {
				return err
			}
			all := m.Params.Params()
			if got := m.Params.Count(); got != c.params {
				t.Errorf("%s has %d parameters, want %d", c.arch, got, c.params)
			}
			if got := m.Buffers.Count(); got != c.buffers {
				t.Errorf("%s has %d values of running statistics, want %d", c.arch, got, c.buffers)
			}
			if first, last := all[0].Name, all[len(all)-1].Name; first != c.first || last != c.last {
				t.Errorf("%s has parameters %s to %s, want %s to %s", c.arch, first, last, c.first, c.last)
			}
			for _, p := range all {
				if norm := len(p.Shape) == 1 || p.Name == "pos_embed"; m.NoDecay(p.Name) != norm {
					t.Errorf("%s: NoDecay(%s) is %t", c.arch, p.Name, !norm)
				}
			}
			m.Free()
		}
		return nil
	})
}

func TestBadOptionsAreTold(t *testing.T) {
	on(t, func(s *ops.Scope) error {
		for _, c := range []struct {
			arch    string
			classes int
			want    string
		}{{"alexnet", 100, "simplenet, simplevit, resnet18"}, {"simplenet", 0, "at least 1"}} {
			_, err := model.New(s, c.arch, model.Options{Classes: c.classes})
			if !errors.Is(err, model.ErrConfig) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s with %d classes: error is %v, want a model.ErrConfig that says %q", c.arch, c.classes, err, c.want)
			}
		}
		return nil
	})
}

func TestBadImagesAreTold(t *testing.T) {
	d, err := ops.OpenDevice(ops.DeviceConfig{GPU: ops.CPU, Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	for _, shape := range [][]int64{{2, 1, 32, 32}, {3, 32, 32}, nil} {
		err := d.Do(context.Background(), func(s *ops.Scope) error {
			m, err := model.New(s, "simplenet", model.Options{Classes: 10})
			if err != nil {
				return err
			}
			defer m.Free()
			x := torch.Tensor{}
			if shape != nil {
				x = s.Zeros(ops.Float32, shape...)
			}
			m.Forward(s, x, model.Mode{})
			return nil
		})
		if err == nil || !strings.Contains(err.Error(), "simplenet") {
			t.Errorf("images of shape %v: error is %v, want one that names the model", shape, err)
		}
	}
}

// state returns m's tensors as a state dict.
func state(t *testing.T, m *model.Model) map[string]model.Array {
	t.Helper()
	out := map[string]model.Array{}
	for _, flat := range []*ops.Flat{m.Params, m.Buffers} {
		for _, p := range flat.Params() {
			bytes, err := flat.ReadParam(p)
			if err != nil {
				t.Fatal(err)
			}
			out[p.Name] = model.Array{Shape: p.Shape, Data: bytes}
		}
	}
	return out
}

func TestLoadSaysWhatDoesNotFit(t *testing.T) {
	on(t, func(s *ops.Scope) error {
		m, err := model.New(s, "resnet18", model.Options{Classes: 7})
		if err != nil {
			return err
		}
		defer m.Free()
		other, err := model.New(s, "resnet18", model.Options{Classes: 7, Seed: 1})
		if err != nil {
			return err
		}
		defer other.Free()
		whole := state(t, other)
		edit := func(f func(d map[string]model.Array)) map[string]model.Array {
			d := maps.Clone(whole)
			f(d)
			return d
		}
		wide := model.Array{Shape: []int64{1000, 512}, Data: make([]byte, 4*1000*512)}
		for _, c := range []struct {
			name string
			dict map[string]model.Array
			fit  model.Fit
			left []string // parts of the lines returned
			want string   // part of the error, "" for none
		}{
			{"whole", whole, model.Exact, nil, ""},
			{"counters are skipped", edit(func(d map[string]model.Array) { d["bn1.num_batches_tracked"] = model.Array{Data: make([]byte, 8)} }), model.Exact, nil, ""},
			{"other head, exact", edit(func(d map[string]model.Array) { d["fc.weight"] = wide }), model.Exact, nil, "fc.weight has shape [1000 512], the model's is [7 512]"},
			{"other head", edit(func(d map[string]model.Array) { d["fc.weight"] = wide }), model.NewHead, []string{"fc.weight has shape"}, ""},
			{"no head", edit(func(d map[string]model.Array) { delete(d, "fc.weight"); delete(d, "fc.bias") }), model.NewHead, []string{"fc.bias [7] is missing", "fc.weight [7 512] is missing"}, ""},
			{"no norm", edit(func(d map[string]model.Array) { delete(d, "bn1.running_mean") }), model.NewHead, nil, "bn1.running_mean [64] is missing"},
			{"no norm, partial", edit(func(d map[string]model.Array) { delete(d, "bn1.running_mean") }), model.Partial, []string{"bn1.running_mean"}, ""},
			{"one too many", edit(func(d map[string]model.Array) { d["extra"] = wide }), model.Exact, nil, "extra [1000 512] is not part of the model"},
			{"one too many, partial", edit(func(d map[string]model.Array) { d["extra"] = wide }), model.Partial, []string{"extra"}, ""},
			{"cut short", edit(func(d map[string]model.Array) { d["bn1.bias"] = model.Array{Shape: []int64{64}, Data: make([]byte, 9)} }), model.Partial, nil, "bn1.bias has 9 bytes"},
			{"another model's", map[string]model.Array{"a": wide}, model.Partial, nil, "none of the 1 tensors fits"},
		} {
			before := state(t, m)
			left, err := m.Load(s, c.dict, c.fit)
			if c.want != "" {
				if !errors.Is(err, model.ErrConfig) || !strings.Contains(err.Error(), c.want) {
					t.Errorf("%s: error is %v, want a model.ErrConfig that says %q", c.name, err, c.want)
				}
				if !same(before, state(t, m)) {
					t.Errorf("%s: the model has changed although the weights were refused", c.name)
				}
				continue
			}
			if err != nil || len(left) != len(c.left) {
				t.Errorf("%s: left are %q and the error is %v, want %q", c.name, left, err, c.left)
				continue
			}
			for i := range left {
				if !strings.Contains(left[i], c.left[i]) {
					t.Errorf("%s: line %q, want %q", c.name, left[i], c.left[i])
				}
			}
			if got := state(t, m); !slices.Equal(got["layer3.1.conv2.weight"].Data, whole["layer3.1.conv2.weight"].Data) {
				t.Errorf("%s: layer3.1.conv2.weight is not the loaded one", c.name)
			}
		}
		return nil
	})
}

func same(a, b map[string]model.Array) bool {
	return maps.EqualFunc(a, b, func(x, y model.Array) bool { return slices.Equal(x.Data, y.Data) })
}

// Weights loaded into a channels-last model are the same weights.
func TestLayoutDoesNotChangeWeights(t *testing.T) {
	on(t, func(s *ops.Scope) error {
		plain, err := model.New(s, "resnet18", model.Options{Classes: 3})
		if err != nil {
			return err
		}
		defer plain.Free()
		last, err := model.New(s, "resnet18", model.Options{Classes: 3, ChannelsLast: true})
		if err != nil {
			return err
		}
		defer last.Free()
		if !same(state(t, plain), state(t, last)) {
			t.Error("a channels-last model starts with other values")
		}
		if _, err := last.Load(s, state(t, plain), model.Exact); err != nil {
			return err
		}
		if !same(state(t, plain), state(t, last)) {
			t.Error("a channels-last model changes what is loaded into it")
		}
		return nil
	})
}

func TestImageNetWeightsStartAPartialModel(t *testing.T) {
	path := filepath.Join(shared.Dir(t), "checkpoints", "resnet18_imagenet_partial.safetensors")
	on(t, func(s *ops.Scope) error {
		m, err := model.New(s, "resnet18", model.Options{Classes: 100})
		if err != nil {
			return err
		}
		defer m.Free()
		dict := arrays(t, path)
		if _, err := m.Load(s, dict, model.NewHead); err == nil || !strings.Contains(err.Error(), "layer4.0.conv1.weight [512 256 3 3] is missing") {
			t.Errorf("error is %v, want one that lists layer4.0.conv1.weight", err)
		}
		left, err := m.Load(s, dict, model.Partial)
		if err != nil {
			return err
		}
		if want := 4*5 + 2; len(left) != want { // layer4: four convolutions, each with a norm of four tensors; the head's two
			t.Errorf("%d tensors are left, want %d: %q", len(left), want, left)
		}
		return nil
	})
}

// Forward leaves nothing but its result without a graph, and what the graph needs with one.
func TestForwardFreesItsIntermediates(t *testing.T) {
	on(t, func(s *ops.Scope) error {
		for _, arch := range model.Names() {
			m, err := model.New(s, arch, model.Options{Classes: 100})
			if err != nil {
				return err
			}
			x := s.Zeros(ops.Float32, 4, 3, 128, 128)
			before := ops.HostMemory().Used
			ops.ResetPeak()
			s.NoGrad(func() { m.Forward(s, x, model.Mode{}) })
			left, peak := ops.HostMemory().Used-before, ops.HostMemory().Peak-before
			if left > 4*100*4+64 {
				t.Errorf("%s: an evaluation leaves %d bytes, want the logits' 1600", arch, left)
			}
			c := s.Child()
			loss := c.Sum(m.Forward(c, x, model.Mode{Train: true, Keys: make([]uint64, 4)}))
			kept := ops.HostMemory().Used - before
			t.Logf("%s, batch 4: evaluation's peak %.1f MB, the graph keeps %.1f MB", arch, float64(peak)/1e6, float64(kept)/1e6)
			if peak > kept {
				t.Errorf("%s: evaluation takes %d bytes, more than a graph's %d", arch, peak, kept)
			}
			c.Grad(loss, m.Params.Leaves()...)
			c.Close()
			if left := ops.HostMemory().Used - before; left > 4*100*4+64 {
				t.Errorf("%s: %d bytes are left after the backward pass", arch, left)
			}
			m.Free()
		}
		return s.Err()
	})
}

func TestBFloat16FollowsFloat32(t *testing.T) {
	on(t, func(s *ops.Scope) error {
		for _, arch := range model.Names() {
			m, err := model.New(s, arch, model.Options{Classes: 100, ChannelsLast: true})
			if err != nil {
				return err
			}
			v := make([]float32, 2*3*128*128)
			for i := range v {
				v[i] = float32(i*7919%1000)/500 - 1
			}
			x := s.ChannelsLast(ops.From(s, v, 2, 3, 128, 128))
			s.NoGrad(func() {
				want := ops.Values[float64](s, m.Forward(s, x, model.Mode{}))
				y := m.Forward(s, s.To(x, ops.BFloat16), model.Mode{})
				if s.Err() != nil {
					return
				}
				if y.Dtype() != ops.BFloat16 {
					t.Errorf("%s: logits of bfloat16 images have dtype %d", arch, y.Dtype())
				}
				scale := largest(want, make([]float64, len(want)))
				if d := largest(ops.Values[float64](s, y), want); !(d <= 0.03*scale) {
					t.Errorf("%s: bfloat16 logits differ by %g from float32's, the largest of which is %g", arch, d, scale)
				}
			})
			m.Free()
		}
		return s.Err()
	})
}

func TestSummaryAddsUp(t *testing.T) {
	on(t, func(s *ops.Scope) error {
		for _, c := range []struct {
			arch string
			macs float64 // of an image, in millions, by hand or by the publication
			rows int
		}{
			{"simplenet", 160.2, 10}, // sum over layers of Co Ci K K H W
			{"simplevit", 126.6, 30}, // 64 tokens x 1.92 M weights, and 3.9 of attention
			{"resnet18", 592.3, 42},  // 1.81 G at 224 x 224 (He et al., 2015, table 1) x (128/224)^2
		} {
			m, err := model.New(s, c.arch, model.Options{Classes: 100})
			if err != nil {
				return err
			}
			before := state(t, m)
			u, err := m.Summarize(s, model.SummaryConfig{Batch: 10, Size: 128, DType: ops.Float32, Slots: 1})
			if err != nil {
				return err
			}
			var params int64
			for _, r := range u.Rows {
				params += r.Params
				if r.Shape[0]%10 != 0 {
					t.Errorf("%s: row %+v does not fit a batch of 10", c.arch, r)
				}
			}
			if c.arch == "simplevit" {
				params += 64 * 192 // positions are no layer
			}
			if params != u.Params || u.Params != m.Params.Count() {
				t.Errorf("%s: rows hold %d parameters, the summary %d, the model %d", c.arch, params, u.Params, m.Params.Count())
			}
			if got := float64(u.MACs) / 10 / 1e6; got < c.macs*0.999 || got > c.macs*1.001 {
				t.Errorf("%s: %.1f million multiply-adds an image, want %.1f", c.arch, got, c.macs)
			}
			if len(u.Rows) != c.rows {
				t.Errorf("%s: %d rows, want %d", c.arch, len(u.Rows), c.rows)
			}
			if !same(before, state(t, m)) {
				t.Errorf("%s: a summary changes the model", c.arch)
			}
			x := s.Zeros(ops.Float32, 10, 3, 128, 128)
			used := ops.HostMemory().Used
			k := s.Child()
			m.Forward(k, x, model.Mode{Train: true, Keys: make([]uint64, 10)})
			real := ops.HostMemory().Used - used
			k.Close()
			if d := float64(u.ActivationBytes)/float64(real) - 1; d < -0.05 || d > 0.05 {
				t.Errorf("%s: %d bytes of activations foreseen for a batch of 10, %d measured", c.arch, u.ActivationBytes, real)
			}
			t.Logf("%s, batch 10: %.1f million multiply-adds, weights %.1f MB, activations %.1f MB", c.arch, float64(u.MACs)/1e6, float64(u.ParamBytes)/1e6, float64(u.ActivationBytes)/1e6)
			m.Free()
		}
		return s.Err()
	})
}
