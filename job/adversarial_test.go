package job

import (
	"errors"
	"strings"
	"testing"
)

func strategies() []string {
	return []string{AdversarialPGD, AdversarialFGSMRS, AdversarialNFGSM, AdversarialFree, AdversarialTRADES, AdversarialMART}
}

func TestStrategiesHaveTheirAuthorsSettings(t *testing.T) {
	for strategy, want := range map[string]struct {
		eps, step string
		steps     int
		beta      float64
	}{
		"pgd": {"8/255", "2/255", 7, 0}, "fgsm-rs": {"8/255", "10/255", 1, 0}, "nfgsm": {"8/255", "8/255", 1, 0},
		"free": {"8/255", "8/255", 8, 0}, "trades": {"8/255", "2/255", 10, 6}, "mart": {"8/255", "2/255", 10, 5},
	} {
		for _, recipe := range []string{RecipeCourse, RecipeBest} {
			for _, model := range []string{ModelSimpleNet, ModelSimpleViT, ModelSceneNet} {
				s, err := Default(Spec{Recipe: recipe, Model: model, Adversarial: strategy, Augment: AugmentStrong})
				s.Data = "d"
				if err == nil {
					err = s.Validate()
				}
				if err != nil {
					t.Errorf("%s %s %s: %v", strategy, recipe, model, err)
				}
				if s.AdvEps != want.eps || s.AdvStepSize != want.step || s.AdvSteps != want.steps || s.AdvBeta != want.beta {
					t.Errorf("%s: eps %s in %d steps of %s, beta %g; want %+v", strategy, s.AdvEps, s.AdvSteps, s.AdvStepSize, s.AdvBeta, want)
				}
			}
		}
	}
	s, err := Default(Spec{Adversarial: AdversarialFGSMRS, AdvEps: "4/255"})
	if err != nil || s.AdvStepSize != "5/255" {
		t.Errorf("half the radius: a step of %s, %v; want 5/255", s.AdvStepSize, err)
	}
	free, err := Default(Spec{Model: ModelSimpleNet, Adversarial: AdversarialFree})
	if err != nil || free.Epochs != 8 || free.Warmup != .5 || free.Replays() != 8 {
		t.Errorf("free has %d epochs, %g of them warm-up, of %d updates a batch, %v; want 60/8, 4/8 and 8", free.Epochs, free.Warmup, free.Replays(), err)
	}
	if text := s.Table(80); !strings.Contains(text, "adv-step-size") {
		t.Errorf("the table of an adversarial run does not show its attack:\n%s", text)
	}
	natural, err := Default(Spec{})
	if text := natural.Table(80); err != nil || strings.Contains(text, "adv-") || !strings.Contains(text, "adversarial") {
		t.Errorf("a natural run's table: %v\n%s", err, text)
	}
}

func TestImpossibleAdversarialTrainingIsRefused(t *testing.T) {
	for _, c := range []struct {
		strategy string
		change   func(*Spec)
		want     string
	}{
		{"pgd", func(s *Spec) { s.AdvEps = "8" }, "--adv-eps 8 is more than the whole range of a value, 0 to 1: did you mean 8/255?"},
		{"pgd", func(s *Spec) { s.AdvEps = "300/255" }, "more than the whole range"},
		{"pgd", func(s *Spec) { s.AdvEps = "0" }, "want a positive number or a fraction"},
		{"pgd", func(s *Spec) { s.AdvEps = "" }, `--adv-eps "": want a positive number`},
		{"pgd", func(s *Spec) { s.AdvStepSize = "2" }, "did you mean 2/255?"},
		{"pgd", func(s *Spec) { s.AdvSteps = 0 }, "--adv-steps 0: choose 1 to 1000"},
		{"nfgsm", func(s *Spec) { s.AdvSteps = 2 }, "takes one step"},
		{"pgd", func(s *Spec) { s.AdvBeta = 1 }, "--adv-beta belongs to"},
		{"trades", func(s *Spec) { s.AdvBeta = 0 }, "leaves nothing of trades"},
		{"pgd", func(s *Spec) { s.AdvWarmup = 1000 }, "lower --adv-warmup"},
		{"pgd", func(s *Spec) { s.AdvClean = 1 }, "--adv-clean 1: choose 0 to less than 1"},
		{"free", func(s *Spec) { s.AdvStepSize = "2/255" }, "its step is eps"},
		{"pgd", func(s *Spec) { s.Mixup = .2 }, "images of two classes"},
		{"mart", func(s *Spec) { s.LabelSmoothing = .1 }, "no meaning in mart's loss"},
		{"pgd", func(s *Spec) { s.AdvWatch, s.AdvWatchImages = WatchStop, 0 }, "needs images to watch: give --adv-watch-images above 0"},
		{"pgd", func(s *Spec) { s.AdvWatch = WatchPGD }, "belongs to --adversarial fgsm-rs and nfgsm"},
		{"none", func(s *Spec) { s.AdvEps = "8/255" }, "the --adv options belong to adversarial training"},
		{"pgd", func(s *Spec) { s.AdvBatchNorm = "batch" }, "choose eval, train"},
		{"pgd", func(s *Spec) { s.AdvPrecision = "fp64" }, "choose same, bf16"},
		{"free", func(s *Spec) { s.AdvPrecision = BF16 }, "free attacks with the gradients of its updates"},
		{"none", func(s *Spec) { s.AdvPrecision = BF16 }, "the --adv options belong to adversarial training"},
	} {
		s, err := Default(Spec{Adversarial: c.strategy})
		if err != nil {
			t.Fatal(err)
		}
		s.Data = "d"
		c.change(&s)
		err = s.Validate()
		if !errors.Is(err, ErrConfig) || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "things") {
			t.Errorf("%s: got %v, want the single complaint %q", c.strategy, err, c.want)
		}
	}
}

func TestAdversarialJobFileSurvivesWriting(t *testing.T) {
	for _, strategy := range strategies() {
		want, err := Default(Spec{Adversarial: strategy})
		if err != nil {
			t.Fatal(err)
		}
		want.Data, want.AdvEps, want.AdvAWP = "d", "4/255", .005
		text, err := want.YAML()
		if err != nil {
			t.Fatal(err)
		}
		if got, err := Resolve(File("job.yaml", text)); err != nil || got != want {
			t.Errorf("%s read back\n got %+v, %v\nwant %+v", strategy, got, err, want)
		}
	}
}
