package worker

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"mp/checkpoint"
	"mp/ops"
	"mp/optim"
)

// Names of what a checkpoint holds beside the optimizer's own state.
const (
	averagePrefix = "ema."
	batchesSuffix = "num_batches_tracked" // PyTorch's batch norm counts its updates under this name
	varSuffix     = "running_var"
)

// snapshot is a state in host memory, whole and on its own: what a checkpoint is written from and what a peer is given.
type snapshot struct {
	at      position
	state   *checkpoint.State
	best    best
	last    tally
	watched watched
	epochs  []ledgerEntry
}

// snapshot copies the state as it stands.
func (r *replica) snapshot() (*snapshot, error) {
	meta, err := r.meta()
	if err != nil {
		return nil, err
	}
	out := &snapshot{at: r.at, state: &checkpoint.State{Meta: meta}, best: r.best, last: r.last, watched: r.watched, epochs: slices.Clone(r.epochs)}
	err = r.device.Do(context.Background(), func(*ops.Scope) error {
		var err error
		if out.state.Model, err = r.modelTensors(); err != nil {
			return err
		}
		out.state.Optimizer, err = r.optimizerTensors()
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("copy the state after update %d: %w", r.at.Done, err)
	}
	return out, nil
}

// install sets the replica's state to a snapshot's.
func (r *replica) install(ctx context.Context, from *snapshot) error {
	err := r.change(ctx, func(s *ops.Scope) error { return r.load(s, "a peer's state", from.state) })
	if err != nil {
		return err
	}
	r.at, r.best, r.last, r.watched, r.epochs = from.at, from.best, from.last, from.watched, slices.Clone(from.epochs)
	r.whole, r.moved = true, true
	return nil
}

// optimizerTensors reads the optimizer's state, the average of the weights and what adversarial training keeps, in name order.
func (r *replica) optimizerTensors() ([]checkpoint.Tensor, error) {
	state, err := r.optimizer.State()
	if err == nil && r.average != nil {
		var average []optim.Tensor
		average, err = r.average.State()
		state = append(state, average...)
	}
	out := make([]checkpoint.Tensor, len(state))
	for i, t := range state {
		d := checkpoint.F32
		if t.DType == ops.Int64 {
			d = checkpoint.I64
		}
		out[i] = checkpoint.Tensor{Name: t.Name, Shape: t.Shape, DType: d, Data: t.Data}
	}
	out = append(out, r.adversarialTensors()...)
	sortTensors(out)
	return out, err
}

// modelTensors reads parameters and buffers, and counts batches as PyTorch does, so that load_state_dict takes the file.
func (r *replica) modelTensors() ([]checkpoint.Tensor, error) {
	var out []checkpoint.Tensor
	for _, f := range []*ops.Flat{r.model.Params, r.model.Buffers} {
		for _, p := range f.Params() {
			bytes, err := f.ReadParam(p)
			if err != nil {
				return nil, err
			}
			out = append(out, checkpoint.Tensor{Name: p.Name, DType: checkpoint.F32, Shape: p.Shape, Data: bytes})
			if name, ok := strings.CutSuffix(p.Name, varSuffix); ok {
				out = append(out, checkpoint.Tensor{Name: name + batchesSuffix, DType: checkpoint.I64,
					Data: binary.LittleEndian.AppendUint64(nil, uint64(r.updates(r.at)))})
			}
		}
	}
	sortTensors(out)
	return out, nil
}

func sortTensors(t []checkpoint.Tensor) {
	slices.SortFunc(t, func(a, b checkpoint.Tensor) int { return strings.Compare(a.Name, b.Name) })
}

func (r *replica) meta() (checkpoint.Meta, error) {
	spec, err := json.Marshal(r.spec)
	if err != nil {
		return checkpoint.Meta{}, fmt.Errorf("describe the job: %w", err)
	}
	var ledger json.RawMessage
	if len(r.epochs) > 0 {
		if ledger, err = json.Marshal(r.epochs); err != nil {
			return checkpoint.Meta{}, fmt.Errorf("describe the ledger: %w", err)
		}
	}
	return checkpoint.Meta{
		Arch: r.spec.Model, Epoch: r.at.Validated, Step: r.at.Done, Seed: r.spec.Seed,
		BestTop1: r.best.Top1, BestTop5: r.best.Top5, BestEpoch: r.best.epoch,
		LR: r.schedule.Rate(max(r.updates(r.at)-1, 0)), BaseLR: r.spec.LR, Momentum: r.spec.Momentum, WeightDecay: r.spec.WeightDecay,
		Job: spec, Ledger: ledger,
	}, nil
}

// validated returns the tensors that validation used: the running averages where the state has them.
func validated(state *checkpoint.State) []checkpoint.Tensor {
	out := slices.Clone(state.Model)
	for i, t := range out {
		if average, ok := checkpoint.Find(state.Optimizer, averagePrefix+t.Name); ok {
			average.Name = t.Name
			out[i] = average
		}
	}
	return out
}
