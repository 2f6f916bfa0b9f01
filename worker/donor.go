package worker

import (
	"context"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"mp/mppb"
)

// donor serves the snapshots that this worker keeps for peers that copy. Its methods may be called from any goroutine.
type donor struct {
	mppb.UnimplementedPeerServer

	mu      sync.Mutex // guards what follows
	job     string
	kept    map[position]*image
	changed chan struct{} // closed and replaced when kept changes
}

// givePatience is how long a request waits for a snapshot: both sides have agreed on it, and the copy of a state in memory
// takes a moment.
const givePatience = 30 * time.Second

func newDonor() *donor { return &donor{kept: map[position]*image{}, changed: make(chan struct{})} }

// give offers a snapshot of a job.
func (d *donor) give(job string, s *snapshot) error {
	i, err := newImage(s)
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.job != job {
		clear(d.kept)
	}
	d.job = job
	d.kept[s.at] = i
	d.tell()
	return nil
}

// keep gives up the snapshots that are of another job or not wanted.
func (d *donor) keep(job string, wanted func(position) bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for at := range d.kept {
		if d.job != job || !wanted(at) {
			delete(d.kept, at)
		}
	}
	d.job = job
	d.tell()
}

// has are the positions of the snapshots of a job.
func (d *donor) has(job string) []position {
	d.mu.Lock()
	defer d.mu.Unlock()
	var out []position
	for at := range d.kept {
		if d.job == job {
			out = append(out, at)
		}
	}
	return out
}

func (d *donor) tell() {
	close(d.changed)
	d.changed = make(chan struct{})
}

// find waits for a snapshot.
func (d *donor) find(ctx context.Context, job string, at position) (*image, error) {
	ctx, cancel := context.WithTimeout(ctx, givePatience)
	defer cancel()
	for {
		d.mu.Lock()
		i, ok, serves, changed := d.kept[at], false, d.job, d.changed
		ok = i != nil && d.job == job
		d.mu.Unlock()
		if ok {
			return i, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, status.Errorf(codes.FailedPrecondition, "no snapshot of job %q after update %d is kept here; this worker is at job %q", job, at.Done, serves)
		}
	}
}

// State streams parts of a snapshot.
func (d *donor) State(r *mppb.StateRequest, to grpc.ServerStreamingServer[mppb.StatePart]) error {
	i, err := d.find(to.Context(), r.Job, position{Done: int(r.Update), Validated: int(r.Validated), Replay: int(r.Replay)})
	if err != nil {
		return err
	}
	parts := i.parts()
	last := int(r.Last)
	if last == 0 {
		last = parts
	}
	if int(r.First) >= parts || last > parts || int(r.First) >= last {
		return status.Errorf(codes.OutOfRange, "parts %d to %d of %d", r.First, r.Last, parts)
	}
	sum := i.digest()
	for n := int(r.First); n < last; n++ {
		data := i.part(n, make([]byte, mppb.PartBytes))
		err := to.Send(&mppb.StatePart{
			Number: uint32(n), Parts: uint32(parts), Size: uint64(i.size), Sha256: sum[:], Data: data, Crc32C: mppb.Checksum(data),
		})
		if err != nil {
			return fmt.Errorf("send part %d: %w", n, err)
		}
	}
	return nil
}
