package cmd

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"mp/coordinator/membership"
	"mp/mppb"
)

// crowdStep is the time that an update takes the crowd.
const crowdStep = 100 * time.Millisecond

// crowd is many understudies who train together: they go on from update to update for as long as all of a view have it and
// none of its members is gone, and report a broken ring when one is.
type crowd struct {
	address   string
	failAfter time.Duration
	shards    int
	data      *mppb.Dataset
	arrived   atomic.Uint64 // bytes, at all of them
	wait      sync.WaitGroup

	mu      sync.Mutex
	all     map[*understudy]bool   // alive
	byID    map[uint64]*understudy // of these, who was welcomed
	slots   int                    // given out
	view    *mppb.View             // the newest that any has
	members map[uint64]bool        // of view
	lacking map[uint64]bool        // of these alive, who does not have it yet
	firstAt time.Time              // when the first had it
	allAt   time.Time              // when the last had it; zero: some lack it
	views   int                    // seen
	update  uint64
	ledger  []*mppb.LedgerEntry
	beat    time.Duration // of view
	lost    []string      // sessions that ended without anybody being killed, and why
	refused int           // connections and sessions that were not opened at the first try
	changed chan struct{} // closed and replaced at every change
}

// stepsOfEpoch is how many updates an epoch of the crowd has.
const stepsOfEpoch = 100

func newCrowd(address string, failAfter time.Duration, shards int) *crowd {
	return &crowd{
		address: address, failAfter: failAfter, shards: shards, all: map[*understudy]bool{}, byID: map[uint64]*understudy{}, view: &mppb.View{}, changed: make(chan struct{}),
		data: &mppb.Dataset{TrainSha256: fmt.Sprintf("%064x", 1), ValSha256: fmt.Sprintf("%064x", 2), TrainImages: uint32(shards * stepsOfEpoch), ValImages: uint32(shards), Classes: 100,
			Directory: "/data/miniplaces"},
	}
}

// tell wakes whoever waits for a change. c.mu is held.
func (c *crowd) tell() {
	close(c.changed)
	c.changed = make(chan struct{})
}

// until waits until so is true, which is called with c.mu held.
func (c *crowd) until(ctx context.Context, what string, so func() bool) error {
	const patience = 2 * time.Minute
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		c.mu.Lock()
		done, changed, lost := so(), c.changed, len(c.lost)
		story := fmt.Sprintf("view %d, %d members, %d without it, %d alive, update %d", c.view.Number, len(c.members), len(c.lacking), len(c.all), c.update)
		if lost > 0 {
			story += fmt.Sprintf("; %d sessions ended by themselves, the first: %s", lost, c.lost[0])
		}
		c.mu.Unlock()
		if done {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("%s: %w (%s)", what, ctx.Err(), story)
		}
	}
}

// connection is an open line to the coordinator for one understudy or several.
type connection struct {
	conn *grpc.ClientConn
	wire *metred
}

func (c *crowd) connect() (connection, error) {
	wire := &metred{arrived: &c.arrived}
	conn, err := mppb.Connect(mppb.ClientConfig{FailAfter: c.failAfter, Dial: wire.dial}, c.address)
	return connection{conn, wire}, err
}

// add lets so many more join, in groups that share a connection.
func (c *crowd) add(ctx context.Context, count, group int) error {
	for count > 0 {
		line, err := c.connect()
		if err != nil {
			return err
		}
		var users sync.WaitGroup
		for range min(group, count) {
			ctx, cancel := context.WithCancel(ctx)
			u := &understudy{crowd: c, conn: line.conn, stop: cancel, wake: make(chan struct{}, 1)}
			if group == 1 {
				u.wire = line.wire
			}
			c.mu.Lock()
			u.slot = c.slots
			c.slots++
			c.all[u] = true
			c.mu.Unlock()
			users.Add(1)
			c.wait.Go(func() {
				defer users.Done()
				defer cancel()
				u.belong(ctx)
			})
		}
		c.wait.Go(func() { users.Wait(); line.conn.Close() })
		count -= min(group, count)
	}
	return nil
}

func (c *crowd) welcome(u *understudy, w *mppb.Welcome) {
	c.mu.Lock()
	defer c.mu.Unlock()
	u.identity, u.beat = w.Worker, time.Duration(w.HeartbeatMs)*time.Millisecond
	c.byID[w.Worker] = u
	c.tell()
}

// lose notes that a session ended although nobody was killed.
func (c *crowd) lose(u *understudy, why error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if u.dead {
		return
	}
	if u.identity == 0 {
		c.refused++
		return
	}
	c.lost = append(c.lost, fmt.Sprintf("worker %d: %v", u.slot+1, why))
	c.part(u)
}

func (c *crowd) helloOf(u *understudy) *mppb.Hello {
	c.mu.Lock()
	defer c.mu.Unlock()
	return u.hello()
}

// bury takes one out of the living. c.mu is held.
func (c *crowd) bury(u *understudy) {
	u.dead = true
	delete(c.all, u)
	c.part(u)
}

// part takes one out of the rings; the ring of its view is broken. c.mu is held.
func (c *crowd) part(u *understudy) {
	u.view, u.fault, u.caught = 0, nil, false
	delete(c.byID, u.identity)
	if c.members[u.identity] {
		for id := range c.members {
			if o := c.byID[id]; o != nil && o.view == c.view.Number && o.fault == nil {
				o.fault = &mppb.Fault{View: o.view, Suspect: u.identity, Kind: "connection", Text: "connection reset"}
				o.speakUp()
			}
		}
	}
	c.has(u.identity)
	c.tell()
}

// kill ends the sessions of so many members at once, as the end of their processes does, and returns when that was.
func (c *crowd) kill(count int) time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	var ids []uint64
	for id := range c.members {
		if c.byID[id] != nil {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	at := time.Now()
	for i := range count {
		u := c.byID[ids[(i*len(ids)/count+len(ids)/3)%len(ids)]] // far from each other
		if u == nil {
			continue
		}
		if u.wire != nil {
			u.wire.current.Load().Close()
		}
		u.stop()
		c.bury(u)
	}
	return at
}

// take notes that one has a view. Whoever is the first decodes it for all.
func (c *crowd) take(u *understudy, o order) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if u.dead || o.view <= u.view {
		return nil
	}
	if o.view > c.view.Number {
		m := &mppb.ToWorker{}
		if err := proto.Unmarshal(o.raw, m); err != nil {
			return err
		}
		v, err := m.GetView().After(c.view)
		if err != nil {
			return err
		}
		c.view, c.firstAt, c.allAt = v, time.Now(), time.Time{}
		c.views++
		c.beat = time.Duration(c.view.HeartbeatMs) * time.Millisecond
		c.members, c.lacking = map[uint64]bool{}, map[uint64]bool{}
		for _, member := range c.view.Members {
			c.members[member.Worker] = true
			if c.byID[member.Worker] != nil {
				c.lacking[member.Worker] = true
			}
		}
		c.update = max(c.update, c.view.Committed)
	}
	u.view, u.fault = o.view, nil
	if o.view == c.view.Number {
		c.has(u.identity)
	}
	u.speakUp()
	return nil
}

// has notes that a member need not be waited for any more. c.mu is held.
func (c *crowd) has(identity uint64) {
	if c.allAt.IsZero() && len(c.members) > 0 {
		delete(c.lacking, identity)
		if len(c.lacking) > 0 {
			return
		}
		c.allAt = time.Now()
		for id := range c.members {
			if u := c.byID[id]; u != nil {
				u.speakUp()
			}
		}
		c.tell()
	}
}

// whole says whether all members of the newest view live and have it. c.mu is held.
func (c *crowd) whole() bool {
	if c.allAt.IsZero() || len(c.members) == 0 {
		return false
	}
	for id := range c.members {
		if c.byID[id] == nil {
			return false
		}
	}
	return true
}

// settled says whether everybody alive is in the newest view, has it and the state, and has shards. c.mu is held.
func (c *crowd) settled() bool {
	if !c.whole() || len(c.members) != len(c.all) {
		return false
	}
	for _, m := range c.view.Members {
		if len(m.Shards) == 0 && c.shards >= len(c.members) {
			return false
		}
	}
	return true
}

// run does an update every crowdStep until ctx ends.
func (c *crowd) run(ctx context.Context) {
	tick := time.NewTicker(crowdStep)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			c.step()
		case <-ctx.Done():
			return
		}
	}
}

func (c *crowd) step() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.whole() {
		return
	}
	first := c.update == c.view.Committed
	for id := range c.members {
		if u := c.byID[id]; !u.caught { // it begins with all others, or has copied the state meanwhile
			u.caught = true
			u.speakUp()
		} else if first {
			u.speakUp()
		}
	}
	n := len(c.ledger)
	if c.update%stepsOfEpoch == 0 || n == 0 {
		c.ledger = append(c.ledger[max(0, n-2):], &mppb.LedgerEntry{Epoch: uint32(c.update / stepsOfEpoch), From: c.update, To: c.update})
	}
	e := proto.CloneOf(c.ledger[len(c.ledger)-1])
	for range c.shards {
		e.Hash += membership.Fingerprint(int32(e.Images))
		e.Images++
	}
	c.update++
	e.To = c.update
	c.ledger = slices.Clone(c.ledger)
	c.ledger[len(c.ledger)-1] = e
	c.tell()
}

// statusOf is what one says of itself, and how long it may be silent then.
func (c *crowd) statusOf(u *understudy) (*mppb.Status, time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	beat := c.beat
	if u.view == 0 {
		beat = u.beat
	}
	return c.describe(u), beat
}

func (c *crowd) describe(u *understudy) *mppb.Status {
	st := &mppb.Status{Phase: mppb.Phase_READY, View: u.view, Progress: c.update, MemoryBytes: 8 << 30, Fault: u.fault}
	if u.view == 0 || u.view != c.view.Number || !c.members[u.identity] {
		return st
	}
	st.Job, st.Phase, st.CaughtUp = c.view.Job, mppb.Phase_FORMING, u.caught
	if u.caught {
		st.Update, st.Validated, st.Ledger, st.ShardSeconds, st.StepSeconds = c.update, uint32(c.update/stepsOfEpoch), c.ledger, crowdStep.Seconds(), crowdStep.Seconds()
	}
	if !c.allAt.IsZero() {
		st.Phase = mppb.Phase_COPYING
		if u.caught {
			st.Phase = mppb.Phase_COMPUTING
		}
	}
	return st
}
