package cmd

import (
	"fmt"
	"time"

	"mp/coordinator/membership"
)

// checkTimes lists every time-out of a cluster: all follow from --fail-after.
func (m machine) checkTimes() []finding {
	t := membership.Timeouts(m.failAfter)
	var all []finding
	for _, row := range []struct {
		name string
		is   time.Duration
		what string
	}{
		{"fail-after", t.FailAfter, "silence after which a worker or peer counts as gone; one that is killed is noticed at once"},
		{"heartbeat", t.Heartbeat, "longest pause between two signs of life of a worker; of more than 300 workers up to a third of fail-after"},
		{"election", t.Election, "silence of the leading coordinator after which the others choose a new one"},
		{"grace", t.Grace, "time that workers have to come back after a change of leader"},
		{"fault wait", t.FaultWait, "wait for news of a suspect before a broken view is made again"},
		{"settle", t.Settle, "wait of a new job for further workers once it has enough"},
		{"join every", t.JoinEvery, "least pause between a view and one made only to take in others"},
		{"deal every", t.DealEvery, "least pause between a view and one made only to deal shards better"},
		{"state wait", t.StateWait, "wait, when nobody has the state, before a checkpoint is taken"},
		{"stuck after", t.StuckAfter, "progress standing still although signs of life come: named; after twice as long removed"},
		{"pause after", t.PauseAfter, "time that workers go on without a coordinator before they pause"},
		{"window", t.Window, "faults of one worker within it are counted together"},
		{"progress", t.Progress, "least pause between two records of progress"},
		{"drain", t.Drain, "wait of a worker that was asked to leave for its work to be taken over"},
	} {
		all = append(all, finding{Name: row.name, Mark: markOK, Found: fmt.Sprintf("%-6s  %s", row.is, row.what)})
	}
	return all
}
