package membership

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

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
		return set(l.stamp(next))
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
