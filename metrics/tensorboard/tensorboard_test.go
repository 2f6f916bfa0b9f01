package tensorboard

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"image"
	"image/color"
	"image/png"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"mp/metrics"
)

// start is when the events of these tests happen.
func start() time.Time { return time.Date(2026, 1, 2, 3, 4, 5, 678e6, time.UTC) }

// told are events as a recorder reads them, one after another from one stream.
type told struct{ events []metrics.Event }

func (s *told) add(e metrics.Event) metrics.Event {
	n := len(s.events) + 1
	e.Time = start().Add(time.Duration(n) * time.Second)
	e.Origin = &metrics.Origin{Worker: "1", Stream: start(), Sequence: uint64(n)}
	s.events = append(s.events, e)
	return e
}

func (s *told) step(update int, loss float64) {
	s.add(metrics.Event{Kind: metrics.KindStep, Step: &metrics.Step{Update: update, Loss: metrics.Value(loss), LearningRate: .1, ImagesPerSecond: 60, MemoryBytes: 1 << 20, GradientNorm: .5}})
}

func (s *told) picture(update int) {
	m := image.NewRGBA(image.Rect(0, 0, 5, 3))
	for i := range 15 {
		m.Set(i%5, i/5, color.RGBA{uint8(update), uint8(10 * i), 200, 255})
	}
	var b bytes.Buffer
	if err := png.Encode(&b, m); err != nil {
		panic(err)
	}
	s.add(metrics.Event{Kind: metrics.KindPicture, Picture: &metrics.Picture{Tag: metrics.TagSaliency, Update: update, PNG: b.Bytes()}})
}

// write gives events to a sink in dir, as one recorder does.
func write(t *testing.T, dir string, events []metrics.Event) {
	t.Helper()
	s, err := New(Config{Dir: dir, Name: "c-1"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range events {
		s.Emit(e)
	}
	if err := errors.Join(s.Err(), s.Close()); err != nil {
		t.Fatal(err)
	}
}

// seen is what TensorBoard has of a run.
type seen struct {
	Scalars    map[string][][3]float64 `json:"scalars"` // step, time, value
	Images     map[string][][]any      `json:"images"`  // step, time, width, height, SHA-256
	Histograms map[string][][]any      `json:"histograms"`
}

// read lets the real TensorBoard read what is in a run's directory.
func read(t *testing.T, dir string) map[string]seen {
	t.Helper()
	folder := os.Getenv("TENSORBOARD")
	if folder == "" {
		folder = "../../build/tensorboard"
		if _, err := os.Stat(filepath.Join(folder, "tensorboard")); err != nil {
			t.Skip("no TensorBoard to read with: make tensorboard-check fetches it")
		}
	}
	cmd := exec.CommandContext(t.Context(), "../../build/venv/bin/python", "testdata/read.py", filepath.Join(dir, Folder))
	cmd.Env = append(os.Environ(), "TENSORBOARD="+folder)
	var problems bytes.Buffer
	cmd.Stderr = &problems
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("read with TensorBoard: %v\n%s", err, problems.String())
	}
	runs := map[string]seen{}
	if err := json.Unmarshal(out, &runs); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return runs
}

// One run with everything: a recorder that is killed in a record, one that hears some events again, and workers that go on
// from an earlier update. TensorBoard must show each value once, and the newest.
func TestRealTensorBoardReadsEveryValueOnce(t *testing.T) {
	s := &told{}
	s.add(metrics.Event{Kind: metrics.KindView, View: &metrics.View{Number: 1, Members: make([]metrics.ViewMember, 3)}})
	s.step(10, 4.5)
	s.step(20, 4.25)
	s.add(metrics.Event{Kind: metrics.KindWorker, Worker: &metrics.Worker{Worker: 7, Name: "worker 2", Update: 20, ArrivalSkew: .25, MemoryBytes: 5 << 30, GPU: &metrics.GPU{Busy: new(.75), UsedBytes: 6 << 30}}})
	s.add(metrics.Event{Kind: metrics.KindEpoch, Epoch: &metrics.Epoch{Epoch: 1, Update: 20, Top1: 3, Top5: 12, Loss: 4.4}})
	s.add(metrics.Event{Kind: metrics.KindValidation, Validation: &metrics.Validation{Epoch: 1, Update: 20, Top1: 5, Top5: 17.5, Loss: 4.1, Robust: &metrics.Robust{Top1: 1.5, CleanTop1: new(7.5)}}})
	s.picture(20)
	weights := metrics.NewHistogram("features.0.weight", []float32{-1, -.5, 0, .25, 1, 1})
	s.add(metrics.Event{Kind: metrics.KindHistograms, Histograms: &metrics.Histograms{Epoch: 1, Update: 20, Weights: []metrics.Histogram{weights},
		Gradients: []metrics.Histogram{metrics.NewHistogram("features.0.weight", []float32{2, 2})}}})
	s.step(30, math.NaN())
	s.step(40, 3.5)
	s.add(metrics.Event{Kind: metrics.KindView, View: &metrics.View{Number: 2, Update: 40, Warning: true, DetectSeconds: .5}})
	s.add(metrics.Event{Kind: metrics.KindView, View: &metrics.View{Number: 2, Update: 41, RecoverSeconds: 1.5}})
	crash := len(s.events)
	s.picture(20) // all went back to the checkpoint before the epoch's end, and what follows is told again
	s.step(30, 3.25)
	s.step(40, 3)
	s.add(metrics.Event{Kind: metrics.KindWorker, Worker: &metrics.Worker{Worker: 7, Name: "worker 2", Update: 40, ArrivalSkew: .5}})
	s.add(metrics.Event{Kind: metrics.KindValidation, Validation: &metrics.Validation{Epoch: 2, Update: 40, Top1: 9}})
	s.picture(40)

	dir := t.TempDir()
	write(t, dir, s.events[:crash-2])
	files, err := filepath.Glob(filepath.Join(dir, Folder, "*", "events.out.tfevents.*.c-1"))
	if err != nil || len(files) != 2 {
		t.Fatalf("got files %q, %v; want one for each run", files, err)
	}
	for _, path := range files { // a record that a dead process did not finish
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
		if err == nil {
			_, err = f.Write(frame([]byte("the beginning of an event"))[:20])
		}
		if err = errors.Join(err, f.Close()); err != nil {
			t.Fatal(err)
		}
	}
	write(t, dir, s.events[2:crash])
	write(t, dir, s.events[5:])
	write(t, dir, s.events)
	if again, err := filepath.Glob(filepath.Join(dir, Folder, "*", "*")); err != nil || len(again) != 2 {
		t.Errorf("got files %q, %v; want those of the first recorder to go on", again, err)
	}

	runs := read(t, dir)
	if len(runs) != 2 {
		t.Fatalf("got runs %v, want train and val", runs)
	}
	for _, c := range []struct {
		run, tag string
		want     [][2]float64 // step, value
	}{
		{"train", "data/training_loss", [][2]float64{{10, 4.5}, {20, 4.25}, {30, 3.25}, {40, 3}}},
		{"train", "data/learning_rate", [][2]float64{{10, .1}, {20, .1}, {30, .1}, {40, .1}}},
		{"train", "speed/images_per_second", [][2]float64{{10, 60}, {20, 60}, {30, 60}, {40, 60}}},
		{"train", "data/gradient_norm", [][2]float64{{10, .5}, {20, .5}, {30, .5}, {40, .5}}},
		{"train", "data/top1_accuracy", [][2]float64{{20, 3}}},
		{"train", "data/top5_accuracy", [][2]float64{{20, 12}}},
		{"train", "arrival_skew_seconds/worker 2", [][2]float64{{20, .25}, {40, .5}}},
		{"train", "memory_bytes/worker 2", [][2]float64{{20, 5 << 30}, {40, 0}}},
		{"train", "gpu_busy/worker 2", [][2]float64{{20, .75}}},
		{"train", "gpu_memory_used_bytes/worker 2", [][2]float64{{20, 6 << 30}}},
		{"train", "cluster/workers", [][2]float64{{0, 3}}},
		{"train", "cluster/goodput", nil}, // after two reports nobody knows how long a step takes
		{"val", "data/top1_accuracy", [][2]float64{{20, 5}, {40, 9}}},
		{"val", "data/top5_accuracy", [][2]float64{{20, 17.5}, {40, 0}}},
		{"val", "data/robust_top1_accuracy", [][2]float64{{20, 1.5}}},
		{"val", "data/held_out_top1_accuracy", [][2]float64{{20, 7.5}}},
	} {
		got := runs[c.run].Scalars[c.tag]
		same := slices.EqualFunc(got, c.want, func(a [3]float64, b [2]float64) bool { return a[0] == b[0] && a[2] == float64(float32(b[1])) })
		if !same {
			t.Errorf("%s %s: TensorBoard has %v, want %v", c.run, c.tag, got, c.want)
		}
	}
	if got := runs["train"].Scalars["data/training_loss"][0][1]; math.Abs(got-(float64(start().UnixMilli())/1000+2)) > 1e-5 {
		t.Errorf("the first step is of time %f, want %f", got, float64(start().UnixMilli())/1000+2)
	}
	pictures := runs["train"].Images[metrics.TagSaliency]
	if len(pictures) != 2 {
		t.Fatalf("got pictures %v, want those of updates 20 and 40", pictures)
	}
	for i, e := range []metrics.Event{s.events[6], s.events[len(s.events)-1]} {
		sum := sha256.Sum256(e.Picture.PNG)
		p := pictures[i]
		if p[0] != float64(e.Picture.Update) || p[2] != 5. || p[3] != 3. || p[4] != hex.EncodeToString(sum[:]) {
			t.Errorf("picture %d is %v, want update %d, 5 x 3, SHA-256 %x", i, p, e.Picture.Update, sum)
		}
	}
	h := runs["train"].Histograms
	if w := h["weights/features.0.weight"]; len(w) != 1 || w[0][2] != -1. || w[0][3] != 1. || w[0][4] != 6. || w[0][5] != .75 || w[0][6] != 3.3125 || len(w[0][7].([]any)) != len(weights.Buckets) {
		t.Errorf("weights are %v", w)
	}
	if g := h["gradients/features.0.weight"]; len(g) != 1 || g[0][4] != 2. {
		t.Errorf("gradients are %v", g)
	}
}

func TestADamagedFileIsLeftAloneAndAnotherBegins(t *testing.T) {
	s := &told{}
	s.step(10, 1)
	s.step(20, 2)
	dir := t.TempDir()
	write(t, dir, s.events)
	path := filepath.Join(dir, Folder, train, "events.out.tfevents.1767323046.c-1")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	text[len(text)-10] ^= 1 // in the last record
	if err := os.WriteFile(path, text, 0o644); err != nil {
		t.Fatal(err)
	}
	s.step(30, 3)
	write(t, dir, s.events)
	after, err := os.ReadFile(path)
	if err != nil || !bytes.Equal(after, text) {
		t.Errorf("the damaged file has changed: %v", err)
	}
	var steps []int
	f, err := os.Open(filepath.Join(dir, Folder, train, "events.out.tfevents.1767323047.c-1"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := readRecords(f, func(b []byte) error {
		m, err := decode(b)
		if m.writer != "" {
			steps = append(steps, m.step)
		}
		return err
	}); err != nil || !slices.Equal(steps, []int{20, 30}) {
		t.Errorf("the next file has steps %v, %v; want 20, which was damaged, and 30", steps, err)
	}
}

func TestChecksumsAreMaskedCRC32C(t *testing.T) {
	check := uint32(0xe3069283) // of "123456789", by the definition of CRC-32C
	if got, want := masked([]byte("123456789")), check>>15|check<<17; got-0xa282ead8 != want {
		t.Errorf("got %#x, want %#x turned and masked", got, check)
	}
}

func TestBadConfigurationAndPlaces(t *testing.T) {
	for _, c := range []Config{{}, {Dir: "d"}, {Dir: "d", Name: "a/b"}} {
		if err := c.Validate(); err == nil {
			t.Errorf("%+v: no error", c)
		}
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, Folder), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	s, err := New(Config{Dir: dir, Name: "c"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	told := &told{}
	told.step(1, 1)
	s.Emit(told.events[0])
	if s.Err() == nil {
		t.Error("a file in the folder's place: an event was taken without a word")
	}
}
