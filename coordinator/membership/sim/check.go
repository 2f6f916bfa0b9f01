package sim

import (
	"bytes"
	"encoding/json"

	"mp/coordinator/membership"
)

// How long nothing may be recorded once nothing goes wrong any more.
const (
	patience     = 12_000 * ms
	longPatience = 30_000 * ms // where a worker was stuck, which takes 20 s to be sure of
)

// check looks every second whether things move, and lets people resume what they paused.
func (w *world) check() {
	if w.ended() && w.faultsLeft == 0 {
		w.over = true
		return
	}
	for _, j := range w.state.Jobs {
		if j.State == membership.JobPaused && (w.calm != 0 || w.dice.chance(50)) {
			w.ask(membership.Command{Steer: &membership.Steer{Job: j.ID, Verb: membership.Resume}})
		}
	}
	limit := int64(patience)
	if w.result.Faults[StuckWorker] > 0 {
		limit = longPatience
	}
	if w.stuckAlone() {
		w.moved = w.now // nobody else is there who could go on
	}
	if still := w.now - max(w.moved, w.calm); w.calm != 0 && still > limit {
		v := &w.state.View
		w.fail("nothing was recorded for %d s although nothing is wrong any more: view %d of %d (%s)", still/1_000_000_000, v.Number, len(v.Members), v.Reason)
	}
	w.at(1000*ms, event{kind: atCheck})
}

// sessionOf says whether the leader has the worker's session, so that the worker counts.
func (w *world) sessionOf(k *worker) bool {
	return k.alive && w.leader != nil && k.conn != 0 && w.leader.byConn[k.conn] != nil
}

// stuckAlone says whether the only worker of the view in force is stuck.
func (w *world) stuckAlone() bool {
	v := &w.state.View
	if len(v.Members) != 1 {
		return false
	}
	k := w.byID(v.Members[0].Worker)
	return k != nil && k.stuck
}

// judge looks at what the leader decides.
func (w *world) judge(commands []membership.Command) {
	for _, c := range commands {
		r := c.RollBack
		if r == nil || w.now < w.disorder {
			continue
		}
		for _, k := range w.workers {
			s := w.leader.byConn[k.conn]
			if k.alive && !k.stopped && !k.leaving && k.has && k.job == r.Job && k.record.update > r.Update && s != nil && s.worker == k.id && k.welcome != 0 &&
				w.now > max(k.welcome, k.cutOff, k.lossy, w.leader.frozen)+400*ms {
				w.fail("%s goes back to update %d although worker %d has update %d", r.Job, r.Update, k.id, k.record.update)
			}
		}
	}
}

// afterApply checks what a command did.
func (w *world) afterApply(c *membership.Command, r *membership.Result) {
	if r.Err != nil {
		return
	}
	s := w.state
	switch {
	case c.SetView != nil:
		w.result.Views++
		v := &s.View
		if len(v.Members) == 0 {
			return
		}
		l := w.lesson(v.Job)
		seen := uint64(0)
		for _, m := range v.Members {
			if s.Worker(m.Worker) == nil {
				w.fail("view %d has worker %d, who is not in", v.Number, m.Worker)
			}
			for _, x := range m.Shards {
				if seen>>x&1 != 0 {
					w.fail("view %d gives shard %d to two", v.Number, x)
				}
				seen |= 1 << x
			}
		}
		if seen != 1<<l.shards-1 {
			w.fail("view %d has nobody for some of %d shards: %b", v.Number, l.shards, seen)
		}
	case c.Progress != nil:
		w.moved = w.now
		j := s.Job(c.Progress.Job)
		if l := w.lesson(j.ID); j.Update > l.most {
			w.fail("update %d of %s is recorded, and nobody has done more than %d", j.Update, j.ID, l.most)
		}
		if c.Progress.View != s.View.Number {
			w.fail("view %d records progress while view %d is in force", c.Progress.View, s.View.Number)
		}
		for _, k := range w.workers { // no single one's death may take a recorded update back
			if w.sessionOf(k) && k.has && k.view.Number == c.Progress.View && len(k.mine) > 0 && k.record.update < j.Update {
				w.fail("update %d of %s is recorded, and worker %d, which computes, has done %d", j.Update, j.ID, k.id, k.record.update)
			}
		}
		w.proof(j)
	case c.RollBack != nil:
		w.result.RollBacks++
		w.moved = w.now
	case c.Join != nil:
		for i, a := range s.Workers {
			for _, b := range s.Workers[:i] {
				if a.Hello.Machine == b.Hello.Machine && a.Hello.Device == b.Hello.Device {
					w.fail("workers %d and %d have the same device", a.ID, b.ID)
				}
			}
		}
	case c.Start != nil, c.End != nil, c.Steer != nil:
		w.moved = w.now
	}
	if len(s.Workers) > len(w.workers) || len(s.Events) > 10_000 || len(s.Quarantines) > len(w.workers) {
		w.fail("the state has %d workers of %d devices, %d events, %d quarantines", len(s.Workers), len(w.workers), len(s.Events), len(s.Quarantines))
	}
}

// proof checks the ledger of a job: no sample may be missing or repeated.
func (w *world) proof(j *membership.Job) {
	if len(j.Book.Open) == 0 {
		return
	}
	for _, l := range j.Ledger() {
		// Of an epoch that was over before anybody could record it workers speak again at the end.
		now := uint64(l.Epoch) == (max(j.Update, 1)-1)/uint64(w.lesson(j.ID).steps)
		if l.Repeated != 0 || now && l.Images != 0 && l.Missing != 0 {
			w.fail("epoch %d of %s at update %d: %d of %d images, %d missing, %d repeated (%+v)", l.Epoch, j.ID, j.Update, l.Images, l.ExpectedImages, l.Missing, l.Repeated, j.Book)
			return
		}
	}
}

// last checks what must hold at the end.
func (w *world) last() {
	for _, j := range w.state.Jobs {
		if j.State != membership.JobDone {
			w.fail("%s is %s at the end: %s", j.ID, j.State, j.Reason)
			return
		}
		if j.Update != j.Updates() || j.Book.Proven != j.Plan.Epochs || j.Book.First != 0 {
			w.fail("%s is done at update %d of %d with epochs %d to %d proven of %d: %+v", j.ID, j.Update, j.Updates(), j.Book.First, j.Book.Proven, j.Plan.Epochs, j.Book.Open)
			return
		}
	}
	if !w.c.Replay {
		return
	}
	twin := membership.New()
	for i, e := range w.log {
		text, err := json.Marshal(e.command)
		if err != nil {
			w.fail("encode entry %d: %v", e.index, err)
			return
		}
		var c membership.Command
		if err := json.Unmarshal(text, &c); err != nil {
			w.fail("decode entry %d: %v", e.index, err)
			return
		}
		twin.Apply(e.index, c)
		if i == len(w.log)/2 { // a node that begins from a snapshot
			text, err := json.Marshal(twin)
			twin = membership.New()
			if err != nil || json.Unmarshal(text, twin) != nil {
				w.fail("snapshot after entry %d: %v", e.index, err)
				return
			}
		}
	}
	a, err := json.Marshal(w.state)
	if b, err2 := json.Marshal(twin); err != nil || err2 != nil || !bytes.Equal(a, b) {
		w.fail("two replicas differ after %d entries: %v %v", len(w.log), err, err2)
	}
}
