package sim

import (
	"time"

	"mp/coordinator/membership"
)

// reign is a node's time as leader: what coordinator's loop of that name does.
type reign struct {
	term   uint32
	brain  *membership.Leader
	frozen int64 // until when the process is stopped
	busy   bool  // proposals are on their way
	due    bool
	armed  int64 // for when a deadline is set
	hellos []hello

	sessions map[uint64]*session // by worker's identity
	byConn   map[uint64]*session
}

type hello struct {
	conn uint64
	slot int16
	what membership.Hello
}

// session is a worker's connection that said Hello and was answered.
type session struct {
	conn   uint64
	slot   int16
	worker uint64
	number uint64 // the brain's
	sent   uint64 // view
}

// message is what is on its way.
type message struct {
	conn    uint64
	hello   membership.Hello
	status  membership.Status
	welcome uint64
	view    *membership.View
	refusal membership.RefusalKind
	sum     sum
}

func (w *world) send(m message) uint64 {
	if n := len(w.free); n > 0 {
		x := w.free[n-1]
		w.free = w.free[:n-1]
		w.messages[x] = m
		return x
	}
	w.messages = append(w.messages, m)
	return uint64(len(w.messages) - 1)
}

// receive takes a message out.
func (w *world) receive(x uint64) message {
	m := w.messages[x]
	w.release(x)
	return m
}

func (w *world) release(x uint64) {
	w.messages[x] = message{}
	w.free = append(w.free, x)
}

// delay is how long something takes over the network.
func (w *world) delay() int64 {
	d := w.dice.between(0, 2)
	if w.now < w.disorder && w.dice.chance(20) {
		d += w.dice.between(0, 400)
	}
	return d
}

// leads lets the leader take something in.
func (w *world) leads(e event) {
	r := w.leader
	if r == nil {
		if e.kind == atHello || e.kind == atStatus {
			w.release(e.x)
		}
		return
	}
	if w.now < r.frozen {
		e.at = r.frozen
		w.q.push(e)
		return
	}
	now := time.Duration(w.now)
	switch e.kind {
	case atHello:
		m := w.receive(e.x)
		r.hellos = append(r.hellos, hello{m.conn, e.w, m.hello})
		r.due = true
	case atStatus:
		m := &w.messages[e.x]
		if s := r.byConn[m.conn]; s != nil && s.worker != 0 {
			if w.c.mutation == noDetection {
				m.status.Fault = nil
			}
			if r.brain.Heard(now, s.worker, m.status) {
				r.due = true
			}
			if m.status.View < w.state.View.Number && s.sent == w.state.View.Number && w.dice.chance(30) {
				w.tell(s, message{view: w.view()}) // it may be that it never came
			}
		}
		w.release(e.x)
	case atReset:
		if w.c.mutation == noDetection {
			return
		}
		if s := r.byConn[e.x]; s != nil {
			delete(r.byConn, e.x)
			if r.sessions[s.worker] == s {
				delete(r.sessions, s.worker)
			}
			r.brain.Disconnected(now, s.worker, s.number, "connection reset")
			r.due = true
		} else {
			for i := range r.hellos {
				if r.hellos[i].conn == e.x {
					r.hellos = append(r.hellos[:i], r.hellos[i+1:]...)
					break
				}
			}
		}
	case atDecide:
		if e.token != r.term || e.at != r.armed && e.at < r.armed {
			return
		}
		r.armed = 0
		r.due = true
	}
	w.step()
}

// step decides if there is a reason to and nothing is on its way.
func (w *world) step() {
	r := w.leader
	now := time.Duration(w.now)
	if r.due && !r.busy {
		r.due = false
		p := &proposal{term: r.term}
		for _, h := range r.hellos {
			a := r.brain.Arrive(now, w.state, h.what)
			switch {
			case a.Refusal != nil:
				w.tell(&session{conn: h.conn, slot: h.slot}, message{refusal: a.Refusal.Kind})
			case a.Resume != 0:
				w.welcome(h, a.Resume)
			}
			for i, c := range a.Commands {
				whose := hello{}
				if i == len(a.Commands)-1 {
					whose = h
				}
				p.commands, p.hellos = append(p.commands, c), append(p.hellos, whose)
			}
		}
		r.hellos = r.hellos[:0]
		if len(p.commands) == 0 {
			p.commands = r.brain.Decide(now, w.state)
			w.judge(p.commands)
			if w.c.mutation == eagerRecord {
				w.exaggerate(p.commands)
			}
		}
		if len(p.commands) > 0 {
			r.busy = true
			w.propose(p)
		}
	}
	if next := int64(r.brain.NextDeadline()); !r.busy && (r.armed == 0 || next < r.armed) {
		r.armed = max(next, w.now+ms)
		w.q.push(event{at: r.armed, kind: atDecide, token: r.term})
	}
}

func (w *world) admit(h hello, r membership.Result) {
	switch {
	case r.Refusal != nil:
		w.tell(&session{conn: h.conn, slot: h.slot}, message{refusal: r.Refusal.Kind})
	case r.Err == nil:
		w.welcome(h, r.Worker)
	}
}

func (w *world) welcome(h hello, worker uint64) {
	r := w.leader
	if old := r.sessions[worker]; old != nil {
		delete(r.byConn, old.conn)
		w.at(w.delay(), event{kind: atLost, w: old.slot, x: old.conn}) // the older session is ended
	}
	s := &session{conn: h.conn, slot: h.slot, worker: worker}
	s.number = r.brain.Connected(time.Duration(w.now), worker)
	r.sessions[worker], r.byConn[h.conn] = s, s
	r.due = true
	w.tell(s, message{welcome: worker})
	if k := w.workers[h.slot]; k.conn != h.conn { // it went meanwhile
		w.at(w.delay(), event{kind: atReset, x: h.conn})
		return
	}
	if w.state.View.Number > 0 {
		s.sent = w.state.View.Number
		w.tell(s, message{view: w.view()})
	}
}

func (w *world) dismiss(worker uint64, why *membership.Refusal) {
	r := w.leader
	if s := r.sessions[worker]; s != nil {
		delete(r.sessions, worker)
		delete(r.byConn, s.conn)
		kind := membership.Fenced
		if why != nil {
			kind = why.Kind
		}
		w.tell(s, message{refusal: kind})
	}
}

// view is a copy of the view in force for the network.
func (w *world) view() *membership.View {
	v := w.state.View
	return &v
}

// publish sends the view in force to who does not have it, and ends sessions of who is in no more.
func (w *world) publish() {
	r := w.leader
	var v *membership.View
	for _, k := range w.workers { // in a fixed order, as a map has none
		s := r.byConn[k.conn]
		if s == nil || s.worker == 0 {
			continue
		}
		if w.state.Worker(s.worker) == nil {
			w.dismiss(s.worker, nil)
			continue
		}
		if s.sent != w.state.View.Number {
			s.sent = w.state.View.Number
			if v == nil {
				v = w.view()
			}
			w.tell(s, message{view: v})
		}
	}
}

// tell sends a message to a worker. A lost one is lost for good: whoever says Hello or Status again is told again.
func (w *world) tell(s *session, m message) {
	k := w.workers[s.slot]
	if m.refusal != "" { // the connection is closed after it
		w.at(5*ms+w.delay(), event{kind: atLost, w: s.slot, x: s.conn})
	}
	if w.now < k.cutOff || w.now < k.lossy && w.dice.chance(40) {
		return
	}
	m.conn = s.conn
	w.at(w.delay(), event{kind: atMessage, w: s.slot, x: w.send(m)})
	if w.now < w.disorder && w.dice.chance(15) {
		w.at(w.delay(), event{kind: atMessage, w: s.slot, x: w.send(m)})
	}
}
