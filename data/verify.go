package data

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
)

// Findings is what a verification found. Problems make the data unusable; notes do not.
type Findings struct {
	Subject  string   `json:"subject"`            // the list or pack that was verified
	Images   int      `json:"images"`             // images it names
	Problems int      `json:"problems"`           // how many problems there are
	Listed   []string `json:"listed,omitempty"`   // the first twenty problems, a line each
	Copies   int      `json:"copies"`             // images whose file has the bytes of an earlier one, in any split
	Notes    []string `json:"notes,omitempty"`    // the first twenty copies, a line each
	Hash     string   `json:"hash,omitempty"`     // of a good pack
	Classes  int      `json:"classes"`            // number of classes
	Empty    []string `json:"no_image,omitempty"` // classes without an image
}

func (f *Findings) problem(format string, args ...any) {
	f.Problems++
	if len(f.Listed) < maxListed {
		f.Listed = append(f.Listed, fmt.Sprintf(format, args...))
	}
}

// VerifyConfig says what VerifyRoot verifies.
type VerifyConfig struct {
	Root     *Root
	Decoder  Decoder
	Workers  int                                // goroutines; 0 means one for each processor
	Progress func(split Split, done, total int) // called by one goroutine at a time; may be nil
}

// VerifyRoot goes over every list of a root: each line must be readable, each label in range, no image listed twice,
// each file present and a JPEG that a pack can hold. It also reports, as notes, images that are copies of each other, in
// one split or across splits. It returns findings for each split; the error is for what ended the verification itself.
func VerifyRoot(ctx context.Context, c VerifyConfig) ([]Findings, error) {
	var all []Findings
	seen := make(map[[16]byte]string)
	for _, split := range c.Root.Splits() {
		f, err := verifySplit(ctx, c, split, seen)
		if err != nil {
			return nil, err
		}
		all = append(all, f)
	}
	return all, nil
}

// verifySplit verifies one list. seen maps what a file holds (half a SHA-256) to the first image that holds it.
func verifySplit(ctx context.Context, c VerifyConfig, split Split, seen map[[16]byte]string) (Findings, error) {
	f := Findings{Subject: c.Root.listPath(split), Classes: len(c.Root.Classes())}
	entries, err := f.readList(c.Root, split)
	if err != nil {
		return f, err
	}
	f.Images = len(entries)
	f.countClasses(c.Root.Classes(), entries)

	var bad badFiles
	sums := make([][16]byte, len(entries))
	good := make([]bool, len(entries))
	d := decoding{root: c.Root, entries: entries, decoder: c.Decoder, workers: c.Workers}
	if c.Progress != nil {
		d.done = func(done, total int) { c.Progress(split, done, total) }
	}
	err = d.run(ctx, func(b *decoded) error {
		for i, err := range b.errs {
			if err != nil {
				bad.add(b.first+i, err)
				continue
			}
			sum := sha256.Sum256(b.jpegs[i])
			copy(sums[b.first+i][:], sum[:])
			good[b.first+i] = true
		}
		return nil
	})
	if err != nil {
		return f, fmt.Errorf("verify %s images: %w", split, err)
	}
	f.Listed = append(f.Listed, bad.lines()...)
	f.Listed = f.Listed[:min(len(f.Listed), maxListed)]
	f.Problems += bad.count
	for i, e := range entries {
		if !good[i] {
			continue
		}
		first, copied := seen[sums[i]]
		switch {
		case !copied:
			seen[sums[i]] = e.Name
		case first != e.Name:
			f.Copies++
			if len(f.Notes) < maxListed {
				f.Notes = append(f.Notes, fmt.Sprintf("%s is a copy of %s", e.Name, first))
			}
		}
	}
	return f, nil
}

// readList returns the usable entries of a list and notes the other lines, and images listed more than once.
func (f *Findings) readList(root *Root, split Split) ([]Entry, error) {
	if split == Test && !isFile(f.Subject) {
		return root.Entries(split)
	}
	file, err := os.Open(f.Subject)
	if err != nil {
		return nil, badf("verify list: %w", err)
	}
	defer file.Close()
	var entries []Entry
	labels := make(map[string]int32)
	err = scanList(file, f.Classes, split != Test, func(e Entry) error {
		if old, twice := labels[e.Name]; twice {
			f.problem("%s is listed twice, with labels %d and %d", e.Name, old, e.Label)
			return nil
		}
		labels[e.Name] = e.Label
		entries = append(entries, e)
		return nil
	}, func(err error) error {
		f.problem("%v", err)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("verify list %s: %w", f.Subject, err)
	}
	if len(entries) == 0 {
		f.problem("the list names no image")
	}
	return entries, nil
}

// countClasses notes the classes that no entry has.
func (f *Findings) countClasses(classes []string, entries []Entry) {
	count := make([]int, len(classes))
	labelled := false
	for _, e := range entries {
		if e.Label >= 0 {
			count[e.Label]++
			labelled = true
		}
	}
	for c, n := range count {
		if n == 0 && labelled {
			f.Empty = append(f.Empty, classes[c])
		}
	}
}

// VerifyPack goes over the pack at path to its last bit, and compares it with the list it was made from when root, which
// may be nil, has one. A pack that cannot even be opened is a problem too.
func VerifyPack(ctx context.Context, path string, root *Root, progress func(done, total int)) (Findings, error) {
	f := Findings{Subject: path}
	p, err := OpenPack(path)
	if errors.Is(err, ErrData) {
		f.problem("%v", err)
		return f, nil
	}
	if err != nil {
		return f, err
	}
	defer p.Close()
	f.Images, f.Classes = p.Len(), len(p.Classes())
	if err := p.verify(ctx, &f, progress); err != nil {
		return f, err
	}
	if f.Problems == 0 {
		f.Hash = fmt.Sprintf("%x", p.h.hash)
	}
	if root != nil && slices.Contains(root.Splits(), p.Split()) {
		if err := p.compare(&f, root); err != nil {
			f.problem("%v", err)
		}
	}
	return f, nil
}

// Verify returns an error, ErrData, that names the first of the damaged records, or what else is wrong with the pack.
func (p *Pack) Verify() error {
	var f Findings
	if err := p.verify(context.Background(), &f, nil); err != nil {
		return err
	}
	if f.Problems > 0 {
		return badf("%s", f.Listed[0])
	}
	return nil
}

func (p *Pack) verify(ctx context.Context, f *Findings, progress func(done, total int)) error {
	digests := make([]byte, sha256.Size*p.Len())
	var bad badFiles
	var mu sync.Mutex
	var next atomic.Int64
	done := 0
	g, ctx := errgroup.WithContext(ctx)
	for range runtime.GOMAXPROCS(0) {
		g.Go(func() error {
			for {
				first := int(next.Add(decodeBatch)) - decodeBatch
				if first >= p.Len() {
					return nil
				}
				if err := ctx.Err(); err != nil {
					return fmt.Errorf("verify pack %s: %w", p.path, err)
				}
				last := min(first+decodeBatch, p.Len())
				for i := first; i < last; i++ {
					if err := p.checkRecord(i); err != nil {
						bad.add(i, err)
						continue
					}
					p.checked[i/32].Or(1 << (i % 32))
					name, _ := p.name(i)
					digest := recordDigest(int32(p.Label(i)), name, p.Record(i))
					copy(digests[sha256.Size*i:], digest[:])
				}
				mu.Lock()
				if done += last - first; progress != nil {
					progress(done, p.Len())
				}
				mu.Unlock()
			}
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for _, line := range bad.lines() {
		f.problem("%s", line)
	}
	f.Problems += bad.count - len(bad.first)
	p.verifyRest(f, bad.count, digests)
	return nil
}

// verifyRest looks at what no record's checksum covers: bytes between sections and behind the last name, and the hash.
func (p *Pack) verifyRest(f *Findings, bad int, digests []byte) {
	end := uint64(packPage)
	for _, s := range p.h.sections() {
		for at := end; at < s.at; at++ {
			if p.raw[at] != 0 {
				f.problem("pack %s is damaged: byte %d between its sections is %#02x, not 0; make the pack again with `mp data pack`", p.path, at, p.raw[at])
			}
		}
		end = s.at + s.size
	}
	if bad > 0 {
		return
	}
	var named uint64
	if ends := p.section(p.h.nameEnds); len(ends) > 0 {
		named = binary.LittleEndian.Uint64(ends[len(ends)-8:])
	}
	if named != p.h.names.size {
		f.problem("pack %s is damaged: it has %d bytes of names that belong to no record; make the pack again with `mp data pack`", p.path, p.h.names.size-named)
	}
	if hash := packHash(p.h.split, p.classes, digests); hash != p.h.hash {
		f.problem("pack %s is damaged: it holds the data with hash %x and says %x; make the pack again with `mp data pack`", p.path, hash[:8], p.h.hash[:8])
	}
}

// compare notes where the pack differs from the list of its split.
func (p *Pack) compare(f *Findings, root *Root) error {
	entries, err := root.Entries(p.Split())
	if err != nil {
		return err
	}
	list := root.listPath(p.Split())
	const again = "; make the pack again with `mp data pack`"
	if !slices.Equal(root.Classes(), p.Classes()) {
		f.problem("pack %s was made with other classes than categories.txt has now"+again, p.path)
	}
	if len(entries) != p.Len() {
		f.problem("pack %s holds %d images and %s lists %d"+again, p.path, p.Len(), list, len(entries))
		return nil
	}
	for i, e := range entries {
		if name, label := p.Name(i), p.Label(i); name != e.Name || label != int(e.Label) {
			f.problem("pack %s holds %s with label %d at record %d where %s lists %s with label %d"+again, p.path, name, label, i, list, e.Name, e.Label)
			break
		}
	}
	return nil
}
