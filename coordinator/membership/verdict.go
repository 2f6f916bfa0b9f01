package membership

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// forgetAfter is after how many Times.Window without a fault a device's record is clean again.
const forgetAfter = 10

// faultsAreMany is how many faults of one suspect within Times.Window have a consequence.
const faultsAreMany = 3

// going is a worker that is being removed.
type going struct {
	at    time.Duration // noticed
	order uint64
	leave *Leave
}

func isGoing(all []going, worker uint64) bool {
	for i := range all {
		if all[i].leave.Worker == worker {
			return true
		}
	}
	return false
}

// removals says who is in no more, the first cause first.
func (l *Leader) removals(now time.Duration, s *State) []going {
	if t := l.trouble; t != nil && !t.counted && l.broken(now, s) && l.allThere(now) {
		l.suspect(now)
	}
	open := slices.ContainsFunc(s.Jobs, func(j *Job) bool { return !j.State.Ended() })
	dismiss := l.c.Dismiss && s.JobCount > 0 && !open
	var all []going
	hung, members := 0, 0
	guarded := l.guarded(now, s)
	for i, w := range s.Workers {
		p := l.roll[i]
		g := l.verdict(now, w, p, s)
		switch {
		case g.leave != nil:
		case p.st.Leaving && !l.member(p) && !(guarded && p.st.Job == l.job && p.st.CaughtUp):
			g.leave = &Leave{Worker: w.ID, Cause: Drained}
		case dismiss && !l.member(p):
			g.leave = &Leave{Worker: w.ID, Cause: Finished}
		}
		if l.member(p) {
			members++
			if p.st.View == l.view && p.st.Phase == Reducing && now-p.moved > l.c.Times.StuckAfter {
				hung++
			}
		}
		if g.leave == nil {
			continue
		}
		g.leave.Worker = w.ID
		if g.leave.Cause.Fault() {
			l.failed(now, w, g.leave.Cause)
			if l.member(p) && s.View.Job == l.job && l.job != "" && l.faultAt == 0 {
				l.faultAt = max(g.at, 1)
				if t := l.trouble; t != nil {
					l.faultAt = max(min(l.faultAt, t.at), 1) // others noticed first
				}
			}
		}
		all = append(all, g)
	}
	if members > 0 && hung == members && l.trouble == nil {
		l.trouble = &trouble{at: now, what: Fault{Kind: "silence", Text: "everybody waits for the sum, and nobody moved for " + seconds(l.c.Times.StuckAfter.Seconds())}}
	}
	slices.SortStableFunc(all, func(x, y going) int { return cmp.Or(cmp.Compare(x.at, y.at), cmp.Compare(x.order, y.order)) })
	return all
}

// guarded says whether those who ask to leave are the last to have the state, and it is not saved yet.
func (l *Leader) guarded(now time.Duration, s *State) bool {
	j := s.Running()
	if j == nil {
		return false
	}
	for _, p := range l.roll {
		if p.st.Leaving {
			l.collect(s, j, nil)
			return l.unsaved(now, j, l.holders())
		}
	}
	return false
}

// allThere says whether every member of the view in force has just been heard.
func (l *Leader) allThere(now time.Duration) bool {
	for _, p := range l.ranks {
		if p == nil || !p.connected || now-p.heard > 3*l.beat {
			return false
		}
	}
	return true
}

// verdict says whether a worker has failed.
func (l *Leader) verdict(now time.Duration, w *Worker, p *peer, s *State) going {
	t := l.c.Times
	quiet := now - p.heard
	switch {
	case !p.connected && p.gone != "":
		cause, text := p.end(w.ID)
		return going{p.goneAt, p.order, &Leave{Cause: cause, Text: text, DetectSeconds: max(0, (p.goneAt - p.heard).Seconds())}}
	case !p.connected && quiet > t.Grace:
		return going{now, 0, &Leave{Cause: Absent, Text: "not heard for " + seconds(quiet.Seconds()) + " since this coordinator leads or let it in"}}
	case !p.connected && quiet > t.Election && len(l.accused[w.ID]) > 0:
		return going{now, 0, &Leave{Cause: Absent, Text: fmt.Sprintf("not heard for %s since this coordinator leads, and %s says: %s", seconds(quiet.Seconds()), s.Name(l.trouble.by), l.trouble.what.Text)}}
	case !p.connected:
		l.by(p.heard + t.Grace + 1)
		return going{}
	case quiet > t.FailAfter:
		return going{p.heard + t.FailAfter, 0, &Leave{Cause: Silent, Text: "no sign of life for " + seconds(quiet.Seconds()), DetectSeconds: quiet.Seconds()}}
	case l.trouble != nil && p.heard <= l.trouble.at && quiet > 3*l.beat && len(l.accused[w.ID]) > 0:
		return going{now, 0, &Leave{Cause: Silent, DetectSeconds: quiet.Seconds(),
			Text: fmt.Sprintf("no sign of life for %s, and %s says: %s", seconds(quiet.Seconds()), s.Name(l.trouble.by), l.trouble.what.Text)}}
	}
	l.by(p.heard + t.FailAfter + 1)
	if len(l.suspects) > 0 {
		if times := l.recent(now, l.suspects[w.ID]); len(times) >= faultsAreMany {
			delete(l.suspects, w.ID)
			return going{now, 0, &Leave{Cause: Accused, Text: fmt.Sprintf("%d faults of which others took it for the cause within %s", len(times), seconds(t.Window.Seconds()))}}
		}
	}
	if patience := l.patience(p); patience > 0 && now-p.moved > patience {
		still := seconds((now - p.moved).Seconds())
		if now-p.moved > 2*patience && l.awaited(w.ID) {
			return going{now, 0, &Leave{Cause: Stuck, DetectSeconds: (now - p.moved).Seconds(), Text: "it gives signs of life, but has not moved for " + still + " while others wait"}}
		}
		if !p.stuckTold {
			p.stuckTold = true
			l.notes = append(l.notes, Command{Note: &Note{Topic: TopicSlow, Worker: w.ID, Warning: true, Job: l.job,
				Text: w.name() + " gives signs of life, but has not moved for " + still, Advice: Stuck.advice(w)}})
			l.by(now)
		}
	}
	return going{}
}

// patience is how long a member's progress may stand still before that is told; twice that, and it is removed if others wait.
// 0: it may for ever, as it waits itself.
func (l *Leader) patience(p *peer) time.Duration {
	t := l.c.Times.StuckAfter
	switch {
	case !l.member(p) || !p.spoke:
		return 0
	case p.st.View != l.view || p.st.Phase == Computing || p.st.Phase == Validating:
		return t
	case p.st.Phase == Reducing || p.st.Phase == Ready || p.st.Phase == Paused:
		return 0
	}
	return 2 * t // reading, copying or saving may take long in one piece
}

// awaited says whether another member waits for the worker.
func (l *Leader) awaited(worker uint64) bool {
	for _, p := range l.ranks {
		if p != nil && p.w.ID != worker && p.st.View == l.view && (p.st.Phase == Reducing || p.st.Phase == Forming) {
			return true
		}
	}
	return false
}

// recent drops the times that are too long ago to be counted together.
func (l *Leader) recent(now time.Duration, times []time.Duration) []time.Duration {
	for len(times) > 0 && now-times[0] > l.c.Times.Window {
		times = times[1:]
	}
	return times
}

// failed counts a fault of a device.
func (l *Leader) failed(now time.Duration, w *Worker, c Cause) {
	if c == Absent {
		return
	}
	d := device{w.Hello.Machine, w.Hello.Device}
	l.failures[d] = append(l.recent(now, l.failures[d]), now)
	if c == Accused { // of as many faults: it would be back at once, and break the ring as often again
		l.failures[d] = append(l.failures[d], slices.Repeat([]time.Duration{now}, faultsAreMany-1)...)
	}
	if h := l.held[d]; h != nil {
		h.forget = now + forgetAfter*l.c.Times.Window
	}
}

// pause is how long the level-th quarantine of a device lasts: 5, 10, 20, ... at most 300 times FailAfter.
func (c LeaderConfig) pause(level uint32) time.Duration {
	times := min(time.Duration(5)<<min(max(level, 1)-1, 6), 300)
	return times * c.Times.FailAfter
}

// quarantines says which devices stay out for a while, and which may come back.
func (l *Leader) quarantines(now time.Duration, s *State) []Command {
	if len(l.failures) == 0 && len(s.Quarantines) == 0 {
		return nil
	}
	var out []Command
	for d, times := range l.failures {
		times = l.recent(now, times)
		if len(times) == 0 {
			delete(l.failures, d)
			continue
		}
		l.failures[d] = times
		if len(times) < faultsAreMany {
			continue
		}
		delete(l.failures, d)
		level := uint32(1)
		if r := s.record(d.machine, d.device); r != nil {
			level = r.Level + 1
		}
		pause := l.c.pause(level)
		l.held[d] = &held{until: now + pause, forget: now + pause + forgetAfter*l.c.Times.Window}
		out = append(out, Command{Quarantine: &Quarantine{Machine: d.machine, Device: d.device, Seconds: pause.Seconds(),
			Reason: fmt.Sprintf("%s of machine %s failed %d times within %s", d.device, d.machine, len(times), seconds(l.c.Times.Window.Seconds()))}})
	}
	slices.SortFunc(out, func(x, y Command) int {
		return cmp.Or(cmp.Compare(x.Quarantine.Machine, y.Quarantine.Machine), cmp.Compare(x.Quarantine.Device, y.Quarantine.Device))
	})
	for _, r := range s.Quarantines {
		d := device{r.Machine, r.Device}
		h := l.held[d]
		switch {
		case h == nil: // another leader's, which this one has not seen before
			l.held[d] = &held{until: now + l.c.pause(r.Level), forget: now + l.c.pause(r.Level) + forgetAfter*l.c.Times.Window}
		case now >= h.forget:
			delete(l.held, d)
			out = append(out, Command{Release: &Release{Machine: r.Machine, Device: r.Device, Forget: true}})
		case r.Active && now >= h.until:
			out = append(out, Command{Release: &Release{Machine: r.Machine, Device: r.Device}})
		case r.Active:
			l.by(h.until)
		}
	}
	return out
}

// broken says whether a fault was reported long enough ago: the view must be made again, although all are alive.
func (l *Leader) broken(now time.Duration, s *State) bool {
	t := l.trouble
	if t == nil {
		return false
	}
	// A view that breaks again and again without an update in between is made again ever more slowly.
	due := t.at + min(l.c.Times.FaultWait<<min(l.again, 10), l.c.Times.FailAfter)
	if now < due {
		l.by(due)
		return false
	}
	// Whoever is suspected and has not spoken since may be dead: that is decided first, and soon.
	if p := l.peers[t.what.Suspect]; p != nil && l.member(p) && p.connected && p.heard <= t.at {
		l.by(p.heard + 3*l.beat + 1)
		return false
	}
	return true
}

// suspect counts an accusation of those whom most others took for the cause of the trouble, once.
func (l *Leader) suspect(now time.Duration) {
	l.trouble.counted = true
	most := 0
	for id, by := range l.accused {
		if id != 0 {
			most = max(most, len(by))
		}
	}
	for id, by := range l.accused {
		if id != 0 && len(by) == most { // where two accuse each other, both count until one of them is gone
			l.suspects[id] = append(l.recent(now, l.suspects[id]), now)
		}
	}
}
