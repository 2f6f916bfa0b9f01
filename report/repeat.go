package report

import (
	"fmt"
	"strings"

	"mp/metrics"
)

// way is the chapter on what happened while the runs were computed.
func (b *builder) way() {
	b.section(2, "way", "What happened on the way")
	for _, r := range b.runs {
		b.part(r, "way")
		if len(r.told) == 0 && r.goodput == nil && r.start == nil {
			b.lacks(r, "Nothing is recorded: `%s` is missing or empty.", metrics.EventsFile)
			continue
		}
		workers := map[uint64]bool{}
		for _, w := range r.workers {
			workers[w.Worker] = true
		}
		text := "No fault and no interruption is recorded."
		if len(r.told) > 0 {
			text = fmt.Sprintf("%s recorded.", count(len(r.told), "event"))
		}
		if len(workers) > 0 {
			text = fmt.Sprintf("Computed by %s. ", count(len(workers), "worker")) + text
		}
		if r.resumes > 0 {
			text += fmt.Sprintf(" The run was resumed %s.", times(r.resumes))
		}
		if g := r.goodput; g != nil && g.WallSeconds > 0 {
			text += fmt.Sprintf(" %s %% of the time of its steps was spent on work that counts.", figure(100*g.Share, 1))
			if g.Faults > 0 {
				text += fmt.Sprintf(" %s: noticed after %s, next update after %s (medians).", count(g.Faults, "fault"), span(g.DetectMedian), span(g.RecoverMedian))
			}
		}
		b.add(prose("%s", text))
		if len(r.told) == 0 {
			continue
		}
		const most = 25
		t := Table{Caption: "Events" + b.of(r) + ", UTC.", Columns: []Column{{"time", false}, {"what", false}}}
		for _, e := range r.told[:min(most, len(r.told))] {
			t.Rows = append(t.Rows, []string{e.at.UTC().Format("2006-01-02 15:04:05"), e.text})
		}
		if more := len(r.told) - most; more > 0 {
			t.Rows = append(t.Rows, []string{"", fmt.Sprintf("and %s more, in %s", count(more, "event"), metrics.EventsFile)})
		}
		b.add(t)
	}
}

func times(n int) string {
	switch n {
	case 1:
		return "once"
	case 2:
		return "twice"
	}
	return fmt.Sprintf("%d times", n)
}

// repeat is the chapter on the environment and on how to do it all again.
func (b *builder) repeat() {
	b.section(2, "repeat", "Environment, and how to repeat it")
	t := Table{Caption: "Where the runs were computed, as their events say.", Columns: []Column{{"run", false}, {"began", false}, {"device", false}, {"precision", false}, {"seed", true}, {"program", false}}}
	for _, r := range b.runs {
		row := []string{r.Name, "–", "–", r.option("precision"), r.option("seed"), "–"}
		if !r.began.IsZero() {
			row[1] = r.began.UTC().Format("2006-01-02 15:04 UTC")
		}
		if r.start != nil {
			row[2], row[5] = r.start.Device, orNone(r.start.Version)
		}
		t.Rows = append(t.Rows, row)
	}
	b.add(t)
	if len(b.machine) > 0 {
		m := Table{Caption: "Where this report was made.", Columns: []Column{{"what", false}, {"which", false}}}
		for _, f := range b.machine {
			m.Rows = append(m.Rows, []string{f.Name, f.Value})
		}
		b.add(m)
	}
	b.add(prose("A run of the same options, data and number of shards ends with the same weights, bit for bit, on a device of the same kind, with any number of workers. The commands, in a folder with the program and the images:"))
	var lines []string
	for _, r := range b.runs {
		lines = append(lines, "# "+r.Name)
		if r.Command != "" {
			lines = append(lines, r.Command)
		} else {
			lines = append(lines, fmt.Sprintf("mp train --job %s/%s", r.place(), jobFile))
		}
		lines = append(lines, fmt.Sprintf("mp evaluate %s --checkpoint %s", r.data(), r.place()))
	}
	var directories []string
	for _, r := range b.runs {
		directories = append(directories, r.place())
	}
	lines = append(lines, "", "# this report", "mp report "+strings.Join(directories, " "))
	b.add(Code{strings.Join(lines, "\n")})
	d := Table{Caption: "The weights that the figures are of, by the SHA-256 of their tensors.", Columns: []Column{{"run", false}, {"checkpoint", false}, {"digest", false}}}
	for _, r := range b.runs {
		if r.evaluation != nil {
			d.Rows = append(d.Rows, []string{r.Name, r.evaluation.Checkpoint, r.evaluation.Digest})
		}
	}
	if len(d.Rows) > 0 {
		b.add(d)
	}
}
