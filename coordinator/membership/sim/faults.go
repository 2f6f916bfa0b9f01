package sim

import (
	"time"

	"mp/coordinator/membership"
)

// nextFault lets something go wrong, and says when the next thing does.
func (w *world) nextFault() {
	if w.ended() {
		w.faultsLeft = 0
	}
	if w.faultsLeft == 0 {
		w.calm = w.now
		w.settle()
		return
	}
	w.faultsLeft--
	k := FaultKind(w.dice.below(int(FaultKinds)))
	if k == StuckWorker && w.dice.chance(80) { // it takes long to notice
		k = Kill
	}
	w.result.Faults[k]++
	w.mixed = w.faultAt != 0 || w.now-w.lastStrike < 1000*ms && w.lastStrike != 0 || w.troubles > 0
	w.lastStrike = w.now
	w.strike(k)
	wait := w.dice.between(50, 1500)
	if w.dice.chance(15) {
		wait = w.dice.between(0, 30) // one hits while the other is dealt with
	}
	w.at(wait, event{kind: atFault})
}

// ended says whether every job has.
func (w *world) ended() bool {
	if len(w.state.Jobs) < len(w.jobs) {
		return false
	}
	for _, j := range w.state.Jobs {
		if !j.State.Ended() {
			return false
		}
	}
	return true
}

// settle sees to it that there are as many workers as any job needs.
func (w *world) settle() {
	for len(w.workers) < 2 {
		w.hire()
	}
}

// someone is a worker that runs, or nil.
func (w *world) someone() *worker {
	n := len(w.workers)
	first := w.dice.below(n)
	for i := range n {
		if k := w.workers[(first+i)%n]; k.alive && !k.stopped {
			return k
		}
	}
	return nil
}

// hurt says that a fault stopped the ring, if the worker is in one.
func (w *world) hurt(k *worker, kind FaultKind) {
	if k.group != nil && !k.group.closed && k.group.formed && k.group.size > 1 && w.faultAt == 0 {
		w.faultAt, w.faultKind, w.faultView = w.now, kind, k.group.view
	}
}

// recovered says that the ring of a view completed a step.
func (w *world) recovered(view uint64) {
	if w.faultAt != 0 && view > w.faultView {
		w.result.Recover = append(w.result.Recover, Recovery{w.faultKind, time.Duration(w.now - w.faultAt), !w.mixed})
		w.faultAt = 0
	}
}

func (w *world) kill(k *worker, kind FaultKind, reset bool) {
	if k == nil || !k.alive {
		return
	}
	w.hurt(k, kind)
	w.end(k, reset)
	low := int64(50)
	if !reset {
		low = 1000
	}
	w.at(w.dice.between(low, 3000), event{kind: atRestart, w: k.slot, token: k.life})
}

// trouble lets something last for a while.
func (w *world) trouble(k *worker, low, high int64) {
	k.trouble++
	w.troubles++
	w.at(w.dice.between(low, high), event{kind: atContinue, w: k.slot, token: k.trouble})
}

func (w *world) strike(kind FaultKind) {
	k := w.someone()
	if k == nil {
		return
	}
	free := !k.stopped && !k.stuck && k.slow == 1 // of other lasting trouble
	switch kind {
	case Kill:
		w.kill(k, kind, true)
	case PowerOff:
		w.kill(k, kind, false)
	case Stop:
		if free {
			k.stopped = true
			w.trouble(k, 100, 3000)
			if k.group != nil {
				w.silence(k.group)
			}
		}
	case SessionBreak:
		if k.conn != 0 {
			w.at(w.delay(), event{kind: atReset, w: k.slot, x: k.conn})
			w.lost(k, k.conn)
		}
	case RingBreak:
		if g := k.group; g != nil && g.formed && !g.closed {
			w.hurt(k, kind)
			w.close(g, g.ids[w.dice.below(len(g.ids))])
		}
	case LeaderCrash:
		w.crash()
	case LeaderFreeze:
		if r := w.leader; r != nil {
			r.frozen = w.now + w.dice.between(50, 2500)
		}
	case SlowDisk:
		w.slowDisk = w.now + w.dice.between(200, 2000)
	case CutOff:
		k.cutOff = w.now + w.dice.between(100, 3000)
		if k.cutOff-w.now > int64(w.c.FailAfter) {
			w.at(int64(w.c.FailAfter), event{kind: atLost, w: k.slot, x: k.conn})
		}
	case Loss:
		k.lossy = w.now + w.dice.between(100, 1500)
	case Disorder:
		w.disorder = w.now + w.dice.between(200, 2000)
	case SlowWorker:
		if free {
			k.slow = 2 + int64(w.dice.below(20))
			w.trouble(k, 300, 4000)
		}
	case StuckWorker:
		if free && k.phase == membership.Computing {
			k.stuck = true
			k.task++
			if w.dice.chance(50) {
				w.trouble(k, 1000, 25000)
			} else { // until it is removed
				w.trouble(k, 100000, 100000)
			}
		}
	case DrainWorker:
		k.leaving = true
		w.say(k)
	case NewWorker:
		if len(w.workers) < 8 {
			w.hire()
		}
	case KillMany:
		for range 2 {
			w.kill(w.someone(), kind, true)
		}
	case KillAll:
		for _, k := range w.workers {
			w.kill(k, kind, true)
		}
	case KillWithLeader:
		w.kill(k, kind, w.dice.chance(50))
		w.crash()
	case SteerJob:
		w.steer()
	}
}

// wellAgain ends a worker's lasting trouble.
func (w *world) wellAgain(k *worker) {
	if !k.stopped && !k.stuck && k.slow == 1 {
		return
	}
	w.troubles--
	k.slow = 1
	if k.stuck {
		k.stuck = false
		k.task++
		if k.group != nil && !k.group.closed && k.phase == membership.Computing {
			w.begin(k)
		}
	}
	if k.stopped {
		k.stopped = false
		for _, e := range k.later {
			e.at = w.now + w.dice.between(0, 2)
			w.q.push(e)
		}
		k.later = nil
	}
}

// steer pauses or drains the job that runs, and resumes it a little later.
func (w *world) steer() {
	j := w.state.Running()
	if j == nil {
		return
	}
	verb := membership.Pause
	if w.dice.chance(50) {
		verb = membership.Drain
	}
	w.ask(membership.Command{Steer: &membership.Steer{Job: j.ID, Verb: verb}})
}
