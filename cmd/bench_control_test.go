package cmd

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestBenchControl(t *testing.T) {
	code, out, errText := callMain("bench", "control", "--sequences", "40", "--workers", "50", "--repetitions", "1", "--json")
	if code != 0 {
		t.Fatalf("exit %d: %s", code, errText)
	}
	var got struct{ Rows []benchRow }
	if err := json.Unmarshal([]byte(out), &got); err != nil {
		t.Fatal(err)
	}
	value := map[string]float64{}
	for _, r := range got.Rows {
		value[r.Name] = r.Value
	}
	if value["sequences of faults"] != 40 || value["violations"] != 0 || value["faults"] < 100 || value["steps committed"] < 400 {
		t.Errorf("simulation: got %v", value)
	}
	if value["50 workers: view message"] < 1000 || value["50 workers: state"] < 10_000 || value["50 workers: view change, modelled"] <= 0 {
		t.Errorf("measurement: got %v", value)
	}
}

// A real coordinator in a process of its own, and workers that compute nothing.
func TestBenchControlLive(t *testing.T) {
	t.Setenv(asMP, "1")
	code, out, errText := callMain("bench", "control", "--live", "30", "--rounds", "2", "--rest", "1s", "--json")
	if code != 0 {
		t.Fatalf("exit %d: %s", code, errText)
	}
	var got struct{ Rows []benchRow }
	if err := json.Unmarshal([]byte(out), &got); err != nil {
		t.Fatal(err)
	}
	value := map[string]float64{}
	for _, r := range got.Rows {
		value[strings.TrimPrefix(r.Name, "30 workers: ")] = r.Value
	}
	for _, positive := range []string{"all at once come into one view", "steady: updates", "steady: coordinator's processor in a step of 100 ms", "steady: sent by the coordinator",
		"steady: entries of the raft log", "a death: next view at the first, median", "joining: from Hello to a view with it at all, median", "resident memory in the end"} {
		if value[positive] <= 0 {
			t.Errorf("%s: got %v", positive, value[positive])
		}
	}
	if value["a death: next view at all, median"] < value["a death: next view at the first, median"] {
		t.Errorf("all had the view before the first: %v", value)
	}
	// Two deaths and as many joinings: a view each at least. Of a view after the first only what has changed is sent.
	if value["faults: views"] < 4 || value["faults: sent a view"] > 30*2000 {
		t.Errorf("got %v views of %v bytes at all workers", value["faults: views"], value["faults: sent a view"])
	}
	if code, _, errText := callMain("bench", "control", "--live", "1"); code != 64 || !strings.Contains(errText, "--live") {
		t.Errorf("one worker: exit %d and %q, want 64", code, errText)
	}
}

func TestBenchControlRefusesNonsense(t *testing.T) {
	code, _, errText := callMain("bench", "control", "--workers", "1")
	if code != 64 || !strings.Contains(errText, "--workers") {
		t.Errorf("got exit %d and %q, want 64 and a word about --workers", code, errText)
	}
}
