// Package optim owns how weights move: SGD and AdamW on flat buffers, the average of the weights, and the learning rate's
// schedule. It imports ops and nothing else of the module; it must never know models, data or other workers. What happens
// to one element is in ops/csrc/update.h.
//
// Start reading at Optimizer, then Average and Schedule.
package optim

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"

	torch "github.com/wangkuiyi/gotorch"

	"mp/ops"
)

// ErrConfig is wrapped by every error that another try does not cure: impossible settings, the state of another optimizer
// or model.
var ErrConfig = errors.New("wrong optimizer configuration")

// Kinds of optimizer.
const (
	SGD   = "sgd"
	AdamW = "adamw"
)

// Config says how weights move. The learning rate is not in it: every step is given its own.
type Config struct {
	Kind        string  // SGD or AdamW
	Momentum    float64 // SGD: share of the last step that the next one keeps, in [0, 1)
	Nesterov    bool    // SGD: look ahead along the momentum (Sutskever et al., 2013)
	Beta1       float64 // AdamW: memory of the first moment, in [0, 1)
	Beta2       float64 // AdamW: memory of the second moment, in [0, 1)
	Eps         float64 // AdamW: added to the root of the second moment, above 0
	WeightDecay float64 // SGD: added to the gradient as WeightDecay * weight; AdamW: taken from the weight, times the rate
}

// DefaultConfig returns PyTorch's defaults for AdamW, and for SGD the reference's momentum 0.9; no weight decay.
func DefaultConfig(kind string) Config {
	return Config{Kind: kind, Momentum: .9, Beta1: .9, Beta2: .999, Eps: 1e-8}
}

// Validate reports the first setting that cannot be.
func (c Config) Validate() error {
	share := func(x float64) bool { return x >= 0 && x < 1 }
	switch {
	case c.Kind != SGD && c.Kind != AdamW:
		return fmt.Errorf("optimizer %q: choose %s or %s: %w", c.Kind, SGD, AdamW, ErrConfig)
	case c.Kind == SGD && !share(c.Momentum):
		return fmt.Errorf("optimizer %s: momentum %g is not in [0, 1): %w", c.Kind, c.Momentum, ErrConfig)
	case c.Kind == SGD && c.Nesterov && c.Momentum == 0:
		return fmt.Errorf("optimizer %s: Nesterov needs a momentum: %w", c.Kind, ErrConfig)
	case c.Kind == AdamW && (!share(c.Beta1) || !share(c.Beta2)):
		return fmt.Errorf("optimizer %s: betas %g and %g are not in [0, 1): %w", c.Kind, c.Beta1, c.Beta2, ErrConfig)
	case c.Kind == AdamW && !(c.Eps > 0):
		return fmt.Errorf("optimizer %s: eps %g is not above 0: %w", c.Kind, c.Eps, ErrConfig)
	case !(c.WeightDecay >= 0):
		return fmt.Errorf("optimizer %s: weight decay %g is below 0: %w", c.Kind, c.WeightDecay, ErrConfig)
	}
	return nil
}

// Optimizer moves the parameters of one model as torch.optim.SGD (dampening 0) and torch.optim.AdamW do. It belongs to the
// goroutine of its device.
type Optimizer struct {
	config Config
	params *ops.Flat
	decay  torch.Tensor // [Len/16], the weight decay of each parameter
	first  *ops.Flat    // SGD: momentum; AdamW: first moment
	second *ops.Flat    // AdamW: second moment; else nil
	steps  int          // updates done
}

// New makes the optimizer of params, which stay the caller's; decay says which parameters weight decay applies to, nil
// means all. Free it.
func New(s *ops.Scope, c Config, params *ops.Flat, decay func(name string) bool) (*Optimizer, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	o := &Optimizer{config: c, params: params}
	if err := o.allocate(s, decay); err != nil {
		o.Free()
		return nil, fmt.Errorf("make optimizer %s: %w", c.Kind, err)
	}
	return o, nil
}

func (o *Optimizer) allocate(s *ops.Scope, decay func(name string) bool) (err error) {
	o.decay = s.Release(o.params.Spread(s, func(name string) float64 {
		if decay != nil && !decay(name) {
			return 0
		}
		return o.config.WeightDecay
	}))
	if o.first, err = o.params.Like(s); err != nil {
		return err
	}
	if o.config.Kind == AdamW {
		o.second, err = o.params.Like(s)
	}
	return errors.Join(err, s.Err())
}

// Free releases the optimizer's buffers.
func (o *Optimizer) Free() {
	ops.Free(o.decay)
	o.decay = torch.Tensor{}
	for _, f := range []*ops.Flat{o.first, o.second} {
		if f != nil {
			f.Free()
		}
	}
}

// Update is one step.
type Update struct {
	Rate    float64      // learning rate
	Scale   float64      // factor of the gradient: 1/n where it is a sum of n means
	Norm    torch.Tensor // the gradient's norm before scaling, from Scope.Norm; undefined: no clipping
	MaxNorm float64      // with a Norm: limit of the scaled gradient's norm, as torch.nn.utils.clip_grad_norm_
	Average *Average     // moves with the weights in the same pass over memory; nil for none
}

// Step moves the parameters by their gradient grads [Len], laid out as they are (ops.Flat.Gather), which stays as it is.
func (o *Optimizer) Step(s *ops.Scope, grads torch.Tensor, u Update) {
	if s.Err() != nil {
		return
	}
	rule := ops.Rule{Nesterov: o.config.Nesterov, Rate: u.Rate, Beta1: o.config.Momentum, Scale: u.Scale, MaxNorm: u.MaxNorm}
	flats := ops.Flats{Weights: o.params.Buffer(), Grads: grads, Decay: o.decay, First: o.first.Buffer(), Norm: u.Norm}
	if o.config.Kind == AdamW {
		t := float64(o.steps + 1)
		rule.Adam, rule.Nesterov = true, false
		rule.Beta1, rule.Beta2, rule.Eps = o.config.Beta1, o.config.Beta2, o.config.Eps
		rule.Rate, rule.DecayRate = u.Rate/(1-math.Pow(o.config.Beta1, t)), u.Rate
		rule.Root = math.Sqrt(1 - math.Pow(o.config.Beta2, t))
		flats.Second = o.second.Buffer()
	}
	if u.Average != nil {
		rule.Follow = u.Average.follow(o.steps)
		flats.Average = u.Average.params.Buffer()
	}
	s.Update(rule, flats)
	if u.Average != nil {
		u.Average.moveBuffers(s, rule.Follow)
	}
	if s.Err() == nil {
		o.steps++
	}
}

// Reset forgets all updates: momentum and moments are zero, and the steps count from 0 again.
func (o *Optimizer) Reset(s *ops.Scope) {
	for _, f := range o.parts() {
		f.CopyFrom(s, s.Zeros(ops.Float32, f.Len()))
	}
	if s.Err() == nil {
		o.steps = 0
	}
}

// Steps returns how many updates have been done, those before a Restore included.
func (o *Optimizer) Steps() int { return o.steps }

// Tensor is one named tensor of a state: little-endian elements in C order.
type Tensor struct {
	Name  string
	Shape []int64
	DType ops.DType // Float32, or Int64 for the number of steps
	Data  []byte
}

const stepName = "step"

// prefixes of the names of the state's tensors.
const (
	prefixMomentum = "momentum."
	prefixFirst    = "exp_avg."
	prefixSecond   = "exp_avg_sq."
	prefixAverage  = "ema."
)

func (o *Optimizer) parts() map[string]*ops.Flat {
	if o.config.Kind == AdamW {
		return map[string]*ops.Flat{prefixFirst: o.first, prefixSecond: o.second}
	}
	return map[string]*ops.Flat{prefixMomentum: o.first}
}

// State returns what a checkpoint needs to go on, in name order: momentum.<param>, or exp_avg.<param> and
// exp_avg_sq.<param>; and step, a scalar.
func (o *Optimizer) State() ([]Tensor, error) {
	out := []Tensor{{Name: stepName, DType: ops.Int64, Data: binary.LittleEndian.AppendUint64(nil, uint64(o.steps))}}
	for prefix, f := range o.parts() {
		part, err := dump(prefix, f)
		if err != nil {
			return nil, fmt.Errorf("read state of optimizer %s: %w", o.config.Kind, err)
		}
		out = append(out, part...)
	}
	sortByName(out)
	return out, nil
}

// Restore sets the state from State's result, or from a PyTorch checkpoint's under the same names, in any order. Other names
// are left alone. step may be missing for SGD, which does not depend on it; then it counts from 0. On an error the optimizer
// is as it was, or unusable if s failed.
func (o *Optimizer) Restore(s *ops.Scope, state []Tensor) error {
	byName := index(state)
	steps := 0
	switch step, ok := byName[stepName]; {
	case ok && step.DType == ops.Int64 && len(step.Data) == 8:
		steps = int(binary.LittleEndian.Uint64(step.Data))
	case ok:
		return fmt.Errorf("restore optimizer %s: %s is not one int64: %w", o.config.Kind, stepName, ErrConfig)
	case o.config.Kind == AdamW:
		return fmt.Errorf("restore optimizer %s: the state has no %s: %w", o.config.Kind, stepName, ErrConfig)
	}
	for prefix, f := range o.parts() {
		if err := fits(prefix, f, byName); err != nil {
			return fmt.Errorf("restore optimizer %s: %w; was the state written by another optimizer or model?", o.config.Kind, err)
		}
	}
	for prefix, f := range o.parts() {
		load(s, prefix, f, byName)
	}
	if err := s.Err(); err != nil {
		return fmt.Errorf("restore optimizer %s: %w", o.config.Kind, err)
	}
	o.steps = steps
	return nil
}

// dump reads every tensor of f under prefix + its name.
func dump(prefix string, f *ops.Flat) ([]Tensor, error) {
	var out []Tensor
	for _, p := range f.Params() {
		data, err := f.ReadParam(p)
		if err != nil {
			return nil, err
		}
		out = append(out, Tensor{Name: prefix + p.Name, Shape: p.Shape, DType: ops.Float32, Data: data})
	}
	return out, nil
}

func index(state []Tensor) map[string]Tensor {
	m := make(map[string]Tensor, len(state))
	for _, t := range state {
		m[t.Name] = t
	}
	return m
}

// fits reports the first tensor of f that the state lacks or has in another shape.
func fits(prefix string, f *ops.Flat, state map[string]Tensor) error {
	for _, p := range f.Params() {
		t, ok := state[prefix+p.Name]
		switch {
		case !ok:
			return fmt.Errorf("the state has no %s%s: %w", prefix, p.Name, ErrConfig)
		case t.DType != ops.Float32 || !slices.Equal(t.Shape, p.Shape) || int64(len(t.Data)) != 4*ops.Numel(p.Shape):
			return fmt.Errorf("%s has shape %v, dtype %d and %d bytes, want float32 %v: %w", t.Name, t.Shape, t.DType, len(t.Data), p.Shape, ErrConfig)
		}
	}
	return nil
}

func load(s *ops.Scope, prefix string, f *ops.Flat, state map[string]Tensor) {
	for _, p := range f.Params() {
		f.WriteParam(s, p, state[prefix+p.Name].Data)
	}
}

func sortByName(state []Tensor) {
	slices.SortFunc(state, func(a, b Tensor) int {
		if a.Name < b.Name {
			return -1
		}
		return 1
	})
}
