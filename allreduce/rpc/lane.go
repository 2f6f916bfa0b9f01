package rpc

import (
	"errors"
	"fmt"
	"io"
	"time"
	"unsafe"

	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"

	"mp/allreduce"
)

// lane carries one operation at a time: pieces come from the left neighbour's streams and go to the right one's, over the
// streams in turn.
type lane struct {
	group *group
	in    []chan arrival // one a stream
	back  []pipe         // the left neighbour's streams, for credits
	out   []grpc.ClientStream

	box    *slots // where pieces for the right neighbour lie; nil: in the streams
	spare  spare  // memory of pieces in the streams
	theirs []byte // the left neighbour's outbox; nil: pieces come in the streams
	used   int    // pieces taken from theirs since the last credit

	seq uint64 // operations begun
}

// arrival is a frame, or the end of its stream.
type arrival struct {
	*incoming
	at  time.Time
	err error
}

// queue is the number of frames that wait for their operation. A member sends at most two waves before its neighbour has
// taken the first, so that nobody waits to send while all others do.
const queue = 2 * allreduce.MostUnderWay

func newLane(g *group, streams int) *lane {
	l := &lane{group: g, in: make([]chan arrival, streams), back: make([]pipe, streams), spare: make(spare, queue)}
	for i := range l.in {
		l.in[i] = make(chan arrival, queue)
	}
	return l
}

// read brings the frames of the left neighbour's stream number i.
func (l *lane) read(i int, p pipe) {
	g := l.group
	for {
		f := new(incoming)
		err := p.RecvMsg(f)
		a := arrival{incoming: f, at: time.Now(), err: err}
		if err == nil {
			g.left.hear()
		}
		select {
		case l.in[i] <- a:
		case <-g.done:
			if err == nil {
				f.free()
			}
			return
		}
		if err != nil {
			return
		}
	}
}

// next waits for the next frame of stream number i.
func (l *lane) next(i int) (arrival, error) {
	g := l.group
	select {
	case a := <-l.in[i]:
		switch {
		case a.err == nil:
			return a, nil
		case errors.Is(a.err, io.EOF):
			return a, g.gone()
		}
		if e := g.left.gone(a.err); e.Kind == allreduce.KindProtocol {
			g.fail(e)
		}
		return a, g.lost(g.left, a.err)
	case <-g.done:
		return arrival{}, g.failed()
	}
}

// spare keeps memory of pieces that gRPC has written. It is a pool because that is how gRPC gives memory back.
type spare chan []byte

func (p spare) Get(length int) *[]byte {
	var b []byte
	select {
	case b = <-p:
	default:
	}
	if cap(b) < length {
		b = make([]byte, max(length, slotSize))
	}
	b = b[:length]
	return &b
}

func (p spare) Put(b *[]byte) {
	select {
	case p <- (*b)[:cap(*b)]:
	default:
	}
}

// leastShared is the least number of bytes of a piece that goes through shared memory.
const leastShared = 4 << 10

// parcel is memory for a piece to send.
type parcel struct {
	data []byte
	slot uint64     // where in the outbox, if shared
	body mem.Buffer // for the stream; nil: shared, or empty
}

// checksum continues the checksum that goes with the parcel by bytes of it.
func (p *parcel) checksum(g *group, crc uint32, b []byte) uint32 {
	if p.body == nil {
		return g.sample(crc, b)
	}
	return g.checksum(crc, b)
}

// parcel returns memory for a piece of length bytes; send or nothing must follow.
func (l *lane) parcel(length int) (parcel, error) {
	switch {
	case length == 0:
		return parcel{}, nil
	case l.box != nil && length >= leastShared:
		data, slot, err := l.box.acquire(length)
		return parcel{data: data, slot: slot}, err
	default:
		b := l.spare.Get(length)
		return parcel{data: *b, body: mem.NewBuffer(b, l.spare)}, nil
	}
}

// send sends a piece on stream number i.
func (l *lane) send(i int, h header, p parcel) error {
	h.kind, h.length = frameData, uint32(len(p.data))
	h.shared, h.slot, h.sent = len(p.data) > 0 && p.body == nil, p.slot, int64(time.Since(l.group.born))
	if err := l.out[i].SendMsg(&outgoing{header: h, body: p.body}); err != nil {
		return l.group.lost(l.group.right, err)
	}
	return nil
}

func (g *group) protocol(format string, args ...any) error {
	return &allreduce.PeerError{Rank: g.left.rank, Kind: allreduce.KindProtocol, Err: fmt.Errorf(format, args...)}
}

var errChecksum = errors.New("a piece arrived with a wrong checksum")

// damaged says that what the left neighbour sent has changed on its way.
func (g *group) damaged() error {
	return &allreduce.PeerError{Rank: g.left.rank, Kind: allreduce.KindChecksum, Err: errChecksum}
}

// stride is the number of bytes that are worked on at once: they stay in the innermost cache meanwhile.
const stride = 4 * 16 * allreduce.Block

// take gives the frame's body to use in strides of integers, with the element of the piece at which each begins, and then
// checks it. It frees the frame.
func (l *lane) take(f *incoming, use func(q []int32, at int) error) error {
	crc, err := uint32(0), error(nil)
	if f.shared {
		body := l.theirs[f.slot:][:f.length]
		for lo := 0; lo < len(body) && err == nil; lo += stride {
			b := body[lo:min(lo+stride, len(body))]
			crc = l.group.sample(crc, b)
			err = use(integersOf(b), lo/4)
		}
		l.used++
	} else {
		part := make([]int32, min(stride, (int(f.length)+3)&^3)/4)
		room, n, at := bytesOf(part), 0, 0
		flush := func() {
			if n > 0 && err == nil {
				crc = l.group.checksum(crc, room[:n])
				err = use(part[:n/4], at)
				at, n = at+n/4, 0
			}
		}
		f.pieces(func(b []byte) {
			for len(b) > 0 && err == nil {
				k := copy(room[n:], b)
				if b, n = b[k:], n+k; n == len(room) {
					flush()
				}
			}
		})
		flush()
	}
	want := f.crc
	f.free()
	if err == nil && crc != want {
		err = l.group.damaged()
	}
	return err
}

// settle tells the left neighbour how many of its slots are free again.
func (l *lane) settle() error {
	if l.used == 0 {
		return nil
	}
	c := &outgoing{header: header{kind: frameCredit, offset: uint64(l.used)}}
	l.used = 0
	if err := l.back[0].SendMsg(c); err != nil {
		return l.group.lost(l.group.left, err)
	}
	return nil
}

// closeSend says on every stream that nothing more comes.
func (l *lane) closeSend() {
	for _, s := range l.out {
		if s != nil {
			s.CloseSend()
		}
	}
}

// bytesOf is x's memory.
func bytesOf(x []int32) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(x))), 4*len(x))
}

// integersOf is the memory of b, which is aligned.
func integersOf(b []byte) []int32 {
	return unsafe.Slice((*int32)(unsafe.Pointer(unsafe.SliceData(b))), len(b)/4)
}
