package membership

import (
	"cmp"
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
	return set(l.stamp(now, &SetView{Base: s.View.Number, Job: j.ID, Waiting: waiting, Reason: reason, Advice: advice}))
}

// stamp says how long ago the fault was that a view answers.
func (l *Leader) stamp(now time.Duration, v *SetView) *SetView {
	if l.faultAt != 0 {
		v.Fault, v.FaultMs = true, uint32(max(1, (now-l.faultAt).Milliseconds()))
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
	if s.View.Save && l.members(&s.View, j) && !l.lost(&s.View) && !l.broken(now, s) {
		return nil
	}
	l.hands = slices.DeleteFunc(l.hands, func(c candidate) bool { return !c.holder })
	v := l.build(s, j, l.hands, false)
	v.Save, v.Reason = true, reason
	return set(l.stamp(now, v))
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
		l.by(p.heard + 3*l.c.Times.Heartbeat + 1)
		return false
	}
	return true
}

// compute decides who computes a job that runs.
func (l *Leader) compute(now time.Duration, s *State, j *Job, fresh bool) []Command {
	v, t := &s.View, l.c.Times
	least := max(l.c.MinWorkers, 1)
	if j.MinWorkers > 0 {
		least = int(j.MinWorkers)
	}
	leaver := ""
	for i := range l.hands {
		if c := &l.hands[i]; c.leaving && c.member && leaver == "" {
			leaver = c.w.name()
		}
	}
	l.hands = slices.DeleteFunc(l.hands, func(c candidate) bool { return c.leaving })
	l.keepOut(s, j, least)
	n := len(l.hands)
	if n < least {
		reason := fmt.Sprintf("%s of %d needed: waiting for %d more", plural(n, "worker"), least, least-n)
		if n == 0 {
			reason = "no worker is left"
		}
		if leaver != "" {
			reason = leaver + " leaves; " + reason
		}
		return l.rest(now, s, j, "workers", reason, "start some with mp worker")
	}
	running := l.members(v, j)
	if fresh && !running && l.settle(now) {
		return nil
	}
	again := l.broken(now, s)
	must := !running || v.Save || l.lost(v) || again
	joiners, caught := 0, 0
	for i := range l.hands {
		switch c := &l.hands[i]; {
		case !c.member:
			joiners++
		case c.holder && !fresh && c.p.idleSince == 0 && len(c.p.has.Shards) == 0:
			caught++
		}
	}
	if !must && joiners+caught > 0 {
		if due := l.viewAt + t.JoinEvery; now < due {
			l.by(due)
			joiners, caught = 0, 0
		}
	}
	if must || joiners > 0 {
		next := l.build(s, j, l.hands, fresh)
		alive := again && !l.lost(v)
		next.Reason, next.Advice = l.why(s, j, running, alive, leaver)
		if alive {
			l.again++
			if l.faultAt == 0 {
				l.faultAt = max(l.trouble.at, 1)
			}
		}
		return set(l.stamp(now, next))
	}
	return l.deal(now, s, j, fresh, caught)
}

// keepOut takes those out of the candidates who are in quarantine and not needed, and those for whom there is nothing to do.
func (l *Leader) keepOut(s *State, j *Job, least int) {
	limit := int(j.Plan.Shards) + max(1, int(j.Plan.Shards)/8) // a few more than shards, who take over at once
	if len(s.Quarantines) == 0 && len(l.hands) <= limit {
		return
	}
	level := func(c *candidate) uint32 {
		if r := s.record(c.w.Hello.Machine, c.w.Hello.Device); r != nil && r.Active {
			return r.Level
		}
		return 0
	}
	// Members, then those without a record, then those who failed least.
	slices.SortStableFunc(l.hands, func(x, y candidate) int {
		if x.member != y.member {
			if x.member {
				return -1
			}
			return 1
		}
		return cmp.Compare(level(&x), level(&y))
	})
	n, state := 0, -1 // state: who is kept out and has the state; needed if nobody else has it
	for i := range l.hands {
		c := l.hands[i]
		if c.member || n < least || level(&c) == 0 && n < limit {
			l.hands[n], l.hands[i] = c, l.hands[n]
			n++
			if c.holder {
				state = -2
			}
		} else if c.holder && state == -1 {
			state = i
		}
	}
	if state >= 0 {
		l.hands[n], l.hands[state] = l.hands[state], l.hands[n]
		n++
	}
	l.hands = l.hands[:n]
}

// settle says whether a job that begins should wait a little for more workers.
func (l *Leader) settle(now time.Duration) bool {
	t := l.c.Times
	if l.settling == 0 {
		l.settling = max(now, 1)
	}
	due := l.newcomer + t.Settle
	for _, p := range l.roll {
		if p.connected && (!p.spoke || p.st.Phase == Loading) && !p.st.Leaving {
			due = now + t.Heartbeat
		}
	}
	due = min(due, l.settling+4*t.FailAfter)
	l.by(due)
	return now < due
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

// why is the reason for a view after which no worker is missed.
func (l *Leader) why(s *State, j *Job, running, again bool, leaver string) (reason, advice string) {
	switch {
	case leaver != "":
		return leaver + " leaves", ""
	case again:
		text := "its ring broke"
		if b := s.Worker(l.trouble.by); b != nil {
			text = b.name() + " reports a fault"
		}
		if w := s.Worker(l.trouble.what.Suspect); w != nil && w.ID != l.trouble.by {
			text += " of " + w.name()
		}
		return fmt.Sprintf("%s %s: %s (%s); all are alive: the same workers try again", text, j.at(), l.trouble.what.Text, l.trouble.what.Kind),
			"if this comes again, look at the network between their hosts"
	case !running && s.View.Job != j.ID && j.Update == 0:
		return fmt.Sprintf("%s begins with %s", j.ID, plural(len(l.hands), "worker")), ""
	case !running:
		return fmt.Sprintf("%s goes on with %s", j.ID, plural(len(l.hands), "worker")), ""
	}
	var who []string
	for i := range l.hands {
		if !l.hands[i].member {
			who = append(who, l.hands[i].w.name())
		}
	}
	if len(who) > 0 {
		return list(who) + " joined", ""
	}
	return "all is well again", ""
}

// build makes the view of these candidates. With fresh all of them begin from the same state, so all get shards.
func (l *Leader) build(s *State, j *Job, in []candidate, fresh bool) *SetView {
	slices.SortStableFunc(in, func(x, y candidate) int { return cmp.Compare(x.w.ID, y.w.ID) })
	l.rank(in, fresh)
	v := &SetView{Base: s.View.Number, Job: j.ID, Members: make([]Member, len(in))}
	hands := make([]hand, len(in))
	total, same := 0, true // same: whoever has shards keeps them, and nobody waits for some
	for i := range in {
		h := hand{had: in[i].shards(), may: fresh || in[i].holder}
		total += len(h.had)
		same = same && (len(h.had) > 0 && h.may || len(h.had) == 0 && (!h.may || in[i].p.idleSince != 0))
		hands[i] = h
	}
	if !same || total != int(j.Plan.Shards) {
		l.speeds(in, hands)
		dealShards(int(j.Plan.Shards), hands)
	} else {
		for i := range hands {
			hands[i].gets = hands[i].had
		}
	}
	for i := range in {
		v.Members[i] = Member{Worker: in[i].w.ID, Shards: hands[i].gets, ValShards: hands[i].gets}
		l.idles(&in[i], hands[i])
	}
	return v
}

// rank puts candidates in ring order: the oldest who has the state first, those of one machine side by side, so that the
// ring crosses between two machines as seldom as it can.
func (l *Leader) rank(in []candidate, fresh bool) {
	first := make(map[string]int, 4) // machine -> place of its oldest, holders before others
	place := func(c *candidate, i int) int {
		if fresh || c.holder {
			return i
		}
		return i + len(in)
	}
	at := make(map[uint64]int, len(in))
	for i := range in {
		at[in[i].w.ID] = place(&in[i], i)
	}
	for i := range in {
		m := in[i].w.Hello.Machine
		if p, ok := first[m]; !ok || at[in[i].w.ID] < p {
			first[m] = at[in[i].w.ID]
		}
	}
	slices.SortFunc(in, func(x, y candidate) int {
		return cmp.Or(cmp.Compare(first[x.w.Hello.Machine], first[y.w.Hello.Machine]), cmp.Compare(at[x.w.ID], at[y.w.ID]))
	})
}
