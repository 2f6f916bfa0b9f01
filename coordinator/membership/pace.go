package membership

import (
	"fmt"
	"math"
	"slices"
	"time"
)

const (
	slowFactor = 1.5  // times the usual time of a shard is slow
	waitShare  = 0.33 // of a step that others wait for one worker is slow
	sameSpeed  = 1.15 // speeds within this factor of the fastest count as the same
	gainNeeded = 0.15 // of a step, for shards to be dealt anew
	slowSteps  = 5    // updates between two looks at the speeds: named after two looks, within 20 steps
	slowLooks  = 2
	idleTimes  = 10 // Times.FailAfter: half-life of the belief that a worker without shards is slow
	timedSteps = 5  // updates, at least, of which the mean of a step is taken
	mostVain   = 4  // deals without a gain in a row after which the pause to the next does not grow any more
)

// following is how well shards that follow the speeds have served the members of the view in force. Where more workers than
// cores share a machine, whoever has to wait for a core looks slow, and after each new deal it is somebody else.
type following struct {
	view uint64 // the newest that was made for it; 0: none
	vain int    // how many in a row did not make steps shorter

	from  uint64        // update since which steps are timed
	since time.Duration // when that was; 0: never
	last  float64       // seconds a step took between the two times before; 0: not known

	due   bool    // the newest deal has not been judged
	usual float64 // seconds a step took before the deal, or when it was judged; 0: not known
}

// time takes the mean of a step every so often, and judges the newest deal by it: it should have gained half of what a deal must
// promise.
func (f *following) time(now, every time.Duration, update uint64) {
	if f.since == 0 || update < f.from {
		f.since, f.from = max(now, 1), update
		return
	}
	if now < f.since+every || update < f.from+timedSteps {
		return
	}
	f.last = (now - f.since).Seconds() / float64(update-f.from)
	f.since, f.from = now, update
	if f.usual == 0 {
		return
	}
	switch {
	case f.last > f.usual*(1+gainNeeded): // it has done harm, or things have changed since: another may well help
		f.vain = 0
	case f.due && f.last > f.usual*(1-gainNeeded/2):
		f.vain = min(f.vain+1, mostVain)
	case f.due:
		f.vain = 0
	}
	if f.due {
		f.due, f.usual = false, f.last
	}
}

// usual is the median of what members take for a shard; 0: nobody knows.
func (l *Leader) usual() float64 {
	known := make([]float64, 0, len(l.ranks))
	for _, p := range l.ranks {
		if p != nil && finite(p.st.ShardSeconds) > 0 {
			known = append(known, p.st.ShardSeconds)
		}
	}
	return median(known)
}

// median is the lower median, 0 of nothing: of two workers the faster one is what is usual.
func median(x []float64) float64 {
	if len(x) == 0 {
		return 0
	}
	slices.Sort(x)
	return x[(len(x)-1)/2]
}

// slowest names who is slow, every slowSteps updates.
func (l *Leader) slowest(s *State, j *Job, update uint64) []Command {
	if update < l.looked {
		l.looked = update
	}
	if update < l.looked+slowSteps {
		return nil
	}
	l.looked = update
	usual := l.usual()
	first := l.firstDone(s)
	var out []Command
	for i := range s.View.Members {
		m := &s.View.Members[i]
		p := l.ranks[i]
		if p == nil || len(m.Shards) == 0 || p.st.View != l.view {
			continue
		}
		text := l.slowness(p, usual, first)
		if text == "" {
			text = l.sending(i, usual)
		}
		switch {
		case text == "":
			p.slow = 0
			if finite(p.st.ShardSeconds) < usual*(1+slowFactor)/2 {
				p.slowTold = false
			}
			continue
		case p.slow < slowLooks:
			p.slow++
		}
		if p.slow >= slowLooks {
			out = append(out, p.nameSlow(p.w, j, text)...)
		}
	}
	return out
}

// slowness says how a member is slow, or "".
func (l *Leader) slowness(p *peer, usual, first float64) string {
	if t := finite(p.st.ShardSeconds); t > slowFactor*usual && usual > 0 {
		return fmt.Sprintf("it takes %s a shard, others %s", seconds(t), seconds(usual))
	}
	if wait := l.waits(p, first); wait > 0 {
		return fmt.Sprintf("the others wait %s a step for it, more than its shards explain", seconds(wait))
	}
	return ""
}

// sending says how slow the way out of the member of a rank is, as the next one in the ring sees it, or "". One that is slow itself
// takes late what comes, and sees nothing.
func (l *Leader) sending(rank int, usual float64) string {
	next := l.ranks[(rank+1)%len(l.ranks)]
	if next == nil || next.st.View != l.view || next.st.Update < next.viewSteps+slowSteps || finite(next.st.ShardSeconds) > slowFactor*usual {
		return ""
	}
	delays := make([]float64, 0, len(l.ranks))
	for _, p := range l.ranks {
		if p != nil {
			delays = append(delays, finite(p.st.InboundDelay))
		}
	}
	others := median(delays)
	if d := finite(next.st.InboundDelay); d > slowFactor*others && d-others > waitShare*finite(next.st.StepSeconds) && d > 0.01 {
		return fmt.Sprintf("what it sends arrives %s a step later than it could, what others send %s", seconds(d), seconds(others))
	}
	return ""
}

// nameSlow tells that a worker is slow, once until it is not.
func (p *peer) nameSlow(w *Worker, j *Job, text string) []Command {
	if p.slowTold || text == "" {
		return nil
	}
	p.slowTold = true
	return []Command{{Note: &Note{Topic: TopicSlow, Job: j.ID, Worker: w.ID, Warning: true, Text: w.name() + " is slow: " + text + "; it gets fewer shards where that helps",
		Advice: "look for other programs, heat or a slow network on host " + w.Hello.Host}}}
}

// firstDone is when the first member with shards is done with them.
func (l *Leader) firstDone(s *State) float64 {
	first := math.Inf(1)
	for i := range s.View.Members {
		m := &s.View.Members[i]
		if p := l.ranks[i]; p != nil && len(m.Shards) > 0 && finite(p.st.ShardSeconds) > 0 {
			first = min(first, p.st.ShardSeconds*float64(len(m.Shards)))
		}
	}
	return finite(first)
}

// waits is for how many seconds a step others wait for a worker beyond what its shards explain; 0: not worth telling.
func (l *Leader) waits(p *peer, first float64) float64 {
	st := &p.st
	if !l.member(p) || st.View != l.view || st.Update < p.viewSteps+slowSteps {
		return 0
	}
	explained := max(0, finite(st.ShardSeconds)*float64(len(p.has.Shards))-first)
	if wait := finite(st.ArrivalSkew) - explained; wait > waitShare*finite(st.StepSeconds) && wait > 0.01 {
		return wait
	}
	return 0
}

// speeds fills in what each takes for a shard.
func (l *Leader) speeds(in []candidate, hands []hand) {
	var known []float64
	first := math.Inf(1)
	for i := range in {
		t := finite(in[i].p.st.ShardSeconds)
		if t <= 0 {
			continue
		}
		known = append(known, t)
		if n := len(in[i].shards()); n > 0 {
			first = min(first, t*float64(n))
		}
	}
	usual := median(known)
	if usual <= 0 {
		usual = 1
	}
	fastest := math.Inf(1)
	for i := range in {
		p := in[i].p
		t := finite(p.st.ShardSeconds)
		if t <= 0 {
			t = usual
		}
		if n := len(in[i].shards()); n > 0 {
			t += l.waits(p, finite(first)) / float64(n)
		}
		if p.idleSince != 0 && t > usual {
			// It was too slow to get shards, and so is not measured any more. It is believed to be as slow ever less, until it
			// is tried again; each time that fails the belief lives twice as long.
			halves := float64(l.last-p.idleSince) / float64(idleTimes*l.c.Times.FailAfter<<min(p.idleTimes-1, 6))
			t = usual + (t-usual)*math.Exp2(-halves)
		}
		hands[i].seconds = t
		if hands[i].may {
			fastest = min(fastest, t)
		}
	}
	for i := range hands {
		if hands[i].seconds < sameSpeed*fastest {
			hands[i].seconds = fastest
		}
	}
}

// idles remembers who has the state and gets no shards because it is slow.
func (l *Leader) idles(c *candidate, h hand) {
	switch {
	case len(h.gets) > 0 || !h.may:
		c.p.idleSince = 0
	case c.p.idleSince == 0:
		c.p.idleSince = max(l.last, 1)
		c.p.idleTimes++
	}
}

// deal looks for a better deal among the members of the view in force: shards for those who have caught up at once, shards
// that follow the speeds when that gains enough, ever less often while it turns out that it gained nothing.
func (l *Leader) deal(now time.Duration, s *State, j *Job, fresh bool, caught int) []Command {
	if fresh {
		return nil
	}
	if caught == 0 {
		l.followed.time(now, l.c.Times.DealEvery, j.Update)
		if due := max(l.viewAt+l.c.Times.DealEvery<<l.followed.vain, l.dealt+l.c.Times.FailAfter); now < due || l.followed.due {
			return nil
		}
		l.dealt = now
	}
	in := l.hands
	hands := make([]hand, len(in))
	step, measured := 0.0, 0
	for i := range in {
		hands[i] = hand{had: in[i].shards(), may: in[i].holder && (in[i].p.connected || len(in[i].shards()) > 0)}
		step = max(step, finite(in[i].p.st.StepSeconds))
		if finite(in[i].p.st.ShardSeconds) > 0 {
			measured++
		}
		if len(hands[i].had) > 0 && !hands[i].may {
			return nil // it has only begun
		}
	}
	if caught == 0 && measured == 0 {
		return nil
	}
	l.speeds(in, hands)
	dealShards(int(j.Plan.Shards), hands)
	moves := false
	for i := range in {
		moves = moves || len(hands[i].gets) != len(hands[i].had)
	}
	if !moves {
		for i := range in {
			l.idles(&in[i], hands[i])
		}
		return nil
	}
	before := slowestTime(hands, func(h *hand) int { return len(h.had) })
	after := slowestTime(hands, func(h *hand) int { return len(h.gets) })
	if caught == 0 && before-after <= gainNeeded*max(before, step) {
		return nil
	}
	who := ""
	for i := range in {
		if caught > 0 && len(hands[i].had) == 0 && len(hands[i].gets) > 0 && who == "" {
			who = in[i].w.name() + " has the whole state and computes " + plural(len(hands[i].gets), "shard")
		}
		if caught == 0 && len(hands[i].had) > len(hands[i].gets) && who == "" {
			who = fmt.Sprintf("shards follow the speeds: %s computes %d instead of %d", in[i].w.name(), len(hands[i].gets), len(hands[i].had))
		}
	}
	if who == "" {
		return nil
	}
	if caught > 1 {
		who += fmt.Sprintf("; %d more have caught up", caught-1)
	}
	var out []Command
	usual, first := l.usual(), l.firstDone(s)
	for i := range in {
		if len(hands[i].had) > len(hands[i].gets) && caught == 0 {
			out = append(out, in[i].p.nameSlow(in[i].w, j, l.slowness(in[i].p, usual, first))...)
		}
	}
	v := &SetView{Base: s.View.Number, Job: j.ID, Reason: who, Members: make([]Member, len(in))}
	slot := make(map[uint64]int, len(in))
	for i := range in {
		slot[in[i].w.ID] = i
		l.idles(&in[i], hands[i])
	}
	for r, m := range s.View.Members { // ranks stay
		i, ok := slot[m.Worker]
		if !ok {
			return nil
		}
		v.Members[r] = Member{Worker: m.Worker, Shards: hands[i].gets, ValShards: hands[i].gets}
	}
	if caught == 0 {
		l.followed = following{view: v.Base + 1, vain: l.followed.vain, due: l.followed.last > 0, usual: l.followed.last}
	}
	return append(out, Command{SetView: v})
}
