package worker

import (
	"fmt"
	"strings"
	"sync"
	"time"

	"mp/metrics"
	"mp/mppb"
)

// Facts is what the node knows of itself. Safe for concurrent use, before Run too.
func (n *Node) Facts() metrics.WorkerFacts {
	s := n.session.Load()
	if s == nil {
		return metrics.WorkerFacts{Phase: phaseName(mppb.Phase_LOADING)}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.status
	return metrics.WorkerFacts{
		Joined: s.lost.IsZero(), Worker: s.identity, Phase: phaseName(st.Phase), Job: st.Job, Update: st.Update, View: st.View, Beats: s.progress.Load(),
		Memory: st.MemoryBytes, Shard: st.ShardSeconds, Skew: st.ArrivalSkew, PerStep: st.StepSeconds,
		GPU: gpuOf(n.c.Device),
	}
}

func phaseName(p mppb.Phase) string { return strings.ToLower(p.String()) }

// stillAfter is how long a worker may show no sign of work while it works before it counts as stuck: far longer than the
// cluster waits for it, which takes a stuck worker out and lets it come back.
const stillAfter = 2 * time.Minute

// Alive says whether the node's loop turns: there is a sign of work, or a change of what is done, within two minutes wherever
// there is work; nil before Run. Safe for concurrent use.
func (n *Node) Alive() error {
	s := n.session.Load()
	if s == nil {
		return nil
	}
	s.mu.Lock()
	now := sign{s.progress.Load(), s.posted}
	phase := s.status.Phase
	s.mu.Unlock()
	return n.pulse.feel(now, phase, time.Now())
}

// sign is what grows as long as the loop turns.
type sign struct{ beats, posts uint64 }

// pulse remembers when a sign was last another than before. Safe for concurrent use.
type pulse struct {
	mu   sync.Mutex
	last sign
	at   time.Time
}

// feel says whether the loop has stood still for too long.
func (p *pulse) feel(now sign, phase mppb.Phase, at time.Time) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch phase {
	case mppb.Phase_LOADING, mppb.Phase_READY, mppb.Phase_PAUSED: // it waits for others
		p.last, p.at = now, at
		return nil
	}
	if now != p.last || p.at.IsZero() {
		p.last, p.at = now, at
		return nil
	}
	if still := at.Sub(p.at); still > stillAfter {
		return fmt.Errorf("no sign of work for %s while %s", still.Round(time.Second), phaseName(phase))
	}
	return nil
}
