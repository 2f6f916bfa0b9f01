package data

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Geometry of a record: 128 rows of 128 RGB pixels, one byte a channel.
const (
	ImageSize   = 128
	RecordBytes = ImageSize * ImageSize * 3
	maxImages   = math.MaxInt32
)

// Decoder turns JPEGs into records, many images per call.
type Decoder interface {
	// Decode writes image i as 128x128 RGB, rows from the top, to dst[i*RecordBytes:]. len(dst) is
	// len(jpegs)*RecordBytes; grey images become RGB. It returns nil when all are good, else an error for each image
	// (nil for the good ones), and keeps nothing of its arguments. It may be called from several goroutines at once.
	Decode(jpegs [][]byte, dst []byte) []error
}

// Pack is an opened pack: the decoded images of one split, memory-mapped and read-only. Opening verifies the header and
// the class names by their checksums, and the size of the file: a cost that does not depend on the number of images.
// Each record's checksum covers its pixels, label and name; Check verifies a record the first time it is asked for and
// remembers, so that a loader pays once per run, and Verify goes over everything, to the last bit of the file. All
// methods but Close may be called from any number of goroutines. The slices that methods return are windows into the
// mapping: never write to them, nor use them after Close.
type Pack struct {
	path    string
	raw     []byte // the whole file
	h       packHeader
	classes []string
	checked []atomic.Uint32 // a bit a record that was found good
}

// OpenPack maps the pack at path. Errors are ErrData and say what to do.
func OpenPack(path string) (*Pack, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, badf("open pack %s: no such file; make it with `mp data pack %s`", path, filepath.Dir(path))
	}
	if err != nil {
		return nil, badf("open pack: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, badf("open pack: %w", err)
	}
	if !info.Mode().IsRegular() || info.Size() < packPage {
		return nil, badf("open pack %s: this is not a pack; make one with `mp data pack DIR`", path)
	}
	raw, err := unix.Mmap(int(f.Fd()), 0, int(info.Size()), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map pack %s: %w", path, err)
	}
	p, err := parsePack(path, raw)
	if err != nil {
		unix.Munmap(raw)
		return nil, badf("open pack %s: %w", path, err)
	}
	return p, nil
}

// PackPath is where the pack of a split lies in a folder.
func PackPath(dir string, split Split) string { return filepath.Join(dir, string(split)+".pack") }

// parsePack reads header and class names of a pack held in raw.
func parsePack(path string, raw []byte) (*Pack, error) {
	p := &Pack{path: path, raw: raw}
	if err := p.h.parse(raw); err != nil {
		return nil, err
	}
	var err error
	if p.classes, err = parseClasses(p.section(p.h.classes), p.h.classCount); err != nil {
		return nil, err
	}
	p.checked = make([]atomic.Uint32, (p.h.count+31)/32)
	return p, nil
}

// Close unmaps the pack. A second call does nothing.
func (p *Pack) Close() error {
	if p.raw == nil {
		return nil
	}
	err := unix.Munmap(p.raw)
	p.raw = nil
	return err
}

// Path is the file.
func (p *Pack) Path() string { return p.path }

// Split is the part of the data set that the pack holds.
func (p *Pack) Split() Split { return p.h.split }

// Len is the number of images.
func (p *Pack) Len() int { return int(p.h.count) }

// Size is the size of the file in bytes.
func (p *Pack) Size() int64 { return int64(p.h.fileSize) }

// Classes returns the name of each class. The caller must not change it.
func (p *Pack) Classes() []string { return p.classes }

// Hash identifies what the pack holds: split, class names, and the name, label and pixels of every image in order. Packs
// of equal hash train equally; compare it between workers.
func (p *Pack) Hash() [32]byte { return p.h.hash }

// Label returns the class of image i, -1 where it is unknown.
func (p *Pack) Label(i int) int {
	p.mustHold(i)
	return int(int32(binary.LittleEndian.Uint32(p.section(p.h.labels)[4*i:])))
}

// Name returns the name of image i in its list, such as val/00000001.jpg.
func (p *Pack) Name(i int) string {
	p.mustHold(i)
	name, err := p.name(i)
	if err != nil {
		return fmt.Sprintf("(damaged name of record %d)", i)
	}
	return string(name)
}

func (p *Pack) name(i int) ([]byte, error) {
	ends := p.section(p.h.nameEnds)
	var from uint64
	if i > 0 {
		from = binary.LittleEndian.Uint64(ends[8*i-8:])
	}
	to := binary.LittleEndian.Uint64(ends[8*i:])
	if from > to || to > p.h.names.size {
		return nil, fmt.Errorf("its name reaches from %d to %d in %d bytes of names", from, to, p.h.names.size)
	}
	return p.section(p.h.names)[from:to], nil
}

// Record returns the pixels of image i: RecordBytes of H, W, C. It does not verify them; see Check.
func (p *Pack) Record(i int) []byte {
	p.mustHold(i)
	return p.Records()[i*RecordBytes : (i+1)*RecordBytes : (i+1)*RecordBytes]
}

// Records returns the pixels of all images, N, H, W, C, page aligned.
func (p *Pack) Records() []byte { return p.section(p.h.records) }

// Check verifies those of the images ids that no call of Check or Verify has found good before. The error is ErrData and
// names pack, record and image.
func (p *Pack) Check(ids []int32) error {
	for _, id := range ids {
		p.mustHold(int(id))
		word, bit := &p.checked[id/32], uint32(1)<<(id%32)
		if word.Load()&bit != 0 {
			continue
		}
		if err := p.checkRecord(int(id)); err != nil {
			return err
		}
		word.Or(bit)
	}
	return nil
}

func (p *Pack) checkRecord(i int) error {
	fail := func(why string) error {
		return badf("pack %s is damaged: record %d (%s) %s; make the pack again with `mp data pack`", p.path, i, p.Name(i), why)
	}
	name, err := p.name(i)
	if err != nil {
		return fail(err.Error())
	}
	label := p.Label(i)
	want := binary.LittleEndian.Uint32(p.section(p.h.sums)[4*i:])
	if got := recordSum(int32(label), name, p.Record(i)); got != want {
		return fail(fmt.Sprintf("has checksum %08x, not %08x", got, want))
	}
	if label < -1 || label >= len(p.classes) {
		return fail(fmt.Sprintf("has label %d of %d classes", label, len(p.classes)))
	}
	return nil
}

// recordSum is the CRC-32C of a record: label as int32, name, a zero byte, pixels.
func recordSum(label int32, name, pixels []byte) uint32 {
	table := crc32.MakeTable(crc32.Castagnoli)
	var l [4]byte
	binary.LittleEndian.PutUint32(l[:], uint32(label))
	sum := crc32.Update(0, table, l[:])
	sum = crc32.Update(sum, table, name)
	sum = crc32.Update(sum, table, []byte{0})
	return crc32.Update(sum, table, pixels)
}

// recordDigest is the part of a record in the hash of its pack.
func recordDigest(label int32, name, pixels []byte) (digest [sha256.Size]byte) {
	h := sha256.New()
	var l [8]byte
	binary.LittleEndian.PutUint32(l[:], uint32(label))
	binary.LittleEndian.PutUint32(l[4:], uint32(len(name)))
	h.Write(l[:])
	h.Write(name)
	h.Write(pixels)
	h.Sum(digest[:0])
	return digest
}

func (p *Pack) mustHold(i int) {
	if i < 0 || i >= p.Len() {
		panic(fmt.Sprintf("data: record %d of a pack of %d", i, p.Len()))
	}
}

// section returns a window of the file.
func (p *Pack) section(s packSection) []byte { return p.raw[s.at : s.at+s.size : s.at+s.size] }
