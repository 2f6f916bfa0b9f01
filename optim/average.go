package optim

import (
	"errors"
	"fmt"

	"mp/ops"
)

// AverageConfig says how the average of the weights follows them.
type AverageConfig struct {
	Decay float64 // share that one step keeps of the average, in [0, 1)
	// Warmup starts with a short memory: step t, from 0, keeps min(Decay, (1+t)/(10+t)), as TensorFlow's
	// ExponentialMovingAverage does.
	Warmup bool
}

// Average is the exponential moving average of a model's weights and running statistics (Polyak & Juditsky, 1992): a
// second set of weights that is evaluated in place of the first. It belongs to the goroutine of its device.
type Average struct {
	config                  AverageConfig
	liveParams, liveBuffers *ops.Flat
	params, buffers         *ops.Flat
}

// NewAverage starts an average at the present values of params and buffers, which stay the caller's. Free it.
func NewAverage(s *ops.Scope, c AverageConfig, params, buffers *ops.Flat) (*Average, error) {
	if !(c.Decay >= 0 && c.Decay < 1) {
		return nil, fmt.Errorf("average weights: decay %g is not in [0, 1): %w", c.Decay, ErrConfig)
	}
	a := &Average{config: c, liveParams: params, liveBuffers: buffers}
	var errParams, errBuffers error
	a.params, errParams = params.Like(s)
	a.buffers, errBuffers = buffers.Like(s)
	if err := errors.Join(errParams, errBuffers); err != nil {
		a.Free()
		return nil, fmt.Errorf("average weights: %w", err)
	}
	a.Reset(s)
	if err := s.Err(); err != nil {
		a.Free()
		return nil, fmt.Errorf("average weights: %w", err)
	}
	return a, nil
}

// Free releases the average.
func (a *Average) Free() {
	for _, f := range []*ops.Flat{a.params, a.buffers} {
		if f != nil {
			f.Free()
		}
	}
}

// Reset starts the average again at the present weights.
func (a *Average) Reset(s *ops.Scope) {
	a.params.CopyFrom(s, a.liveParams.Buffer())
	a.buffers.CopyFrom(s, a.liveBuffers.Buffer())
}

// follow is the share by which step t, from 0, moves the average towards the weights.
func (a *Average) follow(t int) float64 {
	keep := a.config.Decay
	if a.config.Warmup {
		keep = min(keep, (1+float64(t))/(10+float64(t)))
	}
	return 1 - keep
}

func (a *Average) moveBuffers(s *ops.Scope, share float64) {
	if a.buffers.Len() > 0 {
		s.Lerp(a.buffers.Buffer(), a.liveBuffers.Buffer(), share)
	}
}

// Swap exchanges the average with the model's weights and statistics, so that the model computes with the average; a second
// Swap puts every bit back. Between the two, do not Step.
func (a *Average) Swap(s *ops.Scope) {
	for _, pair := range [][2]*ops.Flat{{a.params, a.liveParams}, {a.buffers, a.liveBuffers}} {
		exchange(s, pair[0], pair[1])
	}
}

func exchange(s *ops.Scope, a, b *ops.Flat) {
	c := s.Child()
	defer c.Close()
	held := c.Scale(a.Buffer(), 1)
	a.CopyFrom(c, b.Buffer())
	b.CopyFrom(c, held)
}

// State returns ema.<param> and ema.<buffer> in name order.
func (a *Average) State() ([]Tensor, error) {
	var out []Tensor
	for _, f := range []*ops.Flat{a.params, a.buffers} {
		part, err := dump(prefixAverage, f)
		if err != nil {
			return nil, fmt.Errorf("read the average of the weights: %w", err)
		}
		out = append(out, part...)
	}
	sortByName(out)
	return out, nil
}

// Restore sets the average from State's result; other names are left alone. A state without any average, such as PyTorch's,
// starts it at the present weights: restore the model first.
func (a *Average) Restore(s *ops.Scope, state []Tensor) error {
	byName := index(state)
	if !holds(a.params, byName) && !holds(a.buffers, byName) {
		a.Reset(s)
		return s.Err()
	}
	for _, f := range []*ops.Flat{a.params, a.buffers} {
		if err := fits(prefixAverage, f, byName); err != nil {
			return fmt.Errorf("restore the average of the weights: %w", err)
		}
	}
	load(s, prefixAverage, a.params, byName)
	load(s, prefixAverage, a.buffers, byName)
	if err := s.Err(); err != nil {
		return fmt.Errorf("restore the average of the weights: %w", err)
	}
	return nil
}

// holds reports whether the state has the average of any tensor of f.
func holds(f *ops.Flat, state map[string]Tensor) bool {
	for _, p := range f.Params() {
		if _, ok := state[prefixAverage+p.Name]; ok {
			return true
		}
	}
	return false
}
