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

func TestBenchControlRefusesNonsense(t *testing.T) {
	code, _, errText := callMain("bench", "control", "--workers", "1")
	if code != 64 || !strings.Contains(errText, "--workers") {
		t.Errorf("got exit %d and %q, want 64 and a word about --workers", code, errText)
	}
}
