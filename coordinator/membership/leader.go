package membership

import (
	"fmt"
	"time"
)

// LeaderConfig is what a leader is told.
type LeaderConfig struct {
	Times      Times
	MinWorkers int    // below it a job waits, unless the job says otherwise; at least 1
	Protocol   uint32 // of the messages; workers of another are refused
	Version    string // of the program; workers of another are refused; empty: not compared
	Node       string // this coordinator's name, for the story
	Dismiss    bool   // let the workers go once no job is left (mp train)
}

// Phase is what a worker is doing; see mppb.Phase. The numbers are those of the protocol.
type Phase int32

// The phases.
const (
	Loading Phase = iota
	Ready
	Forming
	Copying
	Computing
	Reducing
	Validating
	Saving
	Paused
)

// Status is a worker's word about itself; see mppb.Status.
type Status struct {
	Job             string
	View            uint64
	Phase           Phase
	Update          uint64
	Progress        uint64
	CaughtUp        bool
	ShardSeconds    float64
	StepSeconds     float64
	ImagesPerSecond float64
	MemoryBytes     uint64
	Validated       uint32
	Ledger          []LedgerEntry // kept until the worker's next Status
	Fault           *Fault        // of the current view; may be said again and again
	Leaving         bool
	Finished        bool
	Outcome         *Outcome
	Failure         string
	ArrivalSkew     float64
	InboundDelay    float64
}

// Fault is a worker's word that its view cannot go on; see mppb.Fault.
type Fault struct {
	View    uint64
	Suspect uint64
	Kind    string
	Text    string
}

// kindLocal is a Fault's in which a worker names itself: it ends.
const kindLocal = "local"

// Leader is what only the leading coordinator knows. Make a new one each time a node becomes leader, after it has applied
// everything in its log; drop it when the node is leader no more. Not safe for concurrent use, and no method blocks. `now` is
// one monotonic clock of this process, in every call the same or later.
type Leader struct {
	c     LeaderConfig
	peers map[uint64]*peer // of every worker that is in, and of some who just were
	told  bool             // that this node leads
	notes []Command        // to be proposed by the next Decide
	last  time.Duration    // when this leader was last told anything
	wake  time.Duration    // see NextDeadline

	sessions uint64 // given out
	ended    uint64 // sessions that broke, to order them

	// Of the view in force.
	view    uint64
	viewAt  time.Duration // when this leader first saw it
	asked   time.Duration // Times.Beat, as members are told with it
	beat    time.Duration // the same, or the longer one of the view before while some may not have this one yet
	formed  uint64        // the newest update that anybody had when it was made
	trouble *trouble
	accused map[uint64][]uint64 // suspect -> who says so

	// Of the job that has the place.
	job      string
	faultAt  time.Duration // when the fault was noticed after which there was no update yet; 0: none, or another leader knows
	again    int           // views in a row made because of faults without an update in between
	looked   uint64        // update at which speeds were looked at last
	dealt    time.Duration // when a better deal was last looked for
	followed following     // how well it served
	newcomer time.Duration // when a worker last became ready
	settling time.Duration // since when there are enough workers for the first view; 0: there are not
	noState  time.Duration // since when nobody has the job's state; 0: somebody has
	recorded time.Duration // when progress was last proposed
	finished time.Duration // since when rank 0 says that the job is finished; 0: it does not
	known    []LedgerEntry // of epochs that the state does not have yet
	proven   uint32        // epochs that it has

	// Of the Decide under way.
	roster uint64      // State's that roll and ranks are of
	roll   []*peer     // of State.Workers, in their order
	ranks  []*peer     // of the view's members, in their order; nil: it is not in any more
	hands  []candidate // see collect

	failures map[device][]time.Duration // of late
	suspects map[uint64][]time.Duration // when each worker was accused of late
	held     map[device]*held           // quarantines
}

// trouble is the first fault that was reported of the view in force.
type trouble struct {
	at   time.Duration
	by   uint64
	what Fault

	counted bool // among the suspect's
}

type device struct{ machine, device string }

// held is how long a device stays in quarantine, and when its record is clean again.
type held struct {
	until, forget time.Duration
}

// peer is what the leader knows of one worker.
type peer struct {
	session   uint64
	connected bool
	heard     time.Duration // last sign of life; before the first: when the leader learned of the worker
	gone      string        // why its session ended; empty: it did not
	goneAt    time.Duration
	order     uint64 // among the sessions that ended

	spoke     bool // st says something
	st        Status
	moved     time.Duration // when st.Progress or st.Phase last changed
	stuckTold bool
	viewSteps uint64 // update when it first spoke of the view in force
	viewSaid  uint64 // that view
	slow      int    // how often in a row it was found slow
	slowTold  bool
	leaving   time.Duration // when it asked to leave
	idleSince time.Duration // since when it has the state and no shards because it is slow; 0: it does not
	idleTimes int           // how often that happened

	w   *Worker // who it is; nil before the first Decide
	in  uint64  // the view of which it is a member
	has *Member // there
}

// NewLeader returns a leader that knows nothing but the state. Workers that are in have Times.Grace to come back.
func NewLeader(c LeaderConfig, s *State, now time.Duration) *Leader {
	l := &Leader{c: c, peers: map[uint64]*peer{}, last: now, wake: now, view: s.View.Number, viewAt: now, asked: c.Times.Beat(len(s.Workers)), beat: c.Times.Beat(len(s.Workers)), accused: map[uint64][]uint64{},
		failures: map[device][]time.Duration{}, suspects: map[uint64][]time.Duration{}, held: map[device]*held{}, newcomer: now}
	for _, r := range s.Quarantines {
		h := &held{until: now, forget: now + forgetAfter*c.Times.Window}
		if r.Active {
			h.until = now + c.pause(r.Level)
			h.forget += c.pause(r.Level)
		}
		l.held[device{r.Machine, r.Device}] = h
	}
	if j := s.Running(); j != nil {
		l.job, l.formed, l.looked = j.ID, j.Update, j.Update
	}
	l.enroll(now, s)
	for i, p := range l.ranks {
		if p != nil {
			p.in, p.has = s.View.Number, &s.View.Members[i]
		}
	}
	return l
}

// Arrival is the answer to a Hello.
type Arrival struct {
	Resume   uint64    // not 0: it is this worker, which is in already (the leader changed): call Connected
	Commands []Command // else propose them in order; the last is the Join, whose Result has the identity: then call Connected
	Refusal  *Refusal  // or end the session with it
}

// Arrive says what to do with a worker that says Hello.
func (l *Leader) Arrive(now time.Duration, s *State, h Hello) Arrival {
	l.look(now)
	if l.c.Protocol != 0 && h.Protocol != l.c.Protocol {
		return l.refuse(&Refusal{Kind: Configuration, Text: fmt.Sprintf("%s on host %s speaks protocol %d, the coordinator %d", h.Device, h.Host, h.Protocol, l.c.Protocol),
			Advice: "start the same version of mp everywhere"})
	}
	if l.c.Version != "" && h.Version != l.c.Version {
		return l.refuse(&Refusal{Kind: Configuration, Text: fmt.Sprintf("%s on host %s runs version %s, the coordinator %s", h.Device, h.Host, h.Version, l.c.Version),
			Advice: "start the same version of mp everywhere"})
	}
	join := Command{Join: &Join{Hello: h}}
	w := s.claimant(h)
	if w == nil {
		if r := s.unfit(h); r != nil {
			return l.refuse(r)
		}
		return Arrival{Commands: []Command{join}}
	}
	p := l.peer(now, w.ID)
	switch {
	case h.Previous == w.ID && h.PID == w.Hello.PID && h.Address == w.Hello.Address:
		return Arrival{Resume: w.ID}
	case !p.connected:
		if r := s.unfit(h); r != nil {
			return l.refuse(r)
		}
		leave := &Leave{Worker: w.ID, Cause: Absent, Text: fmt.Sprintf("process %d has its device now", h.PID)}
		if p.gone != "" {
			leave.Cause, leave.Text = p.end(w.ID)
			leave.DetectSeconds = (now - p.goneAt).Seconds()
		}
		l.failed(now, w, leave.Cause)
		return Arrival{Commands: []Command{{Leave: leave}, join}}
	case now-p.heard > 3*l.beat:
		return Arrival{Refusal: &Refusal{Kind: Fenced, Advice: "say Hello again in a moment",
			Text: fmt.Sprintf("%s still has %s, and was last heard %s ago", w.short(), h.Device, seconds((now - p.heard).Seconds()))}}
	}
	return l.refuse(taken(w))
}

// refuse also has the refusal told.
func (l *Leader) refuse(r *Refusal) Arrival {
	if len(l.notes) < 100 {
		l.notes = append(l.notes, Command{Note: &Note{Topic: TopicJoin, Text: "refused: " + r.Text, Advice: r.Advice, Warning: true}})
	}
	return Arrival{Refusal: r}
}

func (l *Leader) peer(now time.Duration, worker uint64) *peer {
	p := l.peers[worker]
	if p == nil {
		p = &peer{heard: now, moved: now}
		l.peers[worker] = p
	}
	return p
}

// look notices when nobody told this leader anything for long: the process was stopped, and whoever was not heard in that
// time may have spoken all along.
func (l *Leader) look(now time.Duration) {
	if gap := now - l.last; gap > 3*l.c.Times.Heartbeat {
		for _, p := range l.peers {
			p.heard, p.moved = p.heard+gap, p.moved+gap
		}
	}
	l.last = now
}

// Connected says that a session of the worker is open, replacing any before. The number it returns names the session.
func (l *Leader) Connected(now time.Duration, worker uint64) (session uint64) {
	l.look(now)
	l.sessions++
	p := l.peer(now, worker)
	p.session, p.connected, p.gone, p.heard, p.moved = l.sessions, true, "", now, now
	return l.sessions
}

// Heard takes in a Status. It returns true when Decide should be called at once instead of at NextDeadline. Cheap: some
// hundred nanoseconds, for 1,000 workers with ten a second each.
func (l *Leader) Heard(now time.Duration, worker uint64, st Status) (urgent bool) {
	l.look(now)
	p := l.peers[worker]
	if p == nil || !p.connected {
		return false
	}
	was := &p.st
	urgent = !p.spoke || st.Phase == Ready && was.Phase == Loading || st.CaughtUp && !was.CaughtUp || st.Leaving && !was.Leaving ||
		st.Finished && !was.Finished || st.Failure != "" && was.Failure == ""
	if st.Progress != was.Progress || st.Phase != was.Phase || !p.spoke || st.View != was.View {
		p.moved, p.stuckTold = now, false
	}
	if st.Phase != Loading && (!p.spoke || was.Phase == Loading) {
		l.newcomer = now
	}
	if f := st.Fault; f != nil && f.View == l.view && st.View == l.view {
		urgent = l.blame(now, worker, *f) || urgent
	}
	if st.View != p.viewSaid {
		p.viewSaid, p.viewSteps = st.View, st.Update
	}
	if st.Job == l.job {
		for _, e := range st.Ledger {
			l.remember(e)
		}
	}
	if st.Leaving && !was.Leaving {
		p.leaving = now
	}
	p.heard, p.spoke, p.st = now, true, st
	return urgent
}

// blame takes in a fault; true if it is news.
func (l *Leader) blame(now time.Duration, by uint64, f Fault) bool {
	for _, b := range l.accused[f.Suspect] {
		if b == by {
			return false
		}
	}
	l.accused[f.Suspect] = append(l.accused[f.Suspect], by)
	if l.trouble != nil {
		return false
	}
	l.trouble = &trouble{at: now, by: by, what: f}
	return true
}

// remember keeps what is known of the newest epochs: a worker stops speaking of one before anybody may have recorded it.
func (l *Leader) remember(e LedgerEntry) {
	if e.Epoch < l.proven {
		return
	}
	for i := range l.known {
		if o := &l.known[i]; o.Epoch == e.Epoch && o.From == e.From {
			if e.To > o.To {
				*o = e
			}
			return
		}
	}
	if len(l.known) < 2*maxPages {
		l.known = append(l.known, e)
	}
}

// Disconnected says that a session ended, and why ("connection reset"). One that was replaced is ignored.
func (l *Leader) Disconnected(now time.Duration, worker, session uint64, reason string) {
	l.look(now)
	p := l.peers[worker]
	if p == nil || p.session != session || !p.connected {
		return
	}
	if reason == "" {
		reason = "its session ended"
	}
	l.ended++
	p.connected, p.gone, p.goneAt, p.order = false, reason, now, l.ended
}

// end is why worker id's session ended: by its own last words, where it blamed itself.
func (p *peer) end(id uint64) (Cause, string) {
	if f := p.st.Fault; f != nil && f.Suspect == id && f.Kind == kindLocal {
		return Failed, f.Text
	}
	return Vanished, p.gone
}

// NextDeadline is when to call Decide at the latest although nothing was heard.
func (l *Leader) NextDeadline() time.Duration { return l.wake }

// by asks for Decide at a moment.
func (l *Leader) by(t time.Duration) { l.wake = min(l.wake, t) }

// Seen is what the leader knows of a worker, for people.
type Seen struct {
	Connected bool
	LastHeard time.Duration
	Status    Status
	State     string // "in view 7", "ready", "loading", "leaving", "quarantined until 12:00:03 UTC", "away"
}

// Seen returns what is known of a worker that is in.
func (l *Leader) Seen(s *State, worker uint64) Seen {
	p, w := l.peers[worker], s.Worker(worker)
	if p == nil || w == nil {
		return Seen{State: "away"}
	}
	seen := Seen{Connected: p.connected, LastHeard: p.heard, Status: p.st}
	r := s.record(w.Hello.Machine, w.Hello.Device)
	switch {
	case !p.connected:
		seen.State = "away"
	case p.st.Leaving:
		seen.State = "leaving"
	case s.View.member(worker) != nil:
		seen.State = fmt.Sprintf("in view %d", s.View.Number)
	case r != nil && r.Active:
		seen.State = "quarantined until " + time.Unix(0, r.Until).UTC().Format("15:04:05 UTC")
	case p.st.Phase == Loading:
		seen.State = "loading"
	default:
		seen.State = "ready"
	}
	return seen
}
