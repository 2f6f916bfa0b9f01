package sim

import (
	"fmt"
	"time"

	"mp/coordinator/membership"
)

// mutation breaks a rule on purpose, to see that the simulation notices.
type mutation int

// The mutations.
const (
	sound        mutation = iota // nothing is broken
	noFencing                    // workers join whatever ring has their size, whatever its view
	earlyClaim                   // who copies says that it has the whole state before it has
	eagerRecord                  // progress is recorded as soon as one worker has it
	doubleShards                 // who gets a new view computes its old shards as well
	noDetection                  // the leader is not told when a session breaks or a ring does
	mutations                    // how many there are
)

// String names the mutation.
func (m mutation) String() string {
	return [...]string{"sound", "no fencing", "state claimed before it is there", "progress recorded too early", "old shards computed as well", "broken sessions unnoticed"}[m]
}

// Config says what is simulated.
type Config struct {
	FailAfter time.Duration
	mutation  mutation
	Replay    bool // also apply the log to a second replica, one that begins from a snapshot, and compare byte for byte
}

// DefaultConfig is a sound cluster.
func DefaultConfig() Config { return Config{FailAfter: time.Second} }

// FaultKind numbers what can go wrong.
type FaultKind int

// The faults.
const (
	Kill FaultKind = iota
	PowerOff
	Stop
	SessionBreak
	RingBreak
	LeaderCrash
	LeaderFreeze
	SlowDisk
	CutOff
	Loss
	Disorder
	SlowWorker
	StuckWorker
	DrainWorker
	NewWorker
	KillMany
	KillAll
	KillWithLeader
	SteerJob
	FaultKinds // how many there are
)

// Names are the faults' names for people.
func (k FaultKind) String() string {
	return [...]string{"worker killed", "worker's host off", "worker stopped, continued", "session broken", "ring broken", "leader killed", "leader stopped, continued", "slow disk",
		"worker cut off from leader", "messages lost", "messages late, twice, out of order", "worker slow", "worker stuck", "worker drained", "worker joins", "several killed", "all killed",
		"worker and leader killed", "job paused, drained, resumed"}[k]
}

// Result is what came of one sequence of faults.
type Result struct {
	Seed      uint64
	Violation string // what did not hold; empty: all did
	Faults    [FaultKinds]int
	Steps     int           // updates that a ring completed
	Views     int           // committed
	Leaders   int           // reigns
	RollBacks int           // everybody who had the state was gone
	Strays    int           // steps of a view after a newer one had completed some, by workers that the newer one did not have
	Events    int           // of the simulation
	Virtual   time.Duration // that went by
	Recover   []Recovery    // faults that stopped a ring of several, and when one next completed a step
}

// Recovery is how long nothing was done after a fault.
type Recovery struct {
	Kind  FaultKind
	Time  time.Duration
	Alone bool // nothing else went wrong shortly before or meanwhile
}

// Run plays one sequence. It always returns the same for the same seed and configuration.
func Run(seed uint64, c Config) Result {
	w := newWorld(seed, c)
	for w.result.Violation == "" && !w.over && len(w.q.heap) > 0 {
		e := w.q.pop()
		w.now = e.at
		w.result.Events++
		w.handle(e)
	}
	if w.result.Violation == "" {
		w.last()
	}
	w.result.Virtual = time.Duration(w.now)
	return w.result
}

// world is everything there is.
type world struct {
	c      Config
	t      membership.Times
	dice   dice
	q      queue
	now    int64
	result Result
	over   bool

	state *membership.State
	index uint64
	log   []logged // with Config.Replay

	leader    *reign // nil: there is none
	term      uint32
	pending   []*proposal
	proposals []*proposal // by number
	commitAt  int64       // of the newest proposal
	slowDisk  int64       // until when the disk is slow
	flaky     bool        // no session lasts longer than two seconds, until the faults are over
	disorder  int64       // until when messages are late, come twice, out of order

	workers  []*worker
	messages []message
	free     []uint64 // unused messages
	conns    uint64
	groups   map[uint64]*group

	jobs       []*lesson
	faultsLeft int
	calm       int64 // when the last fault was over; 0: there are some to come
	troubles   int   // that are not over
	faultAt    int64 // of the fault that stopped the ring; 0: none did
	faultKind  FaultKind
	faultView  uint64
	mixed      bool   // there was another shortly before or since
	lastStrike int64  // when the last fault was
	newestDone uint64 // view of the newest ring that completed a step
	moved      int64  // when anything was last recorded
}

type logged struct {
	index   uint64
	command membership.Command
}

// lesson is what a job must come to.
type lesson struct {
	name   string // of its directory
	shards int
	batch  int
	images int
	steps  int // of an epoch
	epochs int
	states []uint64 // by updates done: the hash of the state
	prefix []uint64 // sums of fingerprints of images 0..i-1
	saves  map[uint64]record
	most   uint64 // updates that any worker did
}

// record is a worker's state of training.
type record struct {
	update uint64
	hash   uint64
	pages  [maxEpochs]page // the ledger
	epochs int             // pages in use
}

type page struct {
	from, to     uint64
	images, hash uint64
}

const maxEpochs = 6

func newWorld(seed uint64, c Config) *world {
	w := &world{c: c, t: membership.Timeouts(c.FailAfter), dice: dice(mix(seed + 1)), state: membership.New(), groups: map[uint64]*group{}}
	w.result.Seed = seed
	w.q.heap = make([]event, 0, 256)
	w.faultsLeft = 3 + w.dice.below(10)
	w.flaky = w.dice.chance(15)
	for i := range 2 {
		l := newLesson(w, i)
		w.jobs = append(w.jobs, l)
	}
	w.elect()
	for range 1 + w.dice.below(5) {
		w.hire()
	}
	for _, l := range w.jobs {
		w.ask(membership.Command{Submit: &membership.Submit{Spec: fmt.Appendf(nil, `{"shards":%d,"batch-size":%d,"epochs":%d}`, l.shards, l.batch, l.epochs),
			Directory: l.name, MinWorkers: uint32(1 + w.dice.below(3)/2)}})
	}
	w.at(w.dice.between(300, 1500), event{kind: atFault})
	w.at(1000*ms, event{kind: atCheck})
	return w
}

func newLesson(w *world, i int) *lesson {
	l := &lesson{name: fmt.Sprintf("run-%d", i+1), shards: 1 + w.dice.below(8), batch: 4 + w.dice.below(13), images: 20 + w.dice.below(60), epochs: 1 + w.dice.below(maxEpochs), saves: map[uint64]record{}}
	if i > 0 {
		l.images = w.jobs[0].images // the workers have one set
	}
	l.steps = (l.images-1)/l.batch + 1
	l.prefix = make([]uint64, l.images+1)
	for id := range l.images {
		l.prefix[id+1] = l.prefix[id] + membership.Fingerprint(int32(id))
	}
	total := l.steps * l.epochs
	l.states = make([]uint64, total+1)
	for u := range total {
		sum := uint64(0)
		for s := range l.shards {
			sum += l.gradient(uint64(u), s)
		}
		l.states[u+1] = mix(l.states[u] + sum)
	}
	return l
}

// gradient is what one shard brings to an update.
func (l *lesson) gradient(update uint64, shard int) uint64 {
	return mix(update<<20 + uint64(shard) + 1)
}

// span is the images of a shard of an update.
func (l *lesson) span(update uint64, shard int) (from, to int) {
	first := int(update%uint64(l.steps)) * l.batch
	size := min(l.batch, l.images-first)
	return first + size*shard/l.shards, first + size*(shard+1)/l.shards
}

// lesson is what the job with the ID must come to.
func (w *world) lesson(id string) *lesson {
	j := w.state.Job(id)
	for _, l := range w.jobs {
		if j != nil && l.name == j.Directory {
			return l
		}
	}
	return nil
}

// at makes an event some nanoseconds from now.
func (w *world) at(delay int64, e event) {
	e.at = w.now + delay
	w.q.push(e)
}

func (w *world) fail(format string, args ...any) {
	if w.result.Violation == "" {
		w.result.Violation = fmt.Sprintf("at %.3f s: ", float64(w.now)/1e9) + fmt.Sprintf(format, args...)
	}
}

// handle lets an event happen, if what it was made for is still so.
func (w *world) handle(e event) {
	var k *worker
	if int(e.w) < len(w.workers) {
		k = w.workers[e.w]
	}
	switch e.kind {
	case atDial, atHeartbeat, atRestart, atSaved:
		if e.token != k.life {
			return
		}
	case atFormed, atBegun, atComputed, atReduced:
		if e.token != k.task || !k.alive {
			if e.kind == atReduced {
				w.release(e.x)
			}
			return
		}
	case atCopied:
		if e.token != k.copy || !k.alive {
			return
		}
	case atContinue:
		if e.token != k.trouble {
			return
		}
	}
	if k != nil && k.stopped {
		switch e.kind {
		case atDial, atHeartbeat, atFormed, atBegun, atComputed, atReduced, atCopied, atSaved, atMessage, atLost, atBroken:
			k.later = append(k.later, e) // it happens when the process runs again
			return
		}
	}
	switch e.kind {
	case atDial:
		w.dial(k)
	case atHello, atStatus, atReset, atDecide:
		w.leads(e)
	case atMessage:
		w.told(k, e.x)
	case atLost:
		if e.token != helloTimeout || k.welcome == 0 || w.flaky && w.calm == 0 {
			w.lost(k, e.x)
		}
	case atHeartbeat:
		w.heartbeat(k)
	case atCommit:
		w.commit(w.proposals[e.x-1])
	case atElected:
		w.elect()
	case atFormed:
		w.formed(k)
	case atBegun:
		w.begun(k)
	case atComputed:
		w.computed(k)
	case atReduced:
		w.reduced(k, e.x)
	case atBroken:
		w.broken(k, e.x)
	case atCopied:
		w.copied(k)
	case atSaved:
		w.saved(k, e.x)
	case atFault:
		w.nextFault()
	case atRestart:
		w.restart(k)
	case atContinue:
		w.wellAgain(k)
	case atClient:
		w.propose(w.proposals[e.x-1])
	case atCheck:
		w.check()
	}
}
