package worker

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"mp/checkpoint"
	"mp/job"
	"mp/metrics"
	"mp/model"
	"mp/ops"
	"mp/optim"
)

// Names of what a checkpoint holds beside the optimizer's own state.
const (
	averagePrefix = "ema."
	batchesSuffix = "num_batches_tracked" // PyTorch's batch norm counts its updates under this name
	varSuffix     = "running_var"
)

// start sets weights and optimizer to where the run begins: a checkpoint to go on from, pre-trained weights, or nothing.
func (w *Worker) start(ctx context.Context) error {
	switch {
	case w.Spec.Resume != "":
		state, err := checkpoint.Read(w.Spec.Resume)
		if err != nil {
			return err
		}
		return w.Device.Do(ctx, func(s *ops.Scope) error { return w.resume(s, state) })
	case w.Spec.Init != "":
		state, err := checkpoint.Read(w.Spec.Init)
		if err != nil {
			return err
		}
		return w.Device.Do(ctx, func(s *ops.Scope) error { return w.initialise(s, state) })
	}
	return nil
}

// initialise takes pre-trained weights; the head may be new.
func (w *Worker) initialise(s *ops.Scope, state *checkpoint.State) error {
	fit := model.NewHead
	if w.Spec.InitPartial {
		fit = model.Partial
	}
	left, err := w.model.Load(s, arrays(validated(state)), fit)
	if err != nil {
		return fmt.Errorf("start from %s: %w; take what fits with --init-partial", w.Spec.Init, err)
	}
	if len(left) > 0 {
		w.story(metrics.Story{Topic: "init", Text: fmt.Sprintf("%d tensors do not come from %s: %s", len(left), w.Spec.Init, strings.Join(left, "; "))})
	}
	if w.average != nil {
		w.average.Reset(s)
	}
	return s.Err()
}

// resume goes on from a checkpoint, ours or PyTorch's.
func (w *Worker) resume(s *ops.Scope, state *checkpoint.State) error {
	if arch := guess(state); arch != "" && arch != w.Spec.Model {
		return fmt.Errorf("resume %s: it is of model %s, the run's is %s; give --model %s: %w", w.Spec.Resume, arch, w.Spec.Model, arch, job.ErrConfig)
	}
	if _, err := w.model.Load(s, arrays(state.Model), model.Exact); err != nil {
		return fmt.Errorf("resume %s: %w", w.Spec.Resume, err)
	}
	if w.average != nil {
		w.average.Reset(s)
	}
	if state.OptimizerNote != "" || len(state.Optimizer) == 0 {
		note := state.OptimizerNote
		if note == "" {
			note = "the file has no optimizer state"
		}
		w.story(metrics.Story{Topic: "resume", Text: fmt.Sprintf("%s: %s; the optimizer starts anew", w.Spec.Resume, note), Warning: true})
	} else if err := w.restore(s, state.Optimizer); err != nil {
		return fmt.Errorf("resume %s: %w", w.Spec.Resume, err)
	}
	meta := state.Meta
	if w.done = meta.Step; w.done == 0 {
		w.done = meta.Epoch * w.sampler.Steps()
	}
	if total := w.Spec.Epochs * w.sampler.Steps(); w.done > total {
		return fmt.Errorf("resume %s: it is %d updates old, the run has %d; raise --epochs: %w", w.Spec.Resume, w.done, total, job.ErrConfig)
	}
	w.validated = meta.Epoch
	if filepath.Clean(w.Spec.Resume) == filepath.Clean(w.Directory) { // another run's best is not in this one's directory
		w.best = best{Score: Score{Top1: meta.BestTop1, Top5: meta.BestTop5}, epoch: meta.BestEpoch}
	}
	return s.Err()
}

// restore sets the optimizer's state and the average of the weights.
func (w *Worker) restore(s *ops.Scope, tensors []checkpoint.Tensor) error {
	state := make([]optim.Tensor, len(tensors))
	for i, t := range tensors {
		d := ops.Float32
		if t.DType == checkpoint.I64 {
			d = ops.Int64
		}
		state[i] = optim.Tensor{Name: t.Name, Shape: t.Shape, DType: d, Data: t.Data}
	}
	if err := w.optimizer.Restore(s, state); err != nil {
		return err
	}
	if w.average == nil {
		return nil
	}
	return w.average.Restore(s, state)
}

// optimizerTensors reads the optimizer's state and the average of the weights, in name order.
func (w *Worker) optimizerTensors() ([]checkpoint.Tensor, error) {
	state, err := w.optimizer.State()
	if err == nil && w.average != nil {
		var average []optim.Tensor
		average, err = w.average.State()
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
	sortTensors(out)
	return out, err
}

// snapshot is the run as it stands: to go on from or, without the optimizer, to evaluate with.
func (w *Worker) snapshot() (*checkpoint.State, error) {
	state := &checkpoint.State{Meta: w.meta()}
	err := w.Device.Do(context.Background(), func(*ops.Scope) error {
		var err error
		if state.Model, err = w.modelTensors(); err != nil {
			return err
		}
		state.Optimizer, err = w.optimizerTensors()
		return err
	})
	return state, err
}

// modelTensors reads parameters and buffers, and counts batches as PyTorch does, so that load_state_dict takes the file.
func (w *Worker) modelTensors() ([]checkpoint.Tensor, error) {
	var out []checkpoint.Tensor
	for _, f := range []*ops.Flat{w.model.Params, w.model.Buffers} {
		for _, p := range f.Params() {
			bytes, err := f.ReadParam(p)
			if err != nil {
				return nil, err
			}
			out = append(out, checkpoint.Tensor{Name: p.Name, DType: checkpoint.F32, Shape: p.Shape, Data: bytes})
			if name, ok := strings.CutSuffix(p.Name, varSuffix); ok {
				out = append(out, counter(name+batchesSuffix, w.done))
			}
		}
	}
	sortTensors(out)
	return out, nil
}

func counter(name string, n int) checkpoint.Tensor {
	data := make([]byte, 8)
	for i := range data {
		data[i] = byte(uint64(n) >> (8 * i))
	}
	return checkpoint.Tensor{Name: name, DType: checkpoint.I64, Data: data}
}

func sortTensors(t []checkpoint.Tensor) {
	slices.SortFunc(t, func(a, b checkpoint.Tensor) int { return strings.Compare(a.Name, b.Name) })
}

func (w *Worker) meta() checkpoint.Meta {
	spec, err := json.Marshal(w.Spec)
	if err != nil {
		panic(fmt.Sprintf("worker: a job that has no JSON: %v", err)) // plain fields only
	}
	return checkpoint.Meta{
		Arch: w.Spec.Model, Epoch: w.validated, Step: w.done, Seed: w.Spec.Seed,
		BestTop1: w.best.Top1, BestTop5: w.best.Top5, BestEpoch: w.best.epoch,
		LR: w.schedule.Rate(max(w.done-1, 0)), BaseLR: w.Spec.LR, Momentum: w.Spec.Momentum, WeightDecay: w.Spec.WeightDecay,
		Job: spec,
	}
}

// save does not stop half-way when the run is asked to: what is the best so far and what is on the disk must agree. It
// writes a checkpoint to go on from and lets `latest` name it; with isBest also one of the validated weights alone.
func (w *Worker) save(isBest bool) error {
	state, err := w.snapshot()
	if err != nil {
		return err
	}
	dir := filepath.Join(w.Directory, "checkpoints")
	path, err := checkpoint.Write(dir, fmt.Sprintf("update-%08d", w.done), state)
	if err != nil {
		return err
	}
	if err := checkpoint.SetLatest(dir, filepath.Base(path)); err != nil {
		return err
	}
	if isBest {
		alone := &checkpoint.State{Model: validated(state), Meta: state.Meta}
		if path, err = checkpoint.Write(dir, fmt.Sprintf("best-%08d", w.done), alone); err != nil {
			return err
		}
		if err := checkpoint.SetBest(dir, filepath.Base(path)); err != nil {
			return err
		}
	}
	_, err = checkpoint.Prune(dir, w.Spec.KeepCheckpoints)
	return err
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

// arrays turns a checkpoint's tensors into what a model takes: float32.
func arrays(tensors []checkpoint.Tensor) map[string]model.Array {
	out := make(map[string]model.Array, len(tensors))
	for _, t := range tensors {
		if strings.HasSuffix(t.Name, batchesSuffix) {
			continue
		}
		f32 := t
		if t.DType != checkpoint.F32 {
			f32 = checkpoint.FromFloat32s(t.Name, t.Shape, t.Float32s())
		}
		out[t.Name] = model.Array{Shape: t.Shape, Data: f32.Data}
	}
	return out
}

// LoadModel makes the network that a checkpoint holds, as validation would see it. arch overrides what the file says; it
// is needed for files that do not name their architecture. Free the model.
func LoadModel(s *ops.Scope, path, arch string, o model.Options) (*model.Model, error) {
	state, err := readBest(path)
	if err != nil {
		return nil, err
	}
	if arch == "" {
		if arch = guess(state); arch == "" {
			return nil, fmt.Errorf("load %s: it does not say which model it is of; give --model: %w", path, job.ErrConfig)
		}
	}
	m, err := model.New(s, arch, o)
	if err != nil {
		return nil, err
	}
	if _, err := m.Load(s, arrays(validated(state)), model.Exact); err != nil {
		m.Free()
		return nil, fmt.Errorf("load %s: %w", path, err)
	}
	return m, nil
}

// readBest reads the checkpoint of a run's best epoch, or any file that checkpoint.Read knows.
func readBest(path string) (*checkpoint.State, error) {
	if best, _, err := checkpoint.Best(path); err == nil {
		path = best
	}
	return checkpoint.Read(path)
}

// guess names the architecture of a file that does not, or not by our name, by the tensors that only one has.
func guess(state *checkpoint.State) string {
	for _, name := range model.Names() {
		if strings.EqualFold(name, state.Meta.Arch) {
			return name
		}
	}
	for _, sign := range []struct{ tensor, arch string }{
		{"features.14.weight", job.ModelSimpleNet},
		{"stem.3.weight", job.ModelSceneNet},
		{"pos_embed", job.ModelSimpleViT},
		{"layer4.1.conv2.weight", job.ModelResNet18},
	} {
		if _, ok := checkpoint.Find(state.Model, sign.tensor); ok {
			return sign.arch
		}
	}
	return ""
}
