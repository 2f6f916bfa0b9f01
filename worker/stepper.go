package worker

import (
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"mp/allreduce"
	"mp/checkpoint"
	"mp/data"
	"mp/job"
	"mp/metrics"
	"mp/mppb"
	"mp/ops"
)

// StepperConfig is what one of a fixed number of Steppers needs. All fields are required.
type StepperConfig struct {
	Spec       job.Spec
	Train, Val *data.Pack // of the same classes
	Device     *ops.Device
	Scratch    string // folder of its own for its socket; the caller's to remove
	Rank, Size int    // this one's number, from 0, and how many there are
}

// Stepper takes the steps of a run, one at a time, with the code of a Node: images from the pack, shards, the sum over the
// ring between processes while the last shard's backward pass runs, one update. It has no coordinator, writes nothing,
// and never validates: it is there to be measured. With a Size of 1 it is a Worker's step. It is for one goroutine.
type Stepper struct {
	c     StepperConfig
	lone  *lone
	door  *door // nil: it is the only one
	visit *visit
}

// StepTimes is where the time of one step went, on this Stepper.
type StepTimes struct {
	// Working is for how long the sum was at work: the group had this Stepper's part of something and owed it the result, or
	// vectors were turned into fixed point or back. To wait for another that brings its part later counts, to wait for
	// this one's own gradients does not.
	Working time.Duration
	// Waited is for how long the sum went on after all of this Stepper's gradients were there.
	Waited time.Duration
}

// stepperFailAfter is long: a benchmark on a busy machine is no drill.
const stepperFailAfter = 30 * time.Second

// unixPrefix begins an address that is a path.
const unixPrefix = "unix:"

// NewStepper builds the model and optimizer at their first values, and listens. Join must follow. Close it.
func NewStepper(ctx context.Context, c StepperConfig) (*Stepper, error) {
	if c.Size < 1 || c.Rank < 0 || c.Rank >= c.Size || c.Size > c.Spec.Shards {
		return nil, fmt.Errorf("step as number %d of %d with %d shards: want a number below, and a shard for each: %w", c.Rank, c.Size, c.Spec.Shards, job.ErrConfig)
	}
	s := &Stepper{c: c, lone: newLone(c.Spec.Shards)}
	log := slog.New(slog.DiscardHandler)
	e := engineConfig{
		device: c.Device, train: c.Train, val: c.Val, control: s.lone, ring: s.lone, donors: s.lone, library: shelf{c.Scratch, 1},
		sink: func(string, metrics.Sink) metrics.Sink { return nowhereSink{} }, kernels: kernels(), log: log, fatal: true,
	}
	if c.Size > 1 {
		var err error
		if s.door, err = listen(NodeConfig{Listen: "127.0.0.1:0", Machine: "here", Scratch: c.Scratch, Logger: log}); err != nil {
			return nil, err
		}
		e.ring, e.donors = rings{s.door, func() time.Duration { return stepperFailAfter }}, s.door
	}
	s.visit = &visit{engine: newEngine(context.Background(), e)}
	if s.door != nil {
		s.door.serve(s.visit.donor, nil)
	}
	if err := s.visit.prepare(ctx, s.lone.only.view, c.Spec); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// Address is where the others reach this one, for their Join; empty where there are none.
func (s *Stepper) Address() string {
	switch {
	case s.door == nil:
		return ""
	case s.door.socket != "":
		return unixPrefix + s.door.socket
	}
	return s.door.address
}

// Join meets the others, whose addresses come by rank, and deals the shards out: neighbours in equal parts. It blocks until
// all are there.
func (s *Stepper) Join(ctx context.Context, addresses []string) error {
	if len(addresses) != s.c.Size {
		return fmt.Errorf("join %d steppers by %d addresses: %w", s.c.Size, len(addresses), job.ErrConfig)
	}
	view := &mppb.View{Number: 1, Job: "steps"}
	for rank, a := range addresses {
		m := &mppb.Member{Name: fmt.Sprint("rank ", rank), Address: a}
		if path, ok := strings.CutPrefix(a, unixPrefix); ok {
			m.UnixSocket, m.Machine = path, "here"
		}
		for shard := s.c.Spec.Shards * rank / s.c.Size; shard < s.c.Spec.Shards*(rank+1)/s.c.Size; shard++ {
			m.Shards = append(m.Shards, uint32(shard))
		}
		view.Members = append(view.Members, m)
	}
	v := s.visit
	v.order = order{view: view, rank: s.c.Rank}
	if err := v.join(ctx); err != nil {
		return err
	}
	if err := v.agree(ctx); err != nil {
		return err
	}
	v.pace = newPace(0, v.replica.total()*v.replica.spec.Replays(), time.Now())
	v.pace.pause(time.Now())
	return nil
}

// Step takes one step. All Steppers must. After an error there is nothing to do but Close.
func (s *Stepper) Step(ctx context.Context) (StepTimes, error) {
	v := s.visit
	if r := v.replica; r.validationDue(r.at) {
		r.at.Validated++
		v.pace.start(time.Now())
	}
	v.pace.exposed, v.pace.summing = 0, 0 // the mean of one value is that value
	if err := v.update(ctx); err != nil {
		return StepTimes{}, err
	}
	seconds := func(m mean) time.Duration { return time.Duration(float64(m) * float64(time.Second)) }
	return StepTimes{Working: seconds(v.pace.summing), Waited: seconds(v.pace.exposed)}, nil
}

// Agree returns the greatest number that any Stepper brings. All must call it, between the same two steps.
func (s *Stepper) Agree(ctx context.Context, n uint32) (uint32, error) {
	all, err := s.visit.group.Exchange(ctx, binary.LittleEndian.AppendUint32(nil, n))
	if err != nil {
		return 0, err
	}
	for rank, b := range all {
		if len(b) != 4 {
			return 0, fmt.Errorf("rank %d brings %d bytes for a number: %w", rank, len(b), allreduce.ErrBroken)
		}
		n = max(n, binary.LittleEndian.Uint32(b))
	}
	return n, nil
}

// Digest is the SHA-256 of weights, running statistics and optimizer.
func (s *Stepper) Digest() (string, error) {
	state, err := s.visit.replica.snapshot()
	if err != nil {
		return "", err
	}
	return checkpoint.Digest(append(state.state.Model, state.state.Optimizer...)), nil
}

// Close leaves the others, who cannot step any more, and frees everything but the device and the packs.
func (s *Stepper) Close() error {
	var err error
	if s.visit.group != nil {
		err = s.visit.group.Close()
	}
	if s.door != nil {
		s.door.close()
	}
	s.visit.close()
	return err
}
