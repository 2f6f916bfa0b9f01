package sim

import (
	"reflect"
	"testing"
)

func TestNoSequenceOfFaultsDoesHarm(t *testing.T) {
	sequences := uint64(3000)
	if testing.Short() {
		sequences = 300
	}
	var all Result
	for seed := range sequences {
		c := DefaultConfig()
		c.Replay = seed%50 == 0
		r := Run(seed, c)
		if r.Violation != "" {
			t.Fatalf("seed %d: %s\nreplay: mp bench control --seed %d --sequences 1", seed, r.Violation, seed)
		}
		for k, n := range r.Faults {
			all.Faults[k] += n
		}
		all.Steps += r.Steps
		all.RollBacks += r.RollBacks
	}
	for k, n := range all.Faults {
		if n == 0 {
			t.Errorf("%s never happened", FaultKind(k))
		}
	}
	if all.RollBacks == 0 || all.Steps < int(sequences)*10 {
		t.Errorf("%d sequences had %d steps and %d times nobody had the state: they test too little", sequences, all.Steps, all.RollBacks)
	}
}

func TestTheSameSeedTellsTheSameStory(t *testing.T) {
	for seed := range uint64(20) {
		if a, b := Run(seed, DefaultConfig()), Run(seed, DefaultConfig()); !reflect.DeepEqual(a, b) {
			t.Errorf("seed %d: got %+v, then %+v", seed, a, b)
		}
	}
}

// A simulation that finds nothing proves nothing unless it finds what is there.
func TestEveryBrokenRuleIsFound(t *testing.T) {
	for m := noFencing; m < mutations; m++ {
		found := ""
		seed := uint64(0)
		for ; seed < 5000 && found == ""; seed++ {
			c := DefaultConfig()
			c.mutation = m
			found = Run(seed, c).Violation
		}
		if found == "" {
			t.Errorf("%s: nothing found in %d sequences", m, seed)
		}
		t.Logf("%s: found by seed %d: %s", m, seed-1, found)
	}
}
