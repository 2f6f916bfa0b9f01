package cmd

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"mp/metrics"
	"mp/metrics/nats"
	"mp/mppb"
)

// newLeader waits until another coordinator than old leads, and returns it and how long that took from a moment on.
func (r *rehearsal) newLeader(ctx context.Context, old *node, at time.Time) (*node, time.Duration, error) {
	var leads *node
	err := r.until(ctx, 30*time.Second, "another coordinator to lead", func() bool {
		asking, cancel := context.WithTimeout(ctx, r.failAfter)
		defer cancel()
		n, err := r.leader(asking)
		leads = n
		return err == nil && n != old
	})
	return leads, time.Since(at), err
}

func drillLeader(ctx context.Context, r *rehearsal) error {
	if err := r.crew(ctx, 2); err != nil {
		return err
	}
	old, err := r.leader(ctx)
	if err != nil {
		return err
	}
	before := r.now().GetUpdate()
	at := time.Now()
	old.signal(syscall.SIGKILL)
	_, took, err := r.newLeader(ctx, old, at)
	if err != nil {
		return err
	}
	r.within("another leads", took, 2*time.Second)
	if err := r.untilUpdate(ctx, before+1); err != nil {
		return err
	}
	r.measured(took, r.longestPause(at))
	r.within("longest time without a recorded step", r.longestPause(at), 4*time.Second)
	lost := r.eventsSince(at, func(e *mppb.Event) bool { return e.Warning && e.Topic == "leave" })
	r.check(len(lost) == 0, "workers lost with the leader", fmt.Sprint(len(lost)), "0")
	if err := r.more(ctx, 5); err != nil {
		return err
	}
	<-old.done
	return r.startNode(old)
}

func drillCoordinators(ctx context.Context, r *rehearsal) error {
	if err := r.crew(ctx, 2); err != nil {
		return err
	}
	leader, err := r.leader(ctx)
	if err != nil {
		return err
	}
	followers := slices.DeleteFunc(slices.Clone(r.nodes), func(n *node) bool { return n == leader })
	at := time.Now()
	followers[0].signal(syscall.SIGKILL)
	if err := r.more(ctx, 10); err != nil {
		return err
	}
	r.within("one of three gone: longest time without a step", r.longestPause(at), 2*time.Second)

	stood := r.now().GetUpdate()
	followers[1].signal(syscall.SIGKILL)
	if err := rest(ctx, 3*r.failAfter); err != nil {
		return err
	}
	alive := len(r.running())
	r.check(alive == 2, "two of three gone: workers that live", fmt.Sprint(alive), "2")
	leader.signal(syscall.SIGKILL)
	for _, n := range r.nodes {
		<-n.done
	}
	for _, n := range r.nodes {
		if err := r.startNode(n); err != nil {
			return err
		}
	}
	at = time.Now()
	if err := r.untilUpdate(ctx, stood+5); err != nil {
		return err
	}
	r.within("all gone and started again: the next steps", time.Since(at), 10*time.Second)
	alive = len(r.running())
	r.check(alive == 2, "workers that live", fmt.Sprint(alive), "2")
	return nil
}

func drillFrozen(ctx context.Context, r *rehearsal) error {
	if err := r.crew(ctx, 2); err != nil {
		return err
	}
	old, err := r.leader(ctx)
	if err != nil {
		return err
	}
	return r.withoutLeader(ctx, old, func() { old.signal(syscall.SIGSTOP) }, func() { old.signal(syscall.SIGCONT) })
}

// drillPartition cuts the leader off from everybody but this drill, which asks it what it thinks.
func drillPartition(ctx context.Context, r *rehearsal) error {
	if err := r.crew(ctx, 2); err != nil {
		return err
	}
	old, err := r.leader(ctx)
	if err != nil {
		return err
	}
	own, err := r.network.at(old.id)
	if err != nil {
		return err
	}
	wires := func(l link) func() {
		return func() {
			for name, other := range r.network.all {
				if other != own && name != observer {
					r.network.wire.set(own, other, l)
				}
			}
		}
	}
	alone, err := r.clientOf(old.address)
	if err != nil {
		return err
	}
	defer alone.Close()
	healed := wires(link{})
	return r.withoutLeader(ctx, old, wires(link{loss: 1}), func() {
		asking, cancel := context.WithTimeout(ctx, 2*r.failAfter)
		defer cancel()
		word := "yes"
		err := askLeader(asking, alone, func(ctx context.Context, c mppb.ClusterClient) error {
			_, err := c.Steer(ctx, &mppb.SteerRequest{Id: r.now().Id, Verb: mppb.SteerRequest_PAUSE})
			return err
		})
		if err != nil {
			word = err.Error()
		}
		r.check(err != nil, "the leader that is cut off, asked to pause the job", word, "a refusal")
		healed()
	})
}

// withoutLeader takes the leader away and brings it back once another leads and steps are recorded by that one.
func (r *rehearsal) withoutLeader(ctx context.Context, old *node, away, back func()) error {
	before := r.now().GetUpdate()
	at := time.Now()
	away()
	_, took, err := r.newLeader(ctx, old, at)
	if err == nil {
		r.within("another leads", took, 3*time.Second)
		err = r.untilUpdate(ctx, before+5)
	}
	back()
	if err != nil {
		return err
	}
	r.measured(took, r.longestPause(at))
	r.within("longest time without a recorded step", r.longestPause(at), 5*time.Second)
	if err := r.more(ctx, 5); err != nil {
		return err
	}
	last, twice := uint64(0), 0
	for _, e := range r.eventsSince(time.Time{}, func(e *mppb.Event) bool { return e.Topic == "view" && e.RecoverSeconds == 0 }) {
		if e.View <= last && e.View != 0 {
			twice++
		}
		last = max(last, e.View)
	}
	r.check(twice == 0, "views with a number that was used before", fmt.Sprint(twice), "0")
	return nil
}

// natsProcess is a NATS server in a process of its own: a coordinator that leads nobody.
type natsProcess struct {
	*fleet
	url string
}

// startNATSProcess starts a NATS server.
func startNATSProcess(ctx context.Context, c fleetConfig) (*natsProcess, error) {
	c.dir, c.called, c.coordinators, c.nats, c.secret, c.small = filepath.Join(c.dir, "nats"), "nats", 1, natsEmbedded, "", ""
	if err := os.MkdirAll(c.dir, 0o755); err != nil {
		return nil, err
	}
	f, err := newFleet(ctx, c)
	if err != nil {
		return nil, err
	}
	port, err := os.ReadFile(filepath.Join(c.dir, f.nodes[0].id, "data", natsFolder, nats.PortFile))
	if err != nil {
		f.close()
		return nil, fmt.Errorf("find the port of NATS: %w", err)
	}
	return &natsProcess{f, "nats://127.0.0.1:" + strings.TrimSpace(string(port))}, nil
}

// kill ends the server.
func (n *natsProcess) kill() {
	n.nodes[0].signal(syscall.SIGKILL)
	<-n.nodes[0].done
}

func drillNATS(ctx context.Context, r *rehearsal) error {
	if err := r.crew(ctx, 2); err != nil {
		return err
	}
	at := time.Now()
	r.server.kill()
	if err := rest(ctx, 10*time.Second); err != nil {
		return err
	}
	r.within("without NATS: longest time without a step", r.longestPause(at), 2*time.Second)
	if err := r.server.startNode(r.server.nodes[0]); err != nil {
		return err
	}
	j, err := r.untilEnd(ctx, 5*time.Minute)
	if err != nil {
		return err
	}
	per := int(j.Updates) / r.spec.Epochs
	want := r.spec.Epochs * (per / r.spec.PrintFreq)
	path := filepath.Join(r.dir, r.nodes[0].id, "runs", j.Directory, metrics.MetricsFile)
	got := 0
	_ = r.until(ctx, 20*time.Second, "the metrics to arrive", func() bool { got = reportedSteps(path); return got >= want })
	r.check(got >= want, "reported steps that arrived", fmt.Sprint(got), fmt.Sprintf("at least %d", want))
	return nil
}

// reportedSteps counts the steps in a file of metrics.
func reportedSteps(path string) int {
	f, err := os.Open(path)
	if err != nil {
		return 0
	}
	defer f.Close()
	events, err := metrics.Read(f)
	if err != nil {
		return 0
	}
	n := 0
	for _, e := range events {
		if e.Step != nil {
			n++
		}
	}
	return n
}
