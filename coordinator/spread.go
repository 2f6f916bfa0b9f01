package coordinator

import (
	"context"
	"time"

	"mp/coordinator/membership"
	"mp/mppb"
)

// This file is the leader's care for files, beside its loop: it records which coordinators have copied which files, and what
// else lies in the directory of a job that has ended, so that a run can be fetched from any of them.

// spread works until ctx ends.
func (r *reign) spread(ctx context.Context) {
	lastLook := map[string]time.Time{} // of ended jobs
	missed := map[string]time.Time{}   // peers that did not answer: not before
	tick := time.NewTicker(max(r.c.times.Heartbeat, 20*time.Millisecond))
	defer tick.Stop()
	if trouble := r.c.logs.past(); trouble != "" {
		r.propose(ctx, membership.Command{Note: &membership.Note{
			Topic: membership.TopicLeader, Warning: true, Text: "coordinator " + r.c.cfg.ID + " " + trouble, Advice: "keep space free under " + r.c.cfg.DataDir + " on its host",
		}})
	}
	for {
		r.countCopies(ctx, missed)
		r.sweep(ctx, lastLook)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// copiesAtOnce bounds the questions of one round.
const copiesAtOnce = 64

// countCopies asks the other coordinators for files that they are not recorded to have.
func (r *reign) countCopies(ctx context.Context, missed map[string]time.Time) {
	for _, p := range r.c.peers() {
		if p.ID == r.c.cfg.ID || time.Now().Before(missed[p.ID]) {
			continue
		}
		var ask []wanted
		r.c.fsm.read(func(s *membership.State) {
			for i := len(s.Jobs) - 1; i >= 0; i-- {
				for _, f := range s.Jobs[i].Files {
					if !contains(f.Nodes, p.ID) && len(ask) < copiesAtOnce {
						ask = append(ask, wanted{s.Jobs[i].ID, s.Jobs[i].Directory, f})
					}
				}
			}
		})
		if len(ask) == 0 {
			continue
		}
		conn, err := r.c.peerConn(p)
		if err != nil {
			continue
		}
		control := mppb.NewControlClient(conn)
		for _, w := range ask {
			patience, cancel := context.WithTimeout(r.c.asNode(ctx), r.c.times.FailAfter)
			state, err := control.HasFile(patience, &mppb.FileName{Job: w.job, Path: w.file.Path})
			cancel()
			if err != nil {
				missed[p.ID] = time.Now().Add(r.c.times.FailAfter)
				break
			}
			if state.Whole && state.Sha256 == w.file.SHA256 {
				r.record(ctx, w.job, p.ID, w.file)
			}
		}
	}
}

func contains(list []string, x string) bool {
	for _, y := range list {
		if x == y {
			return true
		}
	}
	return false
}

func (r *reign) record(ctx context.Context, job, node string, f membership.FileState) {
	f.Nodes = nil
	if result, err := r.propose(ctx, membership.Command{File: &membership.File{Job: job, Node: node, File: f}}); err != nil || result.Err != nil {
		r.c.log.Debug("a copy of a file was not recorded", "job", job, "path", f.Path, "error", err, "result", result.Err)
	}
}

// Writers of metrics may finish a little after their job: its directory is looked at for a minute.
const (
	sweepFor   = time.Minute
	sweepEvery = 2 * time.Second
)

// sweep records files that lie in the directory of a job that ended not long ago.
func (r *reign) sweep(ctx context.Context, last map[string]time.Time) {
	type ended struct {
		id, directory string
		files         map[string]membership.FileState
	}
	var jobs []ended
	now := time.Now()
	r.c.fsm.read(func(s *membership.State) {
		for _, j := range s.Jobs {
			seen, again := last[j.ID]
			recent := now.Sub(time.Unix(0, j.Ended)) < sweepFor
			if !j.State.Ended() || again && (!recent || now.Sub(seen) < sweepEvery) {
				continue
			}
			e := ended{j.ID, j.Directory, map[string]membership.FileState{}}
			for _, f := range j.Files {
				e.files[f.Path] = f
			}
			jobs = append(jobs, e)
		}
	})
	for _, j := range jobs {
		last[j.id] = now
		paths, err := r.c.shelf.list(j.directory)
		if err != nil {
			r.c.log.Debug("cannot list a run", "job", j.id, "error", err)
			continue
		}
		for _, p := range paths {
			if ctx.Err() != nil {
				return
			}
			old, recorded := j.files[p]
			if recorded && (checkpointOf(p) != "" || isPointer(p)) {
				continue
			}
			if recorded && !contains(old.Nodes, r.c.cfg.ID) && !r.c.mirror.has(j.directory, old) {
				continue // another node's version is the recorded one, and on its way here
			}
			size, sum, err := r.c.shelf.digest(j.directory, p)
			if err != nil || recorded && sum == old.SHA256 {
				continue
			}
			f := membership.FileState{Path: p, Size: uint64(size), SHA256: sum}
			r.c.mirror.replace(ctx, func() error {
				r.c.mirror.learn(j.directory, f)
				r.record(ctx, j.id, r.c.cfg.ID, f)
				return nil
			})
		}
	}
}
