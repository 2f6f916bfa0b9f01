package data

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"mp/ops/pixel"
)

// images is a pack without a file.
type images struct {
	records []byte
	classes int
	damaged int // index of a record whose check fails; -1: none
}

func newImages(n, classes int) *images { return &images{noise(n, 1), classes, -1} }

func (m *images) Len() int          { return len(m.records) / RecordBytes }
func (m *images) Classes() []string { return make([]string, m.classes) }
func (m *images) Label(i int) int   { return i % m.classes }
func (m *images) Records() []byte   { return m.records }
func (m *images) Check(ids []int32) error {
	if slices.Contains(ids, int32(m.damaged)) {
		return badf("record %d is damaged", m.damaged)
	}
	return nil
}

func mustRecipe(t testing.TB, name string) Recipe {
	t.Helper()
	p, err := NewRecipe(name)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func mustLoader(t testing.TB, c LoaderConfig) *Loader {
	t.Helper()
	l, err := NewLoader(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	return l
}

// trainConfig is a small training in which everything happens: shards, mixing, another size in another epoch.
func trainConfig(t testing.TB, m *images) LoaderConfig {
	t.Helper()
	s, err := NewSampler(5, m.Len(), 8, true)
	if err != nil {
		t.Fatal(err)
	}
	return LoaderConfig{
		Images: m, Sampler: s, Recipe: mustRecipe(t, "strong"), Seed: 5, Shards: 3, Epochs: 2,
		Size: func(epoch int) int { return 16 + 8*epoch }, MaxSize: 24, ChannelsLast: true, BFloat16: true,
	}
}

// told is all that a batch says. Images that are not finished are told as the device makes them.
func told(t testing.TB, b *Batch) string {
	t.Helper()
	x := b.X
	if b.loader.c.Form != Finished {
		if x != nil {
			t.Error("a batch has images that nobody finished")
		}
		x = make([]byte, len(b.IDs)*b.Spec.Bytes())
		if err := pixel.Gather(x, b.Records, b.Index, b.Warps, b.Spec); err != nil {
			t.Fatal(err)
		}
	}
	return fmt.Sprintf("%d %d %d %d %v %v %v %v %x", b.Epoch, b.Step, b.Shard, b.Size, b.IDs, b.Labels, b.Soft, b.Keys, x)
}

// drainAll reads all batches, holding as many as hold at a time.
func drainAll(t testing.TB, l *Loader, hold int) []string {
	t.Helper()
	var all []string
	var held []*Batch
	for {
		b, err := l.Next(context.Background())
		if err == ErrEnd {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, told(t, b))
		if held = append(held, b); len(held) == hold {
			slices.Reverse(held) // given back in another order than taken
			for _, b := range held {
				b.Release()
			}
			held = held[:0]
		}
	}
	if _, err := l.Next(context.Background()); err != ErrEnd {
		t.Errorf("after the end: error %v, want ErrEnd", err)
	}
	return all
}

func TestLoaderAnyGoroutines(t *testing.T) {
	c := trainConfig(t, newImages(30, 7))
	want := drainAll(t, mustLoader(t, withWorkers(c, 1, 3)), 1)
	if len(want) != 2*3*3 {
		t.Fatalf("%d batches, want 18", len(want))
	}
	for _, workers := range []int{1, 2, 5} {
		for _, ahead := range []int{3, 7, 40} {
			got := drainAll(t, mustLoader(t, withWorkers(c, workers, ahead)), 3)
			if !slices.Equal(got, want) {
				t.Errorf("%d goroutines, %d ahead: not the same batches as with one", workers, ahead)
			}
		}
	}
}

func withWorkers(c LoaderConfig, workers, ahead int) LoaderConfig {
	c.Workers, c.Ahead = workers, ahead
	return c
}

// Whoever does the last pass, the images are the same.
func TestLoaderForms(t *testing.T) {
	m := newImages(30, 7)
	scales := trainConfig(t, m)
	var err error
	if scales.Recipe, err = NewValRecipe(144, "bilinear"); err != nil {
		t.Fatal(err)
	}
	scales.Size, scales.MaxSize = nil, 0
	for name, c := range map[string]LoaderConfig{"training": trainConfig(t, m), "a validation that scales": scales} {
		c.Workers = 2
		want := drainAll(t, mustLoader(t, c), 2)
		for _, form := range []Form{Raw, Ordered} {
			c.Form = form
			l := mustLoader(t, c)
			if got := drainAll(t, l, 2); !slices.Equal(got, want) {
				t.Errorf("%s: images of form %d are others than finished ones", name, form)
			}
		}
	}
}

// A stage keeps what it was told of, as a device's copy would be, and notices what changes behind its back.
type stageOfTest struct {
	t      *testing.T
	mu     sync.Mutex
	rooms  map[*byte]bool   // true until freed
	copies map[*byte][]byte // of what is filled
	filled int
}

func (s *stageOfTest) Room(bytes int) ([]byte, func(), error) {
	memory := make([]byte, bytes)
	s.rooms[&memory[0]] = true
	return memory, func() { s.rooms[&memory[0]] = false }, nil
}

func (s *stageOfTest) Filled(records []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.filled++
	if s.copies[&records[0]] != nil || !s.rooms[&records[0]] {
		s.t.Error("records are staged where others are, or in no room")
	}
	s.copies[&records[0]] = bytes.Clone(records)
	return nil
}

func (s *stageOfTest) Emptied(room []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if copied := s.copies[&room[0]]; !bytes.Equal(copied, room[:len(copied)]) {
		s.t.Error("staged records changed before they were given up")
	}
	delete(s.copies, &room[0])
}

// Images are the same through a stage, which has the records of every batch from before its delivery until after its release.
func TestLoaderStages(t *testing.T) {
	c := trainConfig(t, newImages(30, 7))
	want := drainAll(t, mustLoader(t, c), 2)
	stage := &stageOfTest{t: t, rooms: map[*byte]bool{}, copies: map[*byte][]byte{}}
	c.Form, c.Stage, c.Workers = Raw, stage, 3
	l := mustLoader(t, c)
	b, err := l.Next(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	stage.mu.Lock()
	if !bytes.Equal(stage.copies[&b.Records[0]], b.Records) {
		t.Error("a batch was delivered whose records are not staged")
	}
	stage.mu.Unlock()
	got := []string{told(t, b)}
	b.Release()
	if got = append(got, drainAll(t, l, 2)...); !slices.Equal(got, want) {
		t.Error("images that went over a stage are others than finished ones")
	}
	l.Close()
	if len(stage.copies) > 0 || stage.filled != len(want) {
		t.Errorf("%d of %d batches were staged, %d still are when the loader is closed", stage.filled, len(want), len(stage.copies))
	}
	for _, there := range stage.rooms {
		if there {
			t.Error("a room was not freed")
		}
	}
}

// A run that goes on in the middle, and a worker that has some of the shards, get the same batches.
func TestLoaderAnyStart(t *testing.T) {
	c := trainConfig(t, newImages(30, 7))
	all := drainAll(t, mustLoader(t, c), 1)
	later := c
	later.FirstEpoch, later.FirstStep = 0, 2
	if got := drainAll(t, mustLoader(t, later), 2); !slices.Equal(got, all[6:]) {
		t.Error("from step 2: not the batches that follow step 1")
	}
	part := c
	part.Mine = []int{2, 0}
	var want []string
	for i := 0; i < len(all); i += 3 {
		want = append(want, all[i+2], all[i])
	}
	if got := drainAll(t, mustLoader(t, part), 2); !slices.Equal(got, want) {
		t.Error("shards 2 and 0: not those batches")
	}
	done := c
	done.FirstEpoch = 2
	if got := drainAll(t, mustLoader(t, done), 1); len(got) != 0 {
		t.Errorf("%d batches after the last epoch", len(got))
	}
}

// Without mixing, shards one after another are the batch; and every image comes once an epoch.
func TestLoaderShards(t *testing.T) {
	c := trainConfig(t, newImages(30, 7))
	c.Recipe = mustRecipe(t, "best")
	var parts, whole []byte
	var ids []int32
	collect := func(l *Loader, into *[]byte) {
		for {
			b, err := l.Next(context.Background())
			if err != nil {
				return
			}
			*into = append(*into, b.X...)
			if b.Epoch == 0 && into == &whole {
				ids = append(ids, b.IDs...)
			}
			if b.Soft != nil {
				t.Error("soft targets without mixing")
			}
			b.Release()
		}
	}
	collect(mustLoader(t, c), &parts)
	c.Shards = 0
	collect(mustLoader(t, c), &whole)
	if !bytes.Equal(parts, whole) {
		t.Error("three shards are not the batch")
	}
	slices.Sort(ids)
	if len(ids) != 24 || len(slices.Compact(ids)) != 24 {
		t.Errorf("an epoch has images %v", ids)
	}
}

func TestLoaderValidation(t *testing.T) {
	m := newImages(25, 7)
	s, err := NewSequence(25, 10)
	if err != nil {
		t.Fatal(err)
	}
	v, err := NewValRecipe(0, "bilinear")
	if err != nil {
		t.Fatal(err)
	}
	l := mustLoader(t, LoaderConfig{Images: m, Sampler: s, Recipe: v, Epochs: 1})
	next := 0
	for {
		b, err := l.Next(context.Background())
		if err == ErrEnd {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if want := min(10, 25-next); len(b.IDs) != want || len(b.Labels) != want || len(b.Keys) != want || len(b.X) != want*RecordBytes*4 {
			t.Fatalf("step %d: %d images, %d labels, %d bytes, want %d images", b.Step, len(b.IDs), len(b.Labels), len(b.X), want)
		}
		if b.BFloat16() || b.ChannelsLast() || b.Size != ImageSize {
			t.Error("want float32 images, N C H W, of 128 pixels")
		}
		for i, id := range b.IDs {
			if int(id) != next || b.Labels[i] != int64(next%7) {
				t.Fatalf("image %d with label %d, want %d with %d", id, b.Labels[i], next, next%7)
			}
			next++
		}
		b.Release()
	}
	if next != 25 {
		t.Errorf("%d images, want 25", next)
	}
}

// What a validation that scales delivers is what scaling, cutting and then normalising gives, to the bit, and with bilinear
// pixels the golden.
func TestLoaderScales(t *testing.T) {
	records, bilinear := goldenRecords(t)
	m := &images{records: records, classes: 7, damaged: -1}
	n := m.Len()
	s, err := NewSequence(n, n)
	if err != nil {
		t.Fatal(err)
	}
	for name, how := range map[string]pixel.Interpolation{"nearest": pixel.Nearest, "bilinear": pixel.Bilinear, "bicubic": pixel.Bicubic} {
		v, err := NewValRecipe(144, name)
		if err != nil {
			t.Fatal(err)
		}
		b, err := mustLoader(t, LoaderConfig{Images: m, Sampler: s, Recipe: v, Epochs: 1}).Next(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		var pixels []byte
		index, warps := make([]int32, n), make([]pixel.Warp, n)
		for i := range n {
			index[i], warps[i] = int32(i), pixel.Identity(ImageSize)
			image, err := pixel.Resize(pixel.Image{Pix: records[i*RecordBytes : (i+1)*RecordBytes], W: ImageSize, H: ImageSize}, 144, 144, how)
			if err == nil {
				image, err = pixel.CropCentre(image, ImageSize, ImageSize)
			}
			if err != nil {
				t.Fatal(err)
			}
			pixels = append(pixels, image.Pix...)
		}
		if how == pixel.Bilinear && !bytes.Equal(pixels, bilinear) {
			t.Error("scaled bilinearly, the pixels are not the golden's")
		}
		want := make([]byte, len(b.X))
		if err := pixel.Gather(want, pixels, index, warps, b.Spec); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(b.X, want) {
			t.Errorf("%s: not what scaling and cutting gives", name)
		}
		b.Release()
	}
}

func TestLoaderSoft(t *testing.T) {
	c := trainConfig(t, newImages(30, 7))
	c.Shards, c.Recipe.Mixup = 1, 1
	l := mustLoader(t, c)
	for {
		b, err := l.Next(context.Background())
		if err == ErrEnd {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		for i := range b.IDs {
			sum, row := 0.0, b.Soft[i*7:(i+1)*7]
			for k, v := range row {
				if v < 0 || v > 0 && k != int(b.Labels[i]) && k != int(b.Labels[b.Warps[i].Mate]) {
					t.Fatalf("target of image %d is %v; its label is %d", i, row, b.Labels[i])
				}
				sum += float64(v)
			}
			if math.Abs(sum-1) > 1e-6 {
				t.Fatalf("targets of an image sum to %v", sum)
			}
		}
		b.Release()
	}
}

func TestLoaderErrors(t *testing.T) {
	m := newImages(30, 7)
	m.damaged = 17
	c := trainConfig(t, m)
	l := mustLoader(t, c)
	var err error
	for err == nil {
		var b *Batch
		if b, err = l.Next(context.Background()); err == nil {
			b.Release()
		}
	}
	if !isData(err) || !strings.Contains(err.Error(), "record 17 is damaged") {
		t.Errorf("error %v, want that of the damaged record", err)
	}
	if _, again := l.Next(context.Background()); again != err {
		t.Errorf("then error %v, want the same", again)
	}
	good := trainConfig(t, newImages(30, 7))
	for name, spoil := range map[string]func(*LoaderConfig){
		"sampler":       func(c *LoaderConfig) { c.Images = newImages(29, 7) },
		"shard":         func(c *LoaderConfig) { c.Mine = []int{3} },
		"no shard":      func(c *LoaderConfig) { c.Mine = []int{} },
		"start":         func(c *LoaderConfig) { c.FirstEpoch = 3 },
		"negative":      func(c *LoaderConfig) { c.FirstStep = -1 },
		"size":          func(c *LoaderConfig) { c.MaxSize = 5000 },
		"recipe":        func(c *LoaderConfig) { c.Recipe = Recipe{} },
		"too few ahead": func(c *LoaderConfig) { c.Ahead = 2 },
	} {
		c := good
		spoil(&c)
		if l, err := NewLoader(c); !isData(err) {
			t.Errorf("%s: error %v, want ErrData", name, err)
			if err == nil {
				l.Close()
			}
		}
	}
}

func TestLoaderStops(t *testing.T) {
	l := mustLoader(t, trainConfig(t, newImages(30, 7)))
	held, err := l.Next(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	for err == nil { // nothing is released, so the ring runs dry
		_, err = l.Next(ctx)
	}
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v, want the context's", err)
	}
	held.Release()
	l.Close()
	l.Close()
	if _, err := l.Next(context.Background()); err == nil {
		t.Error("a closed loader delivers")
	}
	defer func() {
		if recover() == nil {
			t.Error("a batch may be released twice")
		}
	}()
	held.Release()
}

func TestLoaderDoesNotAllocate(t *testing.T) {
	m := newImages(30, 7)
	c := trainConfig(t, m)
	c.Epochs, c.Workers, c.Size = 1000, 2, func(int) int { return 24 }
	l := mustLoader(t, c)
	turn := func() {
		for range 3 {
			b, err := l.Next(context.Background())
			if err != nil {
				t.Fatal(err)
			}
			b.Release()
		}
	}
	for range 20 {
		turn()
	}
	if n := testing.AllocsPerRun(50, turn); n != 0 {
		t.Errorf("%v allocations a step, want 0", n)
	}
}

func BenchmarkLoader(b *testing.B) {
	m := newImages(2000, 100)
	s, err := NewSampler(1, m.Len(), 128, true)
	if err != nil {
		b.Fatal(err)
	}
	for _, name := range RecipeNames() {
		b.Run(name, func(b *testing.B) {
			l := mustLoader(b, LoaderConfig{Images: m, Sampler: s, Recipe: mustRecipe(b, name), Epochs: math.MaxInt32, Workers: 1, ChannelsLast: true, BFloat16: true})
			for b.Loop() {
				x, err := l.Next(context.Background())
				if err != nil {
					b.Fatal(err)
				}
				x.Release()
			}
			b.ReportMetric(float64(b.N)*128/b.Elapsed().Seconds(), "images/s")
		})
	}
}
