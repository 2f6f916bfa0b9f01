package cmd

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"strings"
	"testing"

	"mp/job"
	"mp/ops"
)

func TestBenchConvRefusesWhatItCannotMeasure(t *testing.T) {
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"--layout", "nhwc"}, `--layout "nhwc": choose channels_last or contiguous`},
		{[]string{"--precision", "fp16"}, `--precision "fp16": choose fp32 or bf16`},
		{[]string{"--precision", "bf16", "--layout", "contiguous"}, "channels last"},
		{[]string{"--batch-size", "0"}, "--batch-size"},
		{[]string{"--threads", "-1"}, "--threads"},
	} {
		code, stdout, stderr := callMain(append([]string{"bench", "conv"}, c.args...)...)
		if code != exitBadInput || stdout != "" || !strings.Contains(stderr, c.want) {
			t.Errorf("%v: got code %d, stdout %q, stderr %q; want 64 and %q", c.args, code, stdout, stderr, c.want)
		}
	}
}

func TestBenchConvMeasuresPairs(t *testing.T) {
	o := benchConvOptions{batch: 1, repetitions: 2, threads: 1, layout: layoutChannelsLast, precision: job.FP32}
	for _, l := range simpleNetConvolutions()[:2] {
		pairs, err := measureLayer(context.Background(), o, l)
		if err != nil {
			t.Fatal(err)
		}
		if len(pairs) != o.repetitions {
			t.Errorf("%v: got %d pairs, want %d", l, len(pairs), o.repetitions)
		}
		// At least: input and its gradient (not of the image), output and its gradient.
		least := 4 * (l.in*l.size*l.size + 2*l.out*l.outputSize()*l.outputSize())
		if !l.first {
			least += 4 * l.in * l.size * l.size
		}
		for _, pair := range pairs {
			for side, m := range pair {
				if m.seconds <= 0 || m.bytes < least {
					t.Errorf("%v, side %d: got %+v, want some time and at least %d bytes", l, side, m, least)
				}
			}
		}
	}
}

func TestBenchConvChildMeasuresSteps(t *testing.T) {
	spec, err := json.Marshal(stepSpec{Model: job.ModelSimpleNet, Mode: modeChannelsLast, Batch: 1, Size: 128, Threads: 1, CUDA: ops.CPU, Own: true})
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := measureConvStep(context.Background(), newEnv(&out, os.Stderr, os.LookupEnv), string(spec)); err != nil {
		t.Fatal(err)
	}
	var got convStep
	if err := json.Unmarshal(out.Bytes(), &got); err != nil {
		t.Fatalf("%v: %s", err, out.String())
	}
	if len(got.Seconds) != convSteps || got.Tensors <= 0 || got.Before <= 0 || got.Peak <= got.Before {
		t.Errorf("got %+v, want %d steps and memory that grows", got, convSteps)
	}
}

func TestPairRowIsMediansOfPairs(t *testing.T) {
	got := pairRow("name", "ms", 1e3, [2][]float64{sideOwn: {2, 30, 4}, sideLibrary: {1, 10, 4}})
	want := benchRow{Name: "name", Value: 4000, Unit: "ms", Ratio: 2, Peer: "library 4000"}
	if got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}
