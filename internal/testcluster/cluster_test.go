package testcluster

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"

	"mp/checkpoint"
	"mp/job"
	"mp/mppb"
	"mp/worker"
)

// alone is what one worker makes of a job: what every other way to compute it must come to.
func alone(t *testing.T, s job.Spec) *mppb.Outcome {
	t.Helper()
	k := New(t, Config{})
	k.Start("1")
	return k.Finish(k.Submit(s))
}

// together waits until n workers compute. On a starved machine the job may be done before.
func together(k *Cluster, id string, n int) {
	k.t.Helper()
	k.Until(id, fmt.Sprintf("%d workers that compute", n), func(d *mppb.JobDetail) bool { return computing(d) == n || !goesOn(d) })
}

func computing(d *mppb.JobDetail) int {
	n := 0
	for _, w := range d.Workers {
		if w.View == d.Job.View && len(w.Shards) > 0 {
			n++
		}
	}
	return n
}

func TestAnyNumberOfWorkersGivesTheSameBits(t *testing.T) { sameBitsBy(t, job.ModelSceneNet, 3) }

// sameBitsBy compares runs by one and by several workers.
func sameBitsBy(t *testing.T, model string, workers ...int) {
	t.Helper()
	s := Spec(t, model, 2)
	want := alone(t, s)
	for _, n := range workers {
		k := New(t, Config{MinWorkers: n})
		for i := range n {
			k.Start(fmt.Sprint(i + 1))
		}
		SameBits(t, fmt.Sprintf("%s, %d workers", model, n), k.Finish(k.Submit(s)), want)
	}
}

// Coordinators, who have no labels and hear nothing of it, know which images a job holds out: their ledger proves that each of
// the others was learned from once, and none of those.
func TestLedgerProvesWhatIsHeldOut(t *testing.T) {
	s := Spec(t, job.ModelSimpleNet, 2)
	d, err := job.Default(job.Spec{Model: s.Model, Adversarial: job.AdversarialFGSMRS})
	if err != nil {
		t.Fatal(err)
	}
	s.Adversarial, s.AdvEps, s.AdvStepSize, s.AdvSteps, s.AdvWatchImages = d.Adversarial, d.AdvEps, d.AdvStepSize, d.AdvSteps, 4
	k := New(t, Config{})
	k.Start("1")
	two := k.Start("2")
	k.At(9, two.Crash) // in the second epoch
	id := k.Submit(s)
	k.Finish(id)
	over := k.Until(id, "its ledger", func(d *mppb.JobDetail) bool { return true })
	if over.Job.Updates != 14 || len(over.Ledger) != 2 || over.Ledger[1].ExpectedImages != 76 || over.Ledger[1].Images != 76 {
		t.Errorf("%d updates, ledger %v; want 14 updates and 76 of 80 images an epoch", over.Job.Updates, over.Ledger)
	}
	s.AdvWatchImages = 41
	id = k.Submit(s)
	failed := k.Until(id, "its failure", func(d *mppb.JobDetail) bool { return d.Job.State == mppb.Job_FAILED })
	if !strings.Contains(failed.Job.Reason, "hold 41 of 80 training images out") || !strings.Contains(failed.Job.Reason, "choose at most 40") {
		t.Errorf("too many held out: the job failed because %q", failed.Job.Reason)
	}
}

// One run through everything that may happen to workers ends as the undisturbed one does.
func TestWorkersComeAndGo(t *testing.T) { comeAndGo(t, job.ModelSceneNet) }

func comeAndGo(t *testing.T, model string) {
	t.Helper()
	s := Spec(t, model, 8)
	want := alone(t, s)
	k := New(t, Config{})
	one, two := k.Start("1"), k.Start("2")
	k.At(5, two.Crash)
	id := k.Submit(s)
	k.Until(id, "the loss of worker 2 to be told", func(d *mppb.JobDetail) bool {
		return strings.Contains(story(d), "worker 2 (host host-2, cpu:0) vanished")
	})
	k.Ended(two)
	three := k.Start("3")
	together(k, id, 2)
	one.Drain()
	if err := k.Ended(one); err != nil && !errors.Is(err, worker.ErrDrained) || err == nil && goesOn(k.Until(id, "its state", func(*mppb.JobDetail) bool { return true })) {
		t.Errorf("the drained worker ended with %v, want ErrDrained", err)
	}
	k.Start("1")
	together(k, id, 2)
	three.Kill()
	SameBits(t, "a kill, a joiner, a drain, a return, a kill", k.Finish(id), want)
	if text := k.Story(id); !strings.Contains(text, "next step after") {
		t.Errorf("nobody says how soon the step after a fault came:\n%s", text)
	}
}

// A job with everything in TLS, a fault and a state that is copied included, comes to the bits of one in plain.
func TestEverythingInTLS(t *testing.T) {
	s := Spec(t, job.ModelSimpleNet, 4)
	want := alone(t, s)
	k := New(t, Config{Secure: true})
	k.Start("1")
	two := k.Start("2")
	k.At(5, two.Crash)
	id := k.Submit(s)
	k.Ended(two)
	k.Start("3")
	SameBits(t, "everything in TLS", k.Finish(id), want)
	if _, err := k.Fetch(0, id); err != nil {
		t.Errorf("fetch the run: %v", err)
	}
	plain, err := mppb.NewClient(mppb.ClientConfig{Addresses: []string{k.Addresses()}})
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	err = plain.Do(t.Context(), func(ctx context.Context, conn grpc.ClientConnInterface) error {
		_, err := mppb.NewClusterClient(conn).Jobs(ctx, &mppb.JobsRequest{})
		return err
	})
	if !errors.Is(err, mppb.ErrForeign) || !strings.Contains(err.Error(), "it speaks TLS") {
		t.Errorf("in plain: got %v", err)
	}
}

func TestLeaderDies(t *testing.T) { leaderDies(t, job.ModelSceneNet) }

func leaderDies(t *testing.T, model string) {
	t.Helper()
	s := Spec(t, model, 6)
	want := alone(t, s)
	k := New(t, Config{Coordinators: 3, FailAfter: time.Second})
	k.Start("1")
	k.Start("2")
	id := k.Submit(s)
	k.Until(id, "some updates", func(d *mppb.JobDetail) bool { return d.Job.Update >= 3 && computing(d) == 2 })
	leader := k.Leader()
	k.KillCoordinator(leader)
	d := k.Until(id, "further updates", func(d *mppb.JobDetail) bool { return d.Job.Update >= 10 })
	if n := computing(d); n != 2 && goesOn(d) {
		t.Errorf("%d workers are left with another leader, want 2\n%s", n, story(d))
	}
	k.StartCoordinator(leader)
	SameBits(t, "another leader", k.Finish(id), want)
}

func goesOn(d *mppb.JobDetail) bool { return d.Job.State == mppb.Job_RUNNING }

// Everything goes and comes back: the job goes on by itself from its last checkpoint.
func TestEverythingIsStartedAgain(t *testing.T) { everythingAgain(t, job.ModelSceneNet) }

func everythingAgain(t *testing.T, model string) {
	t.Helper()
	s := Spec(t, model, 4)
	s.CheckpointEvery = 3
	want := alone(t, s)
	k := New(t, Config{Coordinators: 3, FailAfter: time.Second})
	workers := []*Worker{k.Start("1"), k.Start("2")}
	id := k.Submit(s)
	k.Until(id, "a checkpoint", func(d *mppb.JobDetail) bool { return len(d.Checkpoints) > 0 && d.Job.Update >= 5 })
	for _, w := range workers {
		w.Kill()
	}
	for i := range 3 {
		k.KillCoordinator(i)
	}
	for i := range 3 {
		k.StartCoordinator(i)
	}
	k.Start("1")
	k.Start("2")
	SameBits(t, "everything started again", k.Finish(id), want)
}

func TestJobsQueuePauseAndDrain(t *testing.T) {
	s := Spec(t, job.ModelSimpleNet, 6)
	want := alone(t, s)
	k := New(t, Config{})
	k.Start("1")
	k.Start("2")
	first, second := k.Submit(s), k.Submit(s)
	k.Until(first, "some updates", func(d *mppb.JobDetail) bool { return d.Job.Update >= 3 })
	if d := k.Show(second); d.Job.State != mppb.Job_QUEUED {
		t.Errorf("the second job is %s, want it to wait", d.Job.State)
	}
	k.Steer(first, mppb.SteerRequest_PAUSE)
	d := k.Until(first, "the pause", func(d *mppb.JobDetail) bool { return d.Job.State == mppb.Job_PAUSED && d.Job.Workers == 0 })
	if d := k.Show(second); d.Job.State != mppb.Job_QUEUED {
		t.Errorf("while the first is paused the second job is %s, want it to wait", d.Job.State)
	}
	k.Steer(first, mppb.SteerRequest_RESUME)
	k.Until(first, "further updates", func(now *mppb.JobDetail) bool { return now.Job.Update > d.Job.Update })
	k.Steer(first, mppb.SteerRequest_DRAIN)
	k.Until(second, "its turn", func(d *mppb.JobDetail) bool { return d.Job.State == mppb.Job_RUNNING || d.Job.State == mppb.Job_DONE })
	SameBits(t, "the second job", k.Finish(second), want)
	k.Steer(first, mppb.SteerRequest_RESUME)
	SameBits(t, "the first job, paused and drained", k.Finish(first), want)
}

func TestBelowTheMinimumTheJobWaits(t *testing.T) {
	s := Spec(t, job.ModelSimpleNet, 6)
	want := alone(t, s)
	k := New(t, Config{MinWorkers: 2})
	k.Start("1")
	two := k.Start("2")
	k.At(4, two.Crash)
	id := k.Submit(s)
	k.Ended(two)
	d := k.Until(id, "the job to wait", func(d *mppb.JobDetail) bool { return d.Job.View > 0 && d.Job.Workers == 0 })
	if !strings.Contains(story(d), "needed") {
		t.Errorf("nobody says that workers are missing:\n%s", story(d))
	}
	k.Start("2")
	SameBits(t, "a wait for workers", k.Finish(id), want)
}

// A finished run lies whole on every coordinator's machine, whoever led and whoever wrote it.
func TestAFinishedRunIsFetchedFromAnyNode(t *testing.T) {
	k := New(t, Config{Coordinators: 3})
	k.Start("1")
	k.Start("2")
	id := k.Submit(Spec(t, job.ModelSimpleNet, 2))
	out := k.Finish(id)
	for i := range 3 {
		best, latest := "", ""
		k.Eventually(fmt.Sprintf("node %d to have the whole run", i), func() bool {
			dir, err := k.Fetch(i, id)
			if err == nil {
				best, _, err = checkpoint.Best(dir)
			}
			if err == nil {
				latest, _, err = checkpoint.Latest(dir)
			}
			return err == nil && filepath.Base(best) == out.Checkpoint && filepath.Base(latest) == "update-00000014"
		})
		last, err := checkpoint.Read(latest)
		if err != nil {
			t.Errorf("node %d: %v", i, err)
		} else if got := checkpoint.Digest(last.Model); got != out.Sha256 {
			t.Errorf("node %d gives out weights %.12s, want %.12s", i, got, out.Sha256)
		}
	}
}

// A worker that cannot belong is refused with one clear error, and the job does not mind.
func TestStrangersAreRefused(t *testing.T) {
	s := Spec(t, job.ModelSimpleNet, 4)
	want := alone(t, s)
	k := New(t, Config{})
	k.Start("1")
	id := k.Submit(s)
	k.Until(id, "some updates", func(d *mppb.JobDetail) bool { return d.Job.Update >= 2 })
	for _, c := range []struct {
		name, want string
		change     func(*worker.NodeConfig)
	}{
		{"version", "version", func(c *worker.NodeConfig) { c.Version = "another" }},
		{"device", "cpu:0", func(c *worker.NodeConfig) { c.Machine = "machine-1" }},
		{"images", "images", func(c *worker.NodeConfig) { c.Train = c.Val }},
	} {
		w := k.Start(c.name, c.change)
		if err := k.Ended(w); !errors.Is(err, worker.ErrRefused) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("a worker of another %s ended with %v, want ErrRefused that tells of %q", c.name, err, c.want)
		}
	}
	SameBits(t, "strangers at the door", k.Finish(id), want)
}

func TestDivergenceFailsTheJobForAll(t *testing.T) {
	s := Spec(t, job.ModelSimpleNet, 3)
	s.LR, s.ClipGrad, s.Warmup = 1000, 0, 0
	k := New(t, Config{})
	k.Start("1")
	k.Start("2")
	id := k.Submit(s)
	d := k.Until(id, "the job to fail", func(d *mppb.JobDetail) bool { return !goesOn(d) && d.Job.State != mppb.Job_QUEUED })
	if d.Job.State != mppb.Job_FAILED || !strings.Contains(d.Job.Reason, "lower --lr") {
		t.Errorf("the job is %s: %s; want it failed, with advice", d.Job.State, d.Job.Reason)
	}
	next := Spec(t, job.ModelSimpleNet, 2)
	k.Finish(k.Submit(next)) // the workers are there for the next one
}
