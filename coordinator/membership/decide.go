package membership

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"time"
)

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
	if now > l.viewAt+l.c.Times.FailAfter { // everybody has the view, and beats as it says
		l.beat = l.asked
	}
	if l.view == s.View.Number && l.roster == s.roster {
		return
	}
	l.enroll(now, s)
	if l.view == s.View.Number {
		return
	}
	l.view, l.viewAt, l.trouble = s.View.Number, now, nil
	l.asked = l.c.Times.Beat(len(s.Workers))
	l.beat = max(l.beat, l.asked)
	clear(l.accused)
	if l.view != l.followed.view {
		l.followed = following{}
	}
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
