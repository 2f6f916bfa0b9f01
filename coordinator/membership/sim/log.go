package sim

import (
	"time"

	"mp/coordinator/membership"
)

// proposal is commands on their way through the log.
type proposal struct {
	number   uint64
	term     uint32 // of the leader whose loop waits for it; 0: a client's, who asks again until it is in
	commands []membership.Command
	hellos   []hello // by command: whose Join it is
	done     bool
}

// elect makes a new leader, which has everything that the log has.
func (w *world) elect() {
	if w.leader != nil {
		return
	}
	for _, p := range w.pending { // what survived of the old leader's log is applied first
		w.apply(p)
	}
	w.pending = nil
	w.term++
	w.result.Leaders++
	w.leader = &reign{term: w.term, brain: membership.NewLeader(membership.LeaderConfig{Times: w.t, MinWorkers: 1, Protocol: 1}, w.state, time.Duration(w.now)),
		sessions: map[uint64]*session{}, byConn: map[uint64]*session{}}
	w.leader.due = true
	w.step()
}

// crash ends the leader: of what was on its way to the log some of the first may have reached the others.
func (w *world) crash() {
	r := w.leader
	if r == nil {
		return
	}
	w.leader = nil
	total := 0
	for _, p := range w.pending {
		total += len(p.commands)
	}
	survive := w.dice.below(total + 1) // the log has no gaps
	if w.dice.chance(40) {
		survive = total
	}
	var kept []*proposal
	for _, p := range w.pending {
		p.done = true // for its commit: what survives is applied at the election
		n := min(survive, len(p.commands))
		survive -= n
		if n > 0 {
			kept = append(kept, &proposal{commands: p.commands[:n]})
		}
		if p.term == 0 { // the client does not know, and asks again
			again := *p
			again.number, again.done = 0, false
			w.later(&again)
		}
	}
	w.pending = kept
	w.commitAt = w.now
	silent := w.dice.chance(20) // no reset comes: workers find out by themselves
	for _, k := range w.workers {
		if k.conn != 0 {
			wait := w.dice.between(0, 10)
			if silent {
				wait = int64(w.c.FailAfter) + w.dice.between(0, 100)
			}
			w.at(wait, event{kind: atLost, w: k.slot, x: k.conn})
		}
	}
	f := w.c.FailAfter.Milliseconds()
	w.at(w.dice.between(f/2, f+f/2), event{kind: atElected})
}

// exaggerate records what one worker has done instead of what all have.
func (w *world) exaggerate(commands []membership.Command) {
	for _, c := range commands {
		if p := c.Progress; p != nil {
			for _, k := range w.workers {
				if k.alive && k.has && k.job == p.Job && k.view.Number == p.View {
					p.Update = max(p.Update, k.record.update)
				}
			}
		}
	}
}

// ask is a client: it asks until its wish is in the log.
func (w *world) ask(commands ...membership.Command) {
	w.propose(&proposal{commands: commands})
}

// propose puts commands on their way, or lets a client try again where there is no leader.
func (w *world) propose(p *proposal) {
	if w.leader == nil || w.now < w.leader.frozen {
		w.later(p)
		return
	}
	w.number(p)
	d := w.dice.between(1, 12)
	if w.now < w.slowDisk {
		d += w.dice.between(100, 700)
	}
	w.commitAt = max(w.now+d, w.commitAt)
	w.pending = append(w.pending, p)
	w.q.push(event{at: w.commitAt, kind: atCommit, x: p.number})
}

func (w *world) number(p *proposal) {
	if p.number == 0 {
		w.proposals = append(w.proposals, p)
		p.number = uint64(len(w.proposals))
	}
}

// later lets a client ask again in a moment.
func (w *world) later(p *proposal) {
	w.number(p)
	w.at(100*ms, event{kind: atClient, x: p.number})
}

// commit lets a proposal reach the log.
func (w *world) commit(p *proposal) {
	if p.done {
		return
	}
	p.done = true
	for i, q := range w.pending {
		if q == p {
			w.pending = append(w.pending[:i], w.pending[i+1:]...)
			break
		}
	}
	results := w.apply(p)
	r := w.leader
	if r == nil {
		return
	}
	if p.term == r.term {
		r.busy = false
		for i, c := range p.commands {
			if i < len(p.hellos) && p.hellos[i].conn != 0 {
				w.admit(p.hellos[i], results[i])
			} else if c.Leave != nil && results[i].Err == nil {
				w.dismiss(c.Leave.Worker, results[i].Refusal)
			}
		}
	}
	r.due = true
	w.publish()
	if w.now >= r.frozen {
		w.step()
	}
}

// apply executes commands on the state that all nodes have.
func (w *world) apply(p *proposal) []membership.Result {
	out := make([]membership.Result, len(p.commands))
	for i, c := range p.commands {
		w.index++
		if w.c.Replay {
			w.log = append(w.log, logged{w.index, c})
		}
		out[i] = w.state.Apply(w.index, c)
		w.afterApply(&c, &out[i])
	}
	return out
}
