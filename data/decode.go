package data

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
)

const (
	decodeBatch = 32       // images for each call of a Decoder: 1.5 MiB of pixels, so a core's cache keeps them
	maxJPEG     = 16 << 20 // a 128x128 JPEG has a few kilobytes; more is not one
	maxListed   = 20       // bad files named in one error
)

// decoding reads and decodes the images that entries name.
type decoding struct {
	root    *Root
	entries []Entry
	decoder Decoder
	workers int                   // goroutines; 0 means one for each processor
	done    func(done, total int) // called by one goroutine at a time; may be nil
}

// decoded is a batch of images on its way through one goroutine.
type decoded struct {
	first  int      // index of the first
	jpegs  [][]byte // what the files hold; nil where one could not be read
	errs   []error  // ErrData, naming the file; nil where all is well
	pixels []byte   // len(errs) records
}

// run calls visit for every batch, from several goroutines, in no order. A batch is overwritten after visit returns.
func (d *decoding) run(ctx context.Context, visit func(*decoded) error) error {
	workers := d.workers
	if workers < 1 {
		workers = runtime.GOMAXPROCS(0)
	}
	var next atomic.Int64
	var mu sync.Mutex
	done := 0
	g, ctx := errgroup.WithContext(ctx)
	for range workers {
		g.Go(func() error {
			var b decoded
			var files []byte
			for {
				first := int(next.Add(decodeBatch)) - decodeBatch
				if first >= len(d.entries) {
					return nil
				}
				if err := ctx.Err(); err != nil {
					return err
				}
				n := min(decodeBatch, len(d.entries)-first)
				files = d.load(&b, first, n, files)
				if err := visit(&b); err != nil {
					return err
				}
				mu.Lock()
				done += n
				if d.done != nil {
					d.done(done, len(d.entries))
				}
				mu.Unlock()
			}
		})
	}
	return g.Wait()
}

// load reads and decodes n images into b, using files as memory for their bytes; it returns that memory, perhaps grown.
func (d *decoding) load(b *decoded, first, n int, files []byte) []byte {
	b.first, b.errs = first, make([]error, n)
	b.jpegs = make([][]byte, n)
	if cap(b.pixels) < n*RecordBytes {
		b.pixels = make([]byte, n*RecordBytes)
	}
	b.pixels = b.pixels[:n*RecordBytes]
	files = files[:0]
	ends := make([]int, n)
	for i := range n {
		files, b.errs[i] = appendFile(files, d.root.Path(d.entries[first+i].Name))
		ends[i] = len(files)
	}
	from := 0
	for i, to := range ends {
		b.jpegs[i], from = files[from:to:to], to
	}
	for i, err := range d.decoder.Decode(b.jpegs, b.pixels) {
		if b.errs[i] == nil && err != nil {
			b.errs[i] = badf("%s: %w", d.root.Path(d.entries[first+i].Name), err)
		}
	}
	return files
}

// appendFile appends what a file holds to b; on an error it appends nothing.
func appendFile(b []byte, path string) ([]byte, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return b, badf("%s: listed, but there is no such file", path)
	}
	if err != nil {
		return b, badf("read image: %w", err)
	}
	defer f.Close()
	start := len(b)
	for {
		b = slices.Grow(b, 8<<10)
		n, err := f.Read(b[len(b):cap(b)])
		b = b[:len(b)+n]
		switch {
		case err == io.EOF && len(b) == start:
			return b, badf("%s: the file is empty", path)
		case err == io.EOF:
			return b, nil
		case err != nil:
			return b[:start], badf("read image: %w", err)
		case len(b)-start > maxJPEG:
			return b[:start], badf("%s: more than %d bytes, which no 128x128 JPEG has", path, maxJPEG)
		}
	}
}

// badFiles gathers the files that cannot be used: it counts all and keeps the first by index. Safe for concurrent use.
type badFiles struct {
	mu    sync.Mutex
	count int
	first []badFile
}

type badFile struct {
	index int
	err   error
}

func (b *badFiles) add(index int, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.count++
	at, _ := slices.BinarySearchFunc(b.first, index, func(f badFile, i int) int { return f.index - i })
	if at == maxListed {
		return
	}
	b.first = slices.Insert(b.first, at, badFile{index, err})
	b.first = b.first[:min(len(b.first), maxListed)]
}

// lines returns what is wrong with the first bad files, a line each.
func (b *badFiles) lines() []string {
	var lines []string
	for _, f := range b.first {
		lines = append(lines, f.err.Error())
	}
	return lines
}

// err is nil when all files are good, else an ErrData that lists the first bad ones.
func (b *badFiles) err(doing string, total int) error {
	if b.count == 0 {
		return nil
	}
	var s strings.Builder
	fmt.Fprintf(&s, "%s: %d of %d files cannot be used:", doing, b.count, total)
	for _, line := range b.lines() {
		s.WriteString("\n  " + line)
	}
	if more := b.count - len(b.first); more > 0 {
		fmt.Fprintf(&s, "\n  and %d more", more)
	}
	s.WriteString("\nreplace these files, or delete their lines from the list")
	return badf("%s", s.String())
}
