package worker

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"

	"mp/checkpoint"
	"mp/job"
	"mp/model"
	"mp/ops"
	"mp/optim"
)

// begin gives the replica its state where nobody else has one: path is a checkpoint of the run itself to go on from, empty
// for the beginning that the job names: another checkpoint, pre-trained weights, or the first values, which it must have
// then. own says whether the state is in the run's directory already.
func (r *replica) begin(ctx context.Context, path string) (own bool, err error) {
	r.whole, r.moved, r.began = false, false, ""
	own = path != ""
	if !own {
		path = r.spec.Resume
		own = path != "" && (filepath.Clean(path) == filepath.Clean(r.directory) || filepath.Base(path) == r.directory)
	}
	switch {
	case path != "":
		state, err := checkpoint.Read(path)
		if err != nil {
			return false, err
		}
		err = r.change(ctx, func(s *ops.Scope) error { return r.resume(s, path, state) })
		if err != nil {
			return false, err
		}
		if own { // another run's best is not in this one's directory
			r.best = best{Score: Score{Top1: state.Meta.BestTop1, Top5: state.Meta.BestTop5}, epoch: state.Meta.BestEpoch, update: state.Meta.BestEpoch * r.steps(), weights: r.keptBest(state)}
		}
	case r.spec.Init != "":
		state, err := checkpoint.Read(r.spec.Init)
		if err != nil {
			return false, err
		}
		if err := r.change(ctx, func(s *ops.Scope) error { return r.initialise(s, state) }); err != nil {
			return false, err
		}
	}
	r.whole = true
	return own, nil
}

// change runs what overwrites the state: until it has gone well there is none.
func (r *replica) change(ctx context.Context, f func(s *ops.Scope) error) error {
	r.forget()
	r.whole, r.touched, r.best, r.last, r.watched, r.epochs = false, true, best{}, tally{}, watched{}, nil
	r.at.Replay, r.signs = 0, nil
	if err := r.device.Do(ctx, f); err != nil {
		return advise(err)
	}
	return nil
}

// beginning is the SHA-256 of weights, statistics and optimizer with which the replica began, while it has not moved on; else
// empty. Members compare it before the first update: what one of them began with must not become the others' result.
func (r *replica) beginning() (string, error) {
	if !r.whole || r.moved {
		return "", nil
	}
	if r.began == "" {
		s, err := r.snapshot()
		if err != nil {
			return "", err
		}
		r.began = checkpoint.Digest(append(s.state.Model, s.state.Optimizer...))
	}
	return r.began, nil
}

// initialise takes pre-trained weights; the head may be new.
func (r *replica) initialise(s *ops.Scope, state *checkpoint.State) error {
	fit := model.NewHead
	if r.spec.InitPartial {
		fit = model.Partial
	}
	left, err := r.model.Load(s, arrays(validated(state)), fit)
	if err != nil {
		return fmt.Errorf("start from %s: %w; take what fits with --init-partial", r.spec.Init, err)
	}
	if len(left) > 0 {
		r.tell("init", fmt.Sprintf("%d tensors do not come from %s: %s", len(left), r.spec.Init, strings.Join(left, "; ")), false)
	}
	if r.average != nil {
		r.average.Reset(s)
	}
	return s.Err()
}

// resume goes on from a checkpoint, ours or PyTorch's.
func (r *replica) resume(s *ops.Scope, path string, state *checkpoint.State) error {
	if arch := guess(state); arch != "" && arch != r.spec.Model {
		return fmt.Errorf("resume %s: it is of model %s, the run's is %s; give --model %s: %w", path, arch, r.spec.Model, arch, job.ErrConfig)
	}
	if err := r.load(s, path, state); err != nil {
		return fmt.Errorf("resume %s: %w", path, err)
	}
	meta := state.Meta
	done := meta.Step
	if done == 0 {
		done = meta.Epoch * r.steps()
	}
	if done > r.total() {
		return fmt.Errorf("resume %s: it is %d updates old, the run has %d; raise --epochs: %w", path, done, r.total(), job.ErrConfig)
	}
	if meta.Epoch > r.spec.Epochs || meta.Epoch*r.steps() > done {
		return fmt.Errorf("resume %s: it has %d epochs in %d updates, but %d images in batches of %d make %d updates an epoch; give the --batch-size, --adv-watch-images and data that it was trained with: %w",
			path, meta.Epoch, done, r.sampler.Images(), r.spec.BatchSize, r.steps(), job.ErrConfig)
	}
	r.at = position{Done: done, Validated: meta.Epoch}
	if err := r.resumeReplay(state); err != nil {
		return fmt.Errorf("resume %s: %w", path, err)
	}
	if len(meta.Ledger) > 0 {
		if err := json.Unmarshal(meta.Ledger, &r.epochs); err != nil {
			return fmt.Errorf("resume %s: its ledger: %w", path, err)
		}
	}
	if err := r.heldOutBefore(); err != nil {
		return fmt.Errorf("resume %s: %w", path, err)
	}
	return s.Err()
}

// load sets weights, statistics, optimizer and average.
func (r *replica) load(s *ops.Scope, path string, state *checkpoint.State) error {
	if _, err := r.model.Load(s, arrays(state.Model), model.Exact); err != nil {
		return err
	}
	if r.average != nil {
		r.average.Reset(s)
	}
	if state.OptimizerNote != "" || len(state.Optimizer) == 0 {
		note := state.OptimizerNote
		if note == "" {
			note = "the file has no optimizer state"
		}
		r.tell("resume", fmt.Sprintf("%s: %s; the optimizer starts anew", path, note), true)
		return s.Err()
	}
	tensors := make([]optim.Tensor, len(state.Optimizer))
	for i, t := range state.Optimizer {
		d := ops.Float32
		if t.DType == checkpoint.I64 {
			d = ops.Int64
		}
		tensors[i] = optim.Tensor{Name: t.Name, Shape: t.Shape, DType: d, Data: t.Data}
	}
	if err := r.optimizer.Restore(s, tensors); err != nil {
		return err
	}
	if r.average == nil {
		return s.Err()
	}
	return r.average.Restore(s, tensors)
}
