package membership

import (
	"fmt"
	"strconv"
	"strings"
)

func (a *apply) setView(v *SetView) Result {
	if v.Base != a.View.Number {
		return fail("replace view %d while view %d is in force: %w", v.Base, a.View.Number, ErrStale)
	}
	j := a.Running()
	if err := a.fits(v, j); err != nil {
		return Result{Err: fmt.Errorf("view %d: %w", v.Base+1, err)}
	}
	old := a.View
	next := View{Number: old.Number + 1, Job: v.Job, Members: v.Members, Advice: clip(v.Advice, maxText), Fault: v.Fault || a.First != nil,
		Waiting: clip(v.Waiting, maxWord), Save: v.Save}
	next.Reason = a.reason(v, old)
	e := Event{Topic: TopicView, Job: v.Job, View: next.Number, Text: next.Reason, Advice: next.Advice,
		Warning: a.First != nil || v.Fault && len(old.Members) > 0}
	if a.First != nil {
		if next.Advice == "" {
			next.Advice = a.First.Advice
		}
		e.Worker, e.DetectSeconds, e.Advice = a.First.Worker, a.First.DetectSeconds, next.Advice
	}
	if j != nil && v.Job != "" {
		e.Update, next.Committed = j.Update, j.Update
		if n := j.Newest(); n != nil {
			next.Checkpoint, next.CheckpointUpdate = n.Name, n.Update
		}
	}
	idle := v.Job == "" && a.First == nil // the end of the job has been told
	a.View, a.First = next, nil
	if !idle {
		a.tell(e)
	}
	return Result{View: true, Events: a.events}
}

// fits says why a view cannot be.
func (a *apply) fits(v *SetView, j *Job) error {
	if v.Job == "" {
		if len(v.Members) > 0 || v.Save {
			return fmt.Errorf("members without a job: %w", ErrCommand)
		}
		return nil
	}
	if j == nil || j.ID != v.Job {
		return fmt.Errorf("job %q does not run: %w", clip(v.Job, maxWord), ErrStale)
	}
	if len(v.Members) == 0 {
		if v.Save {
			return fmt.Errorf("nobody to save: %w", ErrCommand)
		}
		return nil
	}
	if j.State != JobRunning && !v.Save {
		return fmt.Errorf("job %s is %s: %w", j.ID, j.State, ErrStale)
	}
	seen := make(map[uint64]bool, len(v.Members))
	computes, validates := newCover(j.Plan.Shards), newCover(j.Plan.Shards)
	for _, m := range v.Members {
		if a.Worker(m.Worker) == nil {
			return fmt.Errorf("worker %d is not in: %w", m.Worker, ErrStale)
		}
		if seen[m.Worker] {
			return fmt.Errorf("worker %d has two ranks: %w", m.Worker, ErrCommand)
		}
		seen[m.Worker] = true
		if !computes.add(m.Shards) || !validates.add(m.ValShards) {
			return fmt.Errorf("worker %d: its shards are out of order, of range, or others' too: %w", m.Worker, ErrCommand)
		}
	}
	if computes.left != 0 || validates.left != 0 {
		return fmt.Errorf("%d shards and %d parts of validation are nobody's: %w", computes.left, validates.left, ErrCommand)
	}
	return nil
}

// cover counts shards off.
type cover struct {
	taken []bool
	left  int
}

func newCover(n uint32) *cover { return &cover{taken: make([]bool, n), left: int(n)} }

func (c *cover) add(shards []uint32) bool {
	for i, s := range shards {
		if i > 0 && shards[i-1] >= s || int(s) >= len(c.taken) || c.taken[s] {
			return false
		}
		c.taken[s] = true
		c.left--
	}
	return true
}

// reason is the line that people read: the first cause by the log's order if workers were lost, and where their shards went.
func (a *apply) reason(v *SetView, old View) string {
	if a.First == nil {
		text := v.Reason
		if v.Job == old.Job {
			if moved := a.moved(v, old); moved != "" {
				text += "; " + moved
			}
		}
		return clip(text, maxText)
	}
	text := a.First.Text
	if n := a.First.Count - 1; n > 0 {
		text += ", then " + strings.Join(a.First.More, ", ")
		if more := n - len(a.First.More); more > 0 {
			text += fmt.Sprintf(" and %d more", more)
		}
	}
	if moved := a.moved(v, old); moved != "" {
		text += "; " + moved
	}
	if len(v.Members) == 0 && v.Reason != "" {
		text += "; " + v.Reason
	}
	return clip(text, maxText)
}

// moved says where the shards of those went who are in the view no more.
func (a *apply) moved(v *SetView, old View) string {
	if len(v.Members) == 0 {
		return ""
	}
	owner := map[uint32]uint64{}
	in := map[uint64]bool{}
	for _, m := range v.Members {
		in[m.Worker] = true
		for _, s := range m.Shards {
			owner[s] = m.Worker
		}
	}
	lost, shards := 0, 0
	takes := map[uint64]bool{}
	for _, m := range old.Members {
		if in[m.Worker] {
			continue
		}
		lost++
		shards += len(m.Shards)
		for _, s := range m.Shards {
			takes[owner[s]] = true
		}
	}
	var names []string
	for _, m := range v.Members {
		if takes[m.Worker] {
			names = append(names, a.Worker(m.Worker).short())
		}
	}
	its := "its"
	if lost > 1 {
		its = "their"
	}
	switch {
	case lost == 0:
		return ""
	case shards == 0 && lost > 1:
		return "they had no shards"
	case shards == 0:
		return "it had no shards"
	}
	return fmt.Sprintf("%s %s went to %s", its, plural(shards, "shard"), list(names))
}

// plural is "1 shard", "2 shards".
func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return strconv.Itoa(n) + " " + what + "s"
}

// list is "worker 1", "workers 1 and 2", "17 workers".
func list(names []string) string {
	switch n := len(names); {
	case n == 0:
		return "nobody"
	case n == 1:
		return names[0]
	case n > 6:
		return strconv.Itoa(n) + " workers"
	}
	numbers := make([]string, len(names))
	copy(numbers, names)
	prefix := ""
	if all(names, func(s string) bool { return strings.HasPrefix(s, "worker ") }) {
		prefix = "workers "
		for i, s := range names {
			numbers[i] = strings.TrimPrefix(s, "worker ")
		}
	}
	last := len(numbers) - 1
	return prefix + strings.Join(numbers[:last], ", ") + " and " + numbers[last]
}

func all(names []string, f func(string) bool) bool {
	for _, s := range names {
		if !f(s) {
			return false
		}
	}
	return true
}

func (a *apply) progress(p *Progress) Result {
	j := a.Running()
	switch {
	case p.View != a.View.Number || p.Job != a.View.Job || j == nil || j.ID != p.Job:
		return fail("progress of job %q in view %d while view %d is in force: %w", clip(p.Job, maxWord), p.View, a.View.Number, ErrStale)
	case p.Update < j.Update:
		return fail("progress of %s goes back from update %d to %d: %w", j.ID, j.Update, p.Update, ErrStale)
	case p.Update > j.Updates() || p.Validated > j.Plan.Epochs:
		return fail("progress of %s to update %d and %d epochs of %d and %d: %w", j.ID, p.Update, p.Validated, j.Updates(), j.Plan.Epochs, ErrCommand)
	}
	if err := j.Book.check(j, p.Ledger); err != nil {
		return Result{Err: fmt.Errorf("progress of %s: %w", j.ID, err)}
	}
	j.Update = p.Update
	j.EpochsDone = max(j.EpochsDone, p.Validated)
	j.ImagesPerSecond = finite(p.ImagesPerSecond)
	j.Book.put(j, p.Ledger)
	if r := finite(p.RecoverSeconds); r > 0 {
		a.tell(Event{Topic: TopicView, Job: j.ID, View: p.View, Update: p.Update, RecoverSeconds: r, Text: "next step after " + seconds(r)})
	}
	return Result{Events: a.events}
}

// seconds is a time for people: "0.62 s", "12.3 s".
func seconds(s float64) string {
	switch {
	case s < 1:
		return strconv.FormatFloat(s, 'f', 2, 64) + " s"
	case s < 100:
		return strconv.FormatFloat(s, 'f', 1, 64) + " s"
	}
	return strconv.FormatFloat(s, 'f', 0, 64) + " s"
}

func (a *apply) rollBack(r *RollBack) Result {
	j := a.Running()
	switch {
	case r.View != a.View.Number || j == nil || j.ID != r.Job:
		return fail("roll job %q back in view %d while view %d is in force: %w", clip(r.Job, maxWord), r.View, a.View.Number, ErrStale)
	case r.Update >= j.Update:
		return fail("roll %s back from update %d to %d: %w", j.ID, j.Update, r.Update, ErrCommand)
	}
	from := j.Update
	j.Update = r.Update
	if steps := j.steps(); steps > 0 {
		j.EpochsDone = min(j.EpochsDone, uint32(r.Update/steps))
	}
	j.Book.truncate(j, r.Update)
	whence := "the first values"
	if r.Update > 0 {
		whence = "a worker that was away has it"
	}
	if n := j.Newest(); n != nil && n.Update == r.Update {
		whence = "checkpoint " + n.Name
	}
	a.tell(Event{Topic: TopicFault, Job: j.ID, View: a.View.Number, Update: r.Update, Warning: true,
		Text:   fmt.Sprintf("%s: %s goes back from update %d to %d (%s)", clip(r.Reason, maxText/2), j.ID, from, r.Update, whence),
		Advice: "save more often (--checkpoint-every) or use more workers: while one of them lives nothing is done twice"})
	return Result{Events: a.events}
}
