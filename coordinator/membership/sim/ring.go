package sim

import (
	"mp/coordinator/membership"
)

// sum is what a ring adds up.
type sum struct {
	gradients    uint64
	images       uint64
	fingerprints uint64
}

// group is the ring of one view.
type group struct {
	view    uint64
	size    int
	ids     []uint64 // by rank
	joined  []int16  // slots
	formed  bool
	closed  bool
	suspect uint64 // who closed it
	arrived int
	sum     sum

	fresh bool   // nobody had a state
	begin record // of the donors
}

// join enters the ring of the worker's view.
func (w *world) join(k *worker) {
	v := &k.view
	g := w.groups[v.Number]
	if g == nil {
		g = &group{view: v.Number, size: len(v.Members)}
		for i := range v.Members {
			g.ids = append(g.ids, v.Members[i].Worker)
		}
		w.groups[v.Number] = g
	}
	k.group = g
	k.task++
	if g.closed {
		w.at(w.dice.between(1, 20), event{kind: atBroken, w: k.slot, x: g.view})
		return
	}
	g.joined = append(g.joined, k.slot)
	if len(g.joined) < g.size {
		for _, id := range g.ids { // nobody listens where a process has died
			if !w.running(id) {
				w.at(w.dice.between(5, 40), event{kind: atBroken, w: k.slot, x: g.view})
				break
			}
		}
		w.at(int64(w.c.FailAfter), event{kind: atBroken, w: k.slot, x: g.view})
		return
	}
	// Everybody says what it has.
	found := false
	for _, slot := range g.joined {
		if m := w.workers[slot]; m.has && m.record.update >= v.Committed && m.record.update >= v.CheckpointUpdate {
			if !found || m.record.update > g.begin.update {
				found, g.begin = true, m.record
			}
		}
	}
	if !found {
		g.fresh = true
		if v.CheckpointUpdate > 0 {
			g.begin = k.lesson.saves[v.CheckpointUpdate]
		}
	}
	g.formed = true
	for _, slot := range g.joined {
		m := w.workers[slot]
		w.at(w.dice.between(1, 6), event{kind: atFormed, w: slot, token: m.task})
	}
}

// running says whether a process with the identity runs, or is stopped.
func (w *world) running(id uint64) bool {
	for _, k := range w.workers {
		if k.id == id && k.alive {
			return true
		}
	}
	return false
}

func (w *world) formed(k *worker) {
	g := k.group
	if g == nil || g.closed {
		return
	}
	k.round = g.begin.update
	switch {
	case g.fresh:
		k.has, k.copying = false, false
		k.copy++
		w.at(w.dice.between(10, 80), event{kind: atBegun, w: k.slot, token: k.task})
		return
	case k.has && k.record.update == k.round:
	case k.copying && k.snapshot.update+uint64(len(k.queue)) == k.round:
		k.phase = membership.Copying // it lacks nothing in between: the copy goes on
	default:
		k.has, k.copying, k.snapshot, k.queue = false, true, g.begin, k.queue[:0]
		k.copy++
		k.phase = membership.Copying
		if w.c.mutation == earlyClaim {
			k.has, k.record = true, record{update: k.round}
		}
		w.at(w.dice.between(30, 400), event{kind: atCopied, w: k.slot, token: k.copy})
	}
	w.begin(k)
}

// begun is when a worker has the first values, or has read the checkpoint.
func (w *world) begun(k *worker) {
	if k.group == nil || k.group.closed {
		return
	}
	k.has, k.record = true, k.group.begin
	k.moves++
	w.say(k)
	w.begin(k)
}

// copied is when a worker's copy is there: what it received meanwhile is applied in order.
func (w *world) copied(k *worker) {
	if !k.copying {
		return
	}
	if k.group == nil || k.phase == membership.Forming { // between two views: it waits for the next, which says whether the copy is of use
		w.at(20*ms, event{kind: atCopied, w: k.slot, token: k.copy})
		return
	}
	k.copying, k.has, k.record = false, true, k.snapshot
	for _, s := range k.queue {
		w.applySum(k, s)
	}
	k.queue = k.queue[:0]
	k.moves++
	w.say(k)
	if (len(k.mine) > 0 || k.view.Save || k.round == uint64(len(k.lesson.states)-1)) && !k.group.closed {
		w.begin(k)
	}
}

// arrive brings a worker's terms to the ring.
func (w *world) arrive(k *worker, g *group) {
	if g == nil || g.closed {
		return
	}
	if k.has && k.record.update != k.round {
		w.fail("worker %d has the state after update %d and is about to do update %d", k.id, k.record.update, k.round)
	}
	for _, s := range k.mine {
		from, to := k.lesson.span(k.round, int(s))
		g.sum.gradients += k.lesson.gradient(k.round, int(s))
		g.sum.images += uint64(to - from)
		g.sum.fingerprints += k.lesson.prefix[to] - k.lesson.prefix[from]
	}
	if g.arrived++; g.arrived < g.size {
		return
	}
	for _, slot := range g.joined {
		if w.workers[slot].group != g {
			return // its host went off after it had brought its terms: a ring needs everybody to the end, and waits until that is noticed
		}
	}
	w.result.Steps++
	if g.view < w.newestDone {
		w.stray(g)
	}
	w.newestDone = max(w.newestDone, g.view)
	w.recovered(g.view)
	for _, slot := range g.joined {
		m := w.workers[slot]
		w.at(w.dice.between(0, 5), event{kind: atReduced, w: slot, token: m.task, x: w.send(message{sum: g.sum})})
	}
	g.arrived, g.sum = 0, sum{}
}

// stray is a step of an older view after a newer one completed some. It can only be one of workers that were taken for dead
// and that the newer view does not have: two rings must never share a worker.
func (w *world) stray(g *group) {
	w.result.Strays++
	newer := w.groups[w.newestDone]
	for _, slot := range g.joined {
		for _, other := range newer.joined {
			if slot == other && w.workers[slot].group != newer && !newer.closed {
				w.fail("view %d completes a step after view %d did, and they share worker %d", g.view, w.newestDone, w.workers[slot].id)
			}
		}
	}
}

func (w *world) reduced(k *worker, x uint64) {
	m := w.receive(x)
	if k.group == nil || k.group.closed && w.dice.chance(50) {
		return // the ring broke before it had all of the sum
	}
	switch {
	case k.has:
		w.applySum(k, m.sum)
	case k.copying:
		k.queue = append(k.queue, m.sum)
	}
	k.round++
	k.moves++
	if k.has && k.record.update%16 == 0 && k.rank() == 0 {
		w.save(k)
	}
	if !k.group.closed {
		w.begin(k)
	}
}

// leave closes the worker's ring: its neighbours see that at once.
func (w *world) leave(k *worker) {
	g := k.group
	if g == nil {
		return
	}
	k.task++
	k.group = nil
	w.close(g, k.id)
}

func (w *world) close(g *group, suspect uint64) {
	if g.closed {
		return
	}
	g.closed, g.suspect = true, suspect
	for _, slot := range g.joined {
		w.at(w.dice.between(1, 5), event{kind: atBroken, w: slot, x: g.view})
	}
}

// silence is a member that says nothing more: its neighbours notice after a while.
func (w *world) silence(g *group) {
	for _, slot := range g.joined {
		w.at(int64(w.c.FailAfter)+w.dice.between(0, 50), event{kind: atBroken, w: slot, x: g.view})
	}
}

// broken lets a worker see that its ring cannot go on, if that is so.
func (w *world) broken(k *worker, view uint64) {
	g := w.groups[view]
	if g == nil || k.group != g || !k.alive {
		return
	}
	suspect := g.suspect
	if !g.closed {
		if g.formed || suspect == 0 {
			for _, id := range g.ids {
				if m := w.byID(id); m == nil || m.stopped {
					suspect = id
				}
			}
		}
		if g.formed && suspect == 0 {
			return // all is well again
		}
	}
	k.task++
	k.group = nil
	k.fault = &membership.Fault{View: g.view, Suspect: suspect, Kind: "connection", Text: "connection reset"}
	if suspect == k.id {
		k.fault.Suspect = 0
	}
	w.close(g, suspect)
	w.say(k)
}

func (w *world) byID(id uint64) *worker {
	for _, k := range w.workers {
		if k.id == id && k.alive {
			return k
		}
	}
	return nil
}
