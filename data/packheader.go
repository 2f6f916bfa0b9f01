package data

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash/crc32"
)

// A pack is one file, little-endian:
//
//	header      one page, below; its last four bytes are the CRC-32C of the others
//	classes     names of the classes, each ended by a zero byte
//	labels      int32 for each image, -1 unknown
//	name ends   uint64 for each image: where its name ends in names (it begins where the one before ends)
//	names       one after another
//	sums        uint32 for each image: CRC-32C over label, name, a zero byte, pixels
//	records     page aligned; RecordBytes (twelve pages) for each image
//
// The header is: magic, version, image size, channels, number of classes (uint32 each but magic), number of images
// (uint64), split (16 bytes), offset and size of the six sections (uint64 each), size of the file (uint64), CRC-32C of
// classes (uint32), hash (32 bytes), zeros. Bytes between sections are zero.
const (
	packMagic    = "\x89mpPACK\n"
	packVersion  = 1
	packChannels = 3
	packPage     = 4096
	maxClasses   = 1 << 20
)

// packSection is where a part of a pack lies, in bytes from the start of the file.
type packSection struct{ at, size uint64 }

// packHeader is the first page of a pack.
type packHeader struct {
	classCount uint32
	count      uint64
	split      Split
	classes, labels, nameEnds,
	names, sums, records packSection
	fileSize   uint64
	classesSum uint32
	hash       [sha256.Size]byte
}

// layout places the sections of a pack of h.count images one after another.
func (h *packHeader) layout(classBytes, nameBytes uint64) {
	at := uint64(packPage)
	place := func(size, align uint64) packSection {
		at = (at + align - 1) / align * align
		s := packSection{at, size}
		at += size
		return s
	}
	h.classes = place(classBytes, 8)
	h.labels = place(4*h.count, 8)
	h.nameEnds = place(8*h.count, 8)
	h.names = place(nameBytes, 8)
	h.sums = place(4*h.count, 8)
	h.records = place(RecordBytes*h.count, packPage)
	h.fileSize = at
}

func (h *packHeader) sections() []packSection {
	return []packSection{h.classes, h.labels, h.nameEnds, h.names, h.sums, h.records}
}

// encode returns the header as the first page of the file.
func (h *packHeader) encode() []byte {
	le := binary.LittleEndian
	b := make([]byte, 0, packPage)
	b = append(b, packMagic...)
	for _, v := range []uint32{packVersion, ImageSize, packChannels, h.classCount} {
		b = le.AppendUint32(b, v)
	}
	b = le.AppendUint64(b, h.count)
	var split [16]byte
	copy(split[:], h.split)
	b = append(b, split[:]...)
	for _, s := range h.sections() {
		b = le.AppendUint64(le.AppendUint64(b, s.at), s.size)
	}
	b = le.AppendUint64(b, h.fileSize)
	b = le.AppendUint32(b, h.classesSum)
	b = append(b, h.hash[:]...)
	b = append(b, make([]byte, packPage-4-len(b))...)
	return le.AppendUint32(b, packSum(b))
}

// parse reads and checks the header of the pack raw.
func (h *packHeader) parse(raw []byte) error {
	le := binary.LittleEndian
	if len(raw) < packPage || string(raw[:len(packMagic)]) != packMagic {
		return fmt.Errorf("this is not a pack; make one with `mp data pack DIR`")
	}
	b := raw[len(packMagic):packPage]
	u32 := func() uint32 { v := le.Uint32(b); b = b[4:]; return v }
	u64 := func() uint64 { v := le.Uint64(b); b = b[8:]; return v }
	// The version comes before the checksum: another version may keep its checksum elsewhere.
	if v := u32(); v != packVersion {
		return fmt.Errorf("it is of version %d and this program reads version %d; make it again with `mp data pack DIR`", v, packVersion)
	}
	if got, want := packSum(raw[:packPage-4]), le.Uint32(raw[packPage-4:]); got != want {
		return fmt.Errorf("its header is damaged (checksum %08x, not %08x); make it again with `mp data pack DIR`", got, want)
	}
	if size, channels := u32(), u32(); size != ImageSize || channels != packChannels {
		return fmt.Errorf("it holds images of %dx%d with %d channels; packs of version %d hold %dx%d RGB", size, size, channels, packVersion, ImageSize, ImageSize)
	}
	h.classCount = u32()
	h.count = u64()
	h.split = Split(bytes.TrimRight(b[:16], "\x00"))
	b = b[16:]
	for _, s := range []*packSection{&h.classes, &h.labels, &h.nameEnds, &h.names, &h.sums, &h.records} {
		s.at, s.size = u64(), u64()
	}
	h.fileSize, h.classesSum = u64(), u32()
	copy(h.hash[:], b)
	return h.check(raw)
}

// check refuses a header that no writer of this version leaves, and a file that was cut.
func (h *packHeader) check(raw []byte) error {
	const again = "; make it again with `mp data pack DIR`"
	if h.count > maxImages || h.classCount > maxClasses || h.classes.size > uint64(len(raw)) || h.names.size > uint64(len(raw)) {
		return fmt.Errorf("its header names %d images, %d classes, %d bytes of names: too many for this file%s", h.count, h.classCount, h.names.size, again)
	}
	if h.fileSize != uint64(len(raw)) {
		return fmt.Errorf("it has %d bytes instead of %d: it was cut short or written over%s", len(raw), h.fileSize, again)
	}
	want := *h
	want.layout(h.classes.size, h.names.size)
	if want != *h {
		return fmt.Errorf("its sections do not lie where version %d puts them%s", packVersion, again)
	}
	if got := packSum(raw[h.classes.at : h.classes.at+h.classes.size]); got != h.classesSum {
		return fmt.Errorf("its class names are damaged (checksum %08x, not %08x)%s", got, h.classesSum, again)
	}
	return nil
}

// encodeClasses and parseClasses write and read the names of the classes.
func encodeClasses(classes []string) []byte {
	var b []byte
	for _, c := range classes {
		b = append(append(b, c...), 0)
	}
	return b
}

func parseClasses(b []byte, count uint32) ([]string, error) {
	if n := bytes.Count(b, []byte{0}); n != int(count) || len(b) > 0 && b[len(b)-1] != 0 {
		return nil, fmt.Errorf("it names %d classes instead of %d", n, count)
	}
	classes := make([]string, count)
	for i := range classes {
		end := bytes.IndexByte(b, 0)
		classes[i], b = string(b[:end]), b[end+1:]
	}
	return classes, nil
}

// packSum is the CRC-32C of b.
func packSum(b []byte) uint32 { return crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)) }

// packHash returns the hash of a pack from the digests of its records in order: SHA-256 over a line that names the
// format, the split, the class names, and the digests.
func packHash(split Split, classes []string, digests []byte) (hash [sha256.Size]byte) {
	s := sha256.New()
	fmt.Fprintf(s, "mp pack %d %dx%dx%d %s %d\n", packVersion, ImageSize, ImageSize, packChannels, split, len(classes))
	s.Write(encodeClasses(classes))
	s.Write(digests)
	s.Sum(hash[:0])
	return hash
}
