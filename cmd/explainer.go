package cmd

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"time"

	torch "github.com/wangkuiyi/gotorch"

	"mp/checkpoint"
	"mp/explain"
	"mp/job"
	"mp/model"
	"mp/ops"
	"mp/ops/pixel"
	"mp/worker"
)

// explainer explains batches of images with one network or two.
type explainer struct {
	device   *ops.Device
	networks []*seenNetwork
	batch    int
	seed     uint64
	dtype    ops.DType
	keep     bool                // attributions
	tensors  []checkpoint.Tensor // kept, a batch each
	progress func(n int64)
}

// seenNetwork is a network and what has been found out about it.
type seenNetwork struct {
	ctx    context.Context // of the verb: long methods end between two passes
	name   string
	model  *model.Model
	traits explain.Traits
	table  []methodTally
	random *randomiser // nil without scores
}

// methodTally adds up what is measured of a method.
type methodTally struct {
	explain.Entry
	method   explain.Method
	images   int
	seconds  float64
	measured scores
}

// Logits makes seenNetwork an explain.Network.
func (n *seenNetwork) Logits(s *ops.Scope, x torch.Tensor, p *explain.Probe) torch.Tensor {
	if err := n.ctx.Err(); err != nil {
		s.Fail(err)
	}
	return n.model.Forward(s, x, model.Mode{Probe: (*model.Probe)(p)})
}

// Layers names the layers that Grad-CAM may look at.
func (n *seenNetwork) Layers() []string { return n.model.Layers() }

// Traits says what the network is made of.
func (n *seenNetwork) Traits() explain.Traits { return n.traits }

// newExplainer opens the device, loads the networks and finds the methods.
func newExplainer(ctx context.Context, o explainOptions, classes int) (*explainer, error) {
	word, err := pickDevice(o.device)
	if err != nil {
		return nil, err
	}
	threads := o.threads
	if threads == 0 {
		threads = cores()
	}
	x := &explainer{batch: o.batch, seed: o.seed, dtype: ops.Float32, keep: o.maps != ""}
	if o.precision == fp64 {
		x.dtype = ops.Float64
	}
	if x.device, err = openDevice(word, threads); err != nil {
		return nil, err
	}
	err = x.device.Do(ctx, func(s *ops.Scope) error {
		for i, path := range []string{o.checkpoint, o.against} {
			if path == "" {
				continue
			}
			arch := o.model
			if i > 0 {
				arch = ""
			}
			n, err := x.load(ctx, s, path, loading{arch, classes, o.scores})
			if err != nil {
				return err
			}
			x.networks = append(x.networks, n)
		}
		return x.choose(o)
	})
	if err != nil {
		x.close()
		return nil, err
	}
	return x, nil
}

// loading says how a checkpoint becomes a network.
type loading struct {
	arch    string // "" as the file says
	classes int
	scored  bool
}

func (x *explainer) load(ctx context.Context, s *ops.Scope, path string, l loading) (*seenNetwork, error) {
	options := model.Options{Classes: l.classes, ChannelsLast: true, DType: x.dtype, Seed: x.seed}
	m, err := worker.LoadModel(s, path, l.arch, options)
	if err != nil {
		return nil, fmt.Errorf("%w (the images are of %d classes)", err, l.classes)
	}
	n := &seenNetwork{ctx: ctx, name: filepath.Base(path), model: m}
	// What passes a tiny batch says what the network is made of.
	s.NoGrad(func() {
		c := s.Child()
		defer c.Close()
		n.Logits(c, c.Zeros(x.dtype, 1, 3, pixel.Side, pixel.Side), &explain.Probe{
			ReLU:      func(s *ops.Scope, x torch.Tensor) torch.Tensor { n.traits.Rectifiers = true; return s.ReLU(x) },
			Attention: func(*ops.Scope, string, torch.Tensor) { n.traits.Attention = true },
		})
	})
	if err := s.Err(); err != nil {
		m.Free()
		return nil, fmt.Errorf("try %s: %w", path, err)
	}
	if l.scored {
		if n.random, err = newRandomiser(s, m, options); err != nil {
			m.Free()
			return nil, err
		}
	}
	return n, nil
}

// choose finds the methods for all networks, which show the same ones: all means all that each of them can have.
func (x *explainer) choose(o explainOptions) error {
	for i, n := range x.networks {
		methods, err := explain.Find(o.methods, n, o.config)
		if err != nil {
			return err
		}
		for _, e := range methods {
			others := slices.ContainsFunc(x.networks, func(m *seenNetwork) bool { return e.New(o.config).Check(m) != nil })
			if !others {
				x.networks[i].table = append(x.networks[i].table, methodTally{Entry: e, method: e.New(o.config)})
			}
		}
		if len(n.table) == 0 {
			return fmt.Errorf("%w: no method fits both networks", job.ErrConfig)
		}
	}
	return nil
}

// columns is how many tiles an image has on a sheet.
func (x *explainer) columns() int { return 1 + 2*len(x.networks)*len(x.networks[0].table) }

// passes is how much is done for each image, in maps.
func (x *explainer) passes() int64 {
	var n int64
	for _, m := range x.networks {
		each := int64(1)
		if m.random != nil {
			each += 1 + int64(len(m.random.stages))
		}
		n += each * int64(len(m.table))
	}
	return n
}

// sighting is what one network has to say about a batch.
type sighting struct {
	network string
	labels  []int64   // its choice for each image
	sure    []float64 // the probability it gives it
	maps    []foundMap
}

// foundMap are a method's maps of a batch, 128 x 128 numbers an image.
type foundMap struct {
	method string
	coarse bool
	values []float32
}

// each explains the first total images, a batch at a time, and hands over what was found. It returns an error for each image
// that could not be read.
func (x *explainer) each(ctx context.Context, source pictureSource, total int, visit func(*pictures, []sighting) error) (unreadable []error, err error) {
	for next := 0; next < total; {
		b := &pictures{source: source}
		for ; next < total && len(b.ids) < x.batch; next++ {
			record, err := source.Read(next)
			if err != nil {
				unreadable = append(unreadable, err)
				x.progress(x.passes())
				continue
			}
			b.ids, b.records = append(b.ids, next), append(b.records, record...)
		}
		if len(b.ids) == 0 {
			break
		}
		found := make([]sighting, len(x.networks))
		err := x.device.Do(ctx, func(s *ops.Scope) error {
			images := b.normalised(s, x.dtype)
			for i, n := range x.networks {
				if err := x.explain(s, n, images, b, &found[i]); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return unreadable, fmt.Errorf("explain images %s to %s: %w", source.Name(b.ids[0]), source.Name(b.ids[len(b.ids)-1]), err)
		}
		if err := visit(b, found); err != nil {
			return unreadable, err
		}
	}
	return unreadable, nil
}

// explain fills in what one network says about a batch.
func (x *explainer) explain(s *ops.Scope, n *seenNetwork, images torch.Tensor, p *pictures, f *sighting) error {
	c := s.Child()
	defer c.Close()
	b := explain.Batch{Images: images}
	for _, id := range p.ids {
		b.Keys = append(b.Keys, explain.Key(x.seed, uint64(id)))
	}
	f.network = n.name
	c.NoGrad(func() {
		sure, labels := c.TopK(c.Softmax(n.Logits(c, images, nil), 1), 1)
		f.labels, f.sure = ops.Values[int64](c, labels), ops.Values[float64](c, sure)
	})
	b.Labels = f.labels
	var attributions, maps []torch.Tensor
	for i := range n.table {
		t := &n.table[i]
		begin := time.Now()
		attribution := t.method.Attribute(c, n, b)
		m := explain.Map(c, attribution, [2]int64{pixel.Side, pixel.Side})
		values := ops.Values[float32](c, m) // waits for the device
		if err := c.Err(); err != nil {
			return fmt.Errorf("%s of %s: %w", t.Name, n.name, err)
		}
		t.seconds += time.Since(begin).Seconds()
		t.images += len(p.ids)
		if t.Name == "integratedgradients" {
			t.measured.complete(explain.Completeness(c, n, b, attribution))
		}
		f.maps = append(f.maps, foundMap{t.Name, t.Coarse, values})
		attributions, maps = append(attributions, attribution), append(maps, m)
		x.progress(int64(len(p.ids)))
	}
	if x.keep {
		x.store(c, n, b, attributions)
		if n == x.networks[0] {
			shape := []int64{int64(len(p.ids)), pixel.Side, pixel.Side, 3}
			x.tensors = append(x.tensors, checkpoint.Tensor{Name: "images", DType: checkpoint.U8, Shape: shape, Data: p.records})
		}
	}
	if n.random == nil {
		return c.Err()
	}
	return n.score(c, b, attributed{attributions, maps, func(method string, values []float64) {
		if x.keep {
			x.tensors = append(x.tensors, floats64(x.prefix(n)+"infidelity."+method, values))
		}
	}, func() { x.progress(int64(len(p.ids))) }})
}

// store keeps attributions on the host, under METHOD for the first network and against.METHOD for the second, a batch each,
// with the labels that they explain.
func (x *explainer) store(s *ops.Scope, n *seenNetwork, b explain.Batch, attributions []torch.Tensor) {
	prefix, d := x.prefix(n), checkpoint.F32
	if x.dtype == ops.Float64 {
		d = checkpoint.F64
	}
	for i, a := range attributions {
		a := s.Contiguous(a)
		if s.Err() != nil {
			return
		}
		t := checkpoint.Tensor{Name: prefix + n.table[i].Name, DType: d, Shape: a.Shape()}
		t.Data = make([]byte, ops.Numel(t.Shape)*int64(ops.SizeOf(x.dtype)))
		if err := ops.Read(a, t.Data); err != nil {
			s.Fail(err)
		}
		x.tensors = append(x.tensors, t)
	}
	labels := checkpoint.Tensor{Name: prefix + "labels", DType: checkpoint.I64, Shape: []int64{int64(len(b.Labels))}}
	for _, label := range b.Labels {
		labels.Data = binary.LittleEndian.AppendUint64(labels.Data, uint64(label))
	}
	x.tensors = append(x.tensors, labels)
}

// prefix begins the names of what is kept of a network.
func (x *explainer) prefix(n *seenNetwork) string {
	if n == x.networks[0] {
		return ""
	}
	return "against."
}

// floats64 is a tensor of values.
func floats64(name string, values []float64) checkpoint.Tensor {
	t := checkpoint.Tensor{Name: name, DType: checkpoint.F64, Shape: []int64{int64(len(values))}}
	for _, v := range values {
		t.Data = binary.LittleEndian.AppendUint64(t.Data, math.Float64bits(v))
	}
	return t
}

// kept puts the batches of each kept tensor together, in name order.
func (x *explainer) kept() []checkpoint.Tensor {
	whole := map[string]*checkpoint.Tensor{}
	for _, t := range x.tensors {
		if w, ok := whole[t.Name]; ok {
			w.Shape[0] += t.Shape[0]
			w.Data = append(w.Data, t.Data...)
		} else {
			t.Shape = slices.Clone(t.Shape)
			whole[t.Name] = &t
		}
	}
	var out []checkpoint.Tensor
	for _, t := range whole {
		out = append(out, *t)
	}
	slices.SortFunc(out, func(a, b checkpoint.Tensor) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// rows is the table of results.
func (x *explainer) rows() ([]explainedRow, error) {
	var out []explainedRow
	for _, n := range x.networks {
		for i := range n.table {
			t := &n.table[i]
			row := explainedRow{Checkpoint: n.name, Method: t.Name, Images: t.images, Seconds: math.Round(t.seconds*1e3) / 1e3}
			t.measured.fill(&row, n.random)
			out = append(out, row)
		}
	}
	return out, nil
}

// close frees the networks and the device.
func (x *explainer) close() {
	_ = x.device.Do(context.Background(), func(*ops.Scope) error {
		for _, n := range x.networks {
			n.random.free()
			n.model.Free()
		}
		return nil
	})
	x.device.Close()
}
