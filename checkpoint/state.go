// Package checkpoint owns what a run leaves on disk and what it starts from: our own format (a directory of
// safetensors files and a manifest with checksums) and the import of PyTorch's .pth and .pth.tar files.
//
// It deals in plain bytes and must never import anything but the standard library: it knows nothing of torch tensors,
// models or devices, so a file can be looked into on any machine. Nothing that it reads is ever executed.
//
// Start reading at State, then Write and Read.
package checkpoint

import (
	"encoding/json"
	"errors"
	"sort"
)

// ErrFormat is matched (errors.Is) by every error whose cause is the file itself: it does not exist, is cut short, has
// a wrong checksum, is not a checkpoint, or holds something that this package does not read. Trying again does not
// help. Errors of the machine (full disk, no permission, broken device) do not match it.
var ErrFormat = errors.New("unusable checkpoint")

// State is everything that a run needs to go on, and everything that evaluating it needs.
//
// The Data of different tensors may share memory: treat it as read-only.
type State struct {
	// Model holds the parameters and buffers under their PyTorch state-dict names, in name order.
	Model []Tensor
	// Optimizer holds the optimizer's own tensors, in name order: `momentum.<param>` for SGD; `exp_avg.<param>` and
	// `exp_avg_sq.<param>` for AdamW; the scalar `step` (i64), which PyTorch's SGD does not have; `ema.<param>` for an average of the weights. It is
	// empty for a checkpoint that only serves evaluation.
	Optimizer []Tensor
	// OptimizerNote says why the optimizer state of a foreign file was left out; empty when nothing was left out.
	OptimizerNote string
	Meta          Meta
}

// Meta is what a checkpoint says about itself. The zero value of a field means unknown.
type Meta struct {
	Arch  string `json:"architecture,omitempty"` // name of the model, e.g. "simplenet"
	Epoch int    `json:"epoch"`                  // epochs completed
	// Step counts the optimizer updates done since the start of the run. PyTorch files of the reference do not record
	// it: there it is 0 while Epoch is not, and Epoch times the updates of an epoch is meant.
	Step      int     `json:"step"`
	Seed      uint64  `json:"seed"`
	BestTop1  float64 `json:"best_top1"` // percent, of the best epoch so far
	BestTop5  float64 `json:"best_top5"` // percent, of the same epoch
	BestEpoch int     `json:"best_epoch,omitempty"`
	// LR is the learning rate of the last update, BaseLR the one that the schedule started from.
	LR          float64 `json:"learning_rate,omitempty"`
	BaseLR      float64 `json:"base_learning_rate,omitempty"`
	Momentum    float64 `json:"momentum,omitempty"`
	WeightDecay float64 `json:"weight_decay,omitempty"`
	// Job is the specification of the run that wrote the checkpoint, as JSON; this package does not look into it.
	Job json.RawMessage `json:"job,omitempty"`
	// Ledger is the run's own count of the samples it has seen, as JSON; this package does not look into it.
	Ledger json.RawMessage `json:"ledger,omitempty"`
	// Source names the format that the state was read from: "mp", "safetensors" or "pytorch". Read sets it; it is not
	// stored.
	Source string `json:"-"`
}

// Find returns the tensor called name of a list in name order, and whether it is there.
func Find(tensors []Tensor, name string) (Tensor, bool) {
	i := sort.Search(len(tensors), func(i int) bool { return tensors[i].Name >= name })
	if i == len(tensors) || tensors[i].Name != name {
		return Tensor{}, false
	}
	return tensors[i], true
}

func sortByName(tensors []Tensor) {
	sort.SliceStable(tensors, func(i, j int) bool { return tensors[i].Name < tensors[j].Name })
}
