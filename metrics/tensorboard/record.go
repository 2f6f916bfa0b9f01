package tensorboard

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

// A file of TensorBoard is records, each framed as TFRecord does: the length in eight bytes, its checksum, the bytes, their
// checksum; little-endian, checksums CRC-32C, masked so that one of bytes that hold checksums is none of a kind.

const (
	headSize = 8 + 4
	footSize = 4
	// maxRecord bounds a record that is read: an event is below a megabyte when it arrives.
	maxRecord = 64 << 20
)

// errDamaged says that what follows in a file is no record.
var errDamaged = errors.New("a record is damaged")

func masked(b []byte) uint32 {
	sum := crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli))
	return (sum>>15 | sum<<17) + 0xa282ead8
}

// frame returns b as a record.
func frame(b []byte) []byte {
	out := make([]byte, 0, headSize+len(b)+footSize)
	out = binary.LittleEndian.AppendUint64(out, uint64(len(b)))
	out = binary.LittleEndian.AppendUint32(out, masked(out))
	out = append(out, b...)
	return binary.LittleEndian.AppendUint32(out, masked(b))
}

// readRecords hands every whole record of r to visit and returns how many bytes they take. A last record cut short is no
// error; errDamaged is.
func readRecords(r io.Reader, visit func([]byte) error) (whole int64, err error) {
	in := bufio.NewReaderSize(r, 1<<16)
	for {
		var head [headSize]byte
		if _, err := io.ReadFull(in, head[:]); err != nil {
			return whole, ending(err)
		}
		n := binary.LittleEndian.Uint64(head[:])
		if binary.LittleEndian.Uint32(head[8:]) != masked(head[:8]) || n > maxRecord {
			return whole, fmt.Errorf("at byte %d: %w", whole, errDamaged)
		}
		body := make([]byte, n+footSize)
		if _, err := io.ReadFull(in, body); err != nil {
			return whole, ending(err)
		}
		if binary.LittleEndian.Uint32(body[n:]) != masked(body[:n]) {
			return whole, fmt.Errorf("at byte %d: %w", whole, errDamaged)
		}
		if err := visit(body[:n]); err != nil {
			return whole, err
		}
		whole += headSize + int64(n) + footSize
	}
}

// ending is nil for the end of a file.
func ending(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return nil
	}
	return err
}
