package rpc

import (
	"context"
	"fmt"
	"slices"
	"time"

	"google.golang.org/grpc/mem"

	"mp/allreduce"
)

// work is one operation on a lane: frames go and come in an order that both ends know.
type work struct {
	lane  *lane
	op    byte
	seq   uint64
	total int // bytes of the vector

	start    time.Time
	lead     []time.Duration // see allreduce.Lateness
	behind   time.Duration   // the greatest delay of a frame: see flight
	received int             // frames
	sent     int
}

func (l *lane) newWork(op byte, total int) *work {
	l.seq++
	return &work{lane: l, op: op, seq: l.seq, total: total, start: time.Now(), lead: make([]time.Duration, l.group.Size())}
}

// done ends the operation with its error.
func (w *work) done(err error) error {
	g := w.lane.group
	if err == nil {
		err = w.lane.settle()
	}
	if err != nil {
		g.fail(err)
		return g.failed()
	}
	g.flight.add(w.behind)
	g.mu.Lock()
	defer g.mu.Unlock()
	for r, d := range allreduce.Lateness(w.lead) {
		g.late[r] += d
	}
	return nil
}

// send sends the next frame.
func (w *work) send(h header, p parcel) error {
	h.op, h.seq = w.op, w.seq
	if w.op != opExchange {
		h.total = uint64(w.total)
	}
	i := w.sent % len(w.lane.out)
	w.sent++
	return w.lane.send(i, h, p)
}

// next receives the next frame and checks it against what must come.
func (w *work) next(want header) (*incoming, error) {
	a, err := w.lane.next(w.received % len(w.lane.in))
	if err != nil {
		return nil, err
	}
	if w.received == 0 {
		w.lead[w.lane.group.Rank()] = w.start.Sub(a.at)
	}
	w.received++
	w.behind = max(w.behind, w.lane.group.flight.over(a.at.Sub(w.lane.group.born)-time.Duration(a.sent), a.at))
	if err := w.fits(&a.header, want); err != nil {
		if !a.shared && !a.intact() { // its sender said something else
			err = w.lane.group.damaged()
		}
		a.free()
		return nil, err
	}
	return a.incoming, nil
}

// fits compares a frame with the one that must come.
func (w *work) fits(got *header, want header) error {
	l := w.lane
	g := l.group
	want.op, want.seq, want.total = w.op, w.seq, uint64(w.total)
	if w.op == opExchange { // lengths are their senders' own
		want.total, want.length = got.total, got.length
		if got.total > allreduce.MaxMessage || uint64(got.length) != got.total {
			return g.protocol("message of %d bytes, which may have %d, in a frame of %d", got.total, allreduce.MaxMessage, got.length)
		}
	}
	want.kind, want.crc, want.lead, want.shared, want.slot, want.sent = got.kind, got.crc, got.lead, got.shared, got.slot, got.sent
	switch {
	case got.kind != frameData || got.op != want.op || got.seq != want.seq:
		return g.protocol("frame %q of operation %d %q where %d %q is under way", got.kind, got.seq, got.op, want.seq, want.op)
	case got.total != want.total:
		return fmt.Errorf("rank %d brings %d bytes, rank %d has %d: %w", g.left.rank, got.total, g.Rank(), want.total, allreduce.ErrLength)
	case *got != want:
		return g.protocol("piece of %d bytes at %d in step %d, expected %d at %d in step %d", got.length, got.offset, got.step, want.length, want.offset, want.step)
	case got.shared && (got.slot > uint64(len(l.theirs)) || uint64(got.length) > uint64(len(l.theirs))-got.slot):
		return g.protocol("piece of %d bytes at %d of %d shared bytes", got.length, got.slot, len(l.theirs))
	}
	return nil
}

func (g *group) Sum(ctx context.Context, data []int32) error {
	return g.SumStream(ctx, len(data), allreduce.Stream{
		Load: func(q []int32, at int) error {
			copy(q, data[at:])
			return nil
		},
		Store: func(q []int32, at int) { copy(data[at:], q) },
	})
}

func (g *group) SumStream(ctx context.Context, n int, s allreduce.Stream) error {
	end, err := g.begin(ctx)
	if err != nil {
		return err
	}
	defer end()
	if g.Size() > 1 && (4*n*(g.Size()-1) > smallSum || g.Piece != 0) {
		return g.sum.reduce(n, s)
	}
	data := make([]int32, n)
	if err := s.Load(data, 0); err != nil {
		g.fail(err)
		return g.failed()
	}
	if g.Size() > 1 {
		err = g.sum.pass(opSum, bytesOf(data), func(_ int, theirs []byte) {
			g.Kernels.Add(data, integersOf(theirs))
		})
	}
	if err == nil {
		s.Store(data, 0)
	}
	return err
}

func (g *group) Max(ctx context.Context, data []byte) error {
	end, err := g.begin(ctx)
	if err != nil {
		return err
	}
	defer end()
	for lo := 0; g.Size() > 1 && (lo == 0 || lo < len(data)); lo += maxAtOnce {
		part := data[lo:min(lo+maxAtOnce, len(data))]
		if err := g.max.pass(opMax, part, func(at int, theirs []byte) {
			own := part[at:][:len(theirs)]
			for i, x := range own {
				theirs[i] = max(x, theirs[i])
			}
			copy(own, theirs)
		}); err != nil {
			return err
		}
	}
	return nil
}

func (g *group) Exchange(ctx context.Context, mine []byte) ([][]byte, error) {
	if len(mine) > allreduce.MaxMessage {
		return nil, fmt.Errorf("exchange %d bytes, at most %d: %w", len(mine), allreduce.MaxMessage, allreduce.ErrTooLong)
	}
	end, err := g.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer end()
	all := make([][]byte, g.Size())
	all[g.Rank()] = append([]byte{}, mine...)
	if g.Size() == 1 {
		return all, nil
	}
	from := g.Rank()
	err = g.sum.pass(opExchange, mine, func(_ int, theirs []byte) {
		from = (from + g.Size() - 1) % g.Size()
		all[from] = theirs
	})
	return all, err
}

// smallSum is the number of bytes up to which a member rather sends everything Size-1 times than waits for twice as many
// messages.
const smallSum = 32 << 10

// Sizes in bytes of pass's messages, and of the vectors that Max gives it.
const (
	passPiece = 64 << 10
	maxAtOnce = passPiece * allreduce.MostUnderWay
)

// pass sends data round, which is short: in each of Size-1 steps a member sends what it has, its own first, and merges what
// comes, at a byte of the vector, into what it sends next.
func (l *lane) pass(op byte, data []byte, merge func(at int, theirs []byte)) error {
	w := l.newWork(op, len(data))
	return w.done(w.pass(data, merge))
}

func (w *work) pass(data []byte, merge func(at int, theirs []byte)) error {
	g, size := w.lane.group, passPiece
	if g.Piece != 0 && w.op != opExchange {
		size = max(g.Piece, (len(data)+allreduce.MostUnderWay-1)/allreduce.MostUnderWay)
	}
	n, rank := g.Size(), g.Rank()
	for lo := 0; lo == 0 || lo < len(data); lo += size {
		h := header{offset: uint64(lo), total: uint64(len(data))}
		if err := w.sendCopy(h, data[lo:min(lo+size, len(data))]); err != nil {
			return err
		}
	}
	for step := range n - 1 {
		for lo := 0; lo == 0 || lo < len(data); lo += size {
			f, err := w.next(header{step: uint32(step), offset: uint64(lo), length: uint32(min(size, len(data)-lo))})
			if err != nil {
				return err
			}
			if step > 0 {
				w.lead[(rank+n-step)%n] = time.Duration(f.lead)
			}
			theirs, total := f.bytes(), f.total
			if g.checksum(0, theirs) != f.crc {
				err = g.damaged()
			}
			f.free()
			if err != nil {
				return err
			}
			merge(lo, theirs)
			if step < n-2 {
				h := header{step: uint32(step) + 1, offset: uint64(lo), total: total, lead: int64(w.lead[(rank+n-step)%n])}
				if err := w.sendCopy(h, theirs); err != nil {
					return err
				}
			}
			if w.op == opExchange {
				break // in one message each, however long
			}
		}
	}
	// One lead never arrives: all of them add up to nothing.
	missing := (rank + 1) % n
	w.lead[missing] = 0
	for r, d := range w.lead {
		if r != missing {
			w.lead[missing] -= d
		}
	}
	return nil
}

// sendCopy sends a copy of data.
func (w *work) sendCopy(h header, data []byte) error {
	h.crc = w.lane.group.checksum(0, data)
	p := parcel{data: data}
	if len(data) > 0 {
		p.body = mem.SliceBuffer(slices.Clone(data))
	}
	return w.send(h, p)
}

// pieceOf is the number of elements in a message of a sum of n elements: enough messages that sending, adding and receiving
// overlap, and few enough that their number costs little.
func (g *group) pieceOf(n int) int {
	bytes := g.Piece
	if bytes == 0 {
		bytes = min(max(4*n/g.Size()/4, leastPiece), slotSize)
	}
	return max(bytes/4/allreduce.Block, 1) * allreduce.Block
}

const leastPiece = 32 << 10

// reduce is the ring: allreduce.Plan says what goes when.
func (l *lane) reduce(n int, s allreduce.Stream) error {
	g := l.group
	w := l.newWork(opSum, 4*n)
	r := ring{work: w, Plan: allreduce.Plan{Rank: g.Rank(), Size: g.Size(), Length: n, Piece: g.pieceOf(n)}, Stream: s}
	return w.done(r.run())
}

// ring is one sum under way.
type ring struct {
	*work
	allreduce.Plan
	allreduce.Stream
}

func (r *ring) run() error {
	if err := r.begin(0); err != nil {
		return err
	}
	for wave := range r.Waves() {
		// The next wave's first message is on its way before this wave's come: then nobody waits for a message's flight.
		if err := r.begin(wave + 1); err != nil {
			return err
		}
		first, last := r.UnderWay(wave)
		for round := last; round >= first; round-- {
			if err := r.step(round, wave-r.Start(round)); err != nil {
				return err
			}
		}
		if err := r.lane.settle(); err != nil {
			return err
		}
	}
	return nil
}

// begin sends the first message of the round that begins with a wave, if one does.
func (r *ring) begin(wave int) error {
	round := r.Begins(wave)
	if round < 0 {
		return nil
	}
	lo, hi := r.Bounds(round, r.Send(0))
	p, err := r.lane.parcel(4 * (hi - lo))
	if err != nil {
		return err
	}
	h := header{offset: uint64(4 * lo)}
	for at := 0; at < len(p.data); at += stride {
		b := p.data[at:min(at+stride, len(p.data))]
		if err := r.Load(integersOf(b), lo+at/4); err != nil {
			return err
		}
		h.crc = p.checksum(r.lane.group, h.crc, b)
	}
	return r.send(h, p)
}

// step receives a message and sends what becomes of it, where that is not the end.
func (r *ring) step(round, step int) error {
	lo, hi := r.Bounds(round, r.Receive(step))
	f, err := r.next(header{step: uint32(step), offset: uint64(4 * lo), length: uint32(4 * (hi - lo))})
	if err != nil {
		return err
	}
	if r.Gather(step) {
		r.lead[r.Owner(step+1)] = time.Duration(f.lead)
	}
	g, ends := r.lane.group, step+1 == r.Steps()
	var p parcel
	if !ends {
		if p, err = r.lane.parcel(4 * (hi - lo)); err != nil {
			f.free()
			return err
		}
	}
	out := integersOf(p.data)
	h := header{step: uint32(step) + 1, offset: uint64(4 * lo)}
	if r.Gather(step) {
		if same := f.shared == (p.body == nil); same {
			h.crc = f.crc
		}
		fresh := h.crc == 0 && !ends
		err = r.lane.take(f, func(q []int32, at int) error {
			r.Store(q, lo+at)
			if !ends {
				copy(out[at:], q)
			}
			if fresh {
				h.crc = p.checksum(g, h.crc, bytesOf(q))
			}
			return nil
		})
	} else {
		err = r.lane.take(f, func(q []int32, at int) error {
			sum := out[at:][:len(q)]
			if err := r.Load(sum, lo+at); err != nil {
				return err
			}
			g.Kernels.Add(sum, q)
			if r.Gather(step + 1) {
				r.Store(sum, lo+at)
			}
			h.crc = p.checksum(g, h.crc, bytesOf(sum))
			return nil
		})
	}
	if err != nil || ends {
		return err
	}
	if r.Gather(step + 1) {
		h.lead = int64(r.lead[r.Owner(step+1)])
	}
	return r.send(h, p)
}
