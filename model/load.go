package model

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"strings"

	"mp/ops"
)

// Array is one tensor of a state dict: float32, little-endian, in C order.
type Array struct {
	Shape []int64
	Data  []byte
}

// Fit says how closely a state dict must fit the model.
type Fit int

const (
	// Exact: every tensor is there in its shape and there are no others. For evaluating and for going on.
	Exact Fit = iota
	// NewHead: as Exact, but the head may be missing or made for other classes; it keeps its first values then. For
	// starting from pre-trained weights.
	NewHead
	// Partial: any tensor may be missing, of another shape, or too many, as long as one fits.
	Partial
)

// Load sets parameters and buffers from a state dict under PyTorch's names. It returns a line for each tensor that did not
// fit but may not to, and an error that lists the others, with the model unchanged. Batch norm's num_batches_tracked is
// skipped: its momentum here is constant.
func (m *Model) Load(s *ops.Scope, arrays map[string]Array, fit Fit) ([]string, error) {
	var bad, allowed []string
	misfit := func(name, line string) {
		if fit == Partial || fit == NewHead && strings.HasPrefix(name, m.head+".") {
			allowed = append(allowed, line)
		} else {
			bad = append(bad, line)
		}
	}
	known := map[string]bool{}
	var load []func()
	for _, flat := range []*ops.Flat{m.Params, m.Buffers} {
		for _, p := range flat.Params() {
			known[p.Name] = true
			a, ok := arrays[p.Name]
			if !ok {
				misfit(p.Name, fmt.Sprintf("%s %v is missing", p.Name, p.Shape))
				continue
			}
			if !slices.Equal(a.Shape, p.Shape) {
				misfit(p.Name, fmt.Sprintf("%s has shape %v, the model's is %v", p.Name, a.Shape, p.Shape))
				continue
			}
			if int64(len(a.Data)) != 4*ops.Numel(a.Shape) {
				bad = append(bad, fmt.Sprintf("%s has %d bytes for shape %v of float32", p.Name, len(a.Data), a.Shape))
				continue
			}
			load = append(load, func() { flat.WriteParam(s, p, widen(a.Data, m.options.DType)) })
		}
	}
	for name, a := range arrays {
		if !known[name] && !strings.HasSuffix(name, ".num_batches_tracked") {
			misfit(name, fmt.Sprintf("%s %v is not part of the model", name, a.Shape))
		}
	}
	slices.Sort(bad)
	slices.Sort(allowed)
	if len(bad) > 0 {
		return nil, fmt.Errorf("load weights into %s: %d tensors do not fit: %s: %w", m.Arch, len(bad), strings.Join(bad, "; "), ErrConfig)
	}
	if len(load) == 0 {
		return nil, fmt.Errorf("load weights into %s: none of the %d tensors fits: %w", m.Arch, len(arrays), ErrConfig)
	}
	for _, f := range load {
		f()
	}
	if err := s.Err(); err != nil {
		return nil, fmt.Errorf("load weights into %s: %w", m.Arch, err)
	}
	return allowed, nil
}

// widen returns float32 elements as elements of d, Float32 or Float64.
func widen(data []byte, d ops.DType) []byte {
	if d != ops.Float64 {
		return data
	}
	v := make([]float32, len(data)/4)
	for i := range v {
		v[i] = math.Float32frombits(binary.LittleEndian.Uint32(data[4*i:]))
	}
	return encode(v, d)
}
