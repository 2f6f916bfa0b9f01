package devicecheck

import (
	"context"
	"errors"
	"reflect"
	"strings"
	"testing"

	"mp/ops"
)

// The suite holds the CPU to itself: float32 beside float64 in everything, and every group has rows.
func TestTheCPUAgreesWithItself(t *testing.T) {
	open := func() *ops.Device {
		d, err := ops.OpenDevice(ops.DeviceConfig{GPU: ops.CPU, Threads: 1})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(d.Close)
		return d
	}
	c := &check{Config: Config{Device: open(), Host: open()}}
	groups := []func(context.Context) error{c.operations, c.updates, c.sums, c.images}
	if !testing.Short() {
		groups = append(groups, c.explanations)
	}
	for _, group := range groups {
		before := len(c.rows)
		if err := group(context.Background()); err != nil {
			t.Fatal(err)
		}
		if len(c.rows) == before {
			t.Error("a group without a row")
		}
	}
	for _, r := range c.rows {
		if !r.Good() {
			t.Errorf("%s: %s is off by %g of %g allowed: %s", r.Group, r.Name, r.Off, r.Limit, r.Trouble)
		}
	}
}

// What computes must be held to the CPU: a new method of ops.Scope needs a case.
func TestEveryOperationHasACase(t *testing.T) {
	var cases []string
	for _, o := range operations() {
		cases = append(cases, strings.Fields(o.name)...)
	}
	// Memory and scopes; what the other groups and the gradients of all cases go through.
	other := strings.Fields("Adopt Child Close Device Err Fail Item Leaf NoGrad Release Run Tidy To ToDevice Wrap Zeros " +
		"Grad GradInto GradIntoBeside Pullback Jacobian Gather Update FixedVectorsExponents FixedVectorsQuantize")
	all := reflect.TypeFor[*ops.Scope]()
	for i := range all.NumMethod() {
		name := all.Method(i).Name
		found := false
		for _, known := range append(cases, other...) {
			found = found || known == name
		}
		if !found {
			t.Errorf("ops.Scope.%s has no case", name)
		}
	}
}

func TestADeviceThatComputesSomethingElse(t *testing.T) {
	c := &check{}
	for _, f := range []func() (float64, error){
		func() (float64, error) { return .5, nil },
		func() (float64, error) { return distance([]float64{1, 2}, []float64{1, 2, 3}), nil },
		func() (float64, error) { return distance([]float64{1, c.nothing()}, []float64{1, 2}), nil },
		func() (float64, error) { return 0, errors.New("no memory") },
	} {
		if err := c.hold(context.Background(), "group", "thing", .1, f); err != nil {
			t.Fatal(err)
		}
	}
	for i, r := range c.rows {
		if r.Good() {
			t.Errorf("row %d passes for good: %+v", i, r)
		}
	}
	broken := func() (float64, error) { return 0, ops.ErrDevice }
	if err := c.hold(context.Background(), "group", "thing", 1, broken); !errors.Is(err, ops.ErrDevice) {
		t.Errorf("the suite goes on with a broken device: %v", err)
	}
	if d := distance([]float64{1, 2.5}, []float64{1, 2}); d < .22 || d > .23 {
		t.Errorf("distance %g, want 0.5 of the root of 5", d)
	}
}

// nothing is no number.
func (*check) nothing() float64 { z := 0.0; return z / z }
