package sim

import (
	"math/bits"

	"mp/coordinator/membership"
)

// worker is a device on which a process runs, most of the time: what package worker does, without the arithmetic.
type worker struct {
	slot    int16
	life    uint32 // of the process
	alive   bool
	stopped bool
	later   []event // that wait for a stopped process to run again

	// Its session.
	id      uint64 // 0: none yet
	conn    uint64 // 0: none
	welcome int64  // since when the session is open; 0: it is not
	leaving bool

	// Its view.
	view  membership.View
	mine  []uint32 // shards
	group *group
	task  uint32 // of what it waits for in the view
	round uint64 // update that it is about to do
	fault *membership.Fault
	phase membership.Phase
	moves uint64 // pieces of work

	// Its training.
	job      string
	lesson   *lesson
	has      bool // the whole state: record
	record   record
	copying  bool
	copy     uint32 // of which copy
	snapshot record // that it copies
	queue    []sum  // received since
	kept     uint64 // shards of update keptFor that are computed already, by bit
	keptFor  uint64
	upload   record // on its way to the coordinators
	uploads  string // the job of which it is; empty: none is
	uploadNo uint64
	finished bool

	// What is wrong with it.
	trouble  uint32
	cutOff   int64 // until when nothing gets through to the leader or back
	lossy    int64 // until when messages get lost
	slow     int64 // times
	stuck    bool
	perShard int64 // nanoseconds
}

// hire adds a device and starts a worker on it.
func (w *world) hire() {
	k := &worker{slot: int16(len(w.workers)), slow: 1, perShard: w.dice.between(4, 12)}
	w.workers = append(w.workers, k)
	w.restart(k)
}

func (w *world) restart(k *worker) {
	k.life++
	k.alive = true
	w.at(w.dice.between(50, 500), event{kind: atDial, w: k.slot, token: k.life})
	w.at(w.dice.between(0, 100), event{kind: atHeartbeat, w: k.slot, token: k.life})
}

// end takes the process away, with everything in its memory.
func (w *world) end(k *worker, reset bool) {
	if !k.alive {
		return
	}
	if reset && k.conn != 0 {
		w.at(w.dice.between(0, 10), event{kind: atReset, w: k.slot, x: k.conn})
	}
	if g := k.group; g != nil {
		if reset {
			w.leave(k)
		} else {
			w.silence(g)
		}
	}
	life, task, copies, trouble := k.life+1, k.task+1, k.copy+1, k.trouble+1
	if k.stopped || k.slow > 1 || k.stuck {
		w.troubles-- // it is over with the process
	}
	*k = worker{slot: k.slot, life: life, task: task, copy: copies, trouble: trouble, slow: 1, perShard: k.perShard, cutOff: k.cutOff, lossy: k.lossy}
}

// dial tries to reach the leader.
func (w *world) dial(k *worker) {
	if k.conn != 0 {
		return
	}
	if w.leader == nil || w.now < k.cutOff || w.now < w.leader.frozen {
		w.at(w.dice.between(50, 150), event{kind: atDial, w: k.slot, token: k.life})
		return
	}
	w.conns++
	k.conn, k.welcome = w.conns, 0
	host := string(rune('a' + k.slot/2))
	h := membership.Hello{Protocol: 1, Version: "1", Host: host, Machine: host, Device: "cpu:" + string(rune('0'+k.slot)), Address: host, PID: k.life, Previous: k.id,
		Data: membership.Dataset{TrainSHA256: "t", TrainImages: uint32(w.jobs[0].images), Classes: 10}}
	w.at(w.delay(), event{kind: atHello, w: k.slot, x: w.send(message{conn: k.conn, hello: h})})
	w.at(2*int64(w.c.FailAfter), event{kind: atLost, w: k.slot, x: k.conn, token: helloTimeout})
}

// helloTimeout is the token of an atLost that counts only if nobody has answered yet.
const helloTimeout = 1

// lost is the end of a connection.
func (w *world) lost(k *worker, conn uint64) {
	if k.conn != conn {
		return
	}
	k.conn, k.welcome = 0, 0
	w.at(w.delay(), event{kind: atReset, w: k.slot, x: conn})
	w.at(w.dice.between(20, 150), event{kind: atDial, w: k.slot, token: k.life})
}

// told is a message from the leader.
func (w *world) told(k *worker, x uint64) {
	m := w.receive(x)
	if !k.alive || m.conn != k.conn {
		return
	}
	switch {
	case m.welcome != 0:
		if k.welcome == 0 {
			k.welcome = w.now
		}
		if k.id != m.welcome {
			w.leave(k)
			k.id, k.view, k.mine, k.phase, k.fault = m.welcome, membership.View{}, nil, membership.Ready, nil
		}
		w.say(k)
	case m.view != nil:
		if k.welcome != 0 && m.view.Number > k.view.Number {
			w.adopt(k, m.view)
		}
	case m.refusal == membership.Fenced:
		w.leave(k)
		k.view, k.mine, k.phase, k.fault = membership.View{}, nil, membership.Ready, nil
		if k.stuck { // its supervisor starts it again
			k.stuck = false
			k.trouble++
			w.troubles--
		}
		w.lost(k, k.conn)
	case m.refusal != "":
		w.end(k, true)
		w.at(w.dice.between(800, 2000), event{kind: atRestart, w: k.slot, token: k.life})
	}
}

// adopt takes up a view.
func (w *world) adopt(k *worker, v *membership.View) {
	old := k.mine
	if w.c.mutation != noFencing || k.group == nil || len(v.Members) != k.group.size {
		w.leave(k)
	}
	k.view, k.fault, k.mine = *v, nil, nil
	if v.Job != k.job {
		k.job, k.lesson = v.Job, w.lesson(v.Job)
		k.has, k.copying, k.finished, k.kept, k.uploads = false, false, false, 0, ""
		k.copy++
	}
	for i := range v.Members {
		if m := &v.Members[i]; m.Worker == k.id {
			k.mine = m.Shards
			if w.c.mutation == doubleShards && len(k.mine) > 0 {
				k.mine = append(append([]uint32{}, k.mine...), old...)
			}
			k.phase = membership.Forming
			w.say(k)
			if k.group == nil {
				w.join(k)
			}
			return
		}
	}
	k.phase = membership.Ready
	w.say(k)
}

// rank is the worker's place in its view.
func (k *worker) rank() int {
	for i := range k.view.Members {
		if k.view.Members[i].Worker == k.id {
			return i
		}
	}
	return -1
}

func (w *world) heartbeat(k *worker) {
	w.say(k)
	w.at(int64(w.t.Heartbeat)-w.dice.between(0, 10), event{kind: atHeartbeat, w: k.slot, token: k.life})
}

// say sends a Status.
func (w *world) say(k *worker) {
	if k.welcome == 0 || w.now < k.cutOff || w.now < k.lossy && w.dice.chance(40) {
		return
	}
	st := membership.Status{Job: k.job, View: k.view.Number, Phase: k.phase, Progress: k.moves, CaughtUp: k.has, ShardSeconds: float64(k.perShard*k.slow) / 1e9,
		StepSeconds: 0.05, Fault: k.fault, Leaving: k.leaving, Finished: k.finished}
	if k.has {
		st.Update, st.Validated = k.record.update, uint32(k.record.update/uint64(k.lesson.steps))
		first := max(0, k.record.epochs-2)
		if k.finished {
			first = 0
		}
		st.Ledger = make([]membership.LedgerEntry, 0, k.record.epochs-first)
		for e := first; e < k.record.epochs; e++ {
			p := &k.record.pages[e]
			st.Ledger = append(st.Ledger, membership.LedgerEntry{Epoch: uint32(e), From: p.from, To: p.to, Images: p.images, Hash: p.hash})
		}
	}
	w.at(w.delay(), event{kind: atStatus, w: k.slot, x: w.send(message{conn: k.conn, status: st})})
	if w.now < w.disorder && w.dice.chance(15) {
		w.at(w.delay(), event{kind: atStatus, w: k.slot, x: w.send(message{conn: k.conn, status: st})})
	}
}

// begin starts the next update.
func (w *world) begin(k *worker) {
	g := k.group
	if k.view.Save {
		k.phase = membership.Paused
		if k.rank() == 0 && k.has && k.view.CheckpointUpdate < k.record.update {
			w.save(k)
		}
		return
	}
	if k.round == uint64(len(k.lesson.states)-1) {
		k.phase = membership.Ready
		if k.rank() != 0 || k.view.CheckpointUpdate == k.round {
			k.finished = true
		} else if k.has {
			w.save(k)
		}
		w.say(k)
		return
	}
	if len(k.mine) == 0 {
		k.phase = membership.Reducing
		w.arrive(k, g)
		return
	}
	if !k.has {
		return // its copy comes first
	}
	if k.keptFor != k.round {
		k.keptFor, k.kept = k.round, 0
	}
	todo := 0
	for _, s := range k.mine {
		todo += int(^k.kept >> s & 1)
	}
	k.phase = membership.Computing
	if k.stuck {
		return
	}
	work := int64(todo) * k.perShard * k.slow
	w.at(work+work*int64(w.dice.below(20))/100+ms/10, event{kind: atComputed, w: k.slot, token: k.task})
}

func (w *world) computed(k *worker) {
	for _, s := range k.mine {
		k.kept |= 1 << s
	}
	k.moves += uint64(bits.OnesCount64(k.kept)) + 1
	k.phase = membership.Reducing
	w.arrive(k, k.group)
}

// save takes the state to the coordinators, one upload at a time.
func (w *world) save(k *worker) {
	if k.uploads == k.job {
		return
	}
	k.uploads, k.upload = k.job, k.record
	k.uploadNo++
	w.at(w.dice.between(30, 250), event{kind: atSaved, w: k.slot, token: k.life, x: k.uploadNo})
}

// saved is when an upload is whole.
func (w *world) saved(k *worker, number uint64) {
	if number != k.uploadNo || k.uploads != k.job || k.lesson == nil {
		return // another has taken its place, or the job is not this worker's any more
	}
	k.uploads = ""
	l, update := k.lesson, k.upload.update
	l.saves[update] = k.upload
	name := checkpointName(update)
	w.ask(membership.Command{File: &membership.File{Job: k.job, Node: "a", File: membership.FileState{Path: name, Size: 1, SHA256: "s"}}},
		membership.Command{Checkpoint: &membership.Checkpoint{Job: k.job, Name: name, Update: update, Files: []string{name}}})
	if k.has && k.group != nil && k.rank() == 0 {
		switch {
		case update == uint64(len(l.states)-1):
			k.finished = true
			w.say(k)
		case (k.view.Save || k.round == uint64(len(l.states)-1)) && update < k.record.update:
			w.save(k) // an older one was on its way
		}
	}
}

func checkpointName(update uint64) string {
	b := []byte("update-00000000")
	for i := len(b) - 1; update > 0; i-- {
		b[i] = '0' + byte(update%10)
		update /= 10
	}
	return string(b)
}

// applySum does an update.
func (w *world) applySum(k *worker, s sum) {
	r, l := &k.record, k.lesson
	r.hash = mix(r.hash + s.gradients)
	steps := uint64(l.steps)
	epoch := int(r.update / steps)
	p := &r.pages[epoch]
	if epoch >= r.epochs {
		r.epochs = epoch + 1
		p.from = r.update
	}
	r.update++
	p.to = r.update
	p.images += s.images
	p.hash += s.fingerprints
	if r.update >= uint64(len(l.states)) || r.hash != l.states[r.update] {
		w.fail("worker %d in view %d: update %d of %s has another result than it should", k.id, k.view.Number, r.update, k.job)
	}
	l.most = max(l.most, r.update)
}
