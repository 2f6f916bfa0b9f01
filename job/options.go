package job

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// Option is one option of a run, the same in a flag, a job file and the printed configuration.
type Option struct {
	Name   string   // the flag without its dashes; the key of a job file
	Short  string   // one letter, or none
	Group  string   // heading under which people find it
	Help   string   // meaning and unit, in one line
	Words  []string // the values it may have; nil: whatever its type may hold
	Hidden bool     // an argument of the command, not a flag

	// Field points to the option's value in s: a *string, *int, *uint64, *float64 or *bool.
	Field func(s *Spec) any
}

// groupAdversarial is the heading of what only adversarial training has, and groupChoice the option that asks for it.
const (
	groupAdversarial = "adversarial training"
	groupChoice      = "adversarial"
)

// Options lists every option of a run, in the order in which people should read them.
func Options() []Option {
	const what, length, update, images, adversarial, val, machine, start, report = "run", "length", "update", "images", groupAdversarial, "validation", "machine", "start", "report"
	return []Option{
		{Name: "data", Group: what, Hidden: true, Help: "folder of MiniPlaces, or a pack", Field: func(s *Spec) any { return &s.Data }},
		{Name: "name", Group: what, Help: "name at the end of the run's directory; empty: the model", Field: func(s *Spec) any { return &s.Name }},
		{Name: "model", Group: what, Help: "what to train", Field: func(s *Spec) any { return &s.Model },
			Words: []string{ModelSimpleNet, ModelSimpleViT, ModelResNet18, ModelSceneNet}},
		{Name: "conv", Group: what, Help: "whose convolution: the library's or our own", Field: func(s *Spec) any { return &s.Conv },
			Words: []string{ConvLibrary, ConvOwn}},
		{Name: "recipe", Group: what, Help: "defaults of all other options: the course's, to the number, or our best", Field: func(s *Spec) any { return &s.Recipe },
			Words: []string{RecipeCourse, RecipeBest}},
		{Name: "seed", Group: what, Help: "start of everything random", Field: func(s *Spec) any { return &s.Seed }},

		{Name: "epochs", Group: length, Help: "times that every training image is seen, but those held out by --adv-watch-images", Field: func(s *Spec) any { return &s.Epochs }},
		{Name: "batch-size", Short: "b", Group: length, Help: "images an update", Field: func(s *Spec) any { return &s.BatchSize }},
		{Name: "shards", Group: length, Help: "equal parts of a batch that are computed apart; part of the result, not of the layout", Field: func(s *Spec) any { return &s.Shards }},
		{Name: "image-size", Group: length, Help: "side of the training crop in pixels, by epoch: 128, or 96:0-7,128:8- (epochs from 0)", Field: func(s *Spec) any { return &s.ImageSize }},

		{Name: "optimizer", Group: update, Help: "update rule", Field: func(s *Spec) any { return &s.Optimizer }, Words: []string{SGD, AdamW}},
		{Name: "lr", Group: update, Help: "learning rate at its highest", Field: func(s *Spec) any { return &s.LR }},
		{Name: "schedule", Group: update, Help: "course of the learning rate after warm-up", Field: func(s *Spec) any { return &s.Schedule },
			Words: []string{ScheduleCosine, ScheduleOneCycle, ScheduleConstant}},
		{Name: "warmup", Group: update, Help: "epochs until the learning rate is at its highest", Field: func(s *Spec) any { return &s.Warmup }},
		{Name: "momentum", Group: update, Help: "share of the last update kept by sgd", Field: func(s *Spec) any { return &s.Momentum }},
		{Name: "nesterov", Group: update, Help: "sgd looks ahead along its momentum", Field: func(s *Spec) any { return &s.Nesterov }},
		{Name: "weight-decay", Group: update, Help: "pull of every weight towards zero", Field: func(s *Spec) any { return &s.WeightDecay }},
		{Name: "decay-all", Group: update, Help: "decay norms and biases too", Field: func(s *Spec) any { return &s.DecayAll }},
		{Name: "clip-grad", Group: update, Help: "largest norm of the gradient; 0: any", Field: func(s *Spec) any { return &s.ClipGrad }},
		{Name: "ema", Group: update, Help: "share kept an update by the running average of the weights, which is then what is validated; 0: no average", Field: func(s *Spec) any { return &s.EMA }},

		{Name: "augment", Group: images, Help: "how training images are varied; strong adds TrivialAugment, erasing, mixup and cutmix to best", Field: func(s *Spec) any { return &s.Augment },
			Words: []string{AugmentNone, "flip", AugmentCourse, AugmentBest, AugmentStrong}},
		{Name: "label-smoothing", Group: images, Help: "share of each label spread over all classes", Field: func(s *Spec) any { return &s.LabelSmoothing }},
		{Name: "mixup", Group: images, Help: "alpha of mixing two images; 0: never", Field: func(s *Spec) any { return &s.Mixup }},
		{Name: "cutmix", Group: images, Help: "alpha of pasting one image into another; 0: never", Field: func(s *Spec) any { return &s.Cutmix }},

		{Name: groupChoice, Group: adversarial, Help: "train on attacked images; free makes --adv-steps updates with each batch, so the paper's N epochs are --epochs N/steps here", Field: func(s *Spec) any { return &s.Adversarial },
			Words: []string{AdversarialNone, AdversarialPGD, AdversarialFGSMRS, AdversarialNFGSM, AdversarialFree, AdversarialTRADES, AdversarialMART}},
		{Name: "adv-eps", Group: adversarial, Help: "how far the attack may move a value of 0 to 1; 8/255 unless given", Field: func(s *Spec) any { return &s.AdvEps }},
		{Name: "adv-step-size", Group: adversarial, Help: "how far one step goes; its authors' share of --adv-eps unless given", Field: func(s *Spec) any { return &s.AdvStepSize }},
		{Name: "adv-steps", Group: adversarial, Help: "steps of the attack, for free updates with one batch; its authors' unless given", Field: func(s *Spec) any { return &s.AdvSteps }},
		{Name: "adv-beta", Group: adversarial, Help: "weight of the robust term of trades (6 unless given) and mart (5)", Field: func(s *Spec) any { return &s.AdvBeta }},
		{Name: "adv-warmup", Group: adversarial, Help: "epochs in which eps grows from 0", Field: func(s *Spec) any { return &s.AdvWarmup }},
		{Name: "adv-clean", Group: adversarial, Help: "share of the images that stay as they are, chosen image by image", Field: func(s *Spec) any { return &s.AdvClean }},
		{Name: "adv-awp", Group: adversarial, Help: "how far the weights are moved against the loss before the gradient is taken, as a share of their length, such as 0.005; 0: not", Field: func(s *Spec) any { return &s.AdvAWP }},
		{Name: "adv-batch-norm", Group: adversarial, Help: "what batch norms use while the attack looks: the running statistics or the batch's", Field: func(s *Spec) any { return &s.AdvBatchNorm },
			Words: []string{NormEval, NormTrain}},
		{Name: "adv-precision", Group: adversarial, Help: "numbers in the network while the attack looks: as --precision, or bf16, enough for the signs of its gradients and dearer or cheaper by the device (mp bench attack --training --adv-precision bf16)", Field: func(s *Spec) any { return &s.AdvPrecision },
			Words: []string{AdvSame, BF16}},
		{Name: "adv-watch", Group: adversarial, Help: "what happens when robust accuracy collapses: it is told, and the run stops, goes on from the best weights, or goes on with pgd", Field: func(s *Spec) any { return &s.AdvWatch },
			Words: []string{WatchTell, WatchStop, WatchRollback, WatchPGD}},
		{Name: "adv-watch-images", Group: adversarial, Help: "training images that are held out of training, an equal share of every stretch of the list, and attacked by PGD-10 after each epoch; they choose the best checkpoint; 0: none, all images train, and top-1 on the validation images chooses", Field: func(s *Spec) any { return &s.AdvWatchImages }},

		{Name: "val-batch", Group: val, Help: "images a batch in validation", Field: func(s *Spec) any { return &s.ValBatch }},
		{Name: "scale", Group: val, Help: "short side before the centre crop in pixels, or none", Field: func(s *Spec) any { return &s.Scale }},
		{Name: "interpolation", Group: val, Help: "how --scale resizes; random draws one an image, as the course does", Field: func(s *Spec) any { return &s.Interpolation },
			Words: []string{"random", "nearest", "bilinear", "bicubic"}},

		{Name: "device", Group: machine, Help: "cpu, the number of a GPU, or auto: GPU 0 where there is one", Field: func(s *Spec) any { return &s.Device }},
		{Name: "precision", Group: machine, Help: "numbers in forward and backward; weights stay fp32; our own recipe takes bf16, unless told otherwise, where this machine (a GPU of it, or its processor) is faster with it", Field: func(s *Spec) any { return &s.Precision }, Words: []string{FP32, BF16}},
		{Name: "channels-last", Group: machine, Help: "keep the channels of a pixel together in memory", Field: func(s *Spec) any { return &s.ChannelsLast }},
		{Name: "threads", Group: machine, Help: "CPU threads of one operation; part of the result; 0: as many as cores", Field: func(s *Spec) any { return &s.Threads }},

		{Name: "resume", Group: start, Help: "run directory or checkpoint (also a PyTorch one) to go on from, for mp train also a run's copies, s3://BUCKET/PREFIX/RUN; empty: a new run", Field: func(s *Spec) any { return &s.Resume }},
		{Name: "init", Group: start, Help: "file of weights to start from; empty: random ones", Field: func(s *Spec) any { return &s.Init }},
		{Name: "init-partial", Group: start, Help: "let weights that --init lacks start at random", Field: func(s *Spec) any { return &s.InitPartial }},

		{Name: "print-freq", Short: "p", Group: report, Help: "steps between reported lines", Field: func(s *Spec) any { return &s.PrintFreq }},
		{Name: "checkpoint-every", Group: report, Help: "steps between checkpoints within an epoch; 0: at the end of epochs only", Field: func(s *Spec) any { return &s.CheckpointEvery }},
		{Name: "keep-checkpoints", Group: report, Help: "newest checkpoints kept, beside the best", Field: func(s *Spec) any { return &s.KeepCheckpoints }},
		{Name: "pictures", Group: report, Help: "after each validation, keep pictures of training images, of where the network looks in them and, in adversarial training, of attacked ones", Field: func(s *Spec) any { return &s.Pictures }},
		{Name: "histograms", Group: report, Help: "epochs between histograms of weights and gradients, for TensorBoard; 0: none", Field: func(s *Spec) any { return &s.Histograms }},
	}
}

// Value is the option's value in s as a person would type it.
func (o Option) Value(s Spec) string {
	switch p := o.Field(&s).(type) {
	case *string:
		return *p
	case *int:
		return strconv.Itoa(*p)
	case *uint64:
		return strconv.FormatUint(*p, 10)
	case *float64:
		return strconv.FormatFloat(*p, 'g', -1, 64)
	case *bool:
		return strconv.FormatBool(*p)
	default:
		panic(fmt.Sprintf("job: option %s has a field of unknown type %T", o.Name, p))
	}
}

// Set writes a value as a person types it into the option's field of s. Words that the option may not have are refused,
// as are numbers that its field cannot hold; what contradicts another option is left to Validate.
func (o Option) Set(s *Spec, text string) error {
	text = strings.TrimSpace(text)
	switch p := o.Field(s).(type) {
	case *string:
		if o.Words != nil && !slices.Contains(o.Words, text) {
			return fmt.Errorf("%s %q: choose %s", o.Name, text, strings.Join(o.Words, ", "))
		}
		*p = text
	case *int:
		v, err := strconv.ParseInt(text, 10, 32)
		if err != nil {
			return fmt.Errorf("%s %q: want a whole number", o.Name, text)
		}
		*p = int(v)
	case *uint64:
		v, err := strconv.ParseUint(text, 0, 64)
		if err != nil {
			return fmt.Errorf("%s %q: want a whole number from 0 on", o.Name, text)
		}
		*p = v
	case *float64:
		v, err := strconv.ParseFloat(text, 64)
		if err != nil || math.IsNaN(v) || math.IsInf(v, 0) {
			return fmt.Errorf("%s %q: want a number", o.Name, text)
		}
		*p = v
	case *bool:
		v, err := strconv.ParseBool(text)
		if err != nil {
			return fmt.Errorf("%s %q: want true or false", o.Name, text)
		}
		*p = v
	default:
		panic(fmt.Sprintf("job: option %s has a field of unknown type %T", o.Name, p))
	}
	return nil
}
