package cmd

import (
	"math"
	"slices"
	"strings"

	torch "github.com/wangkuiyi/gotorch"

	"mp/explain"
	"mp/model"
	"mp/ops"
)

// How maps are scored: the steps of deletion and insertion, and infidelity's perturbations, small beside a pixel's deviation of 1.
const (
	removalSteps      = 32
	infidelitySamples = 32
	infidelityNoise   = .05
)

// average is a mean of what is a number.
type average struct {
	sum float64
	n   int
}

func (a *average) add(v float64) {
	if !math.IsNaN(v) && !math.IsInf(v, 0) {
		a.sum += v
		a.n++
	}
}

func (a *average) mean() *float64 {
	if a.n == 0 {
		return nil
	}
	m := a.sum / float64(a.n)
	return &m
}

// scores are what is measured of one method.
type scores struct {
	gap, deletion, insertion, infidelity average
	randomised                           []average // a stage
}

func (c *scores) complete(gaps []explain.Gap) {
	for _, g := range gaps {
		c.gap.add(g.Relative())
	}
}

// fill writes the means into a row of results.
func (c *scores) fill(row *explainedRow, r *randomiser) {
	row.Completeness, row.Deletion, row.Insertion, row.Infidelity = c.gap.mean(), c.deletion.mean(), c.insertion.mean(), c.infidelity.mean()
	for i := range c.randomised {
		row.Randomised = append(row.Randomised, randomisedLayer{r.stages[i].layer, c.randomised[i].mean()})
	}
}

// attributed is what each method found of a batch, its maps, and who hears of their scores.
type attributed struct {
	attributions, maps []torch.Tensor
	infidelity         func(method string, values []float64) // a number a sample
	done               func()                                // a method was scored, or maps were made for it
}

// score measures what was found of a batch.
func (n *seenNetwork) score(s *ops.Scope, b explain.Batch, a attributed) error {
	for i := range n.table {
		t := &n.table[i].measured
		for _, areas := range (explain.Removal{Steps: removalSteps}).Areas(s, n, b, a.maps[i]) {
			t.deletion.add(areas.Deletion)
			t.insertion.add(areas.Insertion)
		}
		infidelity := explain.Infidelity{Samples: infidelitySamples, Noise: infidelityNoise, Scaled: true}
		values := infidelity.Measure(s, n, b, a.attributions[i])
		for _, v := range values {
			t.infidelity.add(v)
		}
		a.infidelity(n.table[i].Name, values)
		a.done()
	}
	// Cascading randomisation: each stage keeps what the ones before have drawn anew.
	n.random.restore(s, n.model)
	drawn := &seenNetwork{ctx: n.ctx, name: n.name, model: n.random.scratch, traits: n.traits}
	for stage := range n.random.stages {
		n.random.randomise(s, stage)
		for i := range n.table {
			t := &n.table[i]
			if len(t.measured.randomised) == 0 {
				t.measured.randomised = make([]average, len(n.random.stages))
			}
			c := s.Child()
			shape := a.maps[i].Shape()
			m := explain.Map(c, t.method.Attribute(c, drawn, b), [2]int64{shape[2], shape[3]})
			for _, v := range explain.Similarity(c, a.maps[i], m) {
				t.measured.randomised[stage].add(v)
			}
			c.Close()
			a.done()
		}
	}
	return s.Err()
}

// randomiser replaces a network's weights by first values, from the last layer to the first.
type randomiser struct {
	scratch *model.Model // a copy of the network, more and more of it drawn anew
	stages  []randomStage
}

// randomStage is a layer of weights with what follows it up to the next.
type randomStage struct {
	layer  string
	writes []func(s *ops.Scope)
}

// newRandomiser draws the first values. Free it.
func newRandomiser(s *ops.Scope, m *model.Model, o model.Options) (*randomiser, error) {
	o.Seed = explain.Key(o.Seed, 1) // not those that training began with
	fresh, err := model.New(s, m.Arch, o)
	if err != nil {
		return nil, err
	}
	defer fresh.Free()
	r := &randomiser{}
	if r.scratch, err = model.New(s, m.Arch, o); err != nil {
		return nil, err
	}
	order := slices.Clone(r.scratch.Params.Params())
	offset := func(p *ops.Param) int64 { at, _ := r.scratch.Params.Span(p); return at }
	slices.SortFunc(order, func(a, b *ops.Param) int { return int(offset(b) - offset(a)) }) // the last layer first
	var stage randomStage
	for _, p := range order {
		layer, kind, _ := strings.Cut(reversed(p.Name), ".")
		layer, kind = reversed(kind), reversed(layer)
		for _, flats := range [][2]*ops.Flat{{fresh.Params, r.scratch.Params}, {fresh.Buffers, r.scratch.Buffers}} {
			write, err := overwrite(flats[0], flats[1], func(name string) bool {
				return name == p.Name || flats[0] == fresh.Buffers && kind == "weight" && strings.HasPrefix(name, layer+".")
			})
			if err != nil {
				r.free()
				return nil, err
			}
			stage.writes = append(stage.writes, write...)
		}
		if kind == "weight" && len(p.Shape) > 1 {
			stage.layer = layer
			r.stages = append(r.stages, stage)
			stage = randomStage{}
		}
	}
	return r, nil
}

func reversed(s string) string {
	b := []byte(s)
	slices.Reverse(b)
	return string(b)
}

// overwrite returns what copies the tensors of from that are meant into to.
func overwrite(from, to *ops.Flat, meant func(name string) bool) ([]func(*ops.Scope), error) {
	var out []func(*ops.Scope)
	for i, p := range from.Params() {
		if !meant(p.Name) {
			continue
		}
		values, err := from.ReadParam(p)
		if err != nil {
			return nil, err
		}
		q := to.Params()[i]
		out = append(out, func(s *ops.Scope) { to.WriteParam(s, q, values) })
	}
	return out, nil
}

// restore makes the scratch network equal to m again.
func (r *randomiser) restore(s *ops.Scope, m *model.Model) {
	r.scratch.Params.CopyFrom(s, m.Params.Buffer())
	r.scratch.Buffers.CopyFrom(s, m.Buffers.Buffer())
}

// randomise draws the weights of one more stage anew.
func (r *randomiser) randomise(s *ops.Scope, stage int) {
	for _, write := range r.stages[stage].writes {
		write(s)
	}
}

// free releases the scratch network; a nil randomiser has none.
func (r *randomiser) free() {
	if r != nil && r.scratch != nil {
		r.scratch.Free()
	}
}
