package worker

import (
	"fmt"
	"strings"

	"mp/checkpoint"
	"mp/job"
	"mp/model"
	"mp/ops"
	"mp/worker/errand"
)

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
	n, err := ReadNetwork(path, arch)
	if err != nil {
		return nil, err
	}
	m, err := n.Build(s, o)
	if err != nil {
		return nil, fmt.Errorf("load %s: %w", path, err)
	}
	return m, nil
}

// ReadNetwork is LoadModel without a device: the network as errands carry it.
func ReadNetwork(path, arch string) (errand.Network, error) {
	state, err := readBest(path)
	if err != nil {
		return errand.Network{}, err
	}
	if arch == "" {
		if arch = guess(state); arch == "" {
			return errand.Network{}, fmt.Errorf("load %s: it does not say which model it is of; give --model: %w", path, job.ErrConfig)
		}
	}
	return errand.Network{Arch: arch, Arrays: arrays(validated(state))}, nil
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
