package rpc

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"sync/atomic"
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

	box    *outbox       // where pieces for the right neighbour lie; nil: in the streams
	slots  chan struct{} // a token a free slot of box
	turn   int           // slot used next
	theirs []byte        // the left neighbour's outbox; nil: pieces come in the streams
	used   uint64        // pieces taken from theirs since the last credit

	seq uint64 // operations begun
}

// arrival is a frame, or the end of its stream.
type arrival struct {
	*incoming
	at  time.Time
	err error
}

// The sum's outbox: enough slots that both sides work at once, few enough to stay in a cache.
const (
	slotCount   = 8
	slotSize    = 512 << 10
	creditEvery = 2
)

func newLane(g *group, streams int) *lane {
	l := &lane{group: g, in: make([]chan arrival, streams), back: make([]pipe, streams)}
	for i := range l.in {
		l.in[i] = make(chan arrival, 4)
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

// credit takes the right neighbour's word that slots are free.
func (l *lane) credit(s grpc.ClientStream) {
	for {
		var f incoming
		if s.RecvMsg(&f) != nil {
			return // the control stream knows why
		}
		n := f.offset
		f.free()
		if f.kind != frameCredit || n > uint64(cap(l.slots)-len(l.slots)) {
			l.group.fail(&allreduce.PeerError{Rank: l.group.right.rank, Kind: allreduce.KindProtocol, Err: fmt.Errorf("frame of kind %q gives %d slots free that were not used", f.kind, n)})
			return
		}
		for range n {
			l.slots <- struct{}{}
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

// written counts the pieces that gRPC still has to write, and one for whoever may add more. It is a pool only because that
// is how gRPC gives memory back.
type written struct {
	left atomic.Int64
	all  chan struct{} // closed when left is 0
}

func newWritten() *written {
	w := &written{all: make(chan struct{})}
	w.left.Store(1)
	return w
}

func (w *written) Get(length int) *[]byte { b := make([]byte, length); return &b }

func (w *written) Put(*[]byte) {
	if w.left.Add(-1) == 0 {
		close(w.all)
	}
}

// leastLent is the least number of bytes that gRPC takes without a copy of ours: below, it does not say when it is done.
const leastLent = 4 << 10

// stride is the number of bytes that are summed and checked while they are in the innermost cache.
const stride = 32 << 10

// send sends a piece on stream number i. The bytes must not change before they are written, if w is given; else they are
// not used after the call.
func (l *lane) send(i int, h header, data []byte, w *written) error {
	g := l.group
	h.kind, h.length = frameData, uint32(len(data))
	f := &outgoing{header: h}
	table := castagnoli()
	switch {
	case l.box != nil && len(data) >= leastLent:
		select {
		case <-l.slots:
		case <-g.done:
			return g.failed()
		}
		slot, at := l.box.at(l.turn, len(data))
		l.turn = (l.turn + 1) % slotCount
		for lo := 0; lo < len(data); lo += stride {
			hi := min(lo+stride, len(data))
			copy(slot[lo:hi], data[lo:hi])
			f.crc = crc32.Update(f.crc, table, data[lo:hi])
		}
		f.shared, f.slot = true, at
	case len(data) == 0:
	case w == nil || len(data) < leastLent:
		f.crc = crc32.Update(0, table, data)
		f.body = mem.SliceBuffer(append([]byte{}, data...))
	default:
		f.crc = crc32.Update(0, table, data)
		w.left.Add(1)
		f.body = mem.NewBuffer(&data, w)
	}
	if err := l.out[i].SendMsg(f); err != nil {
		return g.lost(g.right, err)
	}
	return nil
}

// check compares a frame with the one that must come.
func (l *lane) check(got *header, want header) error {
	want.kind, want.crc, want.lead, want.shared, want.slot = got.kind, got.crc, got.lead, got.shared, got.slot
	g := l.group
	switch {
	case got.kind != frameData || got.op != want.op || got.seq != want.seq:
		return g.protocol("frame %q of operation %d %q where %d %q is under way", got.kind, got.seq, got.op, want.seq, want.op)
	case got.total != want.total && want.op != opExchange:
		return fmt.Errorf("rank %d brings %d bytes, rank %d has %d: %w", g.left.rank, got.total, g.Rank(), want.total, allreduce.ErrLength)
	case *got != want:
		return g.protocol("piece of %d bytes at %d in step %d, expected %d at %d in step %d", got.length, got.offset, got.step, want.length, want.offset, want.step)
	case got.shared && (got.slot > uint64(len(l.theirs)) || uint64(got.length) > uint64(len(l.theirs))-got.slot):
		return g.protocol("piece of %d bytes at %d of %d shared bytes", got.length, got.slot, len(l.theirs))
	}
	return nil
}

func (g *group) protocol(format string, args ...any) error {
	return &allreduce.PeerError{Rank: g.left.rank, Kind: allreduce.KindProtocol, Err: fmt.Errorf(format, args...)}
}

var errChecksum = errors.New("a piece arrived with a wrong checksum")

// take gives the frame's body to use in runs of bytes, in order, and checks it. It frees the frame.
func (l *lane) take(i int, f *incoming, use func([]byte)) error {
	table, crc := castagnoli(), uint32(0)
	checked := func(b []byte) {
		crc = crc32.Update(crc, table, b)
		use(b)
	}
	if f.shared {
		body := l.theirs[f.slot:][:f.length]
		for lo := 0; lo < len(body); lo += stride {
			checked(body[lo:min(lo+stride, len(body))])
		}
	} else {
		f.pieces(checked)
	}
	want := f.crc
	shared := f.shared
	f.free()
	if crc != want {
		return &allreduce.PeerError{Rank: l.group.left.rank, Kind: allreduce.KindChecksum, Err: errChecksum}
	}
	if shared {
		if l.used++; l.used == creditEvery {
			l.used = 0
			c := &outgoing{header: header{kind: frameCredit, offset: creditEvery}}
			if err := l.back[i].SendMsg(c); err != nil {
				return l.group.lost(l.group.left, err)
			}
		}
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

// adder adds runs of bytes to integers, also where a run ends within one.
type adder struct {
	add  func(dst, src []int32)
	dst  []int32
	rest [4]byte // of an integer that began in the run before
	n    int
}

func (a *adder) use(b []byte) {
	for len(b) > 0 && a.n > 0 {
		a.rest[a.n] = b[0]
		b = b[1:]
		if a.n = (a.n + 1) % 4; a.n == 0 {
			a.some(a.rest[:])
		}
	}
	whole := len(b) &^ 3
	a.some(b[:whole])
	a.n = copy(a.rest[:], b[whole:])
}

// some adds whole integers.
func (a *adder) some(b []byte) {
	n := len(b) / 4
	if n == 0 {
		return
	}
	var src []int32
	if p := unsafe.Pointer(unsafe.SliceData(b)); uintptr(p)%4 == 0 {
		src = unsafe.Slice((*int32)(p), n)
	} else {
		src = make([]int32, n)
		copy(bytesOf(src), b)
	}
	a.add(a.dst[:n], src)
	a.dst = a.dst[n:]
}
