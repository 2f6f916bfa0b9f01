package cmd

import (
	"context"
	"fmt"
	"strings"
	"time"

	"google.golang.org/grpc"

	"mp/mppb"
)

// glance is the time between two looks at the job; what drills measure is this exact.
const glance = 20 * time.Millisecond

func (f *fleet) watchJob(ctx context.Context, id string) {
	tick := time.NewTicker(glance)
	defer tick.Stop()
	for ctx.Err() == nil {
		err := askLeader(ctx, f.client, func(ctx context.Context, c mppb.ClusterClient) error {
			d, err := c.Show(ctx, &mppb.JobName{Id: id})
			if err == nil {
				f.saw(d)
			}
			return err
		})
		if err != nil && ctx.Err() == nil {
			return // the cluster forgot the job: whoever waits for it will say so
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}

func (f *fleet) saw(d *mppb.JobDetail) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if n := len(f.steps); n == 0 || d.Job.Update != f.steps[n-1].update {
		f.steps = append(f.steps, commit{time.Now(), d.Job.Update, d.Job.Workers})
	}
	f.job, f.detail = d.Job, d
}

// watchEvents follows the event log, by whichever coordinator leads, without a gap.
func (f *fleet) watchEvents(ctx context.Context) {
	from := uint64(1)
	for ctx.Err() == nil {
		_ = f.client.Do(ctx, func(ctx context.Context, conn grpc.ClientConnInterface) error {
			stream, err := mppb.NewClusterClient(conn).Events(ctx, &mppb.EventsRequest{From: from, Follow: true})
			for err == nil {
				var e *mppb.Event
				if e, err = stream.Recv(); err != nil {
					break
				}
				from = e.Sequence + 1
				f.mu.Lock()
				f.events = append(f.events, e)
				f.mu.Unlock()
			}
			return err
		})
		select {
		case <-time.After(glance):
		case <-ctx.Done():
		}
	}
}

// now is the job as last seen.
func (f *fleet) now() *mppb.Job {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.job
}

// workersNow is what the leader knows of its workers.
func (f *fleet) workersNow() []*mppb.WorkerInfo {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.detail.GetWorkers()
}

// eventsSince are the events from a moment on that a filter lets through.
func (f *fleet) eventsSince(at time.Time, keep func(*mppb.Event) bool) []*mppb.Event {
	f.mu.Lock()
	defer f.mu.Unlock()
	var found []*mppb.Event
	for _, e := range f.events {
		if e.Time >= at.UnixNano() && keep(e) {
			found = append(found, e)
		}
	}
	return found
}

// nextCommit is the time from a moment to the first commit after it; 0 while there is none.
func (f *fleet) nextCommit(at time.Time) time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, s := range f.steps {
		if s.at.After(at) {
			return s.at.Sub(at)
		}
	}
	return 0
}

// longestPause is the longest time between two commits from a moment on.
func (f *fleet) longestPause(from time.Time) time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	longest, last := time.Duration(0), from
	for _, s := range f.steps {
		if s.at.After(from) {
			longest, last = max(longest, s.at.Sub(last)), s.at
		}
	}
	return longest
}

// until polls until ok, or says in its error what it waited for.
func (f *fleet) until(ctx context.Context, limit time.Duration, what string, ok func() bool) error {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	tick := time.NewTicker(glance)
	defer tick.Stop()
	over := !goesOn(f.now().GetState())
	for !ok() {
		if !over && !goesOn(f.now().GetState()) { // little will happen after this
			over = true
			timer.Reset(min(limit, 10*time.Second))
		}
		select {
		case <-tick.C:
		case <-timer.C:
			j := f.now()
			return fmt.Errorf("waited in vain for %s; the job is %s at update %d of %d: %s", what, strings.ToLower(j.GetState().String()), j.GetUpdate(), j.GetUpdates(), j.GetReason())
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// untilUpdate waits for an update to be committed.
func (f *fleet) untilUpdate(ctx context.Context, update uint64) error {
	return f.until(ctx, time.Minute, fmt.Sprintf("update %d", update), func() bool { return f.now().GetUpdate() >= update })
}

// untilWorkers waits until a view has as many workers that compute.
func (f *fleet) untilWorkers(ctx context.Context, n int) error {
	return f.until(ctx, time.Minute, count(n, "worker that computes", "workers that compute"), func() bool { return f.computing() == n })
}

// computing is the number of workers that have shards, or would: with more workers than cores a slow one may be left without.
func (f *fleet) computing() int {
	n := 0
	for _, w := range f.workersNow() {
		if w.View > 0 && (len(w.Shards) > 0 || w.Phase == mppb.Phase_COMPUTING || w.Phase == mppb.Phase_VALIDATING) {
			n++
		}
	}
	return n
}

// untilEnd waits for the job's end.
func (f *fleet) untilEnd(ctx context.Context, limit time.Duration) (*mppb.Job, error) {
	err := f.until(ctx, limit, "the job's end", func() bool { return !goesOn(f.now().GetState()) })
	j := f.now()
	if err == nil && j.State != mppb.Job_DONE {
		err = fmt.Errorf("the job is %s: %s", strings.ToLower(j.State.String()), j.Reason)
	}
	return j, err
}

// rest waits for d, or until ctx ends.
func rest(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
