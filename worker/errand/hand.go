package errand

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"mp/mppb"
)

// hand is a worker as a client sees it.
type hand struct {
	crowd  *Crowd
	worker *mppb.WorkerInfo
	pace   pace
	parts  chan numbered // at most ahead of them
	news   chan<- news
}

// numbered is a part with its number.
type numbered struct {
	number int
	part   Part
}

// news is what a hand tells the crowd.
type news struct {
	hand  *hand
	ready bool // parts may come
	part  int
	found *Found // of the part
	err   error  // the hand has ended
}

// pace is how long a worker may be silent, and how long its work may stand still.
type pace struct{ silence, stuck time.Duration }

// ticks is how many looks at the clock make up the silence that is allowed. They are counted instead of the time: a client
// that was stopped itself has not looked.
const ticks = 8

// run hands parts to the worker until ctx ends, or the worker is of no more use: the error says why. What it starts has ended
// when it returns.
func (h *hand) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var all sync.WaitGroup
	defer all.Wait()
	defer cancel()
	options := []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials())} // TLS is a matter of who dials
	if h.crowd.c.Dial != nil {
		options = append(options, grpc.WithContextDialer(h.crowd.c.Dial))
	}
	conn, err := grpc.NewClient("passthrough:///"+h.worker.Address, append(options,
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.DefaultConfig, MinConnectTimeout: h.pace.silence}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(mppb.MaxMessageBytes)), grpc.WithInitialWindowSize(mppb.WindowBytes), grpc.WithInitialConnWindowSize(mppb.WindowBytes))...)
	if err != nil {
		return err
	}
	defer conn.Close()
	if h.crowd.c.Token != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, mppb.TokenKey, h.crowd.c.Token)
	}
	stream, err := mppb.NewErrandsClient(conn).Attack(ctx)
	if err != nil { // there is no connection yet: what the worker says comes from Recv
		return status.Errorf(codes.Unavailable, "it cannot be reached at %s: %s", h.worker.Address, status.Convert(err).Message())
	}
	said := make(chan *mppb.ToErrand) // its reader may be held up by the worker
	all.Go(func() {
		for {
			select {
			case m := <-said:
				if stream.Send(m) != nil {
					return // what Recv returns says why
				}
			case <-ctx.Done():
				return
			}
		}
	})
	heard := make(chan *mppb.FromErrand)
	broken := make(chan error, 1)
	all.Go(func() {
		for {
			m, err := stream.Recv()
			if err != nil {
				broken <- err
				return
			}
			select {
			case heard <- m:
			case <-ctx.Done():
				return
			}
		}
	})
	t := talk{hand: h, ctx: ctx, queue: []*mppb.ToErrand{{Message: &mppb.ToErrand_Errand{Errand: h.crowd.errand}}}}
	return t.loop(said, heard, broken)
}

// talk is a hand's side of one call.
type talk struct {
	*hand
	ctx   context.Context
	queue []*mppb.ToErrand // to be said
	ready bool
	held  []numbered // parts that were said and are not answered, in order

	found  Found // of the first of held, whose images are coming
	images []byte
	size   uint64
}

// loop talks until the call ends.
func (t *talk) loop(said chan<- *mppb.ToErrand, heard <-chan *mppb.FromErrand, broken <-chan error) error {
	every := time.NewTicker(t.pace.silence / ticks)
	defer every.Stop()
	silent, still, progress := 0, 0, uint64(0)
	for {
		var out chan<- *mppb.ToErrand
		var next *mppb.ToErrand
		if len(t.queue) > 0 {
			out, next = said, t.queue[0]
		}
		var parts <-chan numbered
		if t.ready {
			parts = t.parts
		}
		select {
		case out <- next:
			if t.queue = t.queue[1:]; next.GetMessage() != nil {
				still = 0
			}
		case p := <-parts:
			m, err := p.part.message(p.number)
			if err != nil {
				return err
			}
			t.held = append(t.held, p)
			t.queue = append(t.queue, &mppb.ToErrand{Message: &mppb.ToErrand_Part{Part: m}})
		case m := <-heard:
			if silent = 0; m.Progress != progress {
				progress, still = m.Progress, 0
			}
			if err := t.hear(m); err != nil {
				return err
			}
		case err := <-broken:
			return err
		case <-every.C:
			if len(t.queue) == 0 {
				t.queue = append(t.queue, &mppb.ToErrand{}) // a sign of life
			}
			if silent++; silent > ticks {
				return status.Errorf(codes.Unavailable, "no sign of life for %s", t.pace.silence)
			}
			if len(t.held) == 0 && t.ready {
				still = 0
			}
			if still++; time.Duration(still)*t.pace.silence/ticks > t.pace.stuck {
				return status.Errorf(codes.Unavailable, "it gives signs of life, but its work has stood still for %s", t.pace.stuck)
			}
		case <-t.ctx.Done():
			return t.ctx.Err()
		}
	}
}

// hear acts on a message.
func (t *talk) hear(m *mppb.FromErrand) error {
	strange := func(err error) error { return status.Error(codes.DataLoss, err.Error()) }
	switch {
	case m.GetReady() != nil && len(m.GetReady().Lacks) > 0:
		for _, sum := range m.GetReady().Lacks {
			p, ok := t.crowd.parcels[sum]
			if !ok {
				return strange(fmt.Errorf("it asks for a network %.12s that nobody named", sum))
			}
			for _, piece := range p.pieces() {
				t.queue = append(t.queue, &mppb.ToErrand{Message: &mppb.ToErrand_Network{Network: piece}})
			}
		}
	case m.GetReady() != nil:
		t.ready = true
		t.tell(news{ready: true})
	case m.GetFound() != nil:
		f := m.GetFound()
		if len(t.held) == 0 || f.Number != uint32(t.held[0].number) || t.size != 0 {
			return strange(fmt.Errorf("it has found something of part %d, which it does not have", f.Number))
		}
		var err error
		if t.found, err = foundOf(f, len(t.held[0].part.IDs)); err != nil {
			return strange(err)
		}
		if t.size = f.ImageBytes; t.size == 0 {
			t.finish()
		}
	case m.GetImages() != nil:
		var err error
		if t.images, err = gather(t.images, m.GetImages(), t.size); err != nil {
			return strange(err)
		}
		if uint64(len(t.images)) == t.size {
			t.found.pictures(t.images)
			t.finish()
		}
	}
	return nil
}

// finish tells what was found of the first of held.
func (t *talk) finish() {
	found := t.found
	t.tell(news{part: t.held[0].number, found: &found})
	t.held, t.found, t.images, t.size = t.held[1:], Found{}, nil, 0
}

// tell hands news to the crowd.
func (t *talk) tell(n news) {
	n.hand = t.hand
	select {
	case t.news <- n:
	case <-t.ctx.Done():
	}
}

// verdict is what the end of a hand means for its worker.
type verdict int

const (
	verdictGone    verdict = iota // it may come again
	verdictFailed                 // it cannot compute this
	verdictRefused                // it will not have this errand
)

// judge says what an error means for a worker, and the same in words.
func judge(err error) (verdict, string) {
	s, ok := status.FromError(err)
	if !ok {
		return verdictGone, err.Error()
	}
	switch s.Code() {
	case codes.Unimplemented:
		return verdictRefused, "it knows no errands: use the same mp on both sides"
	case codes.FailedPrecondition, codes.InvalidArgument, codes.Unauthenticated, codes.PermissionDenied:
		return verdictRefused, s.Message()
	case codes.Aborted, codes.ResourceExhausted, codes.Internal, codes.Unknown:
		return verdictFailed, s.Message()
	}
	return verdictGone, s.Message()
}

// errAlone is the cause where no worker belongs to the cluster at all.
var errAlone = errors.New("no worker belongs to the cluster: start some with `mp worker`")
