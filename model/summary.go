package model

import (
	"fmt"

	torch "github.com/wangkuiyi/gotorch"

	"mp/ops"
)

// Row describes what one layer does to a batch.
type Row struct {
	Name   string  // as in the state dict
	Kind   string  // "convolution", "batch norm", ...
	Shape  []int64 // of the result
	Params int64   // learnable elements
	MACs   int64   // multiply-adds of the forward pass
}

// SummaryConfig says for what a model is summarised.
type SummaryConfig struct {
	Batch int64     // samples
	Size  int64     // side of the images
	DType ops.DType // of the images, hence of the computation
	Slots int64     // tensors that the optimizer keeps for each parameter: 1 for momentum, 2 for AdamW
}

// Summary is what a training step costs.
type Summary struct {
	Rows   []Row
	Params int64 // learnable elements
	MACs   int64 // multiply-adds of the forward pass of the batch; the backward pass takes twice as many
	// Bytes. Activations is what the graph holds between the forward and the backward pass; it is measured, with batches of
	// one and of two, not guessed from the layers (within 3 % of a batch of 10's). The library's workspaces are not in it.
	ParamBytes, BufferBytes, GradientBytes, OptimizerBytes, ActivationBytes int64
}

// Summarize runs two tiny batches on the CPU and scales what they cost up to a batch of c. Nothing is trained: buffers are
// as they were when it returns.
func (m *Model) Summarize(s *ops.Scope, c SummaryConfig) (*Summary, error) {
	fail := func(err error) (*Summary, error) { return nil, fmt.Errorf("summarise %s: %w", m.Arch, err) }
	if c.Batch < 1 || c.Size < 1 {
		return fail(fmt.Errorf("batch %d of images of side %d: both must be positive: %w", c.Batch, c.Size, ErrConfig))
	}
	if !s.Device().IsCPU() {
		return fail(fmt.Errorf("activations are measured on the CPU, not on %s", s.Device()))
	}
	t := s.Child()
	defer t.Close()
	buffers := t.Scale(m.Buffers.Buffer(), 1)
	one, rows := m.probe(t, c, 1)
	two, _ := m.probe(t, c, 2)
	m.Buffers.CopyFrom(t, buffers)
	if err := t.Err(); err != nil {
		return fail(err)
	}
	element := int64(ops.SizeOf(m.options.DType))
	u := &Summary{
		Rows:            rows,
		Params:          m.Params.Count(),
		ParamBytes:      m.Params.Len() * element,
		BufferBytes:     m.Buffers.Len() * element,
		GradientBytes:   m.Params.Len() * element,
		OptimizerBytes:  m.Params.Len() * element * c.Slots,
		ActivationBytes: one + (c.Batch-1)*(two-one),
	}
	for i := range u.Rows {
		r := &u.Rows[i]
		r.Shape[0] *= c.Batch
		r.MACs *= c.Batch
		u.MACs += r.MACs
	}
	return u, nil
}

// probe returns what the graph of n samples holds, in bytes, and the layers it went through.
func (m *Model) probe(s *ops.Scope, c SummaryConfig, n int64) (int64, []Row) {
	t := s.Child()
	defer t.Close()
	x := t.Zeros(c.DType, n, 3, c.Size, c.Size)
	if m.options.ChannelsLast {
		x = t.ChannelsLast(x)
		t.Tidy(x)
	}
	m.trace.on = true
	before := ops.HostMemory().Used
	m.Forward(t, x, Mode{Train: true, Keys: make([]uint64, n)})
	held := ops.HostMemory().Used - before
	rows := m.trace.rows
	*m.trace = trace{}
	return held, rows
}

// trace collects the rows of a forward pass while it is on.
type trace struct {
	on   bool
	rows []Row
}

// layer adds a row for the layer that made y. macs gets y's shape; nil means none.
func (t *trace) layer(name, kind string, y torch.Tensor, macs func(shape []int64) int64, params ...*ops.Param) {
	if !t.on || !ops.Defined(y) {
		return
	}
	r := Row{Name: name, Kind: kind, Shape: y.Shape()}
	if macs != nil {
		r.MACs = macs(r.Shape)
	}
	for _, p := range params {
		if p != nil {
			r.Params += ops.Numel(p.Shape)
		}
	}
	t.rows = append(t.rows, r)
}
