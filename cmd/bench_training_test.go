package cmd

import (
	"bytes"
	"encoding/json"
	"testing"

	"mp/job"
)

func TestTrainingAgainstAttacksIsMeasured(t *testing.T) {
	images := t.TempDir()
	if err := paintImages(t.Context(), images, 4); err != nil {
		t.Fatal(err)
	}
	base := stepSpec{Model: job.ModelSimpleNet, Mode: modeChannelsLast, Batch: 4, Size: 32, Threads: 1, Workers: 1, Shards: 1, Dir: images, Data: images}
	for _, strategy := range []string{job.AdversarialNone, job.AdversarialPGD, job.AdversarialFree} {
		spec, err := json.Marshal(trainingSpec{base, strategy})
		if err != nil {
			t.Fatal(err)
		}
		var out, complaint bytes.Buffer
		if code := Main([]string{"bench", "attack", "--training", "--measure", string(spec)}, &out, &complaint); code != exitDone {
			t.Fatalf("%s: exit code %d: %s", strategy, code, complaint.String())
		}
		var times trainingTimes
		if err := json.Unmarshal(out.Bytes(), &times); err != nil || times.Seconds <= 0 || times.CPU <= 0 {
			t.Errorf("%s prints %q, want seconds and processor time", strategy, out.String())
		}
	}
}

func TestBenchTrainingRefusesWhatCannotBe(t *testing.T) {
	for _, args := range [][]string{{"--image-size", "8"}, {"--strategy", "magic"}, {"--repetitions", "0"}} {
		var out, complaint bytes.Buffer
		if code := Main(append([]string{"bench", "attack", "--training"}, args...), &out, &complaint); code != exitBadInput {
			t.Errorf("%v: exit code %d, want %d: %s", args, code, exitBadInput, complaint.String())
		}
	}
}
