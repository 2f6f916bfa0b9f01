package coordinator

import (
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"
)

// Ready returns nil while this node is a member that is there: it leads, or it hears a leader and has taken in all of the log
// that is known to be committed. Otherwise it says what is missing. It may be called at any time from any goroutine.
//
// It says nothing of whether this node leads: a cluster whose followers counted as absent could never be restarted one by
// one.
func (c *Coordinator) Ready() error {
	k := c.core.Load()
	if k == nil {
		return errors.New("raft does not run: it starts, or the disk is full")
	}
	if hangs := c.logs.hanging(); hangs > c.times.FailAfter {
		return fmt.Errorf("the disk has not answered for %s", hangs.Round(time.Millisecond))
	}
	if k.raft.State() == raft.Leader {
		if c.Leads() {
			return nil
		}
		return errors.New("this node leads but has not begun to decide")
	}
	if id, _ := c.Leader(); id == "" {
		return errors.New("no coordinator leads")
	}
	if silent := time.Since(k.raft.LastContact()); silent > c.times.FailAfter {
		return fmt.Errorf("the leader has not been heard for %s", silent.Round(time.Millisecond))
	}
	if has, knows := k.raft.AppliedIndex(), k.raft.CommitIndex(); has < knows {
		return fmt.Errorf("%d of %d entries of the log are taken in", has, knows)
	}
	return nil
}
