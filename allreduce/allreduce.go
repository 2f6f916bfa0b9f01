// Package allreduce sums vectors over the workers of a view.
//
// It owns the contract (Group) and its errors; mechanisms live in folders of their own, named by what carries the bytes:
// inproc for devices of one process. It must never import tensors, models or the network's types: a vector is a []float32.
// Every mechanism passes the same suite, allreducetest. Start reading at Group.
package allreduce

import (
	"context"
	"errors"
)

// ErrBroken is returned by every call on a Group after one of its members failed or left: the sum is unknown, the vector's
// content too. Ask for a new group.
var ErrBroken = errors.New("all-reduce group is broken")

// ErrLength is wrapped when members bring vectors of different lengths.
var ErrLength = errors.New("vectors differ in length")

// Group is one member's door to the others. Its methods are for one goroutine at a time.
type Group interface {
	// Rank is this member's number, from 0; Size is how many there are.
	Rank() int
	Size() int

	// AllReduce replaces data by the element-wise sum over all members and blocks until it has it. Every member gets the
	// same bits: terms are added in the order of ranks. data belongs to the group until the call returns. After an error
	// (ctx ended, a member left, lengths differ) the group is broken and data's content is undefined.
	AllReduce(ctx context.Context, data []float32) error

	// Close leaves the group, which breaks it for the members that still wait. A second Close does nothing.
	Close() error
}
