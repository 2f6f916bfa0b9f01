package job

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Words of the options of adversarial training.
const (
	AdversarialNone   = "none"
	AdversarialPGD    = "pgd"
	AdversarialFGSMRS = "fgsm-rs"
	AdversarialNFGSM  = "nfgsm"
	AdversarialFree   = "free"
	AdversarialTRADES = "trades"
	AdversarialMART   = "mart"

	NormEval  = "eval"
	NormTrain = "train"

	AdvSame = "same"

	WatchTell     = "tell"
	WatchStop     = "stop"
	WatchRollback = "rollback"
	WatchPGD      = "pgd"
)

// adversarialRow is a strategy as its authors use it.
type adversarialRow struct {
	strategy string
	steps    int
	step     float64 // of eps; 0: the strategy has no step of its own
	beta     float64 // weight of the robust term
}

// adversarialRows are the authors' settings for eps 8/255 on CIFAR-10. Steps go with eps where that is given.
func adversarialRows() []adversarialRow {
	return []adversarialRow{
		{AdversarialPGD, 7, .25, 0},     // Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks", 2018, section 5: 7 steps of 2/255
		{AdversarialFGSMRS, 1, 1.25, 0}, // Wong et al., "Fast is better than free", 2020, section 4: 1.25 eps from a uniform start
		{AdversarialNFGSM, 1, 1, 0},     // de Jorge et al., "Make Some Noise", 2022, section 4: eps from noise of 2 eps
		{AdversarialFree, 8, 1, 0},      // Shafahi et al., "Adversarial Training for Free!", 2019, section 5: 8 replays, steps of eps
		{AdversarialTRADES, 10, .25, 6}, // Zhang et al., "Theoretically Principled Trade-off between Robustness and Accuracy", 2019, section 5: 1/lambda 6, steps of .007
		{AdversarialMART, 10, .25, 5},   // Wang et al., "Improving Adversarial Robustness Requires Revisiting Misclassified Examples", 2020, section 4: lambda 5, steps of .007
	}
}

// defaultEps is the field's for images.
const defaultEps = "8/255"

// watchImages is how many images are held out of training for the watchdog where nothing else is asked.
const watchImages = 500

// adversarialDefaults fills in what the strategy chosen in s decides.
func adversarialDefaults(d *Spec, s Spec) {
	d.Adversarial, d.AdvBatchNorm, d.AdvPrecision, d.AdvWatch = AdversarialNone, NormEval, AdvSame, WatchTell
	for _, r := range adversarialRows() {
		if r.strategy != s.Adversarial {
			continue
		}
		d.Adversarial, d.AdvEps, d.AdvSteps, d.AdvBeta, d.AdvWatchImages = r.strategy, defaultEps, r.steps, r.beta, watchImages
		if s.AdvEps != "" {
			d.AdvEps = s.AdvEps
		}
		if eps, err := ParseAmount(d.AdvEps); err == nil {
			d.AdvStepSize = strconv.FormatFloat(math.Round(eps*255*r.step*1e9)/1e9, 'g', -1, 64) + "/255"
		}
		d.Mixup, d.Cutmix = 0, 0
		if r.strategy == AdversarialMART {
			d.LabelSmoothing = 0
		}
		if r.strategy == AdversarialFree {
			m := r.steps // updates with one batch: as many as the recipe makes in all
			if s.AdvSteps > 0 {
				m = s.AdvSteps
			}
			d.Epochs = (d.Epochs + m - 1) / m
			d.Warmup /= float64(m)
		}
	}
}

// Replays is how many updates in a row are made with one batch: 1, but for free adversarial training.
func (s Spec) Replays() int {
	if s.Adversarial == AdversarialFree {
		return s.AdvSteps
	}
	return 1
}

// Attacked says whether the run trains on attacked images.
func (s Spec) Attacked() bool { return s.Adversarial != AdversarialNone && s.Adversarial != "" }

// ParseAmount reads a distance between images whose values go from 0 to 1: a number, or a fraction such as 8/255.
func ParseAmount(text string) (float64, error) {
	above, below, fraction := strings.Cut(text, "/")
	v, err := strconv.ParseFloat(strings.TrimSpace(above), 64)
	if err == nil && fraction {
		var d float64
		d, err = strconv.ParseFloat(strings.TrimSpace(below), 64)
		v /= d
	}
	if err != nil || !(v > 0) || math.IsInf(v, 0) {
		return 0, fmt.Errorf("want a positive number or a fraction such as 8/255")
	}
	return v, nil
}

// checkAdversarial says what of the adversarial options cannot be.
func (s Spec) checkAdversarial(report func(string, ...any)) {
	if !s.Attacked() {
		if s.AdvEps != "" || s.AdvStepSize != "" || s.AdvSteps != 0 || s.AdvBeta != 0 || s.AdvWarmup != 0 || s.AdvClean != 0 || s.AdvAWP != 0 || s.AdvWatchImages != 0 || s.AdvPrecision == BF16 {
			report("the --adv options belong to adversarial training: choose --adversarial, such as pgd, or leave them out")
		}
		return
	}
	for _, a := range []struct{ option, text string }{{"adv-eps", s.AdvEps}, {"adv-step-size", s.AdvStepSize}} {
		switch v, err := ParseAmount(a.text); {
		case err != nil:
			report("--%s %q: %v", a.option, a.text, err)
		case v > 1 && !strings.Contains(a.text, "/"):
			report("--%s %s is more than the whole range of a value, 0 to 1: did you mean %s/255?", a.option, a.text, a.text)
		case v > 1:
			report("--%s %s is more than the whole range of a value, 0 to 1", a.option, a.text)
		}
	}
	if s.AdvSteps < 1 || s.AdvSteps > 1000 {
		report("--adv-steps %d: choose 1 to 1000; an attack without a step changes nothing", s.AdvSteps)
	}
	weighs := s.Adversarial == AdversarialTRADES || s.Adversarial == AdversarialMART
	switch single := s.Adversarial == AdversarialFGSMRS || s.Adversarial == AdversarialNFGSM; {
	case single && s.AdvSteps > 1:
		report("--adversarial %s takes one step: leave --adv-steps out, or choose pgd", s.Adversarial)
	case weighs && s.AdvBeta == 0:
		report("--adv-beta 0 leaves nothing of %s: choose the weight of its robust term, or --adversarial pgd", s.Adversarial)
	case !weighs && s.AdvBeta != 0:
		report("--adv-beta belongs to --adversarial trades and mart: leave it out")
	}
	if s.Adversarial == AdversarialFree && s.AdvPrecision == BF16 {
		report("--adv-precision bf16: free attacks with the gradients of its updates, which have --precision: leave it out, or choose another --adversarial")
	}
	if s.AdvWarmup > float64(s.Epochs) && s.Epochs > 0 {
		report("--adv-warmup %g epochs do not end within --epochs %d: lower --adv-warmup", s.AdvWarmup, s.Epochs)
	}
	if s.Adversarial == AdversarialFree {
		if eps, err := ParseAmount(s.AdvEps); err == nil {
			if step, err := ParseAmount(s.AdvStepSize); err == nil && math.Abs(step-eps) > 1e-9 {
				report("--adv-step-size %s: free keeps its perturbation as -eps, 0 or eps, so its step is eps: leave --adv-step-size out", s.AdvStepSize)
			}
		}
	}
	if s.Mixup > 0 || s.Cutmix > 0 {
		report("--mixup and --cutmix make images of two classes, which the attacks of --adversarial %s cannot flee: leave one side out", s.Adversarial)
	}
	if s.Adversarial == AdversarialMART && s.LabelSmoothing > 0 {
		report("--label-smoothing has no meaning in mart's loss, which is a margin between two classes: leave one of them out")
	}
	if s.AdvWatchImages == 0 && s.AdvWatch != WatchTell {
		report("--adv-watch %s needs images to watch: give --adv-watch-images above 0", s.AdvWatch)
	}
	if s.AdvWatch == WatchPGD && s.Adversarial != AdversarialFGSMRS && s.Adversarial != AdversarialNFGSM {
		report("--adv-watch pgd turns training with one step into training with several: it belongs to --adversarial fgsm-rs and nfgsm")
	}
}
