package cmd

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"mp/job"
)

func TestTrainingAgainstAttacksIsMeasured(t *testing.T) {
	images := t.TempDir()
	if err := paintImages(t.Context(), images, 4); err != nil {
		t.Fatal(err)
	}
	base := stepSpec{Model: job.ModelSimpleNet, Mode: modeChannelsLast, Batch: 4, Size: 32, Threads: 1, Workers: 1, Shards: 2, Data: images,
		AdvPrecision: job.BF16} // of the strategies that have one
	for _, base.Strategy = range []string{job.AdversarialNone, job.AdversarialPGD, job.AdversarialFree} {
		base.Dir = t.TempDir()
		spec, err := json.Marshal(base)
		if err != nil {
			t.Fatal(err)
		}
		var out, complaint bytes.Buffer
		if code := Main([]string{"bench", "step", "--measure", string(spec)}, &out, &complaint); code != exitDone {
			t.Fatalf("%s: exit code %d: %s", base.Strategy, code, complaint.String())
		}
		var times crewTimes
		if err := json.Unmarshal(out.Bytes(), &times); err != nil || len(times.Seconds) == 0 || times.CPU <= 0 {
			t.Errorf("%s prints %q, want seconds and processor time", base.Strategy, out.String())
		}
		if n := len(times.Seconds); base.Strategy == job.AdversarialFree && n%8 != 0 {
			t.Errorf("free training took %d updates, want whole batches of 8", n)
		}
	}
}

func TestBenchTrainingMeasuresTheSameShardsByAnyWorkers(t *testing.T) {
	o := benchTraining{models: []string{job.ModelSimpleNet}, strategies: []string{job.AdversarialPGD}, size: 64, workers: 2}
	s, err := o.base(benchAttackOptions{attackSpec: attackSpec{Batch: 50, Seconds: 1}, repetitions: 1})
	if err != nil || s.Shards != 2 || s.Threads != 1 {
		t.Errorf("got %+v and error %v, want 2 shards and 1 thread", s, err)
	}
}

func TestBenchTrainingRefusesWhatCannotBe(t *testing.T) {
	for _, c := range []struct{ flag, value, want string }{
		{"--image-size", "8", "--image-size"}, {"--strategy", "magic", "magic"}, {"--strategy", "none", "compared with"}, {"--model", "magic", "magic"}, {"--repetitions", "0", "--repetitions"}, {"--workers", "3", "evenly"}} {
		var out, complaint bytes.Buffer
		code := Main([]string{"bench", "attack", "--training", c.flag, c.value}, &out, &complaint)
		if code != exitBadInput || !strings.Contains(complaint.String(), c.want) {
			t.Errorf("%s %s: exit code %d: %s; want %d and %q", c.flag, c.value, code, complaint.String(), exitBadInput, c.want)
		}
	}
}
