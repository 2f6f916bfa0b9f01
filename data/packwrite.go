package data

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// PackConfig says what WritePack packs.
type PackConfig struct {
	Root     *Root
	Split    Split
	Path     string                // of the pack, in a folder that exists
	Decoder  Decoder               // turns JPEGs into records
	Workers  int                   // goroutines that read and decode; 0 means one for each processor
	Progress func(done, total int) // called by one goroutine at a time as images are done; may be nil
}

// WritePack decodes every image of a split into a pack. The pack appears under its name only when it is complete and
// durable; after an error nothing is left. When files cannot be used, all are tried and the error, ErrData, counts them
// and names the first twenty. The space is reserved first, so a full disk is found before the work (that error is not
// ErrData).
func WritePack(ctx context.Context, c PackConfig) error {
	entries, err := c.Root.Entries(c.Split)
	if err != nil {
		return err
	}
	f, err := openPart(c.Path)
	if err != nil {
		return err
	}
	if err := writePack(ctx, c, entries, f); err != nil {
		dropPart(f)
		if errors.Is(err, ErrData) || ctx.Err() != nil {
			return err
		}
		return fmt.Errorf("write pack %s: %w", c.Path, err)
	}
	return commitPart(f, c.Path)
}

// writePack fills the empty file f.
func writePack(ctx context.Context, c PackConfig, entries []Entry, f *os.File) error {
	classes := encodeClasses(c.Root.Classes())
	h := packHeader{
		classCount: uint32(len(c.Root.Classes())), count: uint64(len(entries)), split: c.Split,
		classesSum: packSum(classes),
	}
	labels, ends, names := encodeEntries(entries)
	h.layout(uint64(len(classes)), uint64(len(names)))
	if err := reserve(f, int64(h.fileSize)); err != nil {
		return err
	}

	sums := make([]byte, 4*len(entries))
	digests := make([]byte, 32*len(entries))
	var bad badFiles
	d := decoding{root: c.Root, entries: entries, decoder: c.Decoder, workers: c.Workers, done: c.Progress}
	err := d.run(ctx, func(b *decoded) error {
		for i, err := range b.errs {
			at := b.first + i
			if err != nil {
				bad.add(at, err)
				continue
			}
			e, pixels := entries[at], b.pixels[i*RecordBytes:(i+1)*RecordBytes]
			binary.LittleEndian.PutUint32(sums[4*at:], recordSum(e.Label, []byte(e.Name), pixels))
			digest := recordDigest(e.Label, []byte(e.Name), pixels)
			copy(digests[32*at:], digest[:])
		}
		_, err := f.WriteAt(b.pixels, int64(h.records.at)+int64(b.first)*RecordBytes)
		return err
	})
	if err != nil {
		return err
	}
	if err := bad.err(fmt.Sprintf("pack %s images of %s", c.Split, c.Root.Dir()), len(entries)); err != nil {
		return err
	}
	h.hash = packHash(h.split, c.Root.Classes(), digests)
	for _, part := range []struct {
		at      uint64
		content []byte
	}{{h.classes.at, classes}, {h.labels.at, labels}, {h.nameEnds.at, ends}, {h.names.at, names}, {h.sums.at, sums}, {0, h.encode()}} {
		if _, err := f.WriteAt(part.content, int64(part.at)); err != nil {
			return err
		}
	}
	return nil
}

// encodeEntries returns the sections labels, name ends and names.
func encodeEntries(entries []Entry) (labels, ends, names []byte) {
	for _, e := range entries {
		labels = binary.LittleEndian.AppendUint32(labels, uint32(e.Label))
		names = append(names, e.Name...)
		ends = binary.LittleEndian.AppendUint64(ends, uint64(len(names)))
	}
	return labels, ends, names
}

// reserve makes f a file of size zero bytes that the disk has room for.
func reserve(f *os.File, size int64) error {
	if err := f.Truncate(0); err != nil {
		return err
	}
	err := unix.Fallocate(int(f.Fd()), 0, 0, size)
	for errors.Is(err, unix.EINTR) {
		err = unix.Fallocate(int(f.Fd()), 0, 0, size)
	}
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) {
		return f.Truncate(size)
	}
	if err != nil {
		return fmt.Errorf("reserve %.2f GB: %w; free space or choose another place with --out", float64(size)/1e9, err)
	}
	return nil
}
