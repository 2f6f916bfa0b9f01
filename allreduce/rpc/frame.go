package rpc

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
)

// protocol is the version of the frames.
const protocol = 3

// Kinds of frame.
const (
	frameHello   = 'H' // first on every stream; the body is JSON of hello
	frameWelcome = 'W' // the answer
	frameData    = 'D' // a piece of an operation
	frameCredit  = 'C' // the receiver has done with as many shared pieces as offset says
	frameAlive   = 'A'
	frameBroken  = 'B' // the sender's group is broken; the body is JSON of broken
	frameBye     = 'G' // the sender leaves, having done all it began
)

// Operations.
const (
	opMax      = 'm'
	opSum      = 's'
	opExchange = 'x'
)

// headerSize is such that payloads stay aligned behind gRPC's own five bytes.
const headerSize = 63

// header is what stands before the body of a frame.
type header struct {
	kind   byte
	op     byte
	shared bool   // the body lies in the sender's outbox, at slot
	crc    uint32 // CRC-32C of the body; on its way, combined with that of the header
	step   uint32
	seq    uint64 // number of the operation on its lane
	total  uint64 // bytes of the whole vector
	offset uint64 // of this piece in the vector, bytes
	length uint32 // of the body, bytes
	lead   int64  // nanoseconds: see allreduce.Lateness
	slot   uint64 // where in the outbox
	sent   int64  // nanoseconds of the sender's clock: see flight
}

func (h *header) put(b *[headerSize]byte) {
	b[0], b[1] = h.kind, h.op
	if h.shared {
		b[2] = 1
	}
	le := binary.LittleEndian
	le.PutUint32(b[7:], h.step)
	le.PutUint64(b[11:], h.seq)
	le.PutUint64(b[19:], h.total)
	le.PutUint64(b[27:], h.offset)
	le.PutUint32(b[35:], h.length)
	le.PutUint64(b[39:], uint64(h.lead))
	le.PutUint64(b[47:], h.slot)
	le.PutUint64(b[55:], uint64(h.sent))
	le.PutUint32(b[3:], h.crc^checksumOf(b))
}

// checksumOf is the CRC-32C of a header without its own. Combined with the body's it lets a header that changed on its way look
// like a body that did.
func checksumOf(b *[headerSize]byte) uint32 {
	return crc32.Update(crc32.Checksum(b[:3], castagnoli), castagnoli, b[7:])
}

// castagnoli is the polynomial for which processors have an instruction.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func (h *header) parse(b *[headerSize]byte) {
	le := binary.LittleEndian
	*h = header{
		kind: b[0], op: b[1], shared: b[2] == 1, crc: le.Uint32(b[3:]) ^ checksumOf(b), step: le.Uint32(b[7:]), seq: le.Uint64(b[11:]),
		total: le.Uint64(b[19:]), offset: le.Uint64(b[27:]), length: le.Uint32(b[35:]), lead: int64(le.Uint64(b[39:])),
		slot: le.Uint64(b[47:]), sent: int64(le.Uint64(b[55:])),
	}
}

// outgoing is a frame to send. gRPC keeps body until it is written; its Free says when.
type outgoing struct {
	header
	body mem.Buffer // nil: none
}

// incoming is a received frame. Free it.
type incoming struct {
	header
	data mem.BufferSlice // header and body
}

func (f *incoming) free() {
	f.data.Free()
	f.data = nil
}

// pieces calls use for each run of bytes of the body, in order.
func (f *incoming) pieces(use func([]byte)) {
	skip := headerSize
	for _, b := range f.data {
		d := b.ReadOnlyData()
		if skip >= len(d) {
			skip -= len(d)
			continue
		}
		use(d[skip:])
		skip = 0
	}
}

// intact compares the body with its checksum. The frame's body is not shared.
func (f *incoming) intact() bool {
	crc := uint32(0)
	f.pieces(func(b []byte) { crc = crc32.Update(crc, castagnoli, b) })
	return crc == f.crc
}

// bytes returns a copy of the body.
func (f *incoming) bytes() []byte {
	out := make([]byte, 0, f.length)
	f.pieces(func(b []byte) { out = append(out, b...) })
	return out
}

// codec carries frames as they are and leaves all other messages to gRPC's own.
type codec struct{}

// Name appears in the content type of a ring's streams.
func (codec) Name() string { return "mp-ring" }

func (codec) Marshal(v any) (mem.BufferSlice, error) {
	f, ok := v.(*outgoing)
	if !ok {
		return encoding.GetCodecV2(proto.Name).Marshal(v)
	}
	head := new([headerSize]byte)
	f.put(head)
	if f.body == nil {
		return mem.BufferSlice{mem.SliceBuffer(head[:])}, nil
	}
	return mem.BufferSlice{mem.SliceBuffer(head[:]), f.body}, nil
}

var errFrame = errors.New("not a frame of this protocol")

func (codec) Unmarshal(data mem.BufferSlice, v any) error {
	f, ok := v.(*incoming)
	if !ok {
		return encoding.GetCodecV2(proto.Name).Unmarshal(data, v)
	}
	var head [headerSize]byte
	if data.CopyTo(head[:]) < headerSize {
		return fmt.Errorf("message of %d bytes: %w", data.Len(), errFrame)
	}
	f.parse(&head)
	inline := 0
	if !f.shared {
		inline = int(f.length)
	}
	if data.Len() != headerSize+inline {
		return fmt.Errorf("frame of %d bytes says it has %d: %w", data.Len(), headerSize+inline, errFrame)
	}
	data.Ref()
	f.data = data
	return nil
}
