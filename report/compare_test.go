package report

import (
	"path/filepath"
	"strings"
	"testing"
)

// variant is another run like testdata's whose job says something else.
func variant(t *testing.T, old, now string) string {
	t.Helper()
	dir := copied(t)
	replace(t, filepath.Join(dir, "job.yaml"), old, now)
	return dir
}

// Runs that differ in what the course compares are compared so, and only those.
func TestComparisons(t *testing.T) {
	for _, c := range []struct {
		name string
		runs func(t *testing.T) []string
		want []string
		not  string
	}{
		{"convolutions", func(t *testing.T) []string {
			own := variant(t, "conv: library", "conv: own")
			replace(t, filepath.Join(own, "metrics.jsonl"), `"update":30,"loss":4.1`, `"update":30,"loss":4.2`)
			return []string{own, copied(t)}
		}, []string{"Our own convolution beside the library's", "Over 6 updates that both report", "from update 30 on by more than a hundredth", "1.00 ×", "mp bench conv --json", "Speed, 1.00 ×"}, "vision transformer beside"},
		{"transformer", func(t *testing.T) []string {
			vit := variant(t, "model: scenenet", "model: simplevit")
			replace(t, filepath.Join(vit, "metrics.jsonl"), `"top1":22.5`, `"top1":80`)
			return []string{vit, variant(t, "model: scenenet", "model: simplenet")}
		}, []string{"The vision transformer beside the convolutional network", "a difference of +57.50 points", "more than two standard errors"}, "Our own design"},
		{"own design", func(t *testing.T) []string {
			fine := variant(t, "model: scenenet", "model: resnet18")
			replace(t, filepath.Join(fine, "job.yaml"), `init: ""`, "init: imagenet.safetensors")
			return []string{copied(t), fine}
		}, []string{"Our own design beside ResNet-18", "it may be chance", "began with the weights of imagenet.safetensors"}, "Training against attacks beside"},
		{"against attacks", func(t *testing.T) []string {
			hard := variant(t, "adversarial: none\nadv-eps: \"\"", "adversarial: pgd\nadv-eps: 1/255")
			replace(t, filepath.Join(hard, "report", "attack", "attack.json"), `"top1": 2.5`, `"top1": 12.5`)
			replace(t, filepath.Join(hard, "metrics.jsonl"), `"best":true`, `"best":true,"robust":{"images":20,"loss":3,"top1":15,"top5":40,"clean_top1":60}`)
			return []string{copied(t), hard}
		}, []string{"Training against attacks beside training without", "keeps 12.5 % of its images right under attack", "(+10.0 points)", "PGD-10, training | 1/255 | 20 | 60.00 | 15.00 | 25 %"}, "Our own convolution beside"},
		{"the same", func(t *testing.T) []string { return []string{copied(t), copied(t)} }, []string{"The runs have the same options", "scenenet (2)"}, "Our own convolution beside"},
		{"other data", func(t *testing.T) []string {
			other := copied(t)
			replace(t, filepath.Join(other, "metrics.jsonl"), `"images":40`, `"images":50`)
			return []string{copied(t), other}
		}, []string{"validated on different data sets", "their accuracies cannot be compared"}, "vision transformer"},
	} {
		t.Run(c.name, func(t *testing.T) {
			text := textOf(t, htmlOf(t, documentOf(t, c.runs(t)...)))
			for _, want := range c.want {
				if !strings.Contains(text, want) {
					t.Errorf("no %q in\n%s", want, text)
				}
			}
			if strings.Contains(text, c.not) {
				t.Errorf("%q in\n%s", c.not, text)
			}
		})
	}
}

// Names are short, and never alike.
func TestNames(t *testing.T) {
	runs := []*Run{{Input: Input{Directory: "runs/20260102-030405-scenenet"}}, {Input: Input{Directory: "runs/20260102-030406-scenenet"}}, {Input: Input{Directory: "a/own"}}, {Input: Input{Directory: "b/own"}}}
	nameRuns(runs)
	for i, want := range []string{"20260102-030405-scenenet", "20260102-030406-scenenet", "own (3)", "own (4)"} {
		if runs[i].Name != want {
			t.Errorf("got %q, want %q", runs[i].Name, want)
		}
	}
}

func TestConfused(t *testing.T) {
	got := Confused([]Cell{{0, 0, 9}, {0, 1, 2}, {1, 0, 3}, {2, 1, 5}, {2, 0, 0}}, 5)
	if len(got) != 2 || got[0].A != 0 || got[0].B != 1 || got[0].AsB != 2 || got[0].AsA != 3 || got[1].A != 1 || got[1].B != 2 || got[1].AsA != 5 {
		t.Errorf("got %+v", got)
	}
	if got := Confused([]Cell{{0, 1, 2}, {1, 2, 9}}, 1); len(got) != 1 || got[0].AsB != 9 {
		t.Errorf("of two the most confused: got %+v", got)
	}
}
