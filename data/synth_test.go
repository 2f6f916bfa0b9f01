package data

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"testing"
)

func TestSynthIsADataSet(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new")
	last := 0
	c := SynthConfig{Dir: dir, Classes: 3, Train: 130, Val: 31, Seed: 5, Progress: func(done, total int) {
		if done <= last || total != 161 {
			t.Errorf("progress %d of %d after %d", done, total, last)
		}
		last = done
	}}
	if err := Synth(context.Background(), c); err != nil {
		t.Fatal(err)
	}
	wantOnly(t, dir, "categories.txt", "images", "train.txt", "val.txt")
	root := openTestRoot(t, dir)
	if want := []string{"synth_000", "synth_001", "synth_002"}; !reflect.DeepEqual(root.Classes(), want) {
		t.Errorf("classes: got %v, want %v", root.Classes(), want)
	}
	found := verifyTestRoot(t, dir)
	for list, images := range map[string]int{"train.txt": 130, "val.txt": 31} {
		if f := found[list]; f.Images != images || f.Problems != 0 || f.Copies != 0 || f.Empty != nil {
			t.Errorf("%s: got %+v", list, f)
		}
	}
	for _, split := range []Split{Train, Val} {
		entries, err := root.Entries(split)
		if err != nil {
			t.Fatal(err)
		}
		count := make([]int, 3)
		for _, e := range entries {
			count[e.Label]++
		}
		for class, n := range count {
			if n != len(entries)/3 && n != len(entries)/3+1 {
				t.Errorf("%s: class %d has %d of %d images", split, class, n, len(entries))
			}
		}
	}
	entries, _ := root.Entries(Train)
	if first := entries[44]; first.Name != "train/s/synth_001/00000001.jpg" || first.Label != 1 {
		t.Errorf("the first image of the second class is %v", first)
	}
}

// treeSum is a hash of every file of a folder.
func treeSum(t *testing.T, dir string) [32]byte {
	t.Helper()
	h := sha256.New()
	err := filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(p)
		fmt.Fprintf(h, "%s %d\n%s", p[len(dir):], len(b), b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return [32]byte(h.Sum(nil))
}

func TestSynthIsDeterministic(t *testing.T) {
	sum := func(seed uint64, workers int) [32]byte {
		t.Helper()
		dir := t.TempDir()
		if err := Synth(context.Background(), SynthConfig{Dir: dir, Classes: 4, Train: 70, Val: 70, Seed: seed, Workers: workers}); err != nil {
			t.Fatal(err)
		}
		return treeSum(t, dir)
	}
	first := sum(1, 1)
	if sum(1, 3) != first {
		t.Error("the number of workers changes the images")
	}
	if sum(2, 1) == first {
		t.Error("two seeds give the same images")
	}
}

// A linear look at mean colours must tell classes apart better than chance, and far from perfectly: the rest is for a
// model to learn.
func TestSynthIsLearnableAndNotTrivial(t *testing.T) {
	const classes, train, val = 20, 30, 15
	const features = 8 * 8 * 3
	p := newPainter(1, classes)
	look := func(class int, keys ...uint64) (f [features]float64) {
		img := p.paint(class, keys...)
		for y := range ImageSize {
			for x := range ImageSize {
				for k := range 3 {
					f[(y/16*8+x/16)*3+k] += float64(img.Pix[(y*ImageSize+x)*4+k]) / 256
				}
			}
		}
		return f
	}
	var centres [classes][features]float64
	for c := range classes {
		for i := range train {
			for k, v := range look(c, 0, uint64(c*train+i)) {
				centres[c][k] += v / train
			}
		}
	}
	right := 0
	for c := range classes {
		for i := range val {
			f := look(c, 1, uint64(c*val+i))
			best, at := math.Inf(1), 0
			for j := range centres {
				d := 0.0
				for k, v := range f {
					d += (v - centres[j][k]) * (v - centres[j][k])
				}
				if d < best {
					best, at = d, j
				}
			}
			if at == c {
				right++
			}
		}
	}
	top1 := float64(right) / (classes * val)
	t.Logf("nearest mean of 8x8 colours: %.0f %% of %d classes", 100*top1, classes)
	if top1 < 3.0/classes || top1 > .75 {
		t.Errorf("nearest mean of 8x8 colours: got %.2f right, want %.2f to 0.75", top1, 3.0/classes)
	}
}

func TestSynthRefuses(t *testing.T) {
	dir := t.TempDir()
	put(t, dir, "used/train.txt", nil)
	put(t, dir, "file", nil)
	for want, c := range map[string]SynthConfig{
		"1 classes":                {Dir: filepath.Join(dir, "x"), Classes: 1, Train: 5, Val: 1},
		"5 training images for 6":  {Dir: filepath.Join(dir, "x"), Classes: 6, Train: 5, Val: 1},
		"0 validation images":      {Dir: filepath.Join(dir, "x"), Classes: 2, Train: 5},
		"train.txt is there":       {Dir: filepath.Join(dir, "used"), Classes: 2, Train: 5, Val: 1},
		"not a directory":          {Dir: filepath.Join(dir, "file"), Classes: 2, Train: 5, Val: 1},
		"choose 2 to 100000":       {Dir: filepath.Join(dir, "x"), Classes: 1 << 20, Train: 1 << 21, Val: 1},
		"images; the most is 2147": {Dir: filepath.Join(dir, "x"), Classes: 2, Train: 1 << 32, Val: 1},
	} {
		err := Synth(context.Background(), c)
		wantError(t, err, want)
		if !errors.Is(err, ErrData) {
			t.Errorf("error %v is not ErrData", err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	err := Synth(ctx, SynthConfig{Dir: filepath.Join(dir, "x"), Classes: 2, Train: 500, Val: 1, Progress: func(int, int) { cancel() }})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: got %v", err)
	}
	wantOnly(t, dir, "file", "used")
}

func BenchmarkPaint(b *testing.B) {
	p := newPainter(1, 10)
	for i := range b.N {
		p.paint(i%10, 0, uint64(i))
	}
}

func BenchmarkSynth(b *testing.B) {
	c := SynthConfig{Dir: b.TempDir(), Classes: 10, Train: max(b.N, 10), Val: 1, Workers: 1}
	if err := Synth(context.Background(), c); err != nil {
		b.Fatal(err)
	}
}
