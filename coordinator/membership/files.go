package membership

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// checkPath says whether a path stays inside a run's directory.
func checkPath(p string) error {
	bad := p == "" || len(p) > 2*maxWord || strings.ContainsAny(p, "\\\x00") || clip(p, 2*maxWord) != p
	for part := range strings.SplitSeq(p, "/") {
		bad = bad || part == "" || part == "." || part == ".."
	}
	if bad {
		return fmt.Errorf("file %q: want a path inside the run, with slashes and without dots: %w", clip(p, maxWord), ErrCommand)
	}
	return nil
}

func (j *Job) findFile(path string) (int, bool) {
	return slices.BinarySearchFunc(j.Files, path, func(f FileState, path string) int { return cmp.Compare(f.Path, path) })
}

func (a *apply) file(c *File) Result {
	j := a.Job(c.Job)
	if j == nil {
		return fail("file of job %q: %w", clip(c.Job, maxWord), ErrUnknown)
	}
	if err := checkPath(c.File.Path); err != nil {
		return Result{Err: err}
	}
	i, ok := j.findFile(c.File.Path)
	if c.Node == "" {
		if !ok {
			return fail("forget file %q of %s: %w", c.File.Path, j.ID, ErrUnknown)
		}
		j.Files = slices.Delete(j.Files, i, i+1)
		j.Checkpoints = slices.DeleteFunc(j.Checkpoints, func(s Saved) bool { return slices.Contains(s.Files, c.File.Path) })
		return Result{}
	}
	node, sha := clip(c.Node, maxWord), clip(c.File.SHA256, maxWord)
	switch {
	case sha == "":
		return fail("file %q of %s without SHA-256: %w", c.File.Path, j.ID, ErrCommand)
	case !ok && len(j.Files) >= maxFiles:
		return fail("%s has %d files already: %w", j.ID, len(j.Files), ErrState)
	case !ok:
		j.Files = slices.Insert(j.Files, i, FileState{Path: c.File.Path, Size: c.File.Size, SHA256: sha, Nodes: []string{node}})
	case j.Files[i].SHA256 != sha || j.Files[i].Size != c.File.Size:
		j.Files[i].Size, j.Files[i].SHA256, j.Files[i].Nodes = c.File.Size, sha, []string{node}
	default:
		f := &j.Files[i]
		if n, has := slices.BinarySearch(f.Nodes, node); !has && len(f.Nodes) < maxNodes {
			f.Nodes = slices.Insert(slices.Clone(f.Nodes), n, node)
		}
	}
	return Result{}
}

func (a *apply) checkpoint(c *Checkpoint) Result {
	j := a.Job(c.Job)
	switch {
	case j == nil:
		return fail("checkpoint of job %q: %w", clip(c.Job, maxWord), ErrUnknown)
	case c.Name == "" || len(c.Name) > maxWord || clip(c.Name, maxWord) != c.Name || len(c.Files) == 0 || len(c.Files) > maxFiles/4:
		return fail("checkpoint %q of %s with %d files: %w", clip(c.Name, maxWord), j.ID, len(c.Files), ErrCommand)
	case j.Updates() != 0 && c.Update > j.Updates():
		return fail("checkpoint %s of %s after %d of %d updates: %w", c.Name, j.ID, c.Update, j.Updates(), ErrCommand)
	}
	for _, f := range c.Files {
		if _, ok := j.findFile(f); !ok {
			return fail("checkpoint %s of %s: nobody has its file %q: %w", c.Name, j.ID, clip(f, maxWord), ErrUnknown)
		}
	}
	j.Checkpoints = slices.DeleteFunc(j.Checkpoints, func(s Saved) bool { return s.Name == c.Name })
	j.Checkpoints = append(j.Checkpoints, Saved{Name: c.Name, Update: c.Update, Time: a.time, Best: c.Best, Files: slices.Clone(c.Files)})
	slices.SortFunc(j.Checkpoints, func(x, y Saved) int {
		return cmp.Or(cmp.Compare(x.Update, y.Update), cmp.Compare(x.Name, y.Name))
	})
	dropped := j.thin()
	a.tell(Event{Topic: TopicCheckpoint, Job: j.ID, Update: c.Update, View: a.View.Number, Text: fmt.Sprintf("checkpoint %s is whole", c.Name)})
	return Result{Events: a.events, Dropped: dropped}
}

// thin forgets checkpoints: all but the newest Keep, and all but the newest best. It returns the files that nobody needs now.
func (j *Job) thin() []string {
	var gone []string
	plain, best := uint32(0), false
	for i := len(j.Checkpoints) - 1; i >= 0; i-- {
		c := j.Checkpoints[i]
		keep := c.Best && !best || !c.Best && plain < j.Plan.Keep
		if c.Best {
			best = true
		} else {
			plain++
		}
		if !keep {
			gone = append(gone, c.Files...)
			j.Checkpoints = slices.Delete(j.Checkpoints, i, i+1)
		}
	}
	for _, c := range j.Checkpoints {
		gone = slices.DeleteFunc(gone, func(f string) bool { return slices.Contains(c.Files, f) })
	}
	slices.Sort(gone)
	gone = slices.Compact(gone)
	j.Files = slices.DeleteFunc(j.Files, func(f FileState) bool {
		_, drop := slices.BinarySearch(gone, f.Path)
		return drop
	})
	return gone
}

func (s *State) findRecord(machine, device string) (int, bool) {
	return slices.BinarySearchFunc(s.Quarantines, 0, func(r *Record, _ int) int {
		return cmp.Or(cmp.Compare(r.Machine, machine), cmp.Compare(r.Device, device))
	})
}

// record returns what is known of a device, or nil.
func (s *State) record(machine, device string) *Record {
	if i, ok := s.findRecord(machine, device); ok {
		return s.Quarantines[i]
	}
	return nil
}

func (a *apply) quarantine(q *Quarantine) Result {
	if q.Machine == "" || q.Device == "" || !(q.Seconds > 0) || q.Seconds > 1e9 {
		return fail("quarantine device %q of machine %q for %v s: %w", clip(q.Device, maxWord), clip(q.Machine, maxWord), q.Seconds, ErrCommand)
	}
	machine, device := clip(q.Machine, maxWord), clip(q.Device, maxWord)
	i, ok := a.findRecord(machine, device)
	if !ok {
		if len(a.Quarantines) >= maxQuarantines {
			idle := slices.IndexFunc(a.Quarantines, func(r *Record) bool { return !r.Active })
			if idle < 0 {
				return fail("%d devices are in quarantine: %w", len(a.Quarantines), ErrState)
			}
			a.Quarantines = slices.Delete(a.Quarantines, idle, idle+1)
			i, _ = a.findRecord(machine, device)
		}
		a.Quarantines = slices.Insert(a.Quarantines, i, &Record{Machine: machine, Device: device})
	}
	r := a.Quarantines[i]
	r.Level++
	r.Active, r.Until, r.Reason = true, a.time+int64(q.Seconds*1e9), clip(q.Reason, maxText)
	a.tell(Event{Topic: TopicQuarantine, Warning: true, View: a.View.Number,
		Text:   fmt.Sprintf("%s: it stays out of views for %s unless it is needed", r.Reason, seconds(q.Seconds)),
		Advice: "find out why it fails; others do its work meanwhile"})
	return Result{Events: a.events}
}

func (a *apply) release(c *Release) Result {
	i, ok := a.findRecord(c.Machine, c.Device)
	if !ok || !c.Forget && !a.Quarantines[i].Active {
		return fail("release device %q of machine %q: %w", clip(c.Device, maxWord), clip(c.Machine, maxWord), ErrUnknown)
	}
	r := a.Quarantines[i]
	was := r.Active
	if r.Active, r.Until = false, 0; c.Forget {
		a.Quarantines = slices.Delete(a.Quarantines, i, i+1)
	}
	if was {
		a.tell(Event{Topic: TopicQuarantine, View: a.View.Number, Text: fmt.Sprintf("%s of machine %s may work again", r.Device, r.Machine)})
	}
	return Result{Events: a.events}
}
