package cmd

import (
	"context"
	"fmt"
	"strings"
	"syscall"
	"time"

	"mp/mppb"
)

// crewOnHosts is crew, and the hosts of the workers.
func (r *rehearsal) crewOnHosts(ctx context.Context, n int) ([]*host, error) {
	if err := r.crew(ctx, n); err != nil {
		return nil, err
	}
	var all []*host
	for i := 1; i <= n; i++ {
		h, err := r.network.at(workerName(i))
		if err != nil {
			return nil, err
		}
		all = append(all, h)
	}
	return all, nil
}

// wires sets what happens between all hosts but the observer's.
func (r *rehearsal) wires(l link) {
	for name, a := range r.network.all {
		for other, b := range r.network.all {
			if name != observer && other != observer && name < other {
				r.network.wire.set(a, b, l)
			}
		}
	}
}

// nobodyHangs is how long a cluster may go without a step on a network that is bad or cut between some.
const nobodyHangs = 30 * time.Second

// endures waits until n steps are committed on a network that is being hurt, heals it, and checks that nothing hung.
func (r *rehearsal) endures(ctx context.Context, n uint64, heal func()) error {
	at, stood := time.Now(), r.now().GetUpdate()
	err := r.until(ctx, 90*time.Second, count(int(n), "step", "steps"), func() bool { return r.now().GetUpdate() >= stood+n })
	r.within("longest time without a step meanwhile", max(r.longestPause(at), time.Since(r.lastCommit(at))), nobodyHangs)
	if told := r.eventsSince(at, isWarning); len(told) > 0 {
		noticed := time.Unix(0, told[0].Time)
		r.measured(noticed.Sub(at), noticed.Sub(at)+r.nextCommit(noticed))
	}
	views := r.eventsSince(at, func(e *mppb.Event) bool { return e.Topic == "view" && e.RecoverSeconds == 0 })
	for _, e := range views {
		fmt.Fprintf(r.out, "  view %d at update %d: %s\n", e.View, e.Update, e.Text)
	}
	heal()
	return err
}

// lastCommit is when the last step was committed since a moment, or that moment.
func (f *fleet) lastCommit(since time.Time) time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	if n := len(f.steps); n > 0 && f.steps[n-1].at.After(since) {
		return f.steps[n-1].at
	}
	return since
}

// drillCut cuts two of three workers off from each other; both hear the third and the coordinator.
func drillCut(ctx context.Context, r *rehearsal) error {
	h, err := r.crewOnHosts(ctx, 3)
	if err != nil {
		return err
	}
	r.network.wire.set(h[0], h[1], link{loss: 1})
	if err := r.endures(ctx, 20, func() { r.network.wire.set(h[0], h[1], link{}) }); err != nil {
		return err
	}
	return r.untilWorkers(ctx, 3)
}

// drillOneWay loses what one worker sends to another, which is heard by the first.
func drillOneWay(ctx context.Context, r *rehearsal) error {
	h, err := r.crewOnHosts(ctx, 3)
	if err != nil {
		return err
	}
	r.network.wire.setOneWay(h[1], h[0], link{loss: 1})
	if err := r.endures(ctx, 20, func() { r.network.wire.set(h[0], h[1], link{}) }); err != nil {
		return err
	}
	return r.untilWorkers(ctx, 3)
}

func drillLoss(ctx context.Context, r *rehearsal) error {
	if _, err := r.crewOnHosts(ctx, 3); err != nil {
		return err
	}
	r.wires(link{loss: 0.05})
	return r.endures(ctx, 40, func() { r.wires(link{}) })
}

func drillDelay(ctx context.Context, r *rehearsal) error {
	if _, err := r.crewOnHosts(ctx, 3); err != nil {
		return err
	}
	r.wires(link{delay: 100 * time.Millisecond})
	return r.endures(ctx, 20, func() { r.wires(link{}) })
}

// drillHalfOpen takes a host off the network and ends what runs on it: no FIN and no RST reaches anybody, and every connection
// to it stays open.
func drillHalfOpen(ctx context.Context, r *rehearsal) error {
	h, err := r.crewOnHosts(ctx, 3)
	if err != nil {
		return err
	}
	victim := r.workers[workerName(2)]
	at := time.Now()
	power := func(l link) {
		for _, other := range r.network.all {
			if other != h[1] {
				r.network.wire.set(h[1], other, l)
			}
		}
	}
	power(link{loss: 1})
	victim.signal(syscall.SIGKILL)
	<-victim.done
	noticed, next, _, err := r.answered(ctx, at)
	if err != nil {
		return err
	}
	limit := r.failAfter * 3 / 2
	r.within("noticed", noticed, limit)
	r.within("next step", next, limit+2*time.Second)
	if err := r.more(ctx, 5); err != nil {
		return err
	}
	power(link{})
	if _, err := r.startWorker(2); err != nil {
		return err
	}
	return r.untilWorkers(ctx, 3)
}

// drillSender gives a worker's host a slow way out.
func drillSender(ctx context.Context, r *rehearsal) error {
	h, err := r.crewOnHosts(ctx, 2)
	if err != nil {
		return err
	}
	const slow = 2 << 20 // bytes a second
	r.network.wire.setOneWay(h[1], h[0], link{rate: slow})
	if err := r.namedSlow(ctx, workerName(2)); err != nil {
		return err
	}
	if err := r.more(ctx, 50); err != nil {
		return err
	}
	r.network.wire.setOneWay(h[1], h[0], link{}) // the rest of the job would take many times as long
	return nil
}

// handshake is more full packets than one of TLS has.
const handshake = 20

// drillChunk flips a bit of a gradient on its way from one worker to the other.
func drillChunk(ctx context.Context, r *rehearsal) error {
	h, err := r.crewOnHosts(ctx, 2)
	if err != nil {
		return err
	}
	flipped := make(chan time.Time, 1)
	r.network.wire.setOneWay(h[0], h[1], link{touch: flip(0, workerPort, handshake, func() { flipped <- time.Now() })})
	select {
	case at := <-flipped:
		if err := r.refusedBits(ctx, at); err != nil {
			return err
		}
	case <-time.After(20 * time.Second):
		return fmt.Errorf("no full packet went from worker 1 to worker 2 within 20 s")
	case <-ctx.Done():
		return ctx.Err()
	}
	return r.untilWorkers(ctx, 2)
}

// drillCopy flips a bit of the state that a joiner copies from the only one that has it.
func drillCopy(ctx context.Context, r *rehearsal) error {
	h, err := r.crewOnHosts(ctx, 1)
	if err != nil {
		return err
	}
	joiner, err := r.network.at(workerName(2))
	if err != nil {
		return err
	}
	flipped := make(chan time.Time, 1)
	r.network.wire.setOneWay(h[0], joiner, link{touch: flip(workerPort, 0, handshake, func() { flipped <- time.Now() })})
	if _, err := r.startWorker(2); err != nil {
		return err
	}
	select {
	case at := <-flipped:
		if err := r.refusedBits(ctx, at); err != nil {
			return err
		}
	case <-time.After(time.Minute):
		return fmt.Errorf("no full packet went from worker 1 to the joiner within a minute")
	case <-ctx.Done():
		return ctx.Err()
	}
	return r.untilWorkers(ctx, 2)
}

// refusedBits waits for the story to tell of a bit that flipped at a moment, and for the next step.
func (r *rehearsal) refusedBits(ctx context.Context, at time.Time) error {
	noticed, next, text, err := r.answered(ctx, at)
	if err != nil {
		return err
	}
	r.within("noticed", noticed, 2*r.failAfter)
	r.within("next step", next, 2*r.failAfter+2*time.Second)
	word := "checksum"
	if r.secret != "" {
		word = "MAC" // TLS sees it first
	}
	r.check(strings.Contains(text, word), "the root cause", text, "names the "+word)
	return nil
}
