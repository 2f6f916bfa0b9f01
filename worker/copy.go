package worker

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"sync"

	"mp/allreduce"
	"mp/mppb"
)

// giver is a member of whom a state can be copied.
type giver struct {
	rank   int
	member *mppb.Member
}

// duplicate is a state under copy: what has arrived of the snapshot, and the sums that the group has made since, to be
// applied to it. It outlives the view in which it began, as long as no sum is missed.
type duplicate struct {
	at    position // of the snapshot
	reach position // where the state will be when the queue is applied
	queue []deed
	beat  func()

	mu    sync.Mutex // guards what follows
	sum   []byte     // SHA-256 of the snapshot; nil: nothing has arrived
	data  []byte
	state []partState
	left  int // parts that have not arrived
}

// deed is one thing that moved the run on: an update's sums or, where the first is nil, a validation's tallies.
type deed struct {
	sum     []float32
	signs   []int32 // of free adversarial training's perturbation; nil: it ends, or there is none
	tally   tally
	watched watched
}

type partState uint8

const (
	partMissing partState = iota
	partAsked
	partHere
)

// partsAtOnce is how many parts one request asks for: enough to hide a round trip, few enough to share work among donors.
const partsAtOnce = 16

func newDuplicate(at position, beat func()) *duplicate {
	return &duplicate{at: at, reach: at, beat: beat}
}

// maxStateBytes is more than the state of any model that this program has: a peer that claims more is not believed.
const maxStateBytes = 64 << 30

// fetch copies the parts that are missing, from all givers at once, and returns the snapshot. When a giver fails, others
// take its parts. It blocks until everything is here and whole, no giver is left, or ctx ends; what has arrived is kept for
// another call. An error wraps the *allreduce.PeerError of each giver that failed.
func (d *duplicate) fetch(ctx context.Context, from donors, job string, view uint64, givers []giver) (*snapshot, error) {
	var failed []error
	for len(givers) > 0 && !d.whole() {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if !d.sized() { // one part tells how many there are
			if err := d.fetchFrom(ctx, from, job, view, givers[0], true); err != nil {
				failed = append(failed, err)
				givers = givers[1:]
			}
			continue
		}
		errs := make([]error, len(givers))
		var wait sync.WaitGroup
		for i, g := range givers {
			wait.Go(func() { errs[i] = d.fetchFrom(ctx, from, job, view, g, false) })
		}
		wait.Wait()
		var rest []giver
		for i, g := range givers {
			if errs[i] == nil {
				rest = append(rest, g)
			} else {
				failed = append(failed, errs[i])
			}
		}
		givers = rest
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if !d.whole() {
		return nil, fmt.Errorf("copy the state after update %d: %w", d.at.Done, errors.Join(failed...))
	}
	return d.read()
}

// read checks and decodes what has arrived.
func (d *duplicate) read() (*snapshot, error) {
	if sum := sha256.Sum256(d.data); !bytes.Equal(sum[:], d.sum) {
		d.drop()
		return nil, fmt.Errorf("copy the state after update %d: its SHA-256 is %x, not %x as the donors say, though each part was whole", d.at.Done, sum, d.sum)
	}
	s, err := readImage(d.data)
	if err != nil {
		return nil, fmt.Errorf("copy the state after update %d: %w", d.at.Done, err)
	}
	if s.at != d.at {
		return nil, fmt.Errorf("copy the state after update %d: it is of update %d", d.at.Done, s.at.Done)
	}
	return s, nil
}

// fetchFrom copies ranges of parts from one giver until none is left to ask for; with first, only the first part.
func (d *duplicate) fetchFrom(ctx context.Context, from donors, job string, view uint64, g giver, first bool) error {
	blame := func(kind string, err error) error {
		return &allreduce.PeerError{Rank: g.rank, Kind: kind, Err: fmt.Errorf("copy state from %s: %w", g.member.Name, err)}
	}
	peer, hangUp, err := from.dial(g.member)
	if err != nil {
		return blame(allreduce.KindConnection, err)
	}
	defer hangUp()
	for {
		low, high := 0, 1
		if !first {
			if low, high = d.take(); low == high {
				return nil
			}
		}
		kind, err := d.fetchRange(ctx, peer, &mppb.StateRequest{
			Job: job, View: view, Update: uint64(d.at.Done), Validated: uint32(d.at.Validated), Replay: uint32(d.at.Replay), First: uint32(low), Last: uint32(high),
		})
		d.release(low, high)
		if err != nil {
			return blame(kind, err)
		}
		if first {
			return nil
		}
	}
}

// fetchRange receives the parts of one request. The error comes with the kind of what the giver is to be blamed for.
func (d *duplicate) fetchRange(ctx context.Context, peer mppb.PeerClient, r *mppb.StateRequest) (kind string, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := peer.State(ctx, r)
	if err != nil {
		return allreduce.KindConnection, err
	}
	for next := r.First; ; next++ {
		p, err := stream.Recv()
		if err == io.EOF && next == r.Last {
			return "", nil
		}
		if err != nil {
			return allreduce.KindConnection, fmt.Errorf("part %d: %w", next, err)
		}
		if p.Number != next || next >= r.Last {
			return allreduce.KindProtocol, fmt.Errorf("part %d came where %d was asked for", p.Number, next)
		}
		if got := mppb.Checksum(p.Data); got != p.Crc32C {
			return allreduce.KindChecksum, fmt.Errorf("part %d has checksum %08x, not %08x: its bytes changed on their way", next, got, p.Crc32C)
		}
		if kind, err := d.put(p); err != nil {
			return kind, err
		}
		d.beat()
	}
}

// put stores a part whose checksum is right.
func (d *duplicate) put(p *mppb.StatePart) (kind string, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.sum == nil {
		if p.Size == 0 || p.Size > maxStateBytes || len(p.Sha256) != sha256.Size || uint64(p.Parts) != (p.Size+mppb.PartBytes-1)/mppb.PartBytes {
			return allreduce.KindProtocol, fmt.Errorf("a state of %d bytes in %d parts with a hash of %d bytes cannot be", p.Size, p.Parts, len(p.Sha256))
		}
		d.sum, d.data, d.state, d.left = bytes.Clone(p.Sha256), make([]byte, p.Size), make([]partState, p.Parts), int(p.Parts)
	}
	if !bytes.Equal(d.sum, p.Sha256) || p.Size != uint64(len(d.data)) {
		return allreduce.KindChecksum, fmt.Errorf("its state has SHA-256 %x, others' has %x: they should be the same", p.Sha256, d.sum)
	}
	at := int(p.Number) * mppb.PartBytes
	if at >= len(d.data) || len(p.Data) != min(mppb.PartBytes, len(d.data)-at) {
		return allreduce.KindProtocol, fmt.Errorf("part %d has %d bytes", p.Number, len(p.Data))
	}
	copy(d.data[at:], p.Data)
	if d.state[p.Number] != partHere {
		d.state[p.Number] = partHere
		d.left--
	}
	return "", nil
}

// take marks a range of missing parts as asked for; an empty one when there is none.
func (d *duplicate) take() (low, high int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for low < len(d.state) && d.state[low] != partMissing {
		low++
	}
	for high = low; high < len(d.state) && high-low < partsAtOnce && d.state[high] == partMissing; high++ {
		d.state[high] = partAsked
	}
	return low, high
}

// release lets others ask for what did not arrive of a range.
func (d *duplicate) release(low, high int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for i := low; i < min(high, len(d.state)); i++ {
		if d.state[i] == partAsked {
			d.state[i] = partMissing
		}
	}
}

func (d *duplicate) sized() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.sum != nil
}

func (d *duplicate) whole() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.sum != nil && d.left == 0
}

// drop gives up what has arrived.
func (d *duplicate) drop() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.sum, d.data, d.state, d.left = nil, nil, nil, 0
}

// maxQueueBytes bounds the sums that wait for the copy; beyond it the one that copies lets the group wait.
const maxQueueBytes = 1 << 30

// full says whether another sum of n elements would be too many.
func (d *duplicate) full(n int) bool {
	return (len(d.queue)+1)*4*n > maxQueueBytes && len(d.queue) >= 4
}

// note queues what moved the run on, to a position.
func (d *duplicate) note(x deed, to position) {
	d.queue = append(d.queue, x)
	d.reach = to
}
