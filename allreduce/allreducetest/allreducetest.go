// Package allreducetest is the suite that every all-reduce mechanism passes.
package allreducetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"mp/allreduce"
)

// New makes the groups of n members and closes them when the test ends.
type New func(t testing.TB, n int) []allreduce.Group

// Run tests the groups that newGroup makes. A mechanism whose messages have a size runs it with tiny ones as well.
func Run(t *testing.T, newGroup New) {
	for _, n := range []int{1, 2, 3, 4, 7} {
		t.Run(fmt.Sprint(n, " members"), func(t *testing.T) {
			g := newGroup(t, n)
			for _, length := range []int{0, 1, 10, 10007} {
				sums(t, g, length)
				maxima(t, g, length)
			}
			exchanges(t, g)
			atOnce(t, g)
			shards(t, g)
			sixteenBits(t, g)
			notFinite(t, g)
			for i, m := range g {
				if m.Rank() != i || m.Size() != n || len(m.Skew()) != n {
					t.Errorf("member %d of %d says it is %d of %d, with the lateness of %d", i, n, m.Rank(), m.Size(), len(m.Skew()))
				}
			}
		})
	}
	t.Run("a member that leaves", func(t *testing.T) { leaves(t, newGroup(t, 3)) })
	t.Run("leaving after the last sum breaks nobody", func(t *testing.T) {
		for range 20 {
			finishes(t, newGroup(t, 3))
		}
	})
	t.Run("a member that never comes", func(t *testing.T) { neverComes(t, newGroup(t, 3)) })
	t.Run("a context that is cancelled", func(t *testing.T) { cancelled(t, newGroup(t, 2)) })
	t.Run("closed while it waits", func(t *testing.T) { closedWhileWaiting(t, newGroup(t, 2)) })
	t.Run("lengths that differ", func(t *testing.T) {
		uneven(t, newGroup(t, 3), func(m allreduce.Group) error {
			return m.Sum(context.Background(), make([]int32, 10+m.Rank()))
		})
		uneven(t, newGroup(t, 2), func(m allreduce.Group) error {
			return m.Max(context.Background(), make([]byte, 1000*m.Rank()))
		})
	})
	t.Run("a message that is too long", func(t *testing.T) { tooLong(t, newGroup(t, 2)) })
	t.Run("a member that comes late", func(t *testing.T) { late(t, newGroup(t, 3)) })
	t.Run("nothing goes on running", func(t *testing.T) { leaks(t, newGroup) })
}

// sums checks three rounds on one group.
func sums(t *testing.T, g []allreduce.Group, length int) {
	t.Helper()
	for round := range 3 {
		vectors := make([][]int32, len(g))
		want := make([]int32, length)
		for r := range vectors {
			vectors[r] = make([]int32, length)
			for i := range vectors[r] {
				vectors[r][i] = int32((r + 1) * (i + round*7 - 3))
				want[i] += vectors[r][i]
			}
		}
		must(t, all(g, func(m allreduce.Group) error { return m.Sum(context.Background(), vectors[m.Rank()]) }))
		for r := range vectors {
			if !slices.Equal(vectors[r], want) {
				t.Fatalf("%d elements, round %d, member %d: sum is wrong", length, round, r)
			}
		}
	}
}

func maxima(t *testing.T, g []allreduce.Group, length int) {
	t.Helper()
	vectors := make([][]byte, len(g))
	want := make([]byte, length)
	for r := range vectors {
		vectors[r] = make([]byte, length)
		for i := range vectors[r] {
			vectors[r][i] = byte((i*31 + r*97) % 256)
			want[i] = max(want[i], vectors[r][i])
		}
	}
	must(t, all(g, func(m allreduce.Group) error { return m.Max(context.Background(), vectors[m.Rank()]) }))
	for r := range vectors {
		if !bytes.Equal(vectors[r], want) {
			t.Fatalf("%d elements, member %d: maximum is wrong", length, r)
		}
	}
}

// exchanges checks messages of different lengths, up to the longest.
func exchanges(t *testing.T, g []allreduce.Group) {
	t.Helper()
	for _, scale := range []int{0, 1, 300, allreduce.MaxMessage / len(g)} {
		message := func(r int) []byte { return bytes.Repeat([]byte{byte(r + 1)}, scale*(r+1)) }
		got := make([][][]byte, len(g))
		must(t, all(g, func(m allreduce.Group) (err error) {
			got[m.Rank()], err = m.Exchange(context.Background(), message(m.Rank()))
			return err
		}))
		for r := range g {
			if len(got[r]) != len(g) {
				t.Fatalf("member %d got %d messages, want %d", r, len(got[r]), len(g))
			}
			for from := range g {
				if !bytes.Equal(got[r][from], message(from)) {
					t.Fatalf("member %d got %d bytes from %d, want %d others", r, len(got[r][from]), from, len(message(from)))
				}
			}
		}
	}
}

// atOnce uses both lanes at the same time.
func atOnce(t *testing.T, g []allreduce.Group) {
	t.Helper()
	ctx := context.Background()
	must(t, all(g, func(m allreduce.Group) error {
		var failed error
		var wg sync.WaitGroup
		wg.Go(func() {
			for i := range 20 {
				b := []byte{byte(m.Rank()), byte(i)}
				if failed = m.Max(ctx, b); failed == nil && b[0] != byte(len(g)-1) {
					failed = fmt.Errorf("maximum of ranks is %d", b[0])
				}
			}
		})
		for i := range 20 {
			v := []int32{int32(i), 1}
			if err := m.Sum(ctx, v); err != nil || v[1] != int32(len(g)) {
				return fmt.Errorf("sum %d: %v: %w", i, v, err)
			}
		}
		wg.Wait()
		return failed
	}))
}

// shards checks that a sum over shards has the bits of one member's own.
func shards(t *testing.T, g []allreduce.Group) {
	t.Helper()
	const total, length = 5, 20_000 // many buckets: a member waits for sums whose exponents others do not know yet
	vectors := make([][]float32, total)
	for s := range vectors {
		vectors[s] = make([]float32, length)
		for i := range vectors[s] {
			vectors[s][i] = float32((s*2654435761+i*40503)%100003)/float32(1+i%17) - 3000
		}
	}
	sum := func(m allreduce.Group, n int) ([]float32, error) {
		terms := allreduce.Terms{Total: total, Bucket: 4 * allreduce.Block}
		for s := m.Rank(); s < total; s += n {
			terms.Shards = append(terms.Shards, s)
			terms.Vectors = append(terms.Vectors, vectors[s])
		}
		out := make([]float32, length)
		return out, allreduce.SumShards(context.Background(), m, terms, out)
	}
	want, err := sum(alone{}, 1)
	if err != nil {
		t.Fatal(err)
	}
	must(t, all(g, func(m allreduce.Group) error {
		got, err := sum(m, len(g))
		if err == nil && !slices.Equal(got, want) {
			err = errors.New("the sum over shards has other bits than that of one member")
		}
		return err
	}))
}

// sixteenBits checks that a sum in which some elements travel in 16 bits has the bits, and leaves out what is left out,
// when the group sums it in the way it likes best and in the plainest: bucket by bucket.
func sixteenBits(t *testing.T, g []allreduce.Group) {
	t.Helper()
	const length = 30*allreduce.Block + 100
	for _, short := range []int{length, 17 * allreduce.Block} {
		sum := func(m allreduce.Group, out, residual []float32) error {
			vector := make([]float32, length)
			for step := range 3 {
				for i := range vector {
					vector[i] = float32(((m.Rank()+step)*7919+i*40503)%10007)/float32(1+i%19) - 300
				}
				terms := allreduce.Terms{Total: len(g), Shards: []int{m.Rank()}, Vectors: [][]float32{vector}, Bucket: 3 * allreduce.Block, Residual: residual}
				if err := allreduce.SumShards(context.Background(), m, terms, out); err != nil {
					return err
				}
			}
			return nil
		}
		type result struct{ out, residual []float32 }
		run := func(way func(allreduce.Group) allreduce.Group) []result {
			results := make([]result, len(g))
			for r := range results {
				results[r] = result{make([]float32, length), make([]float32, short)}
			}
			must(t, all(g, func(m allreduce.Group) error { return sum(way(m), results[m.Rank()].out, results[m.Rank()].residual) }))
			return results
		}
		best := run(func(m allreduce.Group) allreduce.Group { return m })
		plain := run(func(m allreduce.Group) allreduce.Group { return struct{ allreduce.Group }{m} })
		for r := range g {
			if !slices.Equal(best[r].out, best[0].out) {
				t.Errorf("%d of %d elements in 16 bits: member %d has other bits than member 0", short, length, r)
			}
			if !slices.Equal(best[r].out, plain[r].out) || !slices.Equal(best[r].residual, plain[r].residual) {
				t.Errorf("%d of %d elements in 16 bits: member %d has other bits than bucket by bucket", short, length, r)
			}
		}
	}
}

// notFinite checks that all members hear whose shard has a value that is no number, and go on.
func notFinite(t *testing.T, g []allreduce.Group) {
	t.Helper()
	bad := len(g) - 1
	for _, short := range []int{0, 4 * allreduce.Block, 20 * allreduce.Block} {
		for _, value := range []float32{float32(math.NaN()), float32(math.Inf(-1)), 1} {
			errs := all(g, func(m allreduce.Group) error {
				vector := make([]float32, 20*allreduce.Block)
				if m.Rank() == bad {
					vector[2000] = value
				}
				terms := allreduce.Terms{Total: len(g), Shards: []int{m.Rank()}, Vectors: [][]float32{vector}, Bucket: 3 * allreduce.Block, Residual: make([]float32, short)}
				return allreduce.SumShards(context.Background(), m, terms, make([]float32, len(vector)))
			})
			for r, err := range errs {
				var e *allreduce.NotFiniteError
				if named := errors.As(err, &e) && *e == (allreduce.NotFiniteError{Rank: bad, Shard: bad, Element: 2000}); named != (value != 1) {
					t.Fatalf("member %d got %v of a sum with %g in element 2000 of rank %d's shard", r, err, value, bad)
				}
			}
		}
	}
}

// alone is the group of one member, in the plainest form.
type alone struct{ allreduce.Group }

func (alone) Rank() int                          { return 0 }
func (alone) Size() int                          { return 1 }
func (alone) Max(context.Context, []byte) error  { return nil }
func (alone) Sum(context.Context, []int32) error { return nil }

func leaves(t *testing.T, g []allreduce.Group) {
	g[2].Close()
	sum := func(m allreduce.Group) error { return m.Sum(context.Background(), make([]int32, 10)) }
	for i, err := range all(g[:2], sum) {
		if !errors.Is(err, allreduce.ErrBroken) {
			t.Errorf("member %d got %v, want ErrBroken", i, err)
		}
	}
	for i, m := range g {
		if err := m.Sum(context.Background(), nil); !errors.Is(err, allreduce.ErrBroken) {
			t.Errorf("member %d's later sum got %v, want ErrBroken", i, err)
		}
		if err := m.Max(context.Background(), nil); !errors.Is(err, allreduce.ErrBroken) {
			t.Errorf("member %d's later maximum got %v, want ErrBroken", i, err)
		}
		if _, err := m.Exchange(context.Background(), nil); !errors.Is(err, allreduce.ErrBroken) {
			t.Errorf("member %d's later exchange got %v, want ErrBroken", i, err)
		}
		if err := m.Close(); err != nil {
			t.Errorf("member %d's Close got %v", i, err)
		}
	}
}

func finishes(t *testing.T, g []allreduce.Group) {
	t.Helper()
	must(t, all(g, func(m allreduce.Group) error {
		defer m.Close()
		return m.Sum(context.Background(), make([]int32, 3000))
	}))
}

func neverComes(t *testing.T, g []allreduce.Group) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if err := g[0].Sum(ctx, make([]int32, 10)); !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, allreduce.ErrBroken) {
		t.Errorf("the waiting member got %v, want its context's error and ErrBroken", err)
	}
	for _, m := range g[1:] {
		if err := m.Sum(context.Background(), make([]int32, 10)); !errors.Is(err, allreduce.ErrBroken) {
			t.Errorf("a late member got %v, want ErrBroken", err)
		}
	}
}

func cancelled(t *testing.T, g []allreduce.Group) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := g[0].Max(ctx, make([]byte, 10)); !errors.Is(err, context.Canceled) || !errors.Is(err, allreduce.ErrBroken) {
		t.Errorf("the cancelled member got %v, want its context's error and ErrBroken", err)
	}
	if err := g[1].Max(context.Background(), make([]byte, 10)); !errors.Is(err, allreduce.ErrBroken) {
		t.Errorf("the other member got %v, want ErrBroken", err)
	}
}

func closedWhileWaiting(t *testing.T, g []allreduce.Group) {
	errs := make(chan error)
	for _, m := range g {
		go func() { errs <- m.Max(context.Background(), make([]byte, 10)) }()
		go func() {
			if m == g[0] { // member 1's partner comes to one lane only
				errs <- m.Sum(context.Background(), make([]int32, 10))
			}
		}()
	}
	for range g {
		if err := <-errs; err != nil {
			t.Errorf("a maximum got %v", err)
		}
	}
	g[0].Close()
	if err := <-errs; !errors.Is(err, allreduce.ErrBroken) {
		t.Errorf("the sum of a group that is closed got %v, want ErrBroken", err)
	}
	if err := g[1].Sum(context.Background(), make([]int32, 10)); !errors.Is(err, allreduce.ErrBroken) {
		t.Errorf("the other member got %v, want ErrBroken", err)
	}
}

func uneven(t *testing.T, g []allreduce.Group, f func(allreduce.Group) error) {
	t.Helper()
	said := false
	for i, err := range all(g, f) {
		if !errors.Is(err, allreduce.ErrBroken) {
			t.Errorf("member %d got %v, want ErrBroken", i, err)
		}
		said = said || errors.Is(err, allreduce.ErrLength)
	}
	if !said {
		t.Error("nobody got ErrLength")
	}
}

func tooLong(t *testing.T, g []allreduce.Group) {
	if _, err := g[0].Exchange(context.Background(), make([]byte, allreduce.MaxMessage+1)); !errors.Is(err, allreduce.ErrTooLong) {
		t.Errorf("got %v, want ErrTooLong", err)
	}
	must(t, all(g, func(m allreduce.Group) error {
		_, err := m.Exchange(context.Background(), []byte("whole"))
		return err
	}))
}

// late lets member 1 come late and looks at what the members say about it. A busy machine makes others late as well: one
// time of several must be clear.
func late(t *testing.T, g []allreduce.Group) {
	const delay = 60 * time.Millisecond
	said := make([][]time.Duration, len(g))
	for range 10 {
		must(t, all(g, func(m allreduce.Group) error {
			if err := m.Sum(context.Background(), make([]int32, 5)); err != nil { // all are here
				return err
			}
			before := m.Skew()
			if m.Rank() == 1 {
				<-time.After(delay)
			}
			err := m.Sum(context.Background(), make([]int32, 50000))
			after := m.Skew()
			for r := range after {
				after[r] -= before[r]
			}
			said[m.Rank()] = after
			return err
		}))
		clear := func(late []time.Duration) bool {
			return late[1] > delay*2/3 && late[1] < delay*2 && late[0] < delay/3 && late[2] < delay/3
		}
		if clear(said[0]) && clear(said[1]) && clear(said[2]) {
			return
		}
	}
	t.Errorf("members say of one another %v, want about %v for member 1 alone", said, delay)
}

// leaks compares what runs before and after groups come and go.
func leaks(t *testing.T, newGroup New) {
	before := runtime.NumGoroutine()
	t.Run("groups", func(t *testing.T) {
		for range 3 {
			finishes(t, newGroup(t, 4))
			g := newGroup(t, 3)
			g[1].Close()
			g[0].Close()
		}
	})
	deadline := time.Now().Add(5 * time.Second)
	for runtime.NumGoroutine() > before {
		if time.Now().After(deadline) {
			stacks := make([]byte, 1<<20)
			stacks = stacks[:runtime.Stack(stacks, true)]
			t.Fatalf("%d goroutines before, %d after:\n%s", before, runtime.NumGoroutine(), strings.TrimSpace(string(stacks)))
		}
		runtime.Gosched()
	}
}

// must fails the test if a member failed.
func must(t *testing.T, errs []error) {
	t.Helper()
	for i, err := range errs {
		if err != nil {
			t.Fatalf("member %d: %v", i, err)
		}
	}
}

// all calls f for every member at once and returns their errors by rank.
func all(g []allreduce.Group, f func(allreduce.Group) error) []error {
	errs := make([]error, len(g))
	var wg sync.WaitGroup
	for i, m := range g {
		wg.Go(func() { errs[i] = f(m) })
	}
	wg.Wait()
	return errs
}
