package coordinator

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// core is one life of raft in this node, with its connections and its reigns. It ends with the node, or when raft has lost
// its disk for a while: then another begins on the same log, as after a crash.
type core struct {
	raft      *raft.Raft
	transport *raft.NetworkTransport
	wire      *wire
	notify    chan bool // raft says whether this node leads
	replay    uint64    // entries of the log up to here are from before this life
}

// startCore opens the snapshots and starts raft on them.
func (c *Coordinator) startCore() (_ *core, err error) {
	logger := newRaftLogger(c.log)
	snapshots, err := raft.NewFileSnapshotStoreWithLogger(c.cfg.DataDir, 2, logger)
	if err != nil {
		return nil, fmt.Errorf("open the snapshots in %s: %w", c.cfg.DataDir, err)
	}
	k := &core{wire: newWire(c), notify: make(chan bool, 64)}
	if k.replay, err = c.logs.LastIndex(); err != nil {
		return nil, fmt.Errorf("read the raft log in %s: %w", c.cfg.DataDir, err)
	}
	election := c.times.Election
	k.transport = raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
		ServerAddressProvider: k.wire, Logger: logger, Stream: k.wire, MaxPool: 3, Timeout: max(2*election, 500*time.Millisecond), MsgpackUseNewTimeFormat: true,
	})
	defer func() {
		if err != nil {
			k.stop(c)
		}
	}()
	cfg := raft.DefaultConfig()
	cfg.LocalID, cfg.Logger, cfg.NotifyCh = raft.ServerID(c.cfg.ID), logger, k.notify
	cfg.HeartbeatTimeout, cfg.ElectionTimeout, cfg.LeaderLeaseTimeout = election, election, election
	if len(c.peers()) == 1 { // nobody else can lead: do not wait for somebody
		cfg.HeartbeatTimeout, cfg.ElectionTimeout, cfg.LeaderLeaseTimeout = 20*time.Millisecond, 20*time.Millisecond, 20*time.Millisecond
	}
	cfg.CommitTimeout = min(50*time.Millisecond, election/4)
	cfg.SnapshotInterval, cfg.SnapshotThreshold, cfg.TrailingLogs = 30*time.Second, 8192, 4096
	cfg.NoLegacyTelemetry = true
	cache, err := raft.NewLogCache(512, c.logs)
	if err != nil {
		return nil, err
	}
	known, err := raft.HasExistingState(cache, c.logs, snapshots)
	if err != nil {
		return nil, fmt.Errorf("read the raft log in %s: %w", c.cfg.DataDir, err)
	}
	if !known {
		var all raft.Configuration
		for _, p := range c.peers() {
			all.Servers = append(all.Servers, raft.Server{ID: raft.ServerID(p.ID), Address: raft.ServerAddress(p.Address)})
		}
		if err := raft.BootstrapCluster(cfg, cache, c.logs.logs, snapshots, k.transport, all); err != nil {
			return nil, fmt.Errorf("begin a cluster in %s: %w", c.cfg.DataDir, err)
		}
	}
	if k.raft, err = raft.NewRaft(cfg, c.fsm, cache, c.logs, snapshots, k.transport); err != nil {
		return nil, fmt.Errorf("start raft on %s: %w", c.cfg.DataDir, err)
	}
	if err := c.checkMembers(k.raft); err != nil {
		return nil, err
	}
	c.observe(k.raft)
	return k, nil
}

// stop ends raft without a word to anybody.
func (k *core) stop(c *Coordinator) {
	k.transport.Close()
	if k.raft != nil {
		if err := k.raft.Shutdown().Error(); err != nil {
			c.log.Debug("raft did not stop in order", "error", err)
		}
	}
}

// run leads whenever raft says so, until ctx ends.
func (k *core) run(ctx context.Context, c *Coordinator) {
	var wg sync.WaitGroup
	defer wg.Wait()
	silent := make(chan bool)
	wg.Go(func() { k.watchDisk(ctx, c, silent) })
	k.reignWhenLeader(ctx, c, silent)
}

// checkMembers compares the list of coordinators with the one that the log holds.
func (c *Coordinator) checkMembers(r *raft.Raft) error {
	future := r.GetConfiguration()
	if err := future.Error(); err != nil {
		return fmt.Errorf("read the list of coordinators in %s: %w", c.cfg.DataDir, err)
	}
	var stored, given []string
	for _, s := range future.Configuration().Servers {
		stored = append(stored, string(s.ID))
	}
	for _, p := range c.peers() {
		given = append(given, p.ID)
	}
	slices.Sort(stored)
	slices.Sort(given)
	if !slices.Equal(stored, given) {
		return fmt.Errorf("%w: the data directory %s belongs to a cluster of %s, and this node was told %s: give it the same IDs, or another data directory",
			ErrConfig, c.cfg.DataDir, strings.Join(stored, ", "), strings.Join(given, ", "))
	}
	return nil
}

// reignWhenLeader runs a reign whenever raft says that this node leads and its disk answers, until ctx ends.
func (k *core) reignWhenLeader(ctx context.Context, c *Coordinator, silent <-chan bool) {
	var wg sync.WaitGroup
	end := func() {}
	for {
		leads := false
		select {
		case leads = <-k.notify:
		case hangs := <-silent:
			// When the disk answers again raft may not have noticed that it was cut off, and say nothing: then it still leads.
			leads = !hangs && k.raft.State() == raft.Leader
		case <-ctx.Done():
			end()
			wg.Wait()
			return
		}
		end()
		wg.Wait()
		end = func() {}
		if leads {
			var term context.Context
			term, end = context.WithCancel(ctx)
			wg.Go(func() { newReign(c, k.raft).run(term) })
		}
	}
}

// watchDisk cuts this node off from the others while its disk does not answer: raft writes its log in the goroutine that
// would step down, but not in those that tell the others that the leader lives, so they would wait for ever.
func (k *core) watchDisk(ctx context.Context, c *Coordinator, silent chan<- bool) {
	if len(c.peers()) == 1 {
		return // there is nobody who could lead instead
	}
	tick := time.NewTicker(c.times.FailAfter / 4)
	defer tick.Stop()
	muted := false
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		hangs := c.logs.hanging()
		if now := hangs > c.times.FailAfter; now != muted {
			muted = now
			k.wire.mute(muted)
			if muted {
				c.log.Error("the disk does not answer: this coordinator keeps silent, so that another leads",
					"directory", c.cfg.DataDir, "since", hangs.Round(time.Millisecond), keyAdvice, "look at the disk under "+c.cfg.DataDir)
			} else {
				c.log.Info("the disk answers again", "directory", c.cfg.DataDir)
			}
			select {
			case silent <- muted:
			case <-ctx.Done():
				return
			}
		}
	}
}

// observe tells a person when another coordinator does not answer.
func (c *Coordinator) observe(r *raft.Raft) {
	var mu sync.Mutex // raft looks at each of the others in a goroutine of its own
	silent := map[raft.ServerID]bool{}
	change := func(id raft.ServerID, now bool) bool {
		mu.Lock()
		defer mu.Unlock()
		changed := silent[id] != now
		silent[id] = now
		return changed
	}
	r.RegisterObserver(raft.NewObserver(nil, false, func(o *raft.Observation) bool {
		switch d := o.Data.(type) {
		case raft.FailedHeartbeatObservation:
			if change(d.PeerID, true) {
				c.log.Warn("a coordinator does not answer", keyNode, string(d.PeerID))
			}
		case raft.ResumedHeartbeatObservation:
			if change(d.PeerID, false) {
				c.log.Info("a coordinator answers again", keyNode, string(d.PeerID))
			}
		case raft.LeaderObservation:
			c.counts.leads(string(d.LeaderID))
			if d.LeaderID != "" && string(d.LeaderID) != c.cfg.ID {
				c.log.Info("this coordinator follows", keyNode, string(d.LeaderID))
			}
		}
		return false // nothing is to be delivered
	}))
}
