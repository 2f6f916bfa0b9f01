package cmd

import (
	"context"
	"fmt"
	"strings"
	"time"

	"mp/worker"
)

// drillFault has a worker fail in a step by itself, and checks that the story has the message and the advice, if any.
func drillFault(kind worker.FaultKind, message, advice string) func(context.Context, *rehearsal) error {
	return func(ctx context.Context, r *rehearsal) error {
		const at = 60 // updates; the crew is whole long before
		fault := fmt.Sprintf("%s@%d", kind, at)
		if _, err := r.startWorker(1); err != nil {
			return err
		}
		victim, err := r.startWorker(2, "--fault", fault)
		if err != nil {
			return err
		}
		if _, err := r.startWorker(3); err != nil {
			return err
		}
		if err := r.submit(ctx, r.spec); err != nil {
			return err
		}
		if err := r.untilWorkers(ctx, 3); err != nil {
			return err
		}
		began := time.Now()
		if now := r.now().GetUpdate(); now >= at {
			return fmt.Errorf("all three compute at update %d, and the fault was to come at %d", now, at)
		}
		warned := func() bool { return len(r.eventsSince(began, isWarning)) > 0 }
		if err := r.until(ctx, time.Minute, "the fault to be told", warned); err != nil {
			return err
		}
		if err := r.untilUpdate(ctx, at+2); err != nil {
			return err
		}
		text := r.eventsSince(began, isWarning)[0].Text
		r.measured(0, r.longestPause(began))
		r.within("longest time without a step", r.longestPause(began), 5*time.Second)
		r.check(strings.Contains(text, message), "the root cause", text, "has "+message)
		r.check(strings.Contains(text, victim.name), "it names", text, victim.name)
		select {
		case <-victim.done:
		case <-time.After(10 * time.Second):
			return fmt.Errorf("%s is still there 10 s after it failed", victim.name)
		case <-ctx.Done():
			return ctx.Err()
		}
		last := lastWord(victim.log, victim.name)
		r.check(victim.code == exitFailed, "it ends with", victim.cause, fmt.Sprintf("exit status %d", exitFailed))
		r.check(strings.Contains(last, message) && strings.Contains(last, advice), "and says", last, strings.TrimSpace(message+" "+advice))
		if _, err := r.startWorker(2); err != nil {
			return err
		}
		return r.untilWorkers(ctx, 3)
	}
}
