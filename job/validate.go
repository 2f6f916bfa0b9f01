package job

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Validate says everything in s that cannot be, each with what to do, in one error that wraps ErrConfig; nil when the
// run can be started. It looks at s alone: whether files and devices exist is for their owners to say.
func (s Spec) Validate() error {
	var found []string
	report := func(format string, args ...any) { found = append(found, fmt.Sprintf(format, args...)) }
	s.checkWords(report)
	s.checkNumbers(report)
	s.checkContradictions(report)
	s.checkSizes(report)
	s.checkAdversarial(report)
	switch len(found) {
	case 0:
		return nil
	case 1:
		return fmt.Errorf("%w: %s", ErrConfig, found[0])
	}
	return fmt.Errorf("%w, %d things:\n  - %s", ErrConfig, len(found), strings.Join(found, "\n  - "))
}

func (s Spec) checkWords(report func(string, ...any)) {
	for _, o := range Options() {
		if v := o.Value(s); o.Words != nil && !slices.Contains(o.Words, v) {
			report("--%s %q: choose %s", o.Name, v, strings.Join(o.Words, ", "))
		}
	}
	if s.Data == "" {
		report("no data: name a folder of MiniPlaces or a pack; `mp data synth DIR` makes a stand-in")
	}
	if !fitsFileName(s.Name) {
		report("--name %q: use up to 64 letters, digits, dots, dashes and underscores, a letter or digit first", s.Name)
	}
	if n, err := strconv.Atoi(s.Device); s.Device != DeviceAuto && s.Device != DeviceCPU && (err != nil || n < 0) {
		report("--device %q: choose auto, cpu, or the number of a GPU", s.Device)
	}
	if n, err := strconv.Atoi(s.Scale); s.Scale != ScaleNone && (err != nil || n < 128 || n > 1024) {
		report("--scale %q: choose none, or 128 to 1024 pixels", s.Scale)
	}
}

// fitsFileName says whether a run's name may end its directory's name on any file system.
func fitsFileName(name string) bool {
	for i, r := range name {
		letter := 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9'
		if !letter && (i == 0 || !strings.ContainsRune("._-", r)) {
			return false
		}
	}
	return len(name) <= 64
}

// limit is the range of a number; the upper end is included unless below is set.
type limit struct {
	option    string
	value     float64
	low, high float64
	below     bool
}

func (s Spec) checkNumbers(report func(string, ...any)) {
	for _, l := range []limit{
		{option: "epochs", value: float64(s.Epochs), low: 1, high: 100_000},
		{option: "batch-size", value: float64(s.BatchSize), low: 1, high: 65_536},
		{option: "shards", value: float64(s.Shards), low: 1, high: 65_536},
		{option: "lr", value: s.LR, low: 0, high: 1000},
		{option: "warmup", value: s.Warmup, low: 0, high: 100_000},
		{option: "momentum", value: s.Momentum, low: 0, high: 1, below: true},
		{option: "weight-decay", value: s.WeightDecay, low: 0, high: 1},
		{option: "clip-grad", value: s.ClipGrad, low: 0, high: 1e9},
		{option: "ema", value: s.EMA, low: 0, high: 1, below: true},
		{option: "label-smoothing", value: s.LabelSmoothing, low: 0, high: 1, below: true},
		{option: "mixup", value: s.Mixup, low: 0, high: 100},
		{option: "cutmix", value: s.Cutmix, low: 0, high: 100},
		{option: "adv-beta", value: s.AdvBeta, low: 0, high: 1000},
		{option: "adv-warmup", value: s.AdvWarmup, low: 0, high: 100_000},
		{option: "adv-clean", value: s.AdvClean, low: 0, high: 1, below: true},
		{option: "adv-awp", value: s.AdvAWP, low: 0, high: 1, below: true},
		{option: "adv-watch-images", value: float64(s.AdvWatchImages), low: 0, high: 1e9},
		{option: "val-batch", value: float64(s.ValBatch), low: 1, high: 65_536},
		{option: "threads", value: float64(s.Threads), low: 0, high: 4096},
		{option: "print-freq", value: float64(s.PrintFreq), low: 1, high: 1e9},
		{option: "checkpoint-every", value: float64(s.CheckpointEvery), low: 0, high: 1e9},
		{option: "histograms", value: float64(s.Histograms), low: 0, high: 1e6},
		{option: "keep-checkpoints", value: float64(s.KeepCheckpoints), low: 1, high: 1e6},
	} {
		switch {
		case !(l.value >= l.low && l.value <= l.high), l.below && l.value == l.high: // not NaN either
			to := fmt.Sprintf("%.10g", l.high)
			if l.below {
				to = "less than " + to
			}
			report("--%s %.10g: choose %.10g to %s", l.option, l.value, l.low, to)
		}
	}
	if s.LR == 0 {
		report("--lr 0 trains nothing: choose a rate above 0, or use `mp evaluate`")
	}
}

func (s Spec) checkContradictions(report func(string, ...any)) {
	if s.Shards > 0 && s.BatchSize > 0 && s.BatchSize%s.Shards != 0 {
		report("--batch-size %d cannot be cut into %d equal shards: choose a --batch-size that --shards divides", s.BatchSize, s.Shards)
	}
	if s.Nesterov && s.Optimizer == AdamW {
		report("--nesterov belongs to --optimizer sgd: leave one of them out")
	}
	if s.Nesterov && s.Optimizer == SGD && s.Momentum == 0 {
		report("--nesterov needs --momentum above 0")
	}
	if s.Momentum > 0 && s.Optimizer == AdamW {
		report("--momentum belongs to --optimizer sgd: leave one of them out")
	}
	if s.Warmup > float64(s.Epochs) && s.Epochs > 0 {
		report("--warmup %g epochs do not end within --epochs %d: lower --warmup", s.Warmup, s.Epochs)
	}
	if s.Conv == ConvOwn && s.Model == ModelSimpleViT {
		report("--conv own is for the CNNs: choose --model simplenet, resnet18 or scenenet")
	}
	if s.Resume != "" && s.Init != "" {
		report("--resume goes on with a run and --init starts one: give one of them")
	}
	if s.InitPartial && s.Init == "" {
		report("--init-partial needs --init FILE")
	}
	if s.Augment == AugmentNone && (s.Mixup > 0 || s.Cutmix > 0) {
		report("--augment none contradicts --mixup and --cutmix: leave one side out")
	}
}

func (s Spec) checkSizes(report func(string, ...any)) {
	sizes, err := ParseSizes(s.ImageSize)
	if err != nil {
		report("--%v", err)
		return
	}
	for _, r := range sizes {
		if s.Model == ModelSimpleViT && r.size != 128 {
			report("--image-size %s: simplevit's positions are for 128 pixels: leave --image-size out", s.ImageSize)
			return
		}
	}
	if last := sizes[len(sizes)-1]; s.Epochs > 0 && last.first >= s.Epochs {
		report("--image-size %s: %d pixels would begin at epoch %d, but the last of %d epochs is %d: change --epochs or --image-size",
			s.ImageSize, last.size, last.first, s.Epochs, s.Epochs-1)
	}
}
