package worker

import (
	"bytes"
	"context"
	"encoding/json"
	"image/png"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"mp/data"
	"mp/job"
	"mp/metrics"
	"mp/model"
	"mp/ops"
)

// told is a sink that remembers.
type told struct{ events []metrics.Event }

func (s *told) Emit(e metrics.Event) { s.events = append(s.events, e) }

// pictures are those that were told.
func (s *told) pictures() []metrics.Picture {
	var out []metrics.Picture
	for _, e := range s.events {
		if e.Kind == metrics.KindPicture {
			out = append(out, *e.Picture)
		}
	}
	return out
}

// listenTo trains alone and returns what was told.
func listenTo(t *testing.T, s job.Spec, p packPair) (Result, *told) {
	t.Helper()
	device, err := ops.OpenDevice(ops.DeviceConfig{GPU: ops.CPU, Threads: s.Threads})
	if err != nil {
		t.Fatal(err)
	}
	defer device.Close()
	sink := &told{}
	w, err := New(context.Background(), Config{Spec: s, Train: p[0], Val: p[1], Directory: t.TempDir(), Device: device, Sink: sink})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	r, err := w.Run(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return r, sink
}

func TestPicturesShowTheRunAndChangeNoBit(t *testing.T) {
	t.Parallel()
	p := packs(t)
	natural := cheap(t) // with an average of the weights
	half := short(t, job.ModelSceneNet, 2)
	half.Precision, half.Epochs, half.ImageSize = job.BF16, 1, "48" // with batch norm
	pgd := adversarial(t, cheap(t), job.AdversarialPGD)
	pgd.Epochs, pgd.Augment = 1, job.AugmentStrong
	specs := map[string]job.Spec{"natural": natural, "bf16": half, "pgd": pgd}
	if everything {
		specs["free"] = adversarial(t, cheap(t), job.AdversarialFree)
	}
	for name, s := range specs {
		without := want(t, s, p)
		s.Pictures, s.Histograms = true, 2
		with, sink := listenTo(t, s, p)
		if with.SHA256 != without.SHA256 || with.OptimizerSHA256 != without.OptimizerSHA256 || with.Best != without.Best {
			t.Errorf("%s: with pictures %.8s, %.8s, %+v; without %.8s, %.8s, %+v", name, with.SHA256, with.OptimizerSHA256, with.Best, without.SHA256, without.OptimizerSHA256, without.Best)
		}
		tags := []string{metrics.TagImages, metrics.TagSaliency}
		if s.Attacked() {
			tags = append(tags, metrics.TagAdversarial)
		}
		var got, wanted []string
		for range s.Epochs {
			wanted = append(wanted, tags...)
		}
		for i, picture := range sink.pictures() {
			got = append(got, picture.Tag)
			m, err := png.Decode(bytes.NewReader(picture.PNG))
			if err != nil || m.Bounds().Dx() < 4*96 {
				t.Errorf("%s: picture %s is none: %v", name, picture.Tag, err)
			}
			epoch := i/len(tags) + 1
			if picture.Epoch != epoch || picture.Update != 6*epoch || picture.File != metrics.PictureFile(picture.Update, picture.Tag) || picture.Caption == "" {
				t.Errorf("%s: picture %d is of epoch %d, update %d, in %s", name, i, picture.Epoch, picture.Update, picture.File)
			}
		}
		if !slices.Equal(got, wanted) {
			t.Errorf("%s: got pictures %q, want %q", name, got, wanted)
		}
		histograms := 0
		for _, e := range sink.events {
			switch {
			case e.Story != nil && e.Story.Topic == "picture", e.Story != nil && e.Story.Topic == "histograms":
				t.Errorf("%s: %s", name, e.Story.Text)
			case e.Histograms != nil:
				histograms++
				checkHistograms(t, *e.Histograms)
			}
		}
		if histograms != s.Epochs/2 {
			t.Errorf("%s: %d histograms in %d epochs, want one every other", name, histograms, s.Epochs)
		}
	}
	s := cheap(t)
	w := want(t, s, p)
	s.Pictures = true
	c := newCrew(t, s, p)
	for range 2 {
		c.hire(nil)
	}
	c.join()
	c.check(w)
}

// checkHistograms looks at those of SimpleNet with four classes.
func checkHistograms(t *testing.T, h metrics.Histograms) {
	t.Helper()
	elements := map[string]int{"features.0.weight": 64 * 3 * 7 * 7, "features.0.bias": 64, "features.7.weight": 256 * 64, "fc.weight": 4 * 512, "fc.bias": 4}
	for what, all := range map[string][]metrics.Histogram{"weights": h.Weights, "gradients": h.Gradients} {
		found := 0
		for _, one := range all {
			if n, ok := elements[one.Name]; ok {
				found++
				if one.Count != n || one.Max <= one.Min || one.Squares <= 0 {
					t.Errorf("%s of %s: %+v, want %d elements", what, one.Name, one, n)
				}
			}
		}
		if found != len(elements) || len(all) != 16 || h.Update != 12 {
			t.Errorf("after update %d, %s of %d parameters with %d of those known, want 16 with all of %d", h.Update, what, len(all), found, len(elements))
		}
	}
}

// Noise is what compresses worst, and larger images than any job may have.
func TestPicturesFitIntoAMessage(t *testing.T) {
	t.Parallel()
	noise := rand.New(rand.NewPCG(1, 2))
	for _, c := range []struct{ side, tilesAnImage int }{{128, 3}, {256, 2}} {
		s := data.Sheet{Title: "t", Columns: 2 * c.tilesAnImage, Zoom: 1}
		for range shownImages * c.tilesAnImage {
			tile := data.Tile{Pixels: make([]byte, 3*c.side*c.side), Side: c.side}
			for i := range tile.Pixels {
				tile.Pixels[i] = byte(noise.Uint32())
			}
			s.Tiles = append(s.Tiles, tile)
		}
		text, err := within(s, c.tilesAnImage, metrics.MaxPictureBytes)
		if err != nil {
			t.Fatal(err)
		}
		m, err := png.Decode(bytes.NewReader(text))
		if err != nil || len(text) > metrics.MaxPictureBytes || m.Bounds().Dy() < c.side {
			t.Errorf("%d pixels, %d tiles an image: %d bytes, %v", c.side, c.tilesAnImage, len(text), err)
		}
		event, err := json.Marshal(metrics.Event{Kind: metrics.KindPicture, Picture: &metrics.Picture{Caption: strings.Repeat("c", 300), PNG: make([]byte, metrics.MaxPictureBytes)}})
		if err != nil || len(event) > 1_000_000 {
			t.Errorf("the event of the largest picture has %d bytes, %v; NATS takes 1 MiB with its head", len(event), err)
		}
	}
	tile := data.Tile{Pixels: make([]byte, 3*8*8), Side: 8}
	if _, err := within(data.Sheet{Tiles: []data.Tile{tile, tile}}, 1, 10); err == nil || !strings.Contains(err.Error(), "of one image") {
		t.Errorf("no picture fits: got %v, want an error that says so", err)
	}
}

// What the pictures of an epoch cost beside the validation of 100 images, in one run: of SimpleNet, 128 pixels.
func BenchmarkPictures(b *testing.B) {
	p := packs(b)
	for _, strategy := range []string{job.AdversarialNone, job.AdversarialFGSMRS} {
		b.Run(strategy, func(b *testing.B) {
			s := short(b, job.ModelSimpleNet, 1)
			s.ImageSize = "128"
			if strategy != job.AdversarialNone {
				s = adversarial(b, s, strategy)
			}
			device, err := ops.OpenDevice(ops.DeviceConfig{GPU: ops.CPU, Threads: 1})
			if err != nil {
				b.Fatal(err)
			}
			defer device.Close()
			w, err := New(b.Context(), Config{Spec: s, Train: p[0], Val: p[1], Directory: b.TempDir(), Device: device, Sink: &told{}})
			if err != nil {
				b.Fatal(err)
			}
			defer w.Close()
			r := w.engine.replica
			r.at.Validated = 1
			images, err := NewImages(p[1], ImageConfig{Batch: 10, Scale: s.Scale, Interpolation: s.Interpolation, ChannelsLast: s.ChannelsLast})
			if err != nil {
				b.Fatal(err)
			}
			defer images.Close()
			batch, err := images.Next(b.Context())
			if err != nil {
				b.Fatal(err)
			}
			var looked, drawn, validated time.Duration
			for b.Loop() {
				at := time.Now()
				found, err := r.look(b.Context())
				if err != nil {
					b.Fatal(err)
				}
				looked += time.Since(at)
				at = time.Now()
				if _, err := found.draw(r); err != nil {
					b.Fatal(err)
				}
				drawn += time.Since(at)
				at = time.Now()
				for range 10 {
					if _, err := (Evaluation{Device: device, Models: []*model.Model{r.model}}).Logits(b.Context(), batch); err != nil {
						b.Fatal(err)
					}
				}
				validated += time.Since(at)
			}
			for name, took := range map[string]time.Duration{"look-ms": looked, "draw-ms": drawn, "100images-ms": validated} {
				b.ReportMetric(float64(took.Milliseconds())/float64(b.N), name)
			}
		})
	}
}
