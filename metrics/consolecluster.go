package metrics

import (
	"fmt"
	"strconv"
	"strings"
)

// clusterStory is what an event of a cluster means to people, and whether they see it: a fault that a view answers is told
// by the view's reason.
func clusterStory(e Event, verbose bool) (Story, bool) {
	switch {
	case e.View != nil:
		return Story{Text: viewText(*e.View), Advice: e.View.Advice, Warning: e.View.Warning && e.View.RecoverSeconds == 0}, true
	case e.Fault != nil:
		return Story{Text: e.Fault.Text, Advice: e.Fault.Advice, Warning: true}, verbose || e.Fault.View == 0
	case e.Leader != nil:
		return Story{Text: leaderText(*e.Leader)}, verbose || e.Leader.Previous != ""
	case e.Worker != nil:
		return Story{Text: workerText(*e.Worker)}, verbose
	case e.Goodput != nil:
		return Story{Text: goodputText(*e.Goodput)}, verbose
	}
	return Story{}, false
}

func viewText(v View) string {
	if v.RecoverSeconds > 0 {
		return fmt.Sprintf("view %d: next step after %s", v.Number, tenths(v.RecoverSeconds))
	}
	if v.Members == nil {
		return fmt.Sprintf("view %d: %s", v.Number, v.Reason)
	}
	return fmt.Sprintf("view %d: %s: %s", v.Number, count(len(v.Members), "worker"), v.Reason)
}

func leaderText(l Leader) string {
	text := fmt.Sprintf("coordinator %s (%s) leads", l.ID, l.Address)
	if l.Previous != "" && l.Previous != l.ID {
		text += " after " + l.Previous
	}
	if l.Seconds > 0 {
		text += fmt.Sprintf("; nobody led for %s", tenths(l.Seconds))
	}
	return text
}

func workerText(w Worker) string {
	text := fmt.Sprintf("%s: %s, %s each, %s images/s, %s, waited for %.0f ms, sum %.0f ms, %.0f%% of it hidden", w.Name, count(len(w.Shards), "shard"),
		tenths(w.ShardSeconds), rate(w.ImagesPerSecond), memory(w.MemoryBytes), 1000*w.ArrivalSkew, 1000*w.ReduceSeconds, 100*w.ReduceHidden)
	if g := w.GPU; g != nil {
		text += fmt.Sprintf(", %s of %s of the GPU taken", memory(g.UsedBytes), memory(g.TotalBytes))
		if g.Busy != nil {
			text += fmt.Sprintf(", busy %.0f%%", 100**g.Busy)
		}
	}
	return text
}

func goodputText(g GoodputReport) string {
	text := fmt.Sprintf("goodput %.1f%%: %s steps of %.3g s in %s, %s", 100*g.Share, thousands(int64(g.CommittedSteps)), g.StepSeconds,
		seconds(g.WallSeconds), count(g.Faults, "fault"))
	if g.Faults > 0 {
		text += fmt.Sprintf(", noticed after %s (99 %%: %s), next step after %s (%s)", tenths(g.DetectMedian), tenths(g.DetectP99),
			tenths(g.RecoverMedian), tenths(g.RecoverP99))
	}
	return text
}

// survivalText is what faults have cost a finished run, in a few words; the share is left out where it is not known.
func survivalText(g GoodputReport) string {
	text := "goodput      "
	if g.StepSeconds > 0 {
		text += fmt.Sprintf("%.1f%%, ", 100*g.Share)
	} else {
		text = "faults       "
	}
	switch {
	case g.Faults > 0:
		text += count(g.Faults, "fault") + " survived"
	case g.StepSeconds > 0:
		text += "no faults"
	default:
		text += "none"
	}
	if g.RecoverMedian > 0 {
		text += fmt.Sprintf(", next step after %s", tenths(g.RecoverMedian))
	}
	return text
}

// tenths prints seconds to a digit or two that matter.
func tenths(s float64) string {
	if s < 0.095 {
		return strings.TrimRight(strings.TrimRight(strconv.FormatFloat(s, 'f', 3, 64), "0"), ".") + " s"
	}
	return fmt.Sprintf("%.1f s", s)
}

// count prints "no worker", "1 worker", "2 workers".
func count(n int, what string) string {
	switch n {
	case 0:
		return "no " + what
	case 1:
		return "1 " + what
	}
	return thousands(int64(n)) + " " + what + "s"
}
