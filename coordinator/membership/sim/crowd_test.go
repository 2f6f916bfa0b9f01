package sim

import "testing"

func TestACrowdTrainsAndLosesSome(t *testing.T) {
	c, err := NewCrowd(100)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 5 {
		if err := c.Lose(i * 7); err != nil {
			t.Fatal(err)
		}
		for range 25 {
			if err := c.Step(); err != nil {
				t.Fatal(err)
			}
		}
		if n := len(c.State.View.Members); n != 100 {
			t.Fatalf("after 2.5 s the view has %d members: the new one did not come in", n)
		}
	}
	for _, l := range c.State.Jobs[0].Ledger() {
		if l.Repeated != 0 || l.Missing != 0 {
			t.Errorf("ledger: %+v", l)
		}
	}
}

func BenchmarkStepOfAThousand(b *testing.B) {
	c, err := NewCrowd(1000)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if err := c.Step(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkSequence(b *testing.B) {
	for seed := uint64(0); b.Loop(); seed++ {
		Run(seed, DefaultConfig())
	}
}
