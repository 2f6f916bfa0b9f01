package sim

import (
	"encoding/json"
	"fmt"
	"time"

	"mp/coordinator/membership"
)

// Crowd is a State, a Leader and many workers who do nothing but speak, so that the cost of the control plane can be measured.
// Every command is encoded and decoded on its way, as through the raft log; the network and the disk are not there. Not safe
// for concurrent use.
type Crowd struct {
	State *membership.State

	leader  *membership.Leader
	index   uint64
	now     time.Duration
	update  uint64
	members []member
	steps   uint64 // of an epoch
	batch   uint64
	ledger  membership.LedgerEntry // of the epoch under way
}

// member is a worker of the crowd.
type member struct {
	id, session uint64
	device      int
}

// NewCrowd lets so many workers, eight a machine, train a job of as many shards.
func NewCrowd(workers int) (*Crowd, error) {
	c := &Crowd{State: membership.New(), steps: 100, batch: uint64(workers)}
	c.leader = membership.NewLeader(membership.LeaderConfig{Times: membership.Timeouts(time.Second), MinWorkers: 1, Protocol: 1, Node: "coordinator-1"}, c.State, 0)
	spec := fmt.Appendf(nil, `{"shards":%d,"batch-size":%d,"epochs":1000000}`, workers, workers)
	if r := c.apply(membership.Command{Submit: &membership.Submit{Spec: spec}}); r.Err != nil {
		return nil, r.Err
	}
	for i := range workers {
		if err := c.join(i); err != nil {
			return nil, err
		}
	}
	for range 50 {
		if err := c.Step(); err != nil {
			return nil, err
		}
	}
	if n := len(c.State.View.Members); n != workers || c.update == 0 {
		return nil, fmt.Errorf("%d of %d workers came into a view, and %d updates were done", n, workers, c.update)
	}
	return c, nil
}

func (c *Crowd) join(device int) error {
	host := fmt.Sprintf("host-%03d", device/8)
	h := membership.Hello{Protocol: 1, Version: "1.0", Host: host, Machine: fmt.Sprintf("%032x", device/8), Device: fmt.Sprintf("cuda:%d", device%8), Address: fmt.Sprintf("10.0.%d.%d:7071", device/8, device%8),
		UnixSocket: fmt.Sprintf("/tmp/mp-worker-%d.sock", device), PID: uint32(1000 + device), Name: fmt.Sprintf("worker %d", device),
		Data: membership.Dataset{TrainSHA256: "t", ValSHA256: "v", TrainImages: uint32(c.batch * c.steps), ValImages: 1000, Classes: 100}}
	a := c.leader.Arrive(c.now, c.State, h)
	if a.Refusal != nil || len(a.Commands) == 0 {
		return fmt.Errorf("worker %d is not let in: %+v", device, a)
	}
	var r membership.Result
	for _, command := range a.Commands {
		r = c.apply(command)
	}
	if r.Err != nil {
		return r.Err
	}
	c.members = append(c.members, member{r.Worker, c.leader.Connected(c.now, r.Worker), device})
	return nil
}

// apply sends a command through an encoder and back.
func (c *Crowd) apply(command membership.Command) membership.Result {
	c.index++
	text, err := json.Marshal(command)
	if err != nil {
		return membership.Result{Err: err}
	}
	var back membership.Command
	if err := json.Unmarshal(text, &back); err != nil {
		return membership.Result{Err: err}
	}
	return c.State.Apply(c.index, back)
}

// decide lets the leader decide until it is content.
func (c *Crowd) decide() error {
	for range 100 {
		commands := c.leader.Decide(c.now, c.State)
		if len(commands) == 0 {
			return nil
		}
		for _, command := range commands {
			if r := c.apply(command); r.Err != nil {
				return r.Err
			}
		}
	}
	return fmt.Errorf("the leader does not come to rest")
}

// work does an update.
func (c *Crowd) work() {
	if e := &c.ledger; c.update%c.steps == 0 {
		*e = membership.LedgerEntry{Epoch: uint32(c.update / c.steps), From: c.update, To: c.update}
	}
	c.update++
	for range c.batch {
		c.ledger.Hash += membership.Fingerprint(int32(c.ledger.Images))
		c.ledger.Images++
	}
	c.ledger.To = c.update
}

// Step lets 100 ms go by in which every worker does an update and sends one status.
func (c *Crowd) Step() error {
	v := &c.State.View
	going := len(v.Members) > 0
	if going {
		c.work()
	}
	ledger := []membership.LedgerEntry{c.ledger}
	for i := range c.members {
		c.now += 100 * time.Millisecond / time.Duration(len(c.members))
		st := membership.Status{Job: v.Job, View: v.Number, Phase: membership.Ready, Progress: c.update, CaughtUp: going}
		if going {
			st.Phase, st.Update, st.ShardSeconds, st.StepSeconds, st.Ledger = membership.Computing, c.update, 0.08+0.0001*float64(i%10), 0.1, ledger
		}
		if c.leader.Heard(c.now, c.members[i].id, st) && i == len(c.members)-1 {
			break
		}
	}
	return c.decide()
}

// Lose kills a worker: its session breaks, and the view without it is committed. Another one takes the device and joins later.
func (c *Crowd) Lose(i int) error {
	before := c.State.View.Number
	m := c.members[i]
	c.leader.Disconnected(c.now, m.id, m.session, "connection reset")
	if err := c.decide(); err != nil {
		return err
	}
	if c.State.View.Number != before+1 || len(c.State.View.Members) >= len(c.members) {
		return fmt.Errorf("view %d of %d members follows view %d after a death", c.State.View.Number, len(c.State.View.Members), before)
	}
	c.members = append(c.members[:i], c.members[i+1:]...)
	return c.join(m.device)
}
