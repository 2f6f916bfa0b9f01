package prometheus

import (
	"fmt"
	"time"

	client "github.com/prometheus/client_golang/prometheus"

	"mp/metrics"
)

// runNumbers are what the events of runs set. All have the label run, the identity of the job: job would be Prometheus' own.
type runNumbers struct {
	steps                                      *client.CounterVec
	stepSeconds, detectSeconds, recoverSeconds *client.HistogramVec
	update, epoch, epochs, loss, rate, norm    *client.GaugeVec
	images, wait, memory, eta                  *client.GaugeVec
	accuracy, evaluated                        *client.GaugeVec // and split, top
	goodput, faults, members, view             *client.GaugeVec
	ownImages, ownMemory, skew, shard          *client.GaugeVec // and worker
	reduce, hidden                             *client.GaugeVec // likewise
	busy, taken, whole                         *client.GaugeVec // likewise, of its GPU
	validationSeconds, epochSeconds, best      *client.GaugeVec
}

func newRunNumbers() runNumbers {
	run := []string{"run"}
	gauge := func(name, help string, more ...string) *client.GaugeVec {
		return client.NewGaugeVec(client.GaugeOpts{Name: name, Help: help}, append(run[:1:1], more...))
	}
	times := func(name, help string, from float64) *client.HistogramVec {
		return client.NewHistogramVec(client.HistogramOpts{Name: name, Help: help, Buckets: client.ExponentialBuckets(from, 2, 14)}, run)
	}
	return runNumbers{
		steps:          client.NewCounterVec(client.CounterOpts{Name: "mp_steps_total", Help: "Updates committed and told since this process began."}, run),
		stepSeconds:    times("mp_step_seconds", "Seconds between two updates, the mean of those between two reports.", .01),
		detectSeconds:  times("mp_detect_seconds", "Seconds from a lost worker's last sign of life to the notice.", .001),
		recoverSeconds: times("mp_recover_seconds", "Seconds from the notice of a fault to the next committed update.", .01),

		update: gauge("mp_update", "Updates done, as last reported."),
		epoch:  gauge("mp_epoch", "Epoch under way, from 1."),
		epochs: gauge("mp_epochs", "Epochs of the whole run."),
		loss:   gauge("mp_training_loss", "Mean loss of training since the last report."),
		rate:   gauge("mp_learning_rate", "Learning rate of the last update."),
		norm:   gauge("mp_gradient_norm", "Norm of the last gradient before clipping, where it is measured."),
		images: gauge("mp_images_per_second", "Training images a second, all workers together."),
		wait:   gauge("mp_data_wait_ratio", "Share of its time that the first worker waited for images."),
		memory: gauge("mp_memory_bytes", "Memory of the first worker: resident on a CPU, allocated on a GPU."),
		eta:    gauge("mp_eta_seconds", "Estimated seconds to the end of the run."),

		accuracy:          gauge("mp_accuracy_ratio", "Share of images recognised in the last epoch: split is train, val, or robust for attacked images; top is 1 or 5.", "split", "top"),
		evaluated:         gauge("mp_loss", "Mean loss of the last epoch, by split as in mp_accuracy_ratio.", "split"),
		epochSeconds:      gauge("mp_epoch_seconds", "Seconds that training took of the last epoch."),
		validationSeconds: gauge("mp_validation_seconds", "Seconds that the last validation took."),
		best:              gauge("mp_best_top1_ratio", "Share of validation images recognised by the best epoch so far."),

		goodput: gauge("mp_goodput_ratio", "Share of the time, validations apart, that the committed updates would have taken undisturbed."),
		faults:  gauge("mp_faults", "Views that answered a fault, of those told here."),
		members: gauge("mp_view_workers", "Workers of the view in force."),
		view:    gauge("mp_view", "Number of the view in force."),

		ownImages: gauge("mp_worker_images_per_second", "Training images a second of one worker.", "worker"),
		ownMemory: gauge("mp_worker_memory_bytes", "Memory of one worker: resident on a CPU, allocated on a GPU.", "worker"),
		skew:      gauge("mp_worker_arrival_skew_seconds", "Seconds that the others waited for this worker in a step, recent mean.", "worker"),
		shard:     gauge("mp_worker_shard_seconds", "Seconds to compute one shard, recent mean.", "worker"),
		reduce:    gauge("mp_worker_reduce_seconds", "Seconds of a step that the sum was at work, recent mean.", "worker"),
		hidden:    gauge("mp_worker_reduce_hidden_ratio", "Share of these seconds in which the worker computed.", "worker"),
		busy:      gauge("mp_worker_gpu_busy_ratio", "Share of the last fraction of a second in which the worker's GPU computed, for any process.", "worker"),
		taken:     gauge("mp_worker_gpu_memory_used_bytes", "Memory of the worker's GPU that processes have.", "worker"),
		whole:     gauge("mp_worker_gpu_memory_total_bytes", "Memory of the worker's GPU.", "worker"),
	}
}

// vector is a metric with labels.
type vector interface {
	client.Collector
	DeletePartialMatch(client.Labels) int
}

func (n runNumbers) ofWorkers() []vector {
	return []vector{n.ownImages, n.ownMemory, n.skew, n.shard, n.reduce, n.hidden, n.busy, n.taken, n.whole}
}

func (n runNumbers) all() []vector {
	return append([]vector{
		n.steps, n.stepSeconds, n.detectSeconds, n.recoverSeconds, n.update, n.epoch, n.epochs, n.loss, n.rate, n.norm, n.images, n.wait, n.memory, n.eta,
		n.accuracy, n.evaluated, n.epochSeconds, n.validationSeconds, n.best, n.goodput, n.faults, n.members, n.view,
	}, n.ofWorkers()...)
}

// run is the Sink of one run.
type run struct {
	n       runNumbers
	job     string
	account metrics.Account
	last    metrics.Step // the newest that was told, or where the run began or went on
	known   bool         // last is something
	at      time.Time    // when
	faults  int
}

// Sink returns what shows the events of a run. Close takes its numbers away.
func (r *Registry) Sink(job string) metrics.Sink {
	r.run.faults.WithLabelValues(job).Set(0)
	r.run.steps.WithLabelValues(job).Add(0)
	return &run{n: r.run, job: job}
}

// Close takes the run's numbers away.
func (r *run) Close() error {
	for _, v := range r.n.all() {
		v.DeletePartialMatch(client.Labels{"run": r.job})
	}
	return nil
}

// Emit sets what e says.
func (r *run) Emit(e metrics.Event) {
	r.account.Hear(e)
	set := func(v *client.GaugeVec, value float64, more ...string) {
		v.WithLabelValues(append([]string{r.job}, more...)...).Set(value)
	}
	if g := r.account.Report(); g.StepSeconds > 0 { // it is known
		set(r.n.goodput, g.Share)
	}
	switch {
	case e.Start != nil:
		r.last, r.known = metrics.Step{Update: e.Start.Update}, true
	case e.Step != nil:
		r.step(e.Time, *e.Step, set)
	case e.Epoch != nil:
		set(r.n.accuracy, e.Epoch.Top1/100, "train", "1")
		set(r.n.accuracy, e.Epoch.Top5/100, "train", "5")
		set(r.n.evaluated, float64(e.Epoch.Loss), "train")
		set(r.n.epochSeconds, e.Epoch.Seconds)
	case e.Validation != nil:
		v := e.Validation
		set(r.n.accuracy, v.Top1/100, "val", "1")
		set(r.n.accuracy, v.Top5/100, "val", "5")
		set(r.n.evaluated, float64(v.Loss), "val")
		set(r.n.validationSeconds, v.Seconds)
		if v.Best {
			set(r.n.best, v.Top1/100)
		}
		if v.Robust != nil {
			set(r.n.accuracy, v.Robust.Top1/100, "robust", "1")
			set(r.n.accuracy, v.Robust.Top5/100, "robust", "5")
			set(r.n.evaluated, float64(v.Robust.Loss), "robust")
		}
	case e.Worker != nil:
		w := e.Worker
		name := w.Name
		if name == "" {
			name = fmt.Sprintf("worker %d", w.Worker)
		}
		set(r.n.ownImages, w.ImagesPerSecond, name)
		set(r.n.ownMemory, float64(w.MemoryBytes), name)
		set(r.n.skew, w.ArrivalSkew, name)
		set(r.n.shard, w.ShardSeconds, name)
		set(r.n.reduce, w.ReduceSeconds, name)
		set(r.n.hidden, w.ReduceHidden, name)
		if g := w.GPU; g != nil {
			set(r.n.taken, float64(g.UsedBytes), name)
			set(r.n.whole, float64(g.TotalBytes), name)
			if g.Busy != nil {
				set(r.n.busy, *g.Busy, name)
			}
		}
	case e.View != nil:
		r.turn(*e.View, set)
	}
}

// setter sets a number of the run; more are the labels beside the job.
type setter func(v *client.GaugeVec, value float64, more ...string)

// step shows a reported step.
func (r *run) step(at time.Time, s metrics.Step, set setter) {
	if gained := s.Update - r.last.Update; gained > 0 && r.known {
		r.n.steps.WithLabelValues(r.job).Add(float64(gained))
		if s.Epoch == r.last.Epoch { // no validation in between
			r.n.stepSeconds.WithLabelValues(r.job).Observe(at.Sub(r.at).Seconds() / float64(gained))
		}
	}
	r.last, r.at, r.known = s, at, true
	set(r.n.update, float64(s.Update))
	set(r.n.epoch, float64(s.Epoch))
	set(r.n.epochs, float64(s.Epochs))
	set(r.n.loss, float64(s.Loss))
	set(r.n.rate, s.LearningRate)
	if s.GradientNorm != 0 {
		set(r.n.norm, float64(s.GradientNorm))
	}
	set(r.n.images, s.ImagesPerSecond)
	set(r.n.wait, s.DataWait)
	set(r.n.memory, float64(s.MemoryBytes))
	set(r.n.eta, s.ETASeconds)
}

// turn shows a view, or that it has brought its first update.
func (r *run) turn(v metrics.View, set setter) {
	if v.RecoverSeconds > 0 {
		r.n.recoverSeconds.WithLabelValues(r.job).Observe(v.RecoverSeconds)
		return
	}
	if v.DetectSeconds > 0 {
		r.n.detectSeconds.WithLabelValues(r.job).Observe(v.DetectSeconds)
	}
	if v.Warning {
		r.faults++
		set(r.n.faults, float64(r.faults))
	}
	set(r.n.view, float64(v.Number))
	for _, of := range r.n.ofWorkers() { // who is in it tells again
		of.DeletePartialMatch(client.Labels{"run": r.job})
	}
	if n := len(v.Members); n > 0 {
		set(r.n.members, float64(n))
	}
}
