package rpc

import (
	"context"
	"fmt"
	"slices"
	"time"

	"mp/allreduce"
)

// piece is what a member sends next: received in the step before, or its own.
type piece struct {
	header
	data []byte
}

// work is one operation on a lane: frames come in an order that both ends know, and what is received in a step goes on in
// the next.
type work struct {
	lane  *lane
	op    byte
	seq   uint64
	total int // bytes of the vector

	start time.Time
	lead  []time.Duration // see allreduce.Lateness
	k     int             // frames received

	first   []piece    // sent in step 0
	forward chan piece // sent afterwards, in order
	lent    *written   // pieces are lent to gRPC; nil: copied
}

func (l *lane) newWork(op byte, total int) *work {
	l.seq++
	return &work{lane: l, op: op, seq: l.seq, total: total, start: time.Now(), lead: make([]time.Duration, l.group.Size())}
}

// run sends in a goroutine what first and forward hold while receive receives; receive must close forward.
func (w *work) run(receive func() error) error {
	g := w.lane.group
	sent := make(chan error, 1)
	go func() { sent <- w.send() }()
	err := receive()
	close(w.forward)
	if err != nil {
		g.fail(err)
	}
	if failed := <-sent; err == nil {
		err = failed
	}
	if err == nil && w.lent != nil {
		err = w.written()
	}
	if err != nil {
		return g.failed()
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	for r, d := range allreduce.Lateness(w.lead) {
		g.late[r] += d
	}
	return nil
}

func (w *work) send() error {
	k := 0
	out := func(p piece) error {
		p.op, p.seq = w.op, w.seq
		if w.op != opExchange {
			p.total = uint64(w.total)
		}
		err := w.lane.send(k%len(w.lane.out), p.header, p.data, w.lent)
		k++
		return err
	}
	for _, p := range w.first {
		if err := out(p); err != nil {
			return err
		}
	}
	for p := range w.forward {
		if err := out(p); err != nil {
			return err
		}
	}
	return nil
}

// written waits until gRPC needs the vector no more.
func (w *work) written() error {
	w.lent.Put(nil)
	select {
	case <-w.lent.all:
		return nil
	case <-w.lane.group.done:
		return w.lane.group.failed()
	}
}

// next receives the next frame and checks it against what must come.
func (w *work) next(want header) (*incoming, int, error) {
	i := w.k % len(w.lane.in)
	a, err := w.lane.next(i)
	if err != nil {
		return nil, 0, err
	}
	if w.k == 0 {
		w.lead[w.lane.group.Rank()] = w.start.Sub(a.at)
	}
	w.k++
	want.op, want.seq, want.total = w.op, w.seq, uint64(w.total)
	if w.op == opExchange { // lengths are their senders' own
		want.total = a.total
		want.length = a.length
		if a.total > allreduce.MaxMessage || uint64(a.length) != a.total {
			a.free()
			return nil, 0, w.lane.group.protocol("message of %d bytes in a frame of %d", a.total, a.length)
		}
	}
	if err := w.lane.check(&a.header, want); err != nil {
		a.free()
		return nil, 0, err
	}
	return a.incoming, i, nil
}

func (g *group) Sum(ctx context.Context, data []int32) error {
	end, err := g.begin(ctx)
	if err != nil {
		return err
	}
	defer end()
	switch bytes := 4 * len(data); {
	case g.Size() == 1:
		return nil
	case bytes*(g.Size()-1) <= smallSum && g.Piece == 0:
		return g.sum.pass(opSum, bytesOf(data), func(_ int, theirs []byte) []byte {
			own := adder{add: g.Kernels.Add, dst: data}
			own.use(theirs)
			return theirs
		})
	default:
		return g.sum.reduce(data)
	}
}

func (g *group) Max(ctx context.Context, data []byte) error {
	end, err := g.begin(ctx)
	if err != nil {
		return err
	}
	defer end()
	if g.Size() == 1 {
		return nil
	}
	return g.max.pass(opMax, data, func(at int, theirs []byte) []byte {
		own := data[at:][:len(theirs)]
		for i, x := range theirs {
			theirs[i] = max(own[i], x)
		}
		copy(own, theirs)
		return theirs
	})
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
	err = g.sum.pass(opExchange, mine, func(_ int, theirs []byte) []byte {
		from = (from + g.Size() - 1) % g.Size()
		all[from] = theirs
		return theirs
	})
	return all, err
}

// smallSum is the number of bytes up to which a member rather sends everything Size-1 times than waits for twice as many
// messages.
const smallSum = 32 << 10

// passPiece is the greatest message of pass in bytes.
const passPiece = 64 << 10

// pass sends data round: in each of Size-1 steps a member sends what it has, its own first, and merges what comes, at a
// byte of the vector, into what it sends next.
func (l *lane) pass(op byte, data []byte, merge func(at int, theirs []byte) []byte) error {
	w := l.newWork(op, len(data))
	size := passPiece
	if g := l.group; g.Piece != 0 && op != opExchange {
		size = g.Piece
	}
	for lo := 0; lo == 0 || lo < len(data); lo += size {
		h := header{offset: uint64(lo), total: uint64(len(data))}
		w.first = append(w.first, piece{header: h, data: slices.Clone(data[lo:min(lo+size, len(data))])})
	}
	n, rank := l.group.Size(), l.group.Rank()
	w.forward = make(chan piece, len(w.first)*(n-2))
	return w.run(func() error {
		for step := range n - 1 {
			for _, own := range w.first {
				want := own.header
				want.step, want.length = uint32(step), uint32(len(own.data))
				f, i, err := w.next(want)
				if err != nil {
					return err
				}
				if step > 0 {
					w.lead[(rank+n-step)%n] = time.Duration(f.lead)
				}
				h := header{step: uint32(step) + 1, offset: f.offset, total: f.total, lead: int64(w.lead[(rank+n-step)%n])}
				theirs := make([]byte, 0, f.length)
				if err := l.take(i, f, func(b []byte) { theirs = append(theirs, b...) }); err != nil {
					return err
				}
				theirs = merge(int(h.offset), theirs)
				if step < n-2 {
					w.forward <- piece{header: h, data: theirs}
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
	})
}

// pieceOf is the number of elements in a message of a sum of n elements: segments travel in several pieces, so that
// sending, adding and receiving overlap.
func (g *group) pieceOf(n int) int {
	if g.Piece != 0 {
		return g.Piece / 4
	}
	segment := n / g.Size()
	return min(max(segment/4, leastPiece/4), slotSize/4) / 16 * 16
}

const leastPiece = 32 << 10

// reduce is the ring: allreduce.Plan says what goes when.
func (l *lane) reduce(data []int32) error {
	g := l.group
	p := allreduce.Plan{Rank: g.Rank(), Size: g.Size(), Length: len(data), Piece: g.pieceOf(len(data))}
	w := l.newWork(opSum, 4*len(data))
	w.lent = newWritten()
	outgoing := func(step, k int) piece {
		lo, hi := p.Bounds(p.Send(step), k)
		h := header{step: uint32(step), offset: uint64(4 * lo)}
		if p.Gather(step) {
			h.lead = int64(w.lead[(p.Rank+2*p.Size-1-step)%p.Size])
		}
		return piece{header: h, data: bytesOf(data[lo:hi])}
	}
	for k := range p.Pieces(p.Send(0)) {
		w.first = append(w.first, outgoing(0, k))
	}
	total := 0
	for step := 1; step < p.Steps(); step++ {
		total += p.Pieces(p.Send(step))
	}
	w.forward = make(chan piece, total)
	return w.run(func() error {
		for step := range p.Steps() {
			segment := p.Receive(step)
			for k := range p.Pieces(segment) {
				lo, hi := p.Bounds(segment, k)
				f, i, err := w.next(header{step: uint32(step), offset: uint64(4 * lo), length: uint32(4 * (hi - lo))})
				if err != nil {
					return err
				}
				if p.Gather(step) {
					w.lead[p.Owner(step)] = time.Duration(f.lead)
					into := bytesOf(data[lo:hi])
					err = l.take(i, f, func(b []byte) { into = into[copy(into, b):] })
				} else {
					sum := adder{add: g.Kernels.Add, dst: data[lo:hi]}
					err = l.take(i, f, sum.use)
				}
				if err != nil {
					return err
				}
				if step+1 < p.Steps() {
					w.forward <- outgoing(step+1, k)
				}
			}
		}
		return nil
	})
}
