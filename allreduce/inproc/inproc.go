// Package inproc is the all-reduce between devices of one process: members meet in memory, and each sums its own slice of
// the vector for all.
package inproc

import (
	"context"
	"fmt"
	"sync"

	"mp/allreduce"
)

// New returns the n members of a group, n > 0.
func New(n int) []allreduce.Group {
	h := &hall{n: n, vectors: make([][]float32, n), gone: make(chan struct{}), door: make(chan struct{})}
	members := make([]allreduce.Group, n)
	for i := range members {
		members[i] = &member{hall: h, rank: i}
	}
	return members
}

// hall is where members meet. A round is: all arrive with their vectors, all sum their slices into scratch, all copy.
type hall struct {
	n    int
	gone chan struct{} // closed when the group breaks

	mu      sync.Mutex // guards what follows
	broken  bool
	arrived int
	door    chan struct{} // closed when the last member of a phase arrives, then replaced
	vectors [][]float32
	sum     []float32
	uneven  bool
}

type member struct {
	*hall
	rank int
}

func (m *member) Rank() int { return m.rank }
func (m *member) Size() int { return m.n }

// AllReduce takes three phases, each behind a barrier: bring the vector, sum one slice of all vectors, take the sum.
func (m *member) AllReduce(ctx context.Context, data []float32) error {
	if err := ctx.Err(); err != nil {
		m.Close()
		return err
	}
	err := m.meet(ctx, func() {
		m.vectors[m.rank] = data
		if m.arrived == 1 {
			m.uneven = false
			if cap(m.sum) < len(data) {
				m.sum = make([]float32, len(data))
			}
			m.sum = m.sum[:len(data)]
		}
		m.uneven = m.uneven || len(data) != len(m.sum)
	})
	if err != nil {
		return err
	}
	if m.uneven {
		m.Close()
		return fmt.Errorf("all-reduce of %d elements: %w", len(data), allreduce.ErrLength)
	}
	begin, end := len(data)*m.rank/m.n, len(data)*(m.rank+1)/m.n
	mine := m.sum[begin:end]
	copy(mine, m.vectors[0][begin:end])
	for _, v := range m.vectors[1:] {
		for i, x := range v[begin:end] {
			mine[i] += x
		}
	}
	if err := m.meet(ctx, func() {}); err != nil {
		return err
	}
	copy(data, m.sum)
	return m.meet(ctx, func() {})
}

// meet waits until all members have come; enter runs first, one member at a time.
func (m *member) meet(ctx context.Context, enter func()) error {
	m.mu.Lock()
	if m.broken {
		m.mu.Unlock()
		return allreduce.ErrBroken
	}
	m.arrived++
	enter()
	door := m.door
	if m.arrived == m.n {
		m.arrived = 0
		m.door = make(chan struct{})
		close(door)
	}
	m.mu.Unlock()
	select {
	case <-door:
		return nil
	case <-m.gone:
		select {
		case <-door: // all had come before one left
			return nil
		default:
			return allreduce.ErrBroken
		}
	case <-ctx.Done():
		m.Close()
		return ctx.Err()
	}
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
