package worker

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"mp/checkpoint"
	"mp/data"
	"mp/job"
	"mp/metrics"
	"mp/ops"
	"mp/ops/pixel"
)

type decoder struct{}

func (decoder) Decode(jpegs [][]byte, dst []byte) []error { return pixel.Decode(jpegs, dst) }

// packPair is the images of training and of validation.
type packPair [2]*data.Pack

// packs paints a small data set and packs it; its last batch of an epoch is not full.
func packs(t testing.TB) packPair {
	t.Helper()
	dir := t.TempDir()
	ctx := context.Background()
	if err := data.Synth(ctx, data.SynthConfig{Dir: dir, Classes: 4, Train: 45, Val: 12, Seed: 1}); err != nil {
		t.Fatal(err)
	}
	root, err := data.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	open := func(split data.Split) *data.Pack {
		path := filepath.Join(dir, string(split)+".pack")
		if err := data.WritePack(ctx, data.PackConfig{Root: root, Split: split, Path: path, Decoder: decoder{}}); err != nil {
			t.Fatal(err)
		}
		p, err := data.OpenPack(path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { p.Close() })
		return p
	}
	return packPair{open(data.Train), open(data.Val)}
}

// stopAt cancels the run when a number of updates is reported, or when the last image is validated.
type stopAt struct {
	update    int
	validated bool
	cancel    context.CancelFunc
}

func (s stopAt) Emit(e metrics.Event) {
	atStep := e.Step != nil && e.Step.Update == s.update
	atEnd := s.validated && e.Progress != nil && e.Progress.Title == "validate" && e.Progress.Done == e.Progress.Total
	if atStep || atEnd {
		s.cancel()
	}
}

// whileValidating stands for a number of updates: stop when the first validation has seen its last image.
const whileValidating = -1

// short is a run of two epochs of six updates, with everything that could break its repetition.
func short(t testing.TB, model string, shards int) job.Spec {
	t.Helper()
	s, err := job.Default(job.Spec{Model: model})
	if err != nil {
		t.Fatal(err)
	}
	s.Data, s.Epochs, s.BatchSize, s.Shards, s.ImageSize = "d", 2, 8, shards, "32:0-0,48:1-"
	s.PrintFreq, s.Threads, s.Seed, s.EMA, s.Warmup = 1, 1, 7, .9, .5
	s.Pictures = false // where they are not what is tested
	if model == job.ModelSimpleViT {
		s.ImageSize = "128"
	}
	return s
}

// train runs a job in dir until it ends or, with a positive number, after stop updates.
func train(t *testing.T, s job.Spec, dir string, p packPair, stop int) (Result, error) {
	t.Helper()
	device, err := ops.OpenDevice(ops.DeviceConfig{GPU: ops.CPU, Threads: s.Threads})
	if err != nil {
		t.Fatal(err)
	}
	defer device.Close()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	w, err := New(ctx, Config{Spec: s, Train: p[0], Val: p[1], Directory: dir, Device: device, Sink: stopAt{stop, stop == whileValidating, cancel}})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	return w.Run(ctx)
}

func TestResumedRunEndsWithTheSameBits(t *testing.T) {
	t.Parallel()
	p := packs(t)
	for _, c := range []struct {
		model  string
		shards int
		stops  []int
	}{
		{job.ModelSceneNet, 2, []int{1, 6, 9, whileValidating}},
		{job.ModelSimpleNet, 1, []int{5}},
		{job.ModelSimpleViT, 1, []int{7}},
	} {
		t.Run(c.model, func(t *testing.T) {
			s := short(t, c.model, c.shards)
			want, err := train(t, s, t.TempDir(), p, 0)
			if err != nil {
				t.Fatal(err)
			}
			if !everything {
				c.stops = c.stops[len(c.stops)/2:]
			}
			for _, stop := range c.stops {
				dir := t.TempDir()
				if _, err := train(t, s, dir, p, stop); !errors.Is(err, ErrStopped) {
					t.Fatalf("stopped after update %d: got %v, want ErrStopped", stop, err)
				}
				if best, _, err := checkpoint.Best(dir); stop == whileValidating && (err != nil || !strings.HasPrefix(filepath.Base(best), "best-")) {
					t.Errorf("stopped while validating: the best checkpoint is %q, %v", best, err)
				}
				again := s
				again.Resume = dir
				got, err := train(t, again, dir, p, 0)
				if err != nil {
					t.Fatalf("resumed after update %d: %v", stop, err)
				}
				if got.SHA256 != want.SHA256 {
					t.Errorf("resumed after update %d: weights are %s, want %s", stop, got.SHA256, want.SHA256)
				}
				if got.Best.Top1 != want.Best.Top1 || got.Best.Top5 != want.Best.Top5 || got.BestEpoch != want.BestEpoch {
					t.Errorf("resumed after update %d: best is %+v of epoch %d, want %+v of epoch %d", stop, got.Best, got.BestEpoch, want.Best, want.BestEpoch)
				}
			}
		})
	}
}

func TestAnotherRunsBestIsNotThisOnes(t *testing.T) {
	p := packs(t)
	s := short(t, job.ModelSimpleNet, 1)
	first, second := t.TempDir(), t.TempDir()
	if _, err := train(t, s, first, p, 7); !errors.Is(err, ErrStopped) { // after the validation of epoch 1
		t.Fatal(err)
	}
	s.Resume = first
	got, err := train(t, s, second, p, 0)
	if err != nil {
		t.Fatal(err)
	}
	if got.BestEpoch != 2 || filepath.Dir(filepath.Dir(got.Checkpoint)) != second {
		t.Errorf("best is epoch %d in %s, want the only epoch validated here, 2, in %s", got.BestEpoch, got.Checkpoint, second)
	}
}

func TestWrongCheckpointsAreRefused(t *testing.T) {
	p := packs(t)
	dir := t.TempDir()
	s := short(t, job.ModelSimpleNet, 1)
	if _, err := train(t, s, dir, p, 2); !errors.Is(err, ErrStopped) {
		t.Fatal(err)
	}
	device, err := ops.OpenDevice(ops.DeviceConfig{GPU: ops.CPU, Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer device.Close()
	c := Config{Train: p[0], Val: p[1], Directory: dir, Device: device, Sink: stopAt{}}
	c.Spec = short(t, job.ModelSceneNet, 1)
	c.Spec.Resume = dir
	if _, err := New(context.Background(), c); !errors.Is(err, job.ErrConfig) {
		t.Errorf("another model's checkpoint: got %v, want job.ErrConfig", err)
	}
	latest, _, err := checkpoint.Latest(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(filepath.Join(latest, "model.safetensors"), 1000); err != nil {
		t.Fatal(err)
	}
	c.Spec = s
	c.Spec.Resume = dir
	if _, err := New(context.Background(), c); !errors.Is(err, checkpoint.ErrFormat) {
		t.Errorf("a checkpoint cut short: got %v, want checkpoint.ErrFormat", err)
	}
}
