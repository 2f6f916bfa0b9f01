package cmd

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"time"

	"mp/job"
	"mp/mppb"
	"mp/worker"
)

// drills lists the drills by the numbers of the list of faults to survive.
func drills() []drill {
	hit := func(s syscall.Signal, times int) func(context.Context, *rehearsal) error {
		return func(ctx context.Context, r *rehearsal) error { return r.hit(ctx, s, times) }
	}
	const (
		long   = 40 * time.Second
		longer = 80 * time.Second
		small  = job.ModelSimpleNet // where networks and disks are slow or small
	)
	return []drill{
		{number: 1, name: "kill", what: "a worker is killed (kill -9), six times, and started again", run: hit(syscall.SIGKILL, 6)},
		{number: 2, name: "term", what: "SIGTERM to a worker", run: drillTerm},
		{number: 3, name: "stop", what: "SIGSTOP to a worker, later SIGCONT", run: drillStop},
		{number: 4, name: "segv", what: "a worker crashes (SIGSEGV) and is started again", run: hit(syscall.SIGSEGV, 1)},
		{number: 5, name: "memory", what: "a worker's device has no memory for a step: the allocator's own error, after it was asked for 64 TiB",
			run: drillFault(worker.FaultMemory, "can't allocate memory", "lower --batch-size, raise --shards")},
		{number: 5, name: "device", what: "a worker gets the error of a GPU after a bad access; no GPU is asked, the text is made up",
			run: drillFault(worker.FaultDevice, "illegal memory access", "")},
		{number: 6, name: "exception", what: "libtorch throws an exception in a worker's step", run: drillFault(worker.FaultException, "matmul [2 3] x [2 3]", "")},
		{number: 7, name: "slow", what: "nine tenths of a worker's time are stolen", lasts: long, run: drillSlow},
		{number: 8, name: "cut", what: "two of three workers cannot reach each other, but the third and the coordinator", hosts: true, model: small, run: drillCut},
		{number: 8, name: "one-way", what: "what one worker sends to another is lost, but not the answers", hosts: true, model: small, run: drillOneWay},
		{number: 8, name: "loss", what: "every link loses 5 % of its packets", hosts: true, model: small, run: drillLoss},
		{number: 8, name: "delay", what: "every packet takes 100 ms", hosts: true, model: small, run: drillDelay},
		{number: 8, name: "half-open", what: "a host loses power: its connections stay open at all others", hosts: true, model: small, run: drillHalfOpen},
		{number: 9, name: "sender", what: "a worker's host sends 2 MiB a second at most", hosts: true, model: small, run: drillSender},
		{number: 10, name: "moments", what: "workers die at random moments of a step, twelve times", lasts: long, run: drillMoments},
		{number: 11, name: "joiner", what: "a joiner dies while it copies; then its donor does", lasts: long, run: drillJoiner},
		{number: 12, name: "last", what: "all workers but one die at once", run: drillLast},
		{number: 13, name: "minimum", what: "below --min-workers, and back", minWorkers: 2, run: drillMinimum},
		{number: 14, name: "leader", what: "the leader of three coordinators is killed", coordinators: 3, lasts: long, run: drillLeader},
		{number: 15, name: "coordinators", what: "a follower is killed, then the majority, then all; all are started again", coordinators: 3, lasts: longer, run: drillCoordinators},
		{number: 16, name: "partition", what: "the host of the leader of three coordinators is cut off, and comes back", coordinators: 3, hosts: true, model: small, lasts: long, run: drillPartition},
		{number: 16, name: "frozen", what: "the leader of three coordinators stands still (SIGSTOP), and comes back", coordinators: 3, lasts: long, run: drillFrozen},
		{number: 17, name: "log-disk", what: "the disk under the raft log is full for three times --fail-after", small: "data", model: small, run: drillLogDisk},
		{number: 17, name: "checkpoint-disk", what: "the disk under the checkpoints is full for three checkpoints", small: "runs", nats: true, model: small, run: drillCheckpointDisk},
		{number: 18, name: "twice", what: "two workers claim one device", run: drillTwice},
		{number: 19, name: "clock", what: "the wall clock of a worker's host, then of the coordinator's, jumps an hour ahead and two back", lasts: long, run: drillClock},
		{number: 20, name: "saving", what: "the worker that writes checkpoints dies while it writes, again and again",
			spec: func(s *job.Spec) { s.CheckpointEvery = 1 }, run: drillSaving},
		{number: 21, name: "half-saved", what: "the worker that writes dies while half of a checkpoint is with the coordinator, four times", lasts: long, run: drillHalfSaved},
		{number: 22, name: "scale", what: "1, 8, 3, 8 workers", lasts: longer, spec: eightShards, run: drillScale},
		{number: 23, name: "nats", what: "the NATS server is killed, and started again ten seconds later", nats: true, lasts: long, run: drillNATS},
		{number: 24, name: "preempted", what: "SIGTERM to two of three workers at once", run: drillPreempted},
		{number: 25, name: "lemon", what: "one worker dies again and again", lasts: long, run: drillLemon},
		{number: 26, name: "attack", what: "workers are killed inside the inner loop of adversarial training, six times", lasts: long,
			spec: trainAgainstPGD, run: hit(syscall.SIGKILL, 6)},
		{number: 27, name: "chunk", what: "a bit of a gradient flips between two workers, with a TCP checksum that fits", hosts: true, model: small, run: drillChunk},
		{number: 27, name: "copy", what: "a bit of the state flips that a joiner copies", hosts: true, model: small, run: drillCopy},
		{number: 27, name: "pack", what: "a bit of an image has flipped on a worker's disk", run: drillPack},
		{number: 28, name: "churn", what: "for 40 s a worker is killed or started every half to two seconds, among eight", lasts: longer, spec: eightShards, run: drillChurn},
		{number: 30, name: "everybody", what: "all workers die at once and are started again", run: drillEverybody},
	}
}

// eightShards lets eight workers compute.
func eightShards(s *job.Spec) { s.Shards = 8 }

// trainAgainstPGD makes a job that spends nearly all of its time inside attacks. Its updates take some seven times as long, so
// there are fewer.
func trainAgainstPGD(s *job.Spec) {
	s.Adversarial, s.AdvEps, s.AdvStepSize, s.AdvSteps, s.AdvBatchNorm = job.AdversarialPGD, "2/255", "0.5/255", 7, job.NormEval
	s.AdvPrecision, s.AdvWatch, s.AdvWatchImages = job.AdvSame, job.WatchTell, 32
	s.Epochs = max(6, s.Epochs/7)
}

// crew starts n workers, submits the job and waits until all compute.
func (r *rehearsal) crew(ctx context.Context, n int) error {
	for i := 1; i <= n; i++ {
		if _, err := r.startWorker(i); err != nil {
			return err
		}
	}
	if err := r.submit(ctx, r.spec); err != nil {
		return err
	}
	if err := r.untilWorkers(ctx, n); err != nil {
		return err
	}
	return r.more(ctx, 5)
}

// more waits for n further updates.
func (r *rehearsal) more(ctx context.Context, n uint64) error {
	return r.untilUpdate(ctx, r.now().GetUpdate()+n)
}

// answered waits for the first warning after a moment and for the next commit, and returns both times.
func (r *rehearsal) answered(ctx context.Context, at time.Time) (noticed, next time.Duration, text string, err error) {
	err = r.until(ctx, 30*time.Second, "somebody to notice", func() bool { return len(r.eventsSince(at, isWarning)) > 0 })
	if err != nil {
		return 0, 0, "", err
	}
	e := r.eventsSince(at, isWarning)[0]
	noticed = time.Unix(0, e.Time).Sub(at)
	err = r.until(ctx, 30*time.Second, "the next step", func() bool { return r.nextCommit(at.Add(noticed)) > 0 })
	next = noticed + r.nextCommit(at.Add(noticed))
	r.measured(noticed, next)
	return noticed, next, e.Text, err
}

// isWarning says whether an event tells of a fault. That somebody is slow is none: on a busy machine anybody may be.
func isWarning(e *mppb.Event) bool { return e.Warning && e.Topic != "slow" }

// hit sends a deadly signal to one worker after another, starts each again, and measures.
func (r *rehearsal) hit(ctx context.Context, s syscall.Signal, times int) error {
	const workers = 3
	if err := r.crew(ctx, workers); err != nil {
		return err
	}
	var noticed, next []time.Duration
	named := 0
	for i := range times {
		number := 1 + i%workers
		victim := r.workers[workerName(number)]
		at := time.Now()
		victim.signal(s)
		n, after, text, err := r.answered(ctx, at)
		if err != nil {
			return err
		}
		noticed, next = append(noticed, n), append(next, after)
		if strings.Contains(text, victim.name) {
			named++
		} else {
			fmt.Fprintf(r.out, "  the story does not name %s: %s\n", victim.name, text)
		}
		<-victim.done
		if _, err := r.startWorker(number); err != nil {
			return err
		}
		if err := r.untilWorkers(ctx, workers); err != nil {
			return err
		}
		if err := r.more(ctx, uint64(2+r.random.IntN(4))); err != nil {
			return err
		}
	}
	slices.Sort(noticed)
	slices.Sort(next)
	r.within("noticed, the slowest", noticed[len(noticed)-1], 200*time.Millisecond)
	r.within("next step, median", next[len(next)/2], 2*time.Second)
	r.within("next step, the slowest", next[len(next)-1], 5*time.Second)
	r.check(named == times, "the first cause names the worker", fmt.Sprint(named), fmt.Sprint(times))
	return nil
}

func drillTerm(ctx context.Context, r *rehearsal) error {
	if err := r.crew(ctx, 3); err != nil {
		return err
	}
	return r.drained(ctx, r.workers["worker 2"])
}

// drained asks workers to leave and checks how they do.
func (r *rehearsal) drained(ctx context.Context, leaving ...*process) error {
	at := time.Now()
	for _, p := range leaving {
		p.signal(syscall.SIGTERM)
	}
	for _, p := range leaving {
		select {
		case <-p.done:
		case <-time.After(15 * time.Second):
			return fmt.Errorf("%s is still there 15 s after SIGTERM", p.name)
		case <-ctx.Done():
			return ctx.Err()
		}
		r.within(p.name+" is gone", time.Since(at), 10*time.Second)
		r.check(p.code == exitDrained, p.name+" ends with", p.cause, fmt.Sprintf("exit status %d", exitDrained))
	}
	warnings := r.eventsSince(at, isWarning)
	r.check(len(warnings) == 0, "warnings", fmt.Sprint(len(warnings)), "0")
	return nil
}

func drillStop(ctx context.Context, r *rehearsal) error {
	if err := r.crew(ctx, 3); err != nil {
		return err
	}
	victim := r.workers["worker 2"]
	before := r.identity(victim.name)
	at := time.Now()
	victim.signal(syscall.SIGSTOP)
	noticed, next, _, err := r.answered(ctx, at)
	victim.signal(syscall.SIGCONT)
	if err != nil {
		return err
	}
	limit := r.failAfter * 3 / 2
	r.within("noticed", noticed, limit)
	r.within("next step", next, limit+2*time.Second)
	if err := r.until(ctx, 30*time.Second, "the stopped worker to be back", func() bool { i := r.identity(victim.name); return i != 0 && i != before }); err != nil {
		return err
	}
	r.check(true, "identity after SIGCONT", fmt.Sprint(r.identity(victim.name)), fmt.Sprintf("another than %d", before))
	return r.untilWorkers(ctx, 3)
}

// identity is the number by which the cluster knows a worker now; 0: it does not.
func (r *rehearsal) identity(name string) uint64 {
	for _, w := range r.workersNow() {
		if strings.HasPrefix(w.Name, name) {
			return w.Worker
		}
	}
	return 0
}

func drillSlow(ctx context.Context, r *rehearsal) error {
	if err := r.crew(ctx, 2); err != nil {
		return err
	}
	victim := r.workers["worker 2"]
	before := r.shardsOf(victim.name)
	stolen, stop := context.WithCancel(ctx)
	thief := make(chan struct{})
	go func() {
		defer close(thief)
		defer victim.signal(syscall.SIGCONT)
		for stolen.Err() == nil {
			victim.signal(syscall.SIGSTOP)
			time.Sleep(45 * time.Millisecond)
			victim.signal(syscall.SIGCONT)
			time.Sleep(5 * time.Millisecond)
		}
	}()
	defer func() { stop(); <-thief }()
	if err := r.namedSlow(ctx, victim.name); err != nil {
		return err
	}
	if err := r.until(ctx, time.Minute, "its shards to shrink", func() bool { return r.shardsOf(victim.name) < before }); err != nil {
		return err
	}
	r.check(true, "its shards", fmt.Sprint(r.shardsOf(victim.name)), fmt.Sprintf("fewer than %d", before))
	return nil
}

// namedSlow waits until a worker is said to be slow.
func (r *rehearsal) namedSlow(ctx context.Context, name string) error {
	at, from := time.Now(), r.now().GetUpdate()
	slow := func(e *mppb.Event) bool { return e.Topic == "slow" && strings.HasPrefix(e.Text, name) }
	if err := r.until(ctx, time.Minute, name+" to be called slow", func() bool { return len(r.eventsSince(at, slow)) > 0 }); err != nil {
		return err
	}
	e := r.eventsSince(at, slow)[0]
	steps := e.Update - from
	if e.Update == 0 {
		steps = r.now().GetUpdate() - from
	}
	r.measured(time.Unix(0, e.Time).Sub(at), 0)
	r.check(steps <= 20, "named within steps", fmt.Sprintf("%d: %s", steps, e.Text), "at most 20")
	return nil
}

// shardsOf is the number of shards that a worker has now.
func (r *rehearsal) shardsOf(name string) int {
	for _, w := range r.workersNow() {
		if strings.HasPrefix(w.Name, name) {
			return len(w.Shards)
		}
	}
	return 0
}
