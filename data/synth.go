package data

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"image/jpeg"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
)

// SynthConfig says what Synth makes.
type SynthConfig struct {
	Dir      string                // made when missing; must not hold a data set
	Classes  int                   // named synth_000 and so on
	Train    int                   // images, at least one a class
	Val      int                   // images
	Seed     uint64                // of everything: the same seed and sizes give the same bytes on any machine
	Workers  int                   // goroutines; 0 means one for each processor
	Progress func(done, total int) // called by one goroutine at a time; may be nil
}

// synthStaging is the folder in SynthConfig.Dir where files wait until all are painted.
const synthStaging = ".synth.part"

// synthQuality is that of the JPEGs: 128x128 images get the 4 to 6 KB that MiniPlaces' have.
const synthQuality = 75

// Synth writes a MiniPlaces root of made-up images: a stand-in that a model can learn, for machines without the data.
// Memory does not depend on the number of images. Nothing appears in Dir before all is painted. Errors are ErrData
// where sizes make no sense or Dir holds a data set.
func Synth(ctx context.Context, c SynthConfig) error {
	if err := c.check(); err != nil {
		return err
	}
	_, missing := os.Stat(c.Dir)
	if err := os.MkdirAll(c.Dir, 0o755); err != nil {
		return badf("make data set: %w", err)
	}
	unlock, err := lockDir(c.Dir)
	if err != nil {
		return err
	}
	defer unlock()
	staging := filepath.Join(c.Dir, synthStaging)
	err = c.fill(ctx, staging)
	if err == nil {
		// categories.txt comes last: without it the folder is no data set.
		for _, name := range []string{"images", "train.txt", "val.txt", "categories.txt"} {
			if err = os.Rename(filepath.Join(staging, name), filepath.Join(c.Dir, name)); err != nil {
				break
			}
		}
	}
	os.RemoveAll(staging)
	if err != nil {
		if missing != nil {
			os.Remove(c.Dir) // goes only if nothing else is in it
		}
		return fmt.Errorf("make data set %s: %w", c.Dir, err)
	}
	return syncDir(c.Dir)
}

func (c SynthConfig) check() error {
	switch {
	case c.Classes < 2 || c.Classes > 100_000:
		return badf("make data set: %d classes; choose 2 to 100000", c.Classes)
	case c.Train < c.Classes:
		return badf("make data set: %d training images for %d classes; choose at least one a class", c.Train, c.Classes)
	case c.Val < 1:
		return badf("make data set: %d validation images; choose at least 1", c.Val)
	case c.Train > maxImages || c.Val > maxImages:
		return badf("make data set: %d and %d images; the most is %d", c.Train, c.Val, maxImages)
	}
	for _, name := range []string{"images", "train.txt", "val.txt", "categories.txt"} {
		if _, err := os.Lstat(filepath.Join(c.Dir, name)); err == nil {
			return badf("make data set: %s is there already; choose another folder or delete it", filepath.Join(c.Dir, name))
		}
	}
	return nil
}

// fill writes everything into the folder dir.
func (c SynthConfig) fill(ctx context.Context, dir string) error {
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(dir, "images", "val"), 0o755); err != nil {
		return err
	}
	for class := range c.Classes {
		if err := os.MkdirAll(filepath.Join(dir, "images", "train", filepath.FromSlash(c.category(class))), 0o755); err != nil {
			return err
		}
	}
	err := writeLines(filepath.Join(dir, "categories.txt"), c.Classes, func(i int) string {
		return fmt.Sprintf("/%s %d\n", c.category(i), i)
	})
	for split, n := range map[Split]int{Train: c.Train, Val: c.Val} {
		if err == nil {
			err = writeLines(filepath.Join(dir, string(split)+".txt"), n, func(i int) string {
				e := c.entry(split, i)
				return fmt.Sprintf("%s %d\n", e.Name, e.Label)
			})
		}
	}
	if err != nil {
		return err
	}
	if err := c.paintAll(ctx, filepath.Join(dir, "images")); err != nil {
		return err
	}
	return syncTree(dir)
}

// category is the name of a class in categories.txt without the slash before it: s/synth_000.
func (c SynthConfig) category(class int) string { return fmt.Sprintf("s/synth_%03d", class) }

// entry is line i of a list: training images by class, validation images in an order that says nothing.
func (c SynthConfig) entry(split Split, i int) Entry {
	if split == Val {
		p := newPermutation(c.Seed, -1, c.Val)
		return Entry{Name: fmt.Sprintf("val/%08d.jpg", i+1), Label: int32(p.at(uint64(i)) % uint64(c.Classes))}
	}
	class := i * c.Classes / c.Train
	first := (class*c.Train + c.Classes - 1) / c.Classes
	return Entry{Name: fmt.Sprintf("train/%s/%08d.jpg", c.category(class), i-first+1), Label: int32(class)}
}

// paintAll writes every image below dir.
func (c SynthConfig) paintAll(ctx context.Context, dir string) error {
	workers := c.Workers
	if workers < 1 {
		workers = runtime.GOMAXPROCS(0)
	}
	const batch = 64
	total := c.Train + c.Val
	var next atomic.Int64
	var mu sync.Mutex
	done := 0
	g, ctx := errgroup.WithContext(ctx)
	for range workers {
		g.Go(func() error {
			p := newPainter(c.Seed, c.Classes)
			var b bytes.Buffer
			for {
				first := int(next.Add(batch)) - batch
				if first >= total {
					return nil
				}
				if err := ctx.Err(); err != nil {
					return err
				}
				last := min(first+batch, total)
				for i := first; i < last; i++ {
					if err := c.paintOne(p, &b, dir, i); err != nil {
						return err
					}
				}
				mu.Lock()
				if done += last - first; c.Progress != nil {
					c.Progress(done, total)
				}
				mu.Unlock()
			}
		})
	}
	return g.Wait()
}

// paintOne writes one image: training images are numbered first, validation images after them.
func (c SynthConfig) paintOne(p *painter, b *bytes.Buffer, dir string, i int) error {
	split, key := Train, uint64(0)
	if i >= c.Train {
		split, key, i = Val, 1, i-c.Train
	}
	e := c.entry(split, i)
	b.Reset()
	if err := jpeg.Encode(b, p.paint(int(e.Label), key, uint64(i)), &jpeg.Options{Quality: synthQuality}); err != nil {
		return fmt.Errorf("encode %s: %w", e.Name, err)
	}
	return os.WriteFile(filepath.Join(dir, filepath.FromSlash(e.Name)), b.Bytes(), 0o644)
}

// writeLines writes a list of n lines.
func writeLines(path string, n int, line func(i int) string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	w := bufio.NewWriter(f)
	for i := range n {
		w.WriteString(line(i))
	}
	return errors.Join(w.Flush(), f.Close())
}
