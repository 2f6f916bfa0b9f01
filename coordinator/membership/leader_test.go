package membership

import (
	"testing"
	"time"
)

// court is a State with a Leader, without actors: every Status is the test's own.
type court struct {
	t     *testing.T
	s     *State
	l     *Leader
	now   time.Duration
	index uint64
}

// newCourt has workers of ids 10 and 11 in view 1 of job-1 (see running), both connected, with the state of update 0.
func newCourt(t *testing.T) (c *court, sessions [2]uint64) {
	s, _ := running(t)
	c = &court{t: t, s: s, now: time.Second, index: s.Index}
	c.l = NewLeader(LeaderConfig{Times: Timeouts(time.Second), MinWorkers: 1, Protocol: 1}, s, c.now)
	for i, id := range []uint64{10, 11} {
		sessions[i] = c.l.Connected(c.now, id)
		c.say(id, Status{CaughtUp: true, Phase: Computing})
	}
	c.settle()
	return c, sessions
}

func (c *court) say(id uint64, st Status) bool {
	st.Job, st.View = "job-1", c.s.View.Number
	return c.l.Heard(c.now, id, st)
}

func (c *court) apply(cmd Command) Result {
	c.t.Helper()
	c.index++
	r := c.s.Apply(c.index, cmd)
	if r.Err != nil {
		c.t.Fatalf("%+v: %v", cmd, r.Err)
	}
	return r
}

// settle lets the leader decide until it is content, and returns what it decided.
func (c *court) settle() (all []Command) {
	c.t.Helper()
	for range 20 {
		commands := c.l.Decide(c.now, c.s)
		if len(commands) == 0 {
			return all
		}
		for _, cmd := range commands {
			c.apply(cmd)
		}
		all = append(all, commands...)
	}
	c.t.Fatal("the leader does not come to rest")
	return nil
}

func TestASessionThatWasReplacedEndsUnnoticed(t *testing.T) {
	c, sessions := newCourt(t)
	c.l.Connected(c.now, 10)
	c.l.Disconnected(c.now, 10, sessions[0], "connection reset")
	if got := c.settle(); len(got) != 0 {
		t.Errorf("the end of an older session leads to %+v", got)
	}
	c.l.Disconnected(c.now, 11, sessions[1], "connection reset")
	if got := c.settle(); len(got) != 2 || got[0].Leave == nil || got[0].Leave.Worker != 11 || got[1].SetView == nil {
		t.Errorf("the end of the session leads to %+v, want a Leave and a SetView", got)
	}
}

func TestWhoComesBackAfterAChangeOfLeaderKeepsItsName(t *testing.T) {
	c, _ := newCourt(t)
	c.l = NewLeader(c.l.c, c.s, c.now)
	h := hello("a", "cpu:0")
	h.Previous = 10
	if a := c.l.Arrive(c.now, c.s, h); a.Resume != 10 {
		t.Errorf("worker 10 comes back: got %+v, want it to resume", a)
	}
	h.PID++
	if a := c.l.Arrive(c.now, c.s, h); a.Resume != 0 || len(a.Commands) != 2 || a.Commands[0].Leave == nil || a.Commands[1].Join == nil {
		t.Errorf("another process has its device: got %+v, want a Leave and a Join", a)
	}
}

func TestALeaderThatWasStoppedBlamesNobody(t *testing.T) {
	c, _ := newCourt(t)
	c.now += time.Minute // SIGSTOP, SIGCONT
	if got := c.settle(); len(got) != 0 {
		t.Errorf("after a minute without the processor the leader decides %+v", got)
	}
	for range 12 { // and now they are silent indeed
		c.now += 100 * time.Millisecond
		c.l.Decide(c.now, c.s)
	}
	if got := c.settle(); len(got) == 0 || got[0].Leave == nil || got[0].Leave.Cause != Silent {
		t.Errorf("after 1.2 s of silence the leader decides %+v", got)
	}
}

func TestDrainingSavesTheNewestStateThereIs(t *testing.T) {
	c, _ := newCourt(t)
	c.say(10, Status{CaughtUp: true, Update: 2, Phase: Computing})
	c.say(11, Status{CaughtUp: false, Phase: Copying})
	c.apply(Command{Steer: &Steer{Job: "job-1", Verb: Drain}})
	c.settle()
	if v := c.s.View; !v.Save || len(v.Members) != 1 || v.Members[0].Worker != 10 {
		t.Fatalf("view %+v, want worker 10 to save", v)
	}
	c.say(11, Status{CaughtUp: true, Update: 3, Phase: Ready}) // it had it before it heard of the view
	c.settle()
	if v := c.s.View; !v.Save || len(v.Members) != 2 {
		t.Fatalf("view %+v, want both, because worker 11 has a newer state", v)
	}
	for _, id := range []uint64{10, 11} {
		c.say(id, Status{CaughtUp: true, Update: 3, Phase: Paused})
	}
	c.apply(Command{File: &File{Job: "job-1", Node: "a", File: FileState{Path: "u", SHA256: "x"}}})
	c.apply(Command{Checkpoint: &Checkpoint{Job: "job-1", Name: "update-00000003", Update: 3, Files: []string{"u"}}})
	c.settle()
	if j := c.s.Job("job-1"); j.State != JobPaused || !j.Parked {
		t.Errorf("the job is %s, want it paused without a place", j.State)
	}
}

func TestProgressIsWhatAllHave(t *testing.T) {
	c, _ := newCourt(t)
	c.say(10, Status{CaughtUp: true, Update: 3})
	c.say(11, Status{CaughtUp: true, Update: 2})
	c.now += 100 * time.Millisecond
	c.settle()
	if c.s.Jobs[0].Update != 2 {
		t.Errorf("update %d is recorded while one has 3 and the other 2", c.s.Jobs[0].Update)
	}
	// Whoever has not come back to a new leader may have less than others say.
	c.l = NewLeader(c.l.c, c.s, c.now)
	c.l.Connected(c.now, 10)
	c.say(10, Status{CaughtUp: true, Update: 4})
	c.now += 100 * time.Millisecond
	c.settle()
	if c.s.Jobs[0].Update != 2 {
		t.Errorf("update %d is recorded while one has not been heard", c.s.Jobs[0].Update)
	}
}

func TestAWorkerThatHeartbeatsIsNotUrgent(t *testing.T) {
	c, _ := newCourt(t)
	c.say(10, Status{CaughtUp: true, Phase: Computing, Update: 1})
	for what, st := range map[string]Status{"an update": {Update: 2}, "a phase": {Phase: Reducing}, "progress": {Progress: 7}} {
		st.CaughtUp = true
		if c.say(10, st) {
			t.Errorf("%s is urgent", what)
		}
	}
	for what, st := range map[string]Status{"leaving": {Leaving: true}, "a failure": {Failure: "x"}, "the end": {Finished: true}, "a fault": {Fault: &Fault{View: 1, Suspect: 11}}} {
		st.CaughtUp = true
		if !c.say(10, st) {
			t.Errorf("%s is not urgent", what)
		}
	}
}

func TestTimeoutsKeepTheirPromises(t *testing.T) {
	x := Timeouts(time.Second)
	if silence := x.FailAfter + x.Heartbeat; silence > 1500*time.Millisecond {
		t.Errorf("silence is noticed after %v, promised are 1.5 s", silence)
	}
	if x.Election+x.Election > 2*time.Second || x.Grace < x.Election || x.PauseAfter < x.Grace || x.FaultWait+x.Heartbeat > 200*time.Millisecond || x.Drain > 10*time.Second {
		t.Errorf("%+v: promised are a new leader within 2 s, a broken ring within 0.2 s, a drain within 10 s", x)
	}
}
