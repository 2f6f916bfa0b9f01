package membership

import (
	"fmt"
	"slices"
	"time"
)

// candidate is a worker that could be in the next view.
type candidate struct {
	w       *Worker
	p       *peer
	member  bool // of the view in force, which is of the same job
	holder  bool // has the whole state of the newest update known to be done, or a newer one
	leaving bool
	update  uint64 // of a holder
}

func (c *candidate) shards() []uint32 {
	if c.member {
		return c.p.has.Shards
	}
	return nil
}

// arrange decides which view follows the one in force.
func (l *Leader) arrange(now time.Duration, s *State, going []going) []Command {
	j, v := s.Running(), &s.View
	if j == nil {
		if v.Job == "" {
			return nil
		}
		reason := v.Job + " has ended"
		if old := s.Job(v.Job); old != nil {
			reason = fmt.Sprintf("%s has ended (%s): %s", old.ID, old.State, old.Reason)
		}
		return set(&SetView{Base: v.Number, Waiting: "idle", Reason: reason})
	}
	l.collect(s, j, going)
	h := l.holders()
	if h.any {
		l.noState = 0
	}
	saved := j.saved()
	switch {
	case j.State == JobDraining:
		return l.drain(now, s, j, h)
	case l.unsaved(now, j, h):
		return l.saveFirst(now, s, j)
	case j.State == JobPaused:
		return l.rest(now, s, j, "paused", j.ID+" is paused", "mp jobs resume "+j.ID)
	case !h.staying && j.Update > saved:
		return l.goBack(now, s, j)
	}
	return l.compute(now, s, j, !h.staying)
}

// holding is what is known of those who have the whole state.
type holding struct {
	any     bool
	staying bool   // somebody who does not leave has it
	newest  uint64 // update
	known   bool   // what every one of them has is known, now that the view in force does no steps or as far as it has got
}

func (l *Leader) holders() holding {
	h := holding{known: true}
	for i := range l.hands {
		if c := &l.hands[i]; c.holder {
			h.any = true
			h.staying = h.staying || !c.leaving
			h.newest = max(h.newest, c.update)
			h.known = h.known && c.p.connected && (!c.member || c.p.st.View == l.view)
		}
	}
	return h
}

// unsaved says whether all who have the state leave, and it can still be saved before they go.
func (l *Leader) unsaved(now time.Duration, j *Job, h holding) bool {
	return h.any && !h.staying && h.newest > j.saved() && !l.late(now)
}

// members says whether the view in force is the job's and computes.
func (l *Leader) members(v *View, j *Job) bool { return v.Job == j.ID && len(v.Members) > 0 }

// collect lists who could be in the next view, members of the one in force first, then by age.
func (l *Leader) collect(s *State, j *Job, going []going) {
	l.hands = l.hands[:0]
	same := s.View.Job == j.ID
	add := func(w *Worker, p *peer) {
		if len(going) > 0 && isGoing(going, w.ID) {
			return
		}
		c := candidate{w: w, p: p, member: same && l.member(p), leaving: p.st.Leaving}
		switch {
		case !p.connected: // it has time to come back
			if !c.member {
				return
			}
			c.holder, c.update = len(p.has.Shards) > 0, j.Update
		case !p.spoke:
			if !c.member {
				return
			}
			c.holder, c.update = len(p.has.Shards) > 0, j.Update
		case p.st.Phase == Loading && !c.member:
			return
		case !sameImages(&j.Data, &w.Hello.Data):
			return
		default:
			c.holder, c.update = p.st.Job == j.ID && p.st.CaughtUp && p.st.Update >= j.Update, p.st.Update
		}
		l.hands = append(l.hands, c)
	}
	if same {
		for _, p := range l.ranks {
			if p != nil {
				add(p.w, p)
			}
		}
	}
	for _, p := range l.roll {
		if !(same && l.member(p)) {
			add(p.w, p)
		}
	}
}

// sameImages is Dataset.differs without words.
func sameImages(a, b *Dataset) bool {
	return (a.Classes == b.Classes || a.Classes == 0 || b.Classes == 0) && (a.TrainImages == b.TrainImages || a.TrainImages == 0 || b.TrainImages == 0) &&
		(a.ValImages == b.ValImages || a.ValImages == 0 || b.ValImages == 0) &&
		(a.TrainSHA256 == b.TrainSHA256 || a.TrainSHA256 == "" || b.TrainSHA256 == "") && (a.ValSHA256 == b.ValSHA256 || a.ValSHA256 == "" || b.ValSHA256 == "")
}

func set(v *SetView) []Command { return []Command{{SetView: v}} }

// rest makes a view in which nobody computes, unless that is so already for the same cause.
func (l *Leader) rest(now time.Duration, s *State, j *Job, waiting, reason, advice string) []Command {
	if s.View.Job == j.ID && len(s.View.Members) == 0 && s.View.Waiting == waiting && s.First == nil {
		return nil
	}
	l.settling = 0
	return set(l.stamp(&SetView{Base: s.View.Number, Job: j.ID, Waiting: waiting, Reason: reason, Advice: advice}))
}

// stamp says whether a view answers a fault.
func (l *Leader) stamp(v *SetView) *SetView {
	if l.faultAt != 0 {
		v.Fault = true
	}
	return v
}

// goBack goes back to the newest state that there is, mostly a checkpoint, when nobody comes back with the newest. It waits a moment: whoever was only cut off
// for a short time saves everybody's work.
func (l *Leader) goBack(now time.Duration, s *State, j *Job) []Command {
	if l.noState == 0 {
		l.noState = now
	}
	present, target := false, j.saved()
	for i := range l.hands {
		c := &l.hands[i]
		present = present || !c.leaving
		if c.p.connected && c.p.st.Job == j.ID && c.p.st.CaughtUp && !c.leaving {
			target = max(target, c.p.st.Update) // it was away, and has more than the checkpoint
		}
	}
	if !present {
		return l.rest(now, s, j, "workers", "no worker is left", "start some with mp worker")
	}
	if due := l.noState + l.c.Times.StateWait; now < due {
		l.by(due)
		return l.rest(now, s, j, "state", fmt.Sprintf("nobody has the state after update %d: waiting %s for it to come back", j.Update, seconds(l.c.Times.StateWait.Seconds())), "")
	}
	l.noState, l.known = 0, nil
	return []Command{{RollBack: &RollBack{Job: j.ID, View: s.View.Number, Update: target, Reason: "everybody who had the newest state is gone"}}}
}

// drain saves a job and gives its place to the next one.
func (l *Leader) drain(now time.Duration, s *State, j *Job, h holding) []Command {
	end := func(reason string) []Command {
		return []Command{{End: &End{Job: j.ID, State: JobPaused, Reason: reason}}}
	}
	saved := j.saved()
	switch {
	case !h.any && saved > 0:
		return end(fmt.Sprintf("nobody has its state; it will go on from update %d", saved))
	case !h.any:
		return end("nothing of it is done yet")
	case h.newest <= saved && h.known && (s.View.Save || !l.members(&s.View, j)):
		return end(fmt.Sprintf("it will go on from update %d", saved))
	}
	return l.save(now, s, j, j.ID+" is drained: its state is saved")
}

// saveFirst saves the state before the last who have it leave.
func (l *Leader) saveFirst(now time.Duration, s *State, j *Job) []Command {
	return l.save(now, s, j, "all who have the state leave: it is saved first")
}

// save makes a view that saves, of those who have the state, unless it is in force already.
func (l *Leader) save(now time.Duration, s *State, j *Job, reason string) []Command {
	if s.View.Save && l.members(&s.View, j) && !l.lost(&s.View) && !l.broken(now, s) && !l.outdone() {
		return nil
	}
	l.hands = slices.DeleteFunc(l.hands, func(c candidate) bool { return !c.holder })
	v := l.build(s, j, l.hands, false)
	v.Save, v.Reason = true, reason
	return set(l.stamp(v))
}

// outdone says whether somebody outside the view in force has a newer state than all its members: it had not said so yet when
// the view was made.
func (l *Leader) outdone() bool {
	inside, outside := uint64(0), uint64(0)
	for i := range l.hands {
		switch c := &l.hands[i]; {
		case c.holder && c.member:
			inside = max(inside, c.update)
		case c.holder:
			outside = max(outside, c.update)
		}
	}
	return outside > inside
}

// late says whether somebody who waits for leave cannot wait any longer.
func (l *Leader) late(now time.Duration) bool {
	for i := range l.hands {
		if c := &l.hands[i]; c.leaving && c.holder {
			due := c.p.leaving + l.c.Times.Drain - 2*l.c.Times.FailAfter
			if now >= due {
				return true
			}
			l.by(due)
		}
	}
	return false
}

// lost says whether members of the view in force cannot be in the next one.
func (l *Leader) lost(v *View) bool {
	n := 0
	for i := range l.hands {
		if l.hands[i].member {
			n++
		}
	}
	return n != len(v.Members)
}
