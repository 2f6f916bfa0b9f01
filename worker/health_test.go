package worker

import (
	"strings"
	"testing"
	"time"

	"mp/mppb"
)

func TestAWorkerWithoutASignOfWorkIsNotWell(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	var p pulse
	for _, c := range []struct {
		after time.Duration
		sign  sign
		phase mppb.Phase
		well  bool
	}{
		{0, sign{1, 1}, mppb.Phase_COMPUTING, true},
		{time.Minute, sign{1, 1}, mppb.Phase_COMPUTING, true},
		{2 * time.Minute, sign{1, 1}, mppb.Phase_COMPUTING, false},
		{time.Second, sign{2, 1}, mppb.Phase_COMPUTING, true}, // it was only slow
		{time.Hour, sign{2, 1}, mppb.Phase_READY, true},       // there is nothing to do
		{time.Hour, sign{2, 2}, mppb.Phase_COMPUTING, true},
		{3 * time.Minute, sign{2, 2}, mppb.Phase_COPYING, false},
	} {
		at = at.Add(c.after)
		if err := p.feel(c.sign, c.phase, at); (err == nil) != c.well {
			t.Errorf("%+v: got %v", c, err)
		} else if err != nil && !strings.Contains(err.Error(), "no sign of work for 3m0s while") {
			t.Errorf("%+v: got %q, want for how long and at what", c, err)
		}
	}
}

func TestANodeTellsOfItselfBeforeItRuns(t *testing.T) {
	n := &Node{}
	if f := n.Facts(); f.Joined || f.Phase != "loading" || n.Alive() != nil {
		t.Errorf("before Run: got %+v, %v", f, n.Alive())
	}
}
