package job

import (
	"fmt"
)

// row is what a recipe says about one model.
type row struct {
	model, conv string
	epochs      int
	optimizer   string
	lr          float64
	momentum    float64
	weightDecay float64
	clipGrad    float64
	ema         float64
}

// courseRows are the command lines of the reference (reference's README; main.py's defaults).
func courseRows() []row {
	return []row{
		// model          conv      epochs  optimizer  lr  momentum  decay  clip  ema
		{ModelSimpleNet, ConvLibrary, 60, SGD, 0.1, 0.9, 1e-4, 0, 0},
		{ModelSimpleNet, ConvOwn, 10, SGD, 0.1, 0.9, 1e-4, 0, 0},
		{ModelSimpleViT, ConvLibrary, 90, AdamW, 0.01, 0, 0.05, 1, 0},
		{ModelResNet18, ConvLibrary, 60, SGD, 0.1, 0.9, 1e-4, 0, 0},
		{ModelSceneNet, ConvLibrary, 60, SGD, 0.1, 0.9, 1e-4, 0, 0},
	}
}

// courseBase is what the course does with every model.
func courseBase() Spec {
	return Spec{
		Recipe: RecipeCourse, BatchSize: 256, Shards: 1, ImageSize: "128",
		Schedule: ScheduleCosine, Warmup: 5, DecayAll: true,
		Augment:  AugmentCourse,
		ValBatch: 100, Scale: "144", Interpolation: "random",
		Device: DeviceAuto, Precision: FP32,
		PrintFreq: 10, KeepCheckpoints: 2, Pictures: true,
	}
}

// bestRows are our own settings.
func bestRows() []row {
	return []row{
		// model          conv      epochs  optimizer  lr  momentum  decay  clip  ema
		{ModelSimpleNet, ConvLibrary, 60, SGD, 0.05, 0.9, 1e-4, 1, 0.998},
		{ModelSimpleViT, ConvLibrary, 90, AdamW, 0.001, 0, 0.05, 1, 0.998},
		{ModelResNet18, ConvLibrary, 30, SGD, 0.025, 0.9, 1e-4, 0, 0.998},
		{ModelSceneNet, ConvLibrary, 26, SGD, 0.1, 0.9, 5e-4, 0, 0.998},
	}
}

// bestBase is what our recipe does with every model.
func bestBase() Spec {
	return Spec{
		Recipe: RecipeBest, BatchSize: 64, Shards: 1, ImageSize: "128",
		Schedule: ScheduleCosine, Warmup: 4, Nesterov: true,
		Augment: AugmentBest, LabelSmoothing: 0.1,
		ValBatch: 100, Scale: ScaleNone, Interpolation: "bilinear",
		Device: DeviceAuto, Precision: FP32, ChannelsLast: true,
		PrintFreq: 10, KeepCheckpoints: 2, Pictures: true,
	}
}

// Default returns the run that the recipe describes for the choices made in s: its recipe, model, convolution,
// optimizer, augmentation, adversarial training and, in our own recipe, its length. Choices left out are scenenet, library, best and the recipe's.
func Default(s Spec) (Spec, error) {
	if s.Recipe == "" {
		s.Recipe = RecipeBest
	}
	if s.Model == "" {
		s.Model = ModelSceneNet
	}
	if s.Conv == "" {
		s.Conv = ConvLibrary
	}
	for _, o := range Options() {
		if o.Name == "recipe" || o.Name == "model" || o.Name == "conv" {
			if err := o.Set(&s, o.Value(s)); err != nil {
				return Spec{}, fmt.Errorf("%w: %w", ErrConfig, err)
			}
		}
	}
	d, rows := bestBase(), bestRows()
	if s.Recipe == RecipeCourse {
		d, rows = courseBase(), courseRows()
	}
	r, ok := find(rows, s.Model, s.Conv)
	if !ok {
		r, ok = find(rows, s.Model, ConvLibrary)
	}
	if !ok {
		panic(fmt.Sprintf("job: recipe %s has no row for %s", s.Recipe, s.Model))
	}
	d.Model, d.Conv, d.Epochs = s.Model, s.Conv, r.epochs
	d.Optimizer, d.LR, d.Momentum = r.optimizer, r.lr, r.momentum
	d.WeightDecay, d.ClipGrad, d.EMA = r.weightDecay, r.clipGrad, r.ema
	switch {
	case s.Optimizer == AdamW && r.optimizer != AdamW:
		d.Optimizer, d.LR, d.Momentum, d.WeightDecay = AdamW, 0.002, 0, 0.05
	case s.Optimizer == SGD && r.optimizer != SGD:
		d.Optimizer, d.LR, d.Momentum, d.WeightDecay = SGD, 0.1, 0.9, 1e-4
	}
	d.Nesterov = d.Nesterov && d.Optimizer == SGD
	if s.Augment == AugmentStrong {
		d.Mixup, d.Cutmix = 0.2, 1
	}
	adversarialDefaults(&d, s)
	if s.Epochs > 0 {
		d.Epochs = s.Epochs
	}
	if d.Recipe == RecipeBest {
		d.Warmup = min(d.Warmup, float64(d.Epochs)/5) // a short run cannot afford more
		if d.Model == ModelSceneNet {
			d.ImageSize = growing(d.Epochs)
		}
	}
	return d, nil
}

// growing trains on images of 64 pixels for three fifths of the epochs, then of 96: a pixel costs as much early as late, and
// larger images late bring the network near the size at which it is tested (Touvron et al., "FixRes", 2019).
func growing(epochs int) string {
	small := epochs * 3 / 5
	if small == 0 {
		return "96"
	}
	return fmt.Sprintf("64:0-%d,96:%d-", small-1, small)
}

// find returns the row of a model and convolution.
func find(rows []row, model, conv string) (row, bool) {
	for _, r := range rows {
		if r.model == model && r.conv == conv {
			return r, true
		}
	}
	return row{}, false
}
