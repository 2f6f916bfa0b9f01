// Package inproc is the group of members in one process: they meet in memory, and each computes its own slice for all.
package inproc

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"mp/allreduce"
)

// New returns the n members of a group, n > 0.
func New(n int) []allreduce.Group {
	g := &group{n: n, gone: make(chan struct{}), late: make([]time.Duration, n)}
	g.max, g.sum = newHall[byte](g), newHall[int32](g)
	g.letters = newHall[byte](g)
	members := make([]allreduce.Group, n)
	for i := range members {
		members[i] = &member{group: g, rank: i}
	}
	return members
}

// group is what the halls share.
type group struct {
	n    int
	max  *hall[byte]
	sum  *hall[int32]
	gone chan struct{} // closed when the group breaks

	letters *hall[byte] // for Exchange

	mu     sync.Mutex // guards what follows, and the halls
	broken bool
	late   []time.Duration
}

// hall is where members meet for one kind of operation. A round is: all arrive with their data, all compute their slices
// into scratch, all copy.
type hall[T any] struct {
	*group
	arrived int
	first   time.Time     // when the first of the round arrived
	door    chan struct{} // closed when the last member of a phase arrives, then replaced
	data    [][]T
	result  []T
	uneven  bool
}

func newHall[T any](g *group) *hall[T] {
	return &hall[T]{group: g, door: make(chan struct{}), data: make([][]T, g.n)}
}

type member struct {
	*group
	rank int
}

func (m *member) Rank() int { return m.rank }
func (m *member) Size() int { return m.n }

func (m *member) Max(ctx context.Context, data []byte) error {
	return m.group.max.reduce(ctx, m, data, func(into, from []byte) {
		for i, x := range from {
			into[i] = max(into[i], x)
		}
	})
}

func (m *member) Sum(ctx context.Context, data []int32) error {
	return m.group.sum.reduce(ctx, m, data, func(into, from []int32) {
		for i, x := range from {
			into[i] += x
		}
	})
}

func (m *member) Exchange(ctx context.Context, mine []byte) ([][]byte, error) {
	if len(mine) > allreduce.MaxMessage {
		return nil, fmt.Errorf("exchange %d bytes: %w", len(mine), allreduce.ErrTooLong)
	}
	h := m.letters
	if err := h.enter(ctx, m, mine); err != nil {
		return nil, err
	}
	all := make([][]byte, m.n)
	for i, d := range h.data {
		all[i] = append([]byte{}, d...)
	}
	return all, h.meet(ctx, m, func() {})
}

func (m *member) Skew() []time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.late)
}

// Close breaks the group.
func (m *member) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.broken {
		m.broken = true
		close(m.gone)
	}
	return nil
}

// reduce takes three phases, each behind a barrier: bring the data, combine one slice of all, take the result.
func (h *hall[T]) reduce(ctx context.Context, m *member, data []T, combine func(into, from []T)) error {
	if err := h.enter(ctx, m, data); err != nil {
		return err
	}
	if h.uneven {
		m.Close()
		return fmt.Errorf("%w: reduce %d elements: %w", allreduce.ErrBroken, len(data), allreduce.ErrLength)
	}
	begin, end := len(data)*m.rank/m.n, len(data)*(m.rank+1)/m.n
	mine := h.result[begin:end]
	copy(mine, h.data[0][begin:end])
	for _, d := range h.data[1:] {
		combine(mine, d[begin:end])
	}
	if err := h.meet(ctx, m, func() {}); err != nil {
		return err
	}
	copy(data, h.result)
	return h.meet(ctx, m, func() {})
}

// enter brings m's data into the hall and waits until all have brought theirs.
func (h *hall[T]) enter(ctx context.Context, m *member, data []T) error {
	return h.meet(ctx, m, func() {
		now := time.Now()
		h.data[m.rank] = data
		if h.arrived == 1 {
			h.first, h.uneven = now, false
			if cap(h.result) < len(data) {
				h.result = make([]T, len(data))
			}
			h.result = h.result[:len(data)]
		}
		h.late[m.rank] += now.Sub(h.first)
		h.uneven = h.uneven || len(data) != len(h.result)
	})
}

// meet waits until all members have come; enter runs first, one member at a time.
func (h *hall[T]) meet(ctx context.Context, m *member, enter func()) error {
	if err := ctx.Err(); err != nil {
		m.Close()
		return fmt.Errorf("%w: %w", allreduce.ErrBroken, err)
	}
	h.mu.Lock()
	if h.broken {
		h.mu.Unlock()
		return allreduce.ErrBroken
	}
	h.arrived++
	enter()
	door := h.door
	if h.arrived == h.n {
		h.arrived = 0
		h.door = make(chan struct{})
		close(door)
	}
	h.mu.Unlock()
	select {
	case <-door:
		return nil
	case <-h.gone:
		select {
		case <-door: // all had come before one left
			return nil
		default:
			return allreduce.ErrBroken
		}
	case <-ctx.Done():
		m.Close()
		return fmt.Errorf("%w: %w", allreduce.ErrBroken, ctx.Err())
	}
}
