package ops

import (
	"errors"
	"slices"
	"testing"
)

// What is done within is counted by name, time of what is called within an operation is that one's alone, and an error ends it.
func TestProfileCountsOperations(t *testing.T) {
	d, err := OpenDevice(DeviceConfig{GPU: CPU, Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	work := func() error {
		return d.Do(t.Context(), func(s *Scope) error {
			a := s.Zeros(Float32, 64, 64)
			for range 3 {
				a = s.Sigmoid(a)
			}
			return s.Err()
		})
	}
	costs, err := Profile(work)
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(costs, func(c Cost) bool { return c.Name == "aten::sigmoid" })
	if i < 0 || costs[i].Calls != 3 || costs[i].Self <= 0 {
		t.Errorf("three sigmoids: got %+v", costs)
	}
	if !slices.IsSortedFunc(costs, func(a, b Cost) int { return int(b.Self - a.Self) }) {
		t.Errorf("not the dearest first: %+v", costs)
	}
	broken := errors.New("broken")
	if _, err := Profile(func() error { return broken }); !errors.Is(err, broken) {
		t.Errorf("an error of what is looked at: got %v", err)
	}
	if _, err := Profile(func() error { _, err := Profile(work); return err }); err == nil {
		t.Error("two look at a time")
	}
	if again, err := Profile(work); err != nil || len(again) != len(costs) {
		t.Errorf("looked at once more: %d operations, %v; want %d", len(again), err, len(costs))
	}
}
