package cmd

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"mp/checkpoint"
	"mp/mppb"
)

// revive starts a worker again, whatever it has died of.
func (r *rehearsal) revive(number int) error {
	p := r.workers[workerName(number)]
	p.signal(syscall.SIGKILL)
	<-p.done
	_, err := r.startWorker(number)
	return err
}

func drillMoments(ctx context.Context, r *rehearsal) error {
	const workers, times = 3, 12
	if err := r.crew(ctx, workers); err != nil {
		return err
	}
	for i := range times {
		if !goesOn(r.now().GetState()) {
			return fmt.Errorf("the job ended after %d of %d deaths: it is too short for this machine", i, times)
		}
		if err := rest(ctx, time.Duration(r.random.IntN(400))*time.Millisecond); err != nil { // anywhere in a step or two
			return err
		}
		if err := r.revive(1 + i%workers); err != nil {
			return err
		}
		if err := r.until(ctx, time.Minute, "two workers that compute", func() bool { return r.computing() >= 2 }); err != nil {
			return err
		}
		if err := r.more(ctx, 1); err != nil {
			return err
		}
	}
	return nil
}

func drillJoiner(ctx context.Context, r *rehearsal) error {
	if err := r.crew(ctx, 2); err != nil {
		return err
	}
	copying := func() bool {
		for _, w := range r.workersNow() {
			if strings.HasPrefix(w.Name, "worker 3") && (w.Phase == mppb.Phase_COPYING || w.Phase == mppb.Phase_FORMING || len(w.Shards) > 0) {
				return true
			}
		}
		return false
	}
	at := time.Now()
	for _, victim := range []int{3, 1} { // the joiner, then its donor
		if _, err := r.startWorker(3); err != nil {
			return err
		}
		if err := r.until(ctx, time.Minute, "the joiner to copy", copying); err != nil {
			return err
		}
		if err := r.revive(victim); err != nil {
			return err
		}
		if victim == 3 {
			r.workers["worker 3"].signal(syscall.SIGKILL)
			<-r.workers["worker 3"].done
		}
		if err := r.more(ctx, 5); err != nil {
			return err
		}
	}
	r.within("longest time without a step", r.longestPause(at), 5*time.Second)
	return r.untilWorkers(ctx, 3)
}

func drillLast(ctx context.Context, r *rehearsal) error {
	if err := r.crew(ctx, 3); err != nil {
		return err
	}
	at := time.Now()
	for _, name := range []string{"worker 1", "worker 3"} {
		r.workers[name].signal(syscall.SIGKILL)
	}
	_, next, _, err := r.answered(ctx, at)
	if err != nil {
		return err
	}
	r.within("next step", next, 5*time.Second)
	return r.untilWorkers(ctx, 1)
}

func drillMinimum(ctx context.Context, r *rehearsal) error {
	if err := r.crew(ctx, 2); err != nil {
		return err
	}
	r.workers["worker 2"].signal(syscall.SIGKILL)
	if err := r.until(ctx, 20*time.Second, "the job to wait", func() bool { return r.now().GetWorkers() == 0 }); err != nil {
		return err
	}
	stood := r.now().GetUpdate()
	r.check(r.now().GetReason() != "", "says why it waits", r.now().GetReason(), "a reason")
	if _, err := r.startWorker(2); err != nil {
		return err
	}
	at := time.Now()
	if err := r.untilUpdate(ctx, stood+2); err != nil {
		return err
	}
	r.within("goes on by itself after", time.Since(at), 30*time.Second)
	return nil
}

func drillTwice(ctx context.Context, r *rehearsal) error {
	if err := r.crew(ctx, 2); err != nil {
		return err
	}
	second, err := r.startWorker(3, "--slot", "1")
	if err != nil {
		return err
	}
	select {
	case <-second.done:
	case <-time.After(20 * time.Second):
		return fmt.Errorf("the second worker on a device is still there after 20 s")
	case <-ctx.Done():
		return ctx.Err()
	}
	r.check(second.code == exitBadInput, "the second ends with", second.cause, fmt.Sprintf("exit status %d", exitBadInput))
	r.check(strings.Contains(lastWord(second.log, second.name), "cpu:1"), "and says", lastWord(second.log, second.name), "which device is taken")
	return nil
}

func drillSaving(ctx context.Context, r *rehearsal) error {
	const workers, times = 2, 6
	if err := r.crew(ctx, workers); err != nil {
		return err
	}
	leader, err := r.leader(ctx)
	if err != nil {
		return err
	}
	broken := 0
	for i := range times {
		if err := r.revive(1 + i%workers); err != nil { // the first in rank writes
			return err
		}
		run := filepath.Join(r.dir, leader.id, "runs", r.now().GetDirectory())
		if _, passedOver, err := checkpoint.Latest(run); err != nil || len(passedOver) > 0 {
			broken++
			fmt.Fprintf(r.out, "  after death %d: %v %v\n", i+1, err, passedOver)
		}
		if err := r.more(ctx, 3); err != nil {
			return err
		}
	}
	r.check(broken == 0, "times that the newest checkpoint was not whole", fmt.Sprint(broken), "0")
	return nil
}

func drillScale(ctx context.Context, r *rehearsal) error {
	if err := r.crew(ctx, 1); err != nil {
		return err
	}
	for _, n := range []int{8, 3, 8} {
		for i := 1; i <= 8; i++ {
			p := r.workers[workerName(i)]
			runs := p != nil && slices.Contains(r.running(), p)
			switch {
			case i <= n && !runs:
				if _, err := r.startWorker(i); err != nil {
					return err
				}
			case i > n && runs:
				p.signal(syscall.SIGTERM)
			}
		}
		if err := r.untilWorkers(ctx, n); err != nil {
			return err
		}
		if err := r.more(ctx, 5); err != nil {
			return err
		}
	}
	return nil
}

func drillPreempted(ctx context.Context, r *rehearsal) error {
	if err := r.crew(ctx, 3); err != nil {
		return err
	}
	return r.drained(ctx, r.workers["worker 1"], r.workers["worker 3"])
}

func drillLemon(ctx context.Context, r *rehearsal) error {
	if err := r.crew(ctx, 3); err != nil {
		return err
	}
	at := time.Now()
	quarantined := func(e *mppb.Event) bool { return e.Topic == "quarantine" }
	for range 5 {
		if err := r.revive(2); err != nil {
			return err
		}
		if err := r.until(ctx, 20*time.Second, "it to be back", func() bool { return r.identity("worker 2") != 0 }); err != nil {
			return err
		}
		if err := r.more(ctx, 2); err != nil {
			return err
		}
		if found := r.eventsSince(at, quarantined); len(found) > 0 {
			r.check(true, "told", found[0].Text, "a quarantine")
			return nil
		}
	}
	r.check(false, "told", "nothing", "a quarantine after three deaths within a minute")
	return nil
}

func drillChurn(ctx context.Context, r *rehearsal) error {
	const workers = 8
	if err := r.crew(ctx, 2); err != nil {
		return err
	}
	at := time.Now()
	kills, starts := 0, 2
	for time.Since(at) < 40*time.Second && goesOn(r.now().GetState()) {
		if err := rest(ctx, 500*time.Millisecond+time.Duration(r.random.IntN(1500))*time.Millisecond); err != nil {
			return err
		}
		number := 1 + r.random.IntN(workers)
		p := r.workers[workerName(number)]
		if p != nil && slices.Contains(r.running(), p) {
			p.signal(syscall.SIGKILL)
			<-p.done
			kills++
			continue
		}
		if _, err := r.startWorker(number); err != nil {
			return err
		}
		starts++
	}
	for i := 1; i <= 2; i++ {
		if p := r.workers[workerName(i)]; p == nil || !slices.Contains(r.running(), p) {
			if _, err := r.startWorker(i); err != nil {
				return err
			}
		}
	}
	fmt.Fprintf(r.out, "  %d kills, %d starts\n", kills, starts)
	if err := r.more(ctx, 1); err != nil {
		return err
	}
	r.within("longest time without a step", r.longestPause(at), 30*time.Second)
	return nil
}

func drillEverybody(ctx context.Context, r *rehearsal) error {
	if err := r.crew(ctx, 2); err != nil {
		return err
	}
	if err := r.untilUpdate(ctx, uint64(r.spec.CheckpointEvery)+5); err != nil { // there is a checkpoint
		return err
	}
	stood := r.now().GetUpdate()
	for _, p := range r.running() {
		p.signal(syscall.SIGKILL)
		<-p.done
	}
	for i := 1; i <= 2; i++ {
		if _, err := r.startWorker(i); err != nil {
			return err
		}
	}
	at := time.Now()
	if err := r.until(ctx, time.Minute, "the job to pass where it was", func() bool { return r.now().GetUpdate() > stood && r.computing() > 0 }); err != nil {
		return err
	}
	r.within("past where it was after", time.Since(at), time.Minute)
	return nil
}
