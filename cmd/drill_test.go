package cmd

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"mp/job"
)

func TestEveryDrillCanBeChosenByItsName(t *testing.T) {
	all, err := chooseDrills([]string{"all"})
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	last := 0
	for _, d := range all {
		if names[d.name] || d.what == "" || d.run == nil || d.number < last {
			t.Errorf("drill %d %q is there twice, out of order, or says or does nothing", d.number, d.name)
		}
		names[d.name], last = true, d.number
		if one, err := chooseDrills([]string{d.name}); err != nil || len(one) != 1 || one[0].number != d.number {
			t.Errorf("drill %q chosen by name: %v, %v", d.name, one, err)
		}
	}
	for row := 1; row <= 30; row++ { // of the list of faults; 29 is the soak
		if row == 29 {
			continue
		}
		if d := numbered(all, row); d == 0 {
			t.Errorf("no drill has number %d", row)
		}
	}
	if _, err := chooseDrills([]string{"kill", "flood"}); !errors.Is(err, job.ErrConfig) {
		t.Errorf("an unknown name gives %v, want ErrConfig", err)
	}
}

// numbered counts the drills of a row.
func numbered(all []drill, number int) int {
	n := 0
	for _, d := range all {
		if d.number == number {
			n++
		}
	}
	return n
}

func TestAReportSaysWhatHeld(t *testing.T) {
	r := newDrillReport(drillOptions{tls: tlsOn})
	r.add(drilled{Drill: "kill", Held: true, SameBits: true, Steps: 1200, Detect: 0.05, Recover: 1.5})
	r.add(drilled{Drill: "cut", Error: "hung"})
	r.add(drilled{Drill: "loss", NotRun: "no root"})
	if r.Held != 1 || r.Failed != 1 || r.NotRun != 1 || len(r.failed()) != 1 || r.failed()[0] != "cut" || !r.TLS {
		t.Errorf("got %+v", r)
	}
	path := filepath.Join(t.TempDir(), "drills.json")
	if err := r.write(path); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var again drillReport
	if err := json.Unmarshal(text, &again); err != nil || len(again.Drills) != 3 || again.Drills[0].Recover != 1.5 {
		t.Errorf("read back: %v, %+v", err, again)
	}
	if row := r.Drills[0].row(); row[2] != "held" || row[3] != span(50*time.Millisecond) || row[7] != "same" {
		t.Errorf("row %q", row)
	}
	if row := r.Drills[1].row(); row[2] != "DID NOT HOLD" || row[7] != "DIFFERENT" {
		t.Errorf("row %q", row)
	}
	if row := r.Drills[2].row(); row[2] != "not run" || row[7] != "-" {
		t.Errorf("row %q", row)
	}
	if err := r.write(t.TempDir()); err == nil {
		t.Error("a folder passes for a file")
	}
}
