package membership

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// stage is a cluster of actors whose every step takes one tick, and more while one of them is slow.
type stage struct {
	t      *testing.T
	c      LeaderConfig
	state  *State
	twin   *State // gets the same commands, as JSON
	leader *Leader
	index  uint64
	now    time.Duration
	actors []*actor
	owed   float64 // ticks more that the step under way takes because somebody is slow
	crowd  float64 // seconds a step for which the first of those with most shards waits for a core
	out    bytes.Buffer
}

const usualShard = 0.01 // seconds

// actor plays a worker.
type actor struct {
	name            string
	id              uint64
	session         uint64
	hello           Hello
	st              Status
	alive, stopped  bool
	copying         int // ticks left
	shardSeconds    float64
	pid             uint32
	refused         string
	saved           bool
	skew, inbound   float64
	stuck           bool
	pretendsToBreak string // reports this fault in every view
}

const tick = 100 * time.Millisecond

func newStage(t *testing.T) *stage {
	return &stage{t: t, c: LeaderConfig{Times: Timeouts(time.Second), MinWorkers: 1, Protocol: 1}, state: New(), twin: New()}
}

func (s *stage) lead(node string) {
	s.c.Node = node
	s.leader = NewLeader(s.c, s.state, s.now)
}

func (s *stage) actor(name string) *actor {
	for _, a := range s.actors {
		if a.name == name {
			return a
		}
	}
	s.t.Fatalf("no worker %q", name)
	return nil
}

func (s *stage) start(name string, o map[string]string) {
	i := slices.IndexFunc(s.actors, func(a *actor) bool { return a.name == name })
	if i < 0 {
		i = len(s.actors)
		s.actors = append(s.actors, &actor{name: name})
	}
	a := s.actors[i]
	pid, id, hello := a.pid, a.id, a.hello
	*a = actor{name: name, alive: true, pid: pid + 100, shardSeconds: max(atof(o["speed"]), usualShard)}
	or := func(key, otherwise string) string {
		if v := o[key]; v != "" {
			return v
		}
		return otherwise
	}
	a.hello = Hello{Protocol: uint32(atoi(o["protocol"], 1)), Version: or("version", "1.0"), Host: or("host", or("host", hello.Host)), Device: or("device", or("device", hello.Device)),
		Address: "host:" + name, PID: a.pid, Name: "worker " + name, Previous: id,
		Data: Dataset{TrainSHA256: or("train", "aaaa"), ValSHA256: "bbbb", TrainImages: uint32(atoi(o["images"], 100)), ValImages: 50, Classes: uint32(atoi(o["classes"], 100)), Directory: "/data"}}
	if a.hello.Host == "" {
		a.hello.Host = "a"
	}
	if a.hello.Device == "" {
		a.hello.Device = "cpu:" + name
	}
	a.hello.Machine = a.hello.Host
	s.arrive(a)
}

func (s *stage) arrive(a *actor) {
	if a.id != 0 {
		a.hello.Previous = a.id
	}
	r := s.leader.Arrive(s.now, s.state, a.hello)
	switch {
	case r.Refusal != nil:
		s.print("%6.1f worker %s is refused (%s): %s; %s", s.now.Seconds(), a.name, r.Refusal.Kind, r.Refusal.Text, r.Refusal.Advice)
		a.alive, a.id = false, 0
		return
	case r.Resume != 0:
		a.id = r.Resume
	}
	for i, c := range r.Commands {
		if res := s.apply(c); i == len(r.Commands)-1 {
			a.id = res.Worker
		}
	}
	a.session = s.leader.Connected(s.now, a.id)
	a.st.View = 0
	if a.st.Phase == Loading {
		a.st.Phase = Ready
	}
	s.leader.Heard(s.now, a.id, a.st)
}

// apply puts a command through the log, and through a twin that must end up the same.
func (s *stage) apply(c Command) Result {
	s.index++
	c.Time = int64(1e18) + int64(s.now)
	text, err := json.Marshal(c)
	if err != nil {
		s.t.Fatalf("encode %+v: %v", c, err)
	}
	var d Command
	if err := json.Unmarshal(text, &d); err != nil {
		s.t.Fatal(err)
	}
	r := s.state.Apply(s.index, c)
	s.twin.Apply(s.index, d)
	if r.Err != nil {
		s.print("%6.1f refused: %v", s.now.Seconds(), r.Err)
	}
	for _, e := range r.Events {
		mark := " "
		if e.Warning {
			mark = "!"
		}
		extra := ""
		if e.DetectSeconds > 0 {
			extra += fmt.Sprintf(" [noticed after %s]", seconds(e.DetectSeconds))
		}
		if e.Advice != "" {
			extra += " (" + e.Advice + ")"
		}
		s.print("%6.1f%s%-10s %s%s", s.now.Seconds(), mark, e.Topic, e.Text, extra)
	}
	if r.View {
		s.view()
	}
	if c.Leave != nil && r.Refusal != nil {
		for _, a := range s.actors {
			if a.id == c.Leave.Worker {
				a.refused = string(r.Refusal.Kind)
			}
		}
	}
	return r
}

func (s *stage) view() {
	v := s.state.View
	text := fmt.Sprintf("       view %d:", v.Number)
	for _, m := range v.Members {
		text += fmt.Sprintf(" %s%v", strings.TrimPrefix(s.state.Worker(m.Worker).short(), "worker "), m.Shards)
	}
	if len(v.Members) == 0 {
		text += " nobody, waiting for " + v.Waiting
	}
	if v.Save {
		text += " saves"
	}
	s.print("%s", text)
}

// settle lets the leader decide until it has nothing to say.
func (s *stage) settle() {
	for range 20 {
		commands := s.leader.Decide(s.now, s.state)
		if len(commands) == 0 {
			s.compare()
			return
		}
		for _, c := range commands {
			s.apply(c)
		}
	}
	s.t.Errorf("at %v the leader does not come to rest", s.now)
}

func (s *stage) compare() {
	a, err := json.Marshal(s.state)
	if err != nil {
		s.t.Fatal(err)
	}
	if b, _ := json.Marshal(s.twin); !bytes.Equal(a, b) {
		s.t.Fatalf("two replicas differ:\n%s\n%s", a, b)
	}
}

// step lets a tick go by.
func (s *stage) step() {
	s.now += tick
	v := &s.state.View
	job := s.state.Job(v.Job)
	for _, a := range s.actors {
		if !a.alive || a.stopped {
			continue
		}
		switch a.refused { // its session was closed: it finds out when it runs
		case "fenced":
			a.refused = ""
			s.arrive(a)
		case "drained", "finished":
			s.print("%6.1f worker %s exits: %s", s.now.Seconds(), a.name, a.refused)
			a.alive = false
		}
	}
	whole := job != nil && len(v.Members) > 0
	var in []*actor
	target := uint64(0)
	found := false
	for _, m := range v.Members {
		i := slices.IndexFunc(s.actors, func(a *actor) bool { return a.id == m.Worker && a.alive && !a.stopped && a.refused == "" })
		if i < 0 {
			whole = false
			continue
		}
		a := s.actors[i]
		in = append(in, a)
		if a.st.Job == v.Job && a.st.CaughtUp && a.st.Update >= v.Committed {
			target, found = max(target, a.st.Update), true
		}
	}
	for _, a := range in {
		m := v.member(a.id)
		a.st.Fault = nil
		if a.st.View != v.Number {
			a.st.View, a.st.Phase, a.saved = v.Number, Computing, false
			switch {
			case !found && a.st.Job != v.Job || !found:
				a.st.Job, a.st.CaughtUp, a.st.Update = v.Job, true, v.CheckpointUpdate
			case a.st.Job == v.Job && a.st.CaughtUp && a.st.Update == target:
			default:
				a.st.Job, a.st.CaughtUp, a.st.Update, a.copying = v.Job, false, 0, 3
			}
		} else if !a.st.CaughtUp {
			if a.copying--; a.copying <= 0 {
				a.st.CaughtUp, a.st.Update = true, target
			}
		}
		if a.pretendsToBreak != "" {
			suspect := s.actor(a.pretendsToBreak).id
			a.st.Fault = &Fault{View: v.Number, Suspect: suspect, Kind: "checksum", Text: "a chunk does not have its checksum"}
			whole = false
		}
		whole = whole && (a.st.CaughtUp || len(m.Shards) == 0) && !a.stuck
	}
	if whole && v.Save {
		if !in[0].saved {
			in[0].saved = true
			s.save(job)
		}
		whole = false
	}
	if s.crowd > 0 && len(in) > 0 {
		waiting := slices.MaxFunc(in, func(a, b *actor) int { return len(v.member(a.id).Shards) - len(v.member(b.id).Shards) })
		for _, a := range in {
			a.skew = 0
		}
		waiting.skew = s.crowd
	}
	step, over := 0.0, 0.0
	for _, a := range in {
		if n := float64(len(v.member(a.id).Shards)); n > 0 {
			step = max(step, a.shardSeconds*n)
			over = max(over, (a.shardSeconds-usualShard)*n+a.skew)
		}
	}
	stepped := s.owed <= 0
	if s.owed--; whole && stepped {
		s.owed = over / (2 * usualShard)
	}
	for _, a := range in {
		switch {
		case !whole:
			if !a.stuck {
				a.st.Phase = Reducing
			}
		case a.st.CaughtUp && a.st.Update < job.Updates():
			if stepped {
				a.st.Update++
			}
			a.st.Phase = Computing
		case a.st.CaughtUp:
			a.st.Finished = true
			a.st.Outcome = &Outcome{BestTop1: 44.02, BestTop5: 73.5, BestEpoch: 2, Epochs: job.Plan.Epochs}
		}
		if !a.stuck && whole {
			a.st.Progress++
		}
		if steps := job.steps(); steps > 0 && a.st.CaughtUp {
			a.st.Validated = uint32(a.st.Update / steps)
			a.st.Ledger = ledgerOf(job, a.st.Update)
		}
		a.st.StepSeconds, a.st.ArrivalSkew, a.st.InboundDelay = step, a.skew, a.inbound
		if len(v.member(a.id).Shards) > 0 {
			a.st.ShardSeconds = a.shardSeconds
		}
	}
	for _, a := range s.actors {
		if !a.alive || a.stopped || a.refused != "" || a.id == 0 {
			continue
		}
		if v.member(a.id) == nil {
			a.st.Phase, a.st.View = Ready, v.Number
			if v.Job != a.st.Job {
				a.st = Status{Phase: Ready, View: v.Number, Leaving: a.st.Leaving}
			}
		}
		s.leader.Heard(s.now, a.id, a.st)
	}
	s.settle()
}

// ledgerOf is what a worker reports that has done so many updates: the epoch under way and the one before.
func ledgerOf(j *Job, update uint64) []LedgerEntry {
	steps := j.steps()
	var out []LedgerEntry
	for e := uint64(0); e < uint64(j.Plan.Epochs); e++ {
		start := e * steps
		if update <= start || update > start+2*steps {
			continue
		}
		to := min(update, start+steps)
		x := LedgerEntry{Epoch: uint32(e), From: start, To: to, Images: j.images(start, start, to)}
		for id := range x.Images {
			x.Hash += Fingerprint(int32(id))
		}
		out = append(out, x)
	}
	return out
}

// save is a checkpoint of the newest state, brought to the coordinators.
func (s *stage) save(j *Job) {
	update := uint64(0)
	for _, a := range s.actors {
		if a.alive && a.st.Job == j.ID && a.st.CaughtUp {
			update = max(update, a.st.Update)
		}
	}
	name := fmt.Sprintf("update-%08d", update)
	path := "checkpoints/" + name + "/manifest.json"
	s.apply(Command{File: &File{Job: j.ID, Node: "a", File: FileState{Path: path, Size: 10, SHA256: "cc"}}})
	r := s.apply(Command{Checkpoint: &Checkpoint{Job: j.ID, Name: name, Update: update, Files: []string{path}}})
	for _, f := range r.Dropped {
		s.print("       not needed any more: %s", f)
	}
}
