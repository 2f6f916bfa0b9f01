package job

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestOptionsNameEveryFieldOnce(t *testing.T) {
	var s Spec
	fields := reflect.TypeOf(s)
	byPointer := map[any]string{}
	for _, o := range Options() {
		p := o.Field(&s)
		if other, twice := byPointer[p]; twice {
			t.Errorf("options %s and %s share a field", other, o.Name)
		}
		byPointer[p] = o.Name
		if o.Help == "" || o.Group == "" {
			t.Errorf("option %s has no help or no group", o.Name)
		}
	}
	if got, want := len(byPointer), fields.NumField(); got != want {
		t.Fatalf("got %d options, want one for each of %d fields", got, want)
	}
	v := reflect.ValueOf(&s).Elem()
	for i := range fields.NumField() {
		name := byPointer[v.Field(i).Addr().Interface()]
		for _, tag := range []string{"yaml", "json"} {
			if got := fields.Field(i).Tag.Get(tag); got != name {
				t.Errorf("field %s: %s tag is %q, want %q", fields.Field(i).Name, tag, got, name)
			}
		}
	}
}

// The reference's command lines and defaults, number by number.
func TestCourseRecipeIsTheReference(t *testing.T) {
	for _, c := range []struct {
		model, conv, optimizer     string
		epochs                     int
		lr, momentum, decay, clips float64
	}{
		{"simplenet", "library", "sgd", 60, 0.1, 0.9, 0.0001, 0},
		{"simplenet", "own", "sgd", 10, 0.1, 0.9, 0.0001, 0},
		{"simplevit", "library", "adamw", 90, 0.01, 0, 0.05, 1},
		{"resnet18", "library", "sgd", 60, 0.1, 0.9, 0.0001, 0},
		{"resnet18", "own", "sgd", 60, 0.1, 0.9, 0.0001, 0},
		{"scenenet", "library", "sgd", 60, 0.1, 0.9, 0.0001, 0},
	} {
		got, err := Default(Spec{Recipe: "course", Model: c.model, Conv: c.conv})
		if err != nil {
			t.Fatal(err)
		}
		want := Spec{
			Recipe: "course", Model: c.model, Conv: c.conv, Epochs: c.epochs, BatchSize: 256, Shards: 1, ImageSize: "128",
			Optimizer: c.optimizer, LR: c.lr, Schedule: "cosine", Warmup: 5, Momentum: c.momentum, WeightDecay: c.decay, DecayAll: true, ClipGrad: c.clips,
			Augment: "course", ValBatch: 100, Scale: "144", Interpolation: "random",
			Adversarial: "none", AdvBatchNorm: "eval", AdvPrecision: "same", AdvWatch: "tell",
			Device: "auto", Precision: "fp32", PrintFreq: 10, KeepCheckpoints: 2, Pictures: true,
		}
		if got != want {
			t.Errorf("course %s %s:\n got %+v\nwant %+v", c.model, c.conv, got, want)
		}
	}
}

func TestEveryDefaultIsValid(t *testing.T) {
	for _, recipe := range []string{RecipeCourse, RecipeBest} {
		for _, model := range []string{ModelSimpleNet, ModelSimpleViT, ModelResNet18, ModelSceneNet} {
			for _, optimizer := range []string{"", SGD, AdamW} {
				s, err := Default(Spec{Recipe: recipe, Model: model, Optimizer: optimizer})
				s.Data = "d"
				if err == nil {
					err = s.Validate()
				}
				if err != nil {
					t.Errorf("%s %s %s: %v", recipe, model, optimizer, err)
				}
			}
		}
	}
	if strong, err := Default(Spec{Augment: AugmentStrong}); err != nil || strong.Mixup != 0.2 || strong.Cutmix != 1 {
		t.Errorf("strong augmentation mixes by %g and %g, %v; want 0.2 and 1", strong.Mixup, strong.Cutmix, err)
	}
	short, err := Default(Spec{Epochs: 1})
	if err != nil {
		t.Fatal(err)
	}
	if short.Warmup != 0.2 {
		t.Errorf("one epoch of our recipe warms up for %g epochs, want 0.2", short.Warmup)
	}
}

func TestLaterLayersWin(t *testing.T) {
	file := File("job.yaml", []byte("# a job\nmodel: simplenet\nrecipe: course\nbatch-size: 64\nimage-size: 128\nname: \"night run\"\nlr: 2e-2 # small\n"))
	flags := func(s *Spec) error { s.BatchSize = 32; return nil }
	s, err := Resolve(file, flags)
	if err != nil {
		t.Fatal(err)
	}
	if s.BatchSize != 32 {
		t.Errorf("batch size is %d, want the flag's 32", s.BatchSize)
	}
	if s.LR != 0.02 || s.Model != "simplenet" || s.Name != "night run" || s.ImageSize != "128" {
		t.Errorf("the file's values are not in %+v", s)
	}
	if s.Epochs != 60 || s.ValBatch != 100 || s.Scale != "144" {
		t.Errorf("defaults are not those of the recipe that the file chooses: %+v", s)
	}
}

func TestJobFileSurvivesWriting(t *testing.T) {
	want, err := Default(Spec{})
	if err != nil {
		t.Fatal(err)
	}
	want.Data, want.Name, want.Seed, want.Device = `C:\a "b": #c`, "x.y", 1<<63+1, "0"
	want.LR, want.ImageSize = 1e-8, "96:0-3,128:4-"
	text, err := want.YAML()
	if err != nil {
		t.Fatal(err)
	}
	got, err := Resolve(File("job.yaml", text))
	if err != nil {
		t.Fatalf("read back: %v\n%s", err, text)
	}
	if got != want {
		t.Errorf("read back\n got %+v\nwant %+v\nfrom\n%s", got, want, text)
	}
}

func TestJobFileErrorsNameTheLine(t *testing.T) {
	for _, c := range []struct{ file, want string }{
		{"model: simplenet\nbath-size: 3\n", `line 2: unknown key "bath-size": did you mean "batch-size"?`},
		{"weight_decay: 3", `line 1: unknown key "weight_decay": did you mean "weight-decay"?`},
		{"gpu-count: 3", `line 1: unknown key "gpu-count": the keys are the flags`},
		{"model: vgg", `line 1: model "vgg": choose simplenet, simplevit, resnet18, scenenet`},
		{"epochs: 3\nepochs: 4", `line 2: mapping key "epochs" already defined`},
		{"\n\nepochs: 1.5", `line 3: epochs "1.5": want a whole number`},
		{"epochs: 99999999999", `want a whole number`},
		{"seed: -1", `seed "-1": want a whole number from 0 on`},
		{"lr: .inf", `lr ".inf": want a number`},
		{"nesterov: maybe", `want true or false`},
		{"epochs:", `epochs: want one value`},
		{"epochs: [1, 2]", `epochs: want one value`},
		{"- epochs", `line 1: want lines such as`},
		{"epochs: 3\n---\nepochs: 4", `holds 2 documents`},
		{"epochs: [", `line 1`},
		{"epochs: 3\n\tlr: 2", `line 2`},
	} {
		_, err := Resolve(File("j.yaml", []byte(c.file)))
		if !errors.Is(err, ErrConfig) || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "job file j.yaml") {
			t.Errorf("job file %q:\n got %v\nwant %s", c.file, err, c.want)
		}
	}
}

func FuzzJobFile(f *testing.F) {
	f.Add([]byte("model: simplenet\nimage-size: 96:0-15,128:16-\n"))
	f.Add([]byte("lr: &a .inf\nb: *a"))
	f.Fuzz(func(t *testing.T, content []byte) {
		s, err := Resolve(File("j.yaml", content))
		if err != nil {
			if !errors.Is(err, ErrConfig) {
				t.Errorf("error is not ErrConfig: %v", err)
			}
			return
		}
		_ = s.Validate()
		_ = s.Table(80)
	})
}

func TestValidateListsEveryContradiction(t *testing.T) {
	good, err := Default(Spec{})
	if err != nil {
		t.Fatal(err)
	}
	good.Data = "d"
	if err := good.Validate(); err != nil {
		t.Fatalf("default: %v", err)
	}
	for _, c := range []struct {
		change func(*Spec)
		want   string
	}{
		{func(s *Spec) { s.Data = "" }, "no data"},
		{func(s *Spec) { s.Name = "../x" }, "--name"},
		{func(s *Spec) { s.Device = "-1" }, "--device"},
		{func(s *Spec) { s.Scale = "96" }, "--scale"},
		{func(s *Spec) { s.Epochs = 0 }, "--epochs 0: choose 1 to"},
		{func(s *Spec) { s.Momentum = 1 }, "--momentum 1: choose 0 to less than 1"},
		{func(s *Spec) { s.LR = 0 }, "--lr 0 trains nothing"},
		{func(s *Spec) { s.Shards = 3 }, "3 equal shards"},
		{func(s *Spec) { s.Optimizer = AdamW; s.Momentum = 0 }, "--nesterov belongs to"},
		{func(s *Spec) { s.Optimizer = AdamW; s.Nesterov = false }, "--momentum belongs to"},
		{func(s *Spec) { s.Momentum = 0 }, "--nesterov needs --momentum"},
		{func(s *Spec) { s.Warmup = 27 }, "lower --warmup"},
		{func(s *Spec) { s.Model, s.ImageSize, s.Conv = ModelSimpleViT, "128", ConvOwn }, "--conv own is for the CNNs"},
		{func(s *Spec) { s.Resume, s.Init = "a", "b" }, "--resume goes on"},
		{func(s *Spec) { s.InitPartial = true }, "--init-partial needs"},
		{func(s *Spec) { s.Augment = "none"; s.Mixup = 0.2 }, "--augment none contradicts"},
		{func(s *Spec) { s.ImageSize = "96:0-3" }, "leave the last range open"},
		{func(s *Spec) { s.ImageSize = "96:0-3,128:5-" }, "begin at 4"},
		{func(s *Spec) { s.ImageSize = "96:0-,128:5-" }, "no end"},
		{func(s *Spec) { s.ImageSize = "96:0-26,128:27-" }, "would begin at epoch 27"},
		{func(s *Spec) { s.ImageSize = "8" }, "8 pixels"},
		{func(s *Spec) { s.ImageSize = "96:5-3" }, "begin"},
		{func(s *Spec) { s.ImageSize = "" }, "want 128"},
		{func(s *Spec) { s.Model = ModelSimpleViT; s.ImageSize = "96" }, "simplevit's positions"},
		{func(s *Spec) { s.Precision = "fp16" }, "choose fp32, bf16"},
	} {
		s := good
		c.change(&s)
		err := s.Validate()
		if !errors.Is(err, ErrConfig) || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "things") {
			t.Errorf("got %v, want the single complaint %q", err, c.want)
		}
	}
	s := good
	s.Epochs, s.Shards, s.Resume, s.Init = 0, 3, "a", "b"
	if err := s.Validate(); err == nil || strings.Count(err.Error(), "\n  - ") != 3 {
		t.Errorf("three faults: got %v", err)
	}
}

func TestSizes(t *testing.T) {
	sizes, err := ParseSizes("96:0-15,112:16-20, 128:21-")
	if err != nil {
		t.Fatal(err)
	}
	for epoch, want := range map[int]int{0: 96, 15: 96, 16: 112, 20: 112, 21: 128, 1000: 128} {
		if got := sizes.At(epoch); got != want {
			t.Errorf("epoch %d: got %d, want %d", epoch, got, want)
		}
	}
	if got := sizes.Max(); got != 128 {
		t.Errorf("largest: got %d, want 128", got)
	}
}

func TestTableMarksWhatDiffers(t *testing.T) {
	s, err := Default(Spec{Model: ModelSceneNet})
	if err != nil {
		t.Fatal(err)
	}
	s.Data, s.LR, s.BatchSize, s.Name = "miniplaces", 0.05, 128, "x"
	for _, width := range []int{0, 80, 120, 20} {
		text := s.Table(width)
		t.Logf("width %d\n%s", width, text)
		for _, want := range []string{"* batch-size", "* lr ", "0.05", "(0.1)", "(64)", "data", "miniplaces"} {
			if !strings.Contains(text, want) {
				t.Errorf("width %d: no %q in\n%s", width, want, text)
			}
		}
		if got := strings.Count(text, "*"); got != 3 {
			t.Errorf("width %d: %d marks, want 2 and their explanation", width, got)
		}
		for line := range strings.SplitSeq(text, "\n") {
			if width >= 80 && len(line) > width {
				t.Errorf("width %d: line of %d: %q", width, len(line), line)
			}
		}
	}
}

func TestDryRun(t *testing.T) {
	s, err := Default(Spec{Model: ModelSimpleNet})
	if err != nil {
		t.Fatal(err)
	}
	text := s.DryRun(Facts{
		TrainImages: 100000, ValImages: 10000, StepsPerEpoch: 390, Parameters: 365028,
		Layers: []LayerFact{{"features.0", "convolution", []int{128, 64, 64, 64}, 9472, 4_932_000_000}, {"fc", "linear", []int{128, 100}, 51300, 6_553_600}},
		Memory: []MemoryFact{{"weights", 4 * 365028}, {"activations", 3 << 30}},
		Rates:  []RateFact{{1, 0, 0, 128}, {60, 23399, 1e-8, 128}},
	}, 80)
	t.Log("\n" + text)
	for _, want := range []string{"128x64x64x64", "convolution", "4,932 M", "4,939 M", "365,028", "3,072 MiB", "3,073 MiB", "23,399", "1e-08", "100,000 images train"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
}

func TestDryRunTellsWhatIsHeldOutAndReplayed(t *testing.T) {
	s, err := Default(Spec{Adversarial: AdversarialFree})
	if err != nil {
		t.Fatal(err)
	}
	text := s.DryRun(Facts{TrainImages: 99500, HeldOut: 500, ValImages: 10000, StepsPerEpoch: 389, Rates: []RateFact{{1, 0, 0, 128}}}, 80)
	if want := "of 389 steps with 8 updates each; 99,500 images train, 500 are held out and attacked after each epoch, 10,000 validate\n"; !strings.Contains(text, want) {
		t.Errorf("no %q in\n%s", want, text)
	}
}

func TestRunNamesSortByTime(t *testing.T) {
	s := Spec{Model: ModelSceneNet}
	early, late := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), time.Date(2026, 1, 2, 13, 4, 5, 0, time.UTC)
	if got, want := s.RunName(early), "20260102-030405-scenenet"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	s.Name = "a"
	if got := s.RunName(late); got <= (Spec{Name: "z"}).RunName(early) {
		t.Errorf("a later run's name %s sorts before an earlier one's", got)
	}
}

func ExampleParseSizes() {
	sizes, _ := ParseSizes("96:0-15,128:16-")
	fmt.Println(sizes.At(0), sizes.At(16))
	// Output: 96 128
}
