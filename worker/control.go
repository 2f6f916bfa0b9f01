package worker

import (
	"context"
	"errors"

	"mp/allreduce"
	"mp/allreduce/inproc"
	"mp/mppb"
)

// control is how an engine hears what to compute, and says what it does. A session with a coordinator is one; a lone
// worker's, which has one view for ever, is another.
type control interface {
	// orders delivers views as they come; of several that were not received only the newest counts. Closed when the
	// membership has ended.
	orders() <-chan order
	// post changes what the coordinator hears of this worker. It never blocks and may be called from any goroutine.
	post(change func(*mppb.Status))
	// beat says that a piece of work is done. As cheap as an addition; any goroutine.
	beat()
	// steady blocks while the worker may not go on because no coordinator has answered for too long.
	steady(ctx context.Context) error
}

// order is a view and the worker's place in it.
type order struct {
	view *mppb.View
	rank int // -1: none
}

// ring forms the group of a view. It blocks until all members are there, the view cannot be formed, or ctx ends. Close the
// group. An error wraps *allreduce.PeerError where a member is to blame.
type ring interface {
	form(ctx context.Context, o order) (allreduce.Group, error)
}

// donors reach other members' states.
type donors interface {
	// dial returns a client of one member's Peer service. It does not wait for the connection. Close it.
	dial(m *mppb.Member) (peer mppb.PeerClient, close func() error, err error)
}

// library keeps a run's checkpoints where the next worker finds them.
type library interface {
	// folder is where checkpoints of the run are written on this machine.
	folder(v *mppb.View) string
	// keep takes a checkpoint that was written to path, and makes it the newest or the best. It blocks until that is
	// durable.
	keep(ctx context.Context, k kept) error
	// fetch returns the path of a checkpoint that keep took, here or on another machine.
	fetch(ctx context.Context, v *mppb.View, name string) (string, error)
}

// lone is the control, ring and donors of a worker that has no other: one view with all shards, and a group of one.
type lone struct{ only order }

func newLone(shards int) *lone {
	all := make([]uint32, shards)
	for i := range all {
		all[i] = uint32(i)
	}
	return &lone{order{view: &mppb.View{Number: 1, Members: []*mppb.Member{{Shards: all, ValShards: all}}}}}
}

func (*lone) orders() <-chan order             { return nil }
func (*lone) post(func(*mppb.Status))          {}
func (*lone) beat()                            {}
func (*lone) steady(ctx context.Context) error { return ctx.Err() }

func (*lone) form(context.Context, order) (allreduce.Group, error) {
	return alone{inproc.New(1)[0]}, nil
}

func (*lone) dial(*mppb.Member) (mppb.PeerClient, func() error, error) {
	return nil, nil, errors.New("a lone worker has no peers")
}

// alone is a group of one: nothing in it waits for anybody, so a run that is asked to stop ends what it is at.
type alone struct{ allreduce.Group }

func (a alone) Sum(ctx context.Context, data []int32) error {
	return a.Group.Sum(context.WithoutCancel(ctx), data)
}
