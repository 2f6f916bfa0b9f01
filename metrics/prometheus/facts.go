package prometheus

import (
	"time"

	client "github.com/prometheus/client_golang/prometheus"

	"mp/metrics"
)

// fact is a number that is asked for at each scrape.
type fact struct {
	desc *client.Desc
	kind client.ValueType
}

func newFact(kind client.ValueType, name, help string, labels ...string) fact {
	return fact{client.NewDesc(name, help, labels, nil), kind}
}

func (f fact) is(v float64, labels ...string) client.Metric {
	return client.MustNewConstMetric(f.desc, f.kind, v, labels...)
}

// clusterFacts collects what a coordinator knows.
type clusterFacts struct{ ask func() metrics.ClusterFacts }

// clusterTable are the numbers of a coordinator.
type clusterTable struct {
	leads, term, applied, committed, changes, failures, workers, jobs fact
	update, updates, epochs, lost, repeated, age                      fact
}

func newClusterTable() clusterTable {
	gauge, counter := client.GaugeValue, client.CounterValue
	return clusterTable{
		leads:     newFact(gauge, "mp_coordinator_leads", "1 while this coordinator leads."),
		term:      newFact(gauge, "mp_raft_term", "Term of raft."),
		applied:   newFact(gauge, "mp_raft_applied_entries", "Entries of raft's log that this coordinator has applied."),
		committed: newFact(gauge, "mp_raft_committed_entries", "Entries of raft's log that this coordinator knows to be committed."),
		changes:   newFact(counter, "mp_leader_changes_total", "Changes of the leading coordinator that this one has seen."),
		failures:  newFact(counter, "mp_failures_total", "Workers lost while this coordinator led: vanished, silent, stuck, accused, absent.", "cause"),
		workers:   newFact(gauge, "mp_workers", "Workers by state: computing, copying, waiting, away; quarantined devices.", "state"),
		jobs:      newFact(gauge, "mp_jobs", "Jobs by state.", "state"),
		update:    newFact(gauge, "mp_job_committed_updates", "Updates of a job that every worker has.", "run"),
		updates:   newFact(gauge, "mp_job_updates", "Updates of the whole job.", "run"),
		epochs:    newFact(gauge, "mp_job_epochs_done", "Epochs of a job that are wholly done.", "run"),
		lost:      newFact(gauge, "mp_lost_samples", "Training samples that committed updates should have used and did not, from the ledger: 0.", "run"),
		repeated:  newFact(gauge, "mp_repeated_samples", "Training samples that committed updates used twice in an epoch, from the ledger: 0.", "run"),
		age:       newFact(gauge, "mp_checkpoint_age_seconds", "Seconds since the newest whole checkpoint of a job under way.", "run"),
	}
}

// Describe names the numbers.
func (c clusterFacts) Describe(to chan<- *client.Desc) {
	t := newClusterTable()
	for _, f := range []fact{t.leads, t.term, t.applied, t.committed, t.changes, t.failures, t.workers, t.jobs, t.update, t.updates, t.epochs, t.lost, t.repeated, t.age} {
		to <- f.desc
	}
}

// Collect asks.
func (c clusterFacts) Collect(to chan<- client.Metric) {
	t, now := newClusterTable(), c.ask()
	leads := 0.
	if now.Leads {
		leads = 1
	}
	to <- t.leads.is(leads)
	to <- t.term.is(float64(now.Term))
	to <- t.applied.is(float64(now.Applied))
	to <- t.committed.is(float64(now.Committed))
	to <- t.changes.is(float64(now.LeaderChanges))
	for cause, n := range now.Failures {
		to <- t.failures.is(float64(n), cause)
	}
	for _, state := range metrics.WorkerStates() {
		to <- t.workers.is(float64(now.Workers[state]), state)
	}
	states := map[string]int{"queued": 0, "running": 0, "paused": 0, "draining": 0, "done": 0, "failed": 0, "cancelled": 0}
	for _, j := range now.Jobs {
		states[j.State]++
		to <- t.update.is(float64(j.Update), j.ID)
		to <- t.updates.is(float64(j.Updates), j.ID)
		to <- t.epochs.is(float64(j.Epochs), j.ID)
		to <- t.lost.is(float64(j.Lost), j.ID)
		to <- t.repeated.is(float64(j.Repeated), j.ID)
		if !j.Ended && !j.Saved.IsZero() {
			to <- t.age.is(max(time.Since(j.Saved).Seconds(), 0), j.ID)
		}
	}
	for state, n := range states {
		to <- t.jobs.is(float64(n), state)
	}
}

// workerFacts collects what a worker knows of itself.
type workerFacts struct{ ask func() metrics.WorkerFacts }

// workerTable are the numbers of a worker.
type workerTable struct {
	joined, identity, phase, update, view, beats, memory, shard, skew, step fact
	busy, taken, whole                                                      fact
}

func newWorkerTable() workerTable {
	gauge, counter := client.GaugeValue, client.CounterValue
	return workerTable{
		joined:   newFact(gauge, "mp_worker_joined", "1 while a coordinator has this worker."),
		identity: newFact(gauge, "mp_worker_identity", "The number that the cluster gave this worker; 0: none yet."),
		phase:    newFact(gauge, "mp_worker_phase", "1 for what this worker does now.", "phase"),
		update:   newFact(gauge, "mp_worker_update", "Updates of its job that this worker has done."),
		view:     newFact(gauge, "mp_worker_view", "Number of the view that this worker is in."),
		beats:    newFact(counter, "mp_worker_beats_total", "Pieces of work done: shards, steps of attacks, batches, pieces of sums."),
		memory:   newFact(gauge, "mp_worker_own_memory_bytes", "Memory of this worker: resident on a CPU, allocated on a GPU."),
		shard:    newFact(gauge, "mp_worker_own_shard_seconds", "Seconds to compute one shard, recent mean."),
		skew:     newFact(gauge, "mp_worker_own_arrival_skew_seconds", "Seconds that the others waited for this worker in a step, recent mean."),
		step:     newFact(gauge, "mp_worker_own_step_seconds", "Seconds between two updates, recent mean."),
		busy:     newFact(gauge, "mp_worker_own_gpu_busy_ratio", "Share of the last fraction of a second in which this worker's GPU computed, for any process."),
		taken:    newFact(gauge, "mp_worker_own_gpu_memory_used_bytes", "Memory of this worker's GPU that processes have."),
		whole:    newFact(gauge, "mp_worker_own_gpu_memory_total_bytes", "Memory of this worker's GPU."),
	}
}

// Describe names the numbers.
func (c workerFacts) Describe(to chan<- *client.Desc) {
	t := newWorkerTable()
	for _, f := range []fact{t.joined, t.identity, t.phase, t.update, t.view, t.beats, t.memory, t.shard, t.skew, t.step, t.busy, t.taken, t.whole} {
		to <- f.desc
	}
}

// Collect asks.
func (c workerFacts) Collect(to chan<- client.Metric) {
	t, now := newWorkerTable(), c.ask()
	joined := 0.
	if now.Joined {
		joined = 1
	}
	to <- t.joined.is(joined)
	to <- t.identity.is(float64(now.Worker))
	to <- t.phase.is(1, now.Phase)
	to <- t.update.is(float64(now.Update))
	to <- t.view.is(float64(now.View))
	to <- t.beats.is(float64(now.Beats))
	to <- t.memory.is(float64(now.Memory))
	to <- t.shard.is(now.Shard)
	to <- t.skew.is(now.Skew)
	to <- t.step.is(now.PerStep)
	if g := now.GPU; g != nil {
		to <- t.taken.is(float64(g.UsedBytes))
		to <- t.whole.is(float64(g.TotalBytes))
		if g.Busy != nil {
			to <- t.busy.is(*g.Busy)
		}
	}
}
