// Package job says what a run is: its options, the defaults of each recipe, what contradicts what, and how a run looks
// before it starts. It does no I/O and must never import another package of the module, so that whoever plans a run and
// whoever computes it can share it. Start reading at Spec, then at Options, the table by which flags, job files and the
// printed configuration know the options.
package job

import (
	"errors"
	"strings"
	"time"
)

// ErrConfig is in the chain of every error about a run that cannot be as it was asked for. Trying again does not help.
var ErrConfig = errors.New("bad configuration")

// Words of the options that choose one of several.
const (
	ModelSimpleNet = "simplenet"
	ModelSimpleViT = "simplevit"
	ModelResNet18  = "resnet18"
	ModelSceneNet  = "scenenet"

	ConvLibrary = "library"
	ConvOwn     = "own"

	RecipeCourse = "course"
	RecipeBest   = "best"

	SGD   = "sgd"
	AdamW = "adamw"

	ScheduleCosine   = "cosine"
	ScheduleOneCycle = "one-cycle"
	ScheduleConstant = "constant"

	AugmentNone   = "none"
	AugmentCourse = "course"
	AugmentBest   = "best"
	AugmentStrong = "strong"

	FP32 = "fp32"
	BF16 = "bf16"

	DeviceAuto = "auto"
	DeviceCPU  = "cpu"

	ScaleNone = "none"
)

// Spec is one run, completely: two runs of the same Spec on the same kind of device end with the same bits. The zero
// value is no run; Resolve makes one. Options gives every field's meaning and unit.
type Spec struct {
	Data   string `yaml:"data" json:"data"`
	Name   string `yaml:"name" json:"name"`
	Model  string `yaml:"model" json:"model"`
	Conv   string `yaml:"conv" json:"conv"`
	Recipe string `yaml:"recipe" json:"recipe"`
	Seed   uint64 `yaml:"seed" json:"seed"`

	Epochs    int    `yaml:"epochs" json:"epochs"`
	BatchSize int    `yaml:"batch-size" json:"batch-size"`
	Shards    int    `yaml:"shards" json:"shards"`
	ImageSize string `yaml:"image-size" json:"image-size"`

	Optimizer   string  `yaml:"optimizer" json:"optimizer"`
	LR          float64 `yaml:"lr" json:"lr"`
	Schedule    string  `yaml:"schedule" json:"schedule"`
	Warmup      float64 `yaml:"warmup" json:"warmup"`
	Momentum    float64 `yaml:"momentum" json:"momentum"`
	Nesterov    bool    `yaml:"nesterov" json:"nesterov"`
	WeightDecay float64 `yaml:"weight-decay" json:"weight-decay"`
	DecayAll    bool    `yaml:"decay-all" json:"decay-all"`
	ClipGrad    float64 `yaml:"clip-grad" json:"clip-grad"`
	EMA         float64 `yaml:"ema" json:"ema"`

	Augment        string  `yaml:"augment" json:"augment"`
	LabelSmoothing float64 `yaml:"label-smoothing" json:"label-smoothing"`
	Mixup          float64 `yaml:"mixup" json:"mixup"`
	Cutmix         float64 `yaml:"cutmix" json:"cutmix"`

	Adversarial    string  `yaml:"adversarial" json:"adversarial"`
	AdvEps         string  `yaml:"adv-eps" json:"adv-eps"`
	AdvStepSize    string  `yaml:"adv-step-size" json:"adv-step-size"`
	AdvSteps       int     `yaml:"adv-steps" json:"adv-steps"`
	AdvBeta        float64 `yaml:"adv-beta" json:"adv-beta"`
	AdvWarmup      float64 `yaml:"adv-warmup" json:"adv-warmup"`
	AdvClean       float64 `yaml:"adv-clean" json:"adv-clean"`
	AdvAWP         float64 `yaml:"adv-awp" json:"adv-awp"`
	AdvBatchNorm   string  `yaml:"adv-batch-norm" json:"adv-batch-norm"`
	AdvPrecision   string  `yaml:"adv-precision" json:"adv-precision"`
	AdvWatch       string  `yaml:"adv-watch" json:"adv-watch"`
	AdvWatchImages int     `yaml:"adv-watch-images" json:"adv-watch-images"`

	ValBatch      int    `yaml:"val-batch" json:"val-batch"`
	Scale         string `yaml:"scale" json:"scale"`
	Interpolation string `yaml:"interpolation" json:"interpolation"`

	Device       string `yaml:"device" json:"device"`
	Precision    string `yaml:"precision" json:"precision"`
	ChannelsLast bool   `yaml:"channels-last" json:"channels-last"`
	Threads      int    `yaml:"threads" json:"threads"`

	Resume      string `yaml:"resume" json:"resume"`
	Init        string `yaml:"init" json:"init"`
	InitPartial bool   `yaml:"init-partial" json:"init-partial"`

	PrintFreq       int `yaml:"print-freq" json:"print-freq"`
	CheckpointEvery int `yaml:"checkpoint-every" json:"checkpoint-every"`
	KeepCheckpoints int `yaml:"keep-checkpoints" json:"keep-checkpoints"`

	Pictures   bool `yaml:"pictures" json:"pictures"`
	Histograms int  `yaml:"histograms" json:"histograms"`
}

// RunName is the name of the run's directory: the start's local time, then the run's name or, without one, its model.
// Names sort by time.
func (s Spec) RunName(start time.Time) string {
	name := s.Name
	if name == "" {
		name = s.Model
	}
	return strings.Join([]string{start.Format("20060102-150405"), name}, "-")
}
