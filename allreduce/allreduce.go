// Package allreduce sums vectors over the workers of a view, so that the sum does not depend on who computed what.
//
// It owns the contract (Group), its errors, and the sum over shards in fixed point that gives the same bits for any number
// of workers (SumShards); mechanisms live in folders of their own, named by what carries the bytes: inproc for members in
// one process, rpc for processes and machines. It must never import tensors, models or the network's types: vectors are
// slices. Every mechanism passes the same suite, allreducetest. Start reading at Group, then SumShards.
package allreduce

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// ErrBroken is in the error of every call on a Group after one of its members failed or left: what the operations gave is
// unknown, the vectors' content too. Close the group and ask for a new one.
var ErrBroken = errors.New("all-reduce group is broken")

// ErrLength is wrapped when members bring vectors of different lengths.
var ErrLength = errors.New("vectors differ in length")

// ErrTooLong is wrapped by Exchange for a message above MaxMessage; the group stays whole.
var ErrTooLong = errors.New("message is too long to exchange")

// MaxMessage is the longest message of Exchange in bytes.
const MaxMessage = 64 << 10

// Kinds of PeerError.
const (
	KindConnection = "connection" // its stream or process ended
	KindSilence    = "silence"    // nothing came from it for longer than may be
	KindChecksum   = "checksum"   // what it sent arrived changed
	KindProtocol   = "protocol"   // it sent what nobody of this program sends, or belongs to another view
)

// PeerError names the neighbour that is thought to be at fault. It comes wrapped together with ErrBroken.
type PeerError struct {
	Rank int
	Kind string // one of the Kind constants
	Err  error  // what was seen
}

func (e *PeerError) Error() string { return fmt.Sprintf("rank %d: %s: %v", e.Rank, e.Kind, e.Err) }

func (e *PeerError) Unwrap() error { return e.Err }

// Group is one member's door to the others. All members call the same operations with the same lengths in the same order;
// each call blocks until it has its result or the group is broken. A slice belongs to the group until the call returns.
// After any error but ErrTooLong the group is broken, for this member at once and for the others shortly after: the content
// of the slices is undefined and every later call returns an error that wraps ErrBroken.
//
// There are two lanes: Max is one; Sum and Exchange are the other. A lane is for one goroutine at a time; the two may be
// in use at once. Close and Skew may be called from any goroutine at any time.
type Group interface {
	// Rank is this member's number, from 0; Size is how many there are.
	Rank() int
	Size() int

	// Max replaces data by the element-wise maximum over all members.
	Max(ctx context.Context, data []byte) error

	// Sum replaces data by the element-wise sum over all members. The caller has made sure that no sum overflows.
	Sum(ctx context.Context, data []int32) error

	// Exchange returns every member's message, in the order of ranks. Messages may differ in length, up to MaxMessage;
	// the result is the caller's.
	Exchange(ctx context.Context, mine []byte) ([][]byte, error)

	// Skew returns, by rank, for how long the group waited for each member since it was formed: in each operation, how
	// much later than the first a member came to it, added up over the operations of both lanes. It only grows: what a step
	// cost is the difference between two calls. It compares durations, never clocks of two machines, and is good to the
	// time of flight of a message; use it for diagnosis only.
	Skew() []time.Duration

	// Close leaves the group, which breaks it for members that still wait or come later. What the group had finished for
	// this member before still reaches the others. A second Close does nothing.
	Close() error
}
