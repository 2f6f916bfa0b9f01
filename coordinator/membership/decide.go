package membership

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"time"
)

// forgetAfter is after how many Times.Window without a fault a device's record is clean again.
const forgetAfter = 10

// faultsAreMany is how many faults of one suspect within Times.Window have a consequence.
const faultsAreMany = 3

// pause is how long the level-th quarantine of a device lasts: 5, 10, 20, ... at most 300 times FailAfter.
func (c LeaderConfig) pause(level uint32) time.Duration {
	times := min(time.Duration(5)<<min(max(level, 1)-1, 6), 300)
	return times * c.Times.FailAfter
}

// Decide returns what to propose next, in this order. Every command must have been applied, or be known not to be, before
// Decide is called again; after commands were applied, call it again at once: it returns none when all is as it should be.
func (l *Leader) Decide(now time.Duration, s *State) []Command {
	l.look(now)
	l.wake = now + l.c.Times.Heartbeat
	l.follow(now, s)
	out := l.notes
	l.notes = nil
	if !l.told && l.c.Node != "" {
		l.told = true
		out = append(out, Command{Note: &Note{Topic: TopicLeader, Text: "coordinator " + l.c.Node + " leads"}})
	}
	out = append(out, l.record(now, s)...)
	going := l.removals(now, s)
	for _, g := range going {
		out = append(out, Command{Leave: g.leave})
	}
	out = append(out, l.quarantines(now, s)...)
	if next := l.jobs(now, s); len(next) > 0 {
		return append(out, next...) // who computes what is decided when that is done
	}
	return append(out, l.arrange(now, s, going)...)
}

// follow notices what the log changed since the last time.
func (l *Leader) follow(now time.Duration, s *State) {
	j := s.Running()
	if id := idOf(j); id != l.job {
		l.job, l.known, l.faultAt, l.again, l.noState, l.finished, l.settling = id, nil, 0, 0, 0, 0, 0
	}
	l.proven = 0
	if j != nil {
		l.proven = j.Book.Proven
	}
	if l.view == s.View.Number && l.roster == s.roster {
		return
	}
	l.enroll(now, s)
	if l.view == s.View.Number {
		return
	}
	l.view, l.viewAt, l.trouble = s.View.Number, now, nil
	clear(l.accused)
	l.formed = 0
	if j != nil {
		l.formed = j.Update
	}
	for i, p := range l.ranks {
		if p != nil {
			p.in, p.has, p.slow, p.stuckTold, p.moved = l.view, &s.View.Members[i], 0, false, now
			if p.st.Job == l.job {
				l.formed = max(l.formed, p.st.Update)
			}
		}
	}
}

// enroll looks up who is in, and who is in the view.
func (l *Leader) enroll(now time.Duration, s *State) {
	l.roster = s.roster
	l.roll, l.ranks = l.roll[:0], l.ranks[:0]
	for _, w := range s.Workers {
		p := l.peer(now, w.ID)
		p.w = w
		l.roll = append(l.roll, p)
	}
	if len(l.peers) > len(s.Workers) {
		for id := range l.peers {
			if s.Worker(id) == nil {
				delete(l.peers, id)
				delete(l.suspects, id)
			}
		}
	}
	for i := range s.View.Members {
		l.ranks = append(l.ranks, l.peers[s.View.Members[i].Worker])
	}
}

func idOf(j *Job) string {
	if j == nil {
		return ""
	}
	return j.ID
}

// member says whether the peer is in the view in force.
func (l *Leader) member(p *peer) bool { return p.in == l.view && l.view != 0 }

// record proposes progress: what every member has done that has the state, so that no single one's death takes it back.
func (l *Leader) record(now time.Duration, s *State) []Command {
	j := s.Running()
	if j == nil || s.View.Job != j.ID || len(s.View.Members) == 0 {
		return nil
	}
	update, validated := uint64(math.MaxUint64), uint32(math.MaxUint32)
	var slowest *peer
	for i := range s.View.Members {
		p := l.ranks[i]
		if p == nil || p.gone != "" {
			continue // it counts no more
		}
		if !p.connected || !p.spoke || p.st.Job != j.ID || !p.st.CaughtUp {
			if len(s.View.Members[i].Shards) > 0 {
				return nil
			}
			continue
		}
		if p.st.Update < update {
			update, slowest = p.st.Update, p
		}
		validated = min(validated, p.st.Validated)
	}
	if slowest == nil || update < j.Update || update > j.Updates() || update == j.Update && (validated <= j.EpochsDone || validated > j.Plan.Epochs) && !l.fills(&j.Book, update) {
		return nil
	}
	recovered := l.faultAt != 0 && update > l.formed
	if due := l.recorded + l.c.Times.Progress; now < due && !recovered && update != j.Updates() && validated <= j.EpochsDone {
		l.by(due)
		return nil
	}
	p := &Progress{Job: j.ID, View: s.View.Number, Update: update, Validated: min(validated, j.Plan.Epochs)}
	if slowest.st.StepSeconds > 0 {
		p.ImagesPerSecond = float64(j.Plan.Batch) / slowest.st.StepSeconds
	}
	l.known = slices.DeleteFunc(l.known, func(e LedgerEntry) bool { return e.Epoch < j.Book.Proven })
	for _, e := range l.known {
		if e.To <= update && !slices.ContainsFunc(slowest.st.Ledger, func(o LedgerEntry) bool { return o.Epoch == e.Epoch && o.From == e.From }) {
			p.Ledger = append(p.Ledger, e)
		}
	}
	for _, e := range slowest.st.Ledger {
		if e.To <= update && e.Epoch >= j.Book.Proven {
			p.Ledger = append(p.Ledger, e)
		}
	}
	slices.SortFunc(p.Ledger, func(x, y LedgerEntry) int { return cmp.Or(cmp.Compare(x.Epoch, y.Epoch), cmp.Compare(x.From, y.From)) })
	p.Ledger = p.Ledger[:min(len(p.Ledger), maxPages)]
	if j.Book.check(j, p.Ledger) != nil {
		p.Ledger = nil // a worker that reports nonsense leaves a hole in the proof, and does not stop the others
	}
	if update > l.formed {
		l.again = 0
	}
	if recovered {
		p.RecoverSeconds = (now - l.faultAt).Seconds()
		l.faultAt = 0
	}
	l.recorded = now
	return append([]Command{{Progress: p}}, l.slowest(s, j, update)...)
}

// fills says whether something is known of the updates done that a job's ledger lacks.
func (l *Leader) fills(b *Book, update uint64) bool {
	for _, e := range l.known {
		if e.To <= update && b.lacks(e) {
			return true
		}
	}
	return false
}

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
		if p == nil || !p.connected || now-p.heard > 3*l.c.Times.Heartbeat {
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
		return going{p.goneAt, p.order, &Leave{Cause: Vanished, Text: p.gone, DetectSeconds: max(0, (p.goneAt - p.heard).Seconds())}}
	case !p.connected && quiet > t.Grace:
		return going{now, 0, &Leave{Cause: Absent, Text: "not heard for " + seconds(quiet.Seconds()) + " since this coordinator leads or let it in"}}
	case !p.connected && quiet > t.Election && len(l.accused[w.ID]) > 0:
		return going{now, 0, &Leave{Cause: Absent, Text: fmt.Sprintf("not heard for %s since this coordinator leads, and %s says: %s", seconds(quiet.Seconds()), s.Name(l.trouble.by), l.trouble.what.Text)}}
	case !p.connected:
		l.by(p.heard + t.Grace + 1)
		return going{}
	case quiet > t.FailAfter:
		return going{p.heard + t.FailAfter, 0, &Leave{Cause: Silent, Text: "no sign of life for " + seconds(quiet.Seconds()), DetectSeconds: quiet.Seconds()}}
	case l.trouble != nil && p.heard <= l.trouble.at && quiet > 3*t.Heartbeat && len(l.accused[w.ID]) > 0:
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
	if still := now - p.moved; l.member(p) && p.spoke && still > t.StuckAfter && (p.st.View != l.view || p.st.Phase == Computing || p.st.Phase == Validating) {
		if still > 2*t.StuckAfter && l.awaited(w.ID) {
			return going{now, 0, &Leave{Cause: Stuck, DetectSeconds: still.Seconds(), Text: "it gives signs of life, but has not moved for " + seconds(still.Seconds()) + " while others wait"}}
		}
		if !p.stuckTold {
			p.stuckTold = true
			l.notes = append(l.notes, Command{Note: &Note{Topic: TopicSlow, Worker: w.ID, Warning: true, Job: l.job,
				Text: w.name() + " gives signs of life, but has not moved for " + seconds(still.Seconds()), Advice: Stuck.advice(w)}})
			l.by(now)
		}
	}
	return going{}
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
	if h := l.held[d]; h != nil {
		h.forget = now + forgetAfter*l.c.Times.Window
	}
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

// jobs says which job starts, and which ends.
func (l *Leader) jobs(now time.Duration, s *State) []Command {
	j := s.Running()
	if j == nil {
		return l.startNext(s)
	}
	for i, w := range s.Workers {
		p := l.roll[i]
		if p.connected && p.st.Job == j.ID && p.st.Failure != "" {
			return []Command{{End: &End{Job: j.ID, State: JobFailed, Worker: w.ID, Reason: w.name() + ": " + p.st.Failure}}}
		}
	}
	var p *peer
	first := uint64(0)
	if l.members(&s.View, j) {
		first = s.View.Members[0].Worker
		p = l.ranks[0]
	}
	if p == nil || !p.connected || p.st.Job != j.ID || p.st.View != l.view || !p.st.Finished {
		l.finished = 0
		return nil
	}
	if l.finished == 0 {
		l.finished = now
	}
	if wait := l.finished + 5*l.c.Times.FailAfter; now < wait && (j.Update < j.Updates() || j.Book.Proven < j.Plan.Epochs) {
		l.by(min(wait, now+l.c.Times.Heartbeat))
		return nil // the others' last words are on their way
	}
	reason := "all its epochs are done"
	if o := p.st.Outcome; o != nil {
		reason = fmt.Sprintf("best top-1 %.2f %%, top-5 %.2f %% in epoch %d", finite(o.BestTop1), finite(o.BestTop5), o.BestEpoch)
	}
	return []Command{{End: &End{Job: j.ID, State: JobDone, Worker: first, Outcome: clean(p.st.Outcome), Reason: reason}}}
}

// clean is an outcome that JSON can say.
func clean(o *Outcome) *Outcome {
	if o == nil {
		return nil
	}
	c := *o
	c.BestTop1, c.BestTop5 = finite(c.BestTop1), finite(c.BestTop5)
	return &c
}

func (l *Leader) startNext(s *State) []Command {
	next := slices.IndexFunc(s.Jobs, func(j *Job) bool { return j.State == JobQueued })
	if next < 0 {
		return nil
	}
	j := s.Jobs[next]
	why := "waits for workers: start some with mp worker"
	for i, w := range s.Workers {
		p := l.roll[i]
		if !p.connected || !p.spoke || p.st.Phase == Loading || p.st.Leaving {
			continue
		}
		what := j.Data.differs(w.Hello.Data)
		if what == "" && w.Hello.Data.TrainImages > 0 {
			return []Command{{Start: &Start{Job: j.ID, Data: w.Hello.Data, Version: w.Hello.Version}}}
		}
		why = "waits for workers that have its images; of " + w.name() + ": " + what
	}
	if j.Reason == clip(why, maxText) {
		return nil
	}
	return []Command{{Note: &Note{Topic: TopicJob, Job: j.ID, Text: why, Waits: true}}}
}
