package worker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"mp/allreduce"
	"mp/data"
	"mp/job"
	"mp/metrics"
	"mp/mppb"
	"mp/ops"
)

// ErrDiverged is returned when the loss or a gradient is no number any more.
var ErrDiverged = errors.New("training diverged")

// Causes with which the context of a view ends.
var (
	errNewView = errors.New("a newer view has come")
	errLeft    = errors.New("the membership has ended")
)

// engineConfig is what an engine works with.
type engineConfig struct {
	device     *ops.Device
	onDevice   bool // vectors are the device's alone; so they are on a GPU
	train, val *data.Pack
	control    control
	ring       ring
	donors     donors
	library    library
	// sink returns the sink for the events of a job, in the place of the one before, nil for none.
	sink    func(job string, before metrics.Sink) metrics.Sink
	version string
	kernels allreduce.Kernels
	bucket  int // elements that are summed in one operation; 0: allreduce's default
	log     *slog.Logger
	// fatal says whether a checkpoint that cannot be saved ends the run.
	fatal    bool
	injected *Fault // nil: none is wanted
}

// engine computes what views say: one loop for a lone worker and for one of many. It is for one goroutine.
type engine struct {
	engineConfig
	donor *donor
	saver *saver
	sinks metrics.Sink

	job     string
	replica *replica // of the job; nil before the first
	feed    *feed
	pace    *pace
	copying *duplicate // nil: nothing is copied
	writes  bool       // this worker wrote the last view's checkpoints
	result  *Result    // of the job, when it is done
	scores  scores     // of the validation under way

	background context.Context // of the saver
	saved      position        // of the last state that was handed to it
	savedBest  int             // update of the last best that was
	lost       chan error      // a checkpoint that could not be saved
}

// newEngine returns an engine whose checkpoints are written until ctx ends.
func newEngine(ctx context.Context, c engineConfig) *engine {
	e := &engine{engineConfig: c, donor: newDonor(), background: ctx, lost: make(chan error, 1)}
	e.saver = newSaver(c.library, func(err error) {
		select {
		case e.lost <- err:
		default:
		}
	})
	return e
}

// run computes one view after another until the membership ends (nil), ctx does, or something breaks that only this worker
// can be blamed for.
func (e *engine) run(ctx context.Context) error {
	var next order
	for {
		if next.view == nil {
			select {
			case o, ok := <-e.control.orders():
				if !ok {
					return nil
				}
				next = o
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		now := next
		next = order{}
		within, end := context.WithCancelCause(ctx)
		watched := make(chan order, 1)
		go func() { // ends with the view: see below
			defer close(watched)
			select {
			case o, ok := <-e.control.orders():
				if !ok {
					end(errLeft)
					return
				}
				watched <- o
				end(errNewView)
			case <-within.Done():
			}
		}()
		err := e.serve(within, now)
		err = e.settle(within, now, err)
		stay := err == nil
		if stay {
			select { // the view is done with; what comes next is for the coordinator to say
			case <-within.Done():
			case <-ctx.Done():
			}
		}
		cause := context.Cause(within)
		end(nil)
		if o, ok := <-watched; ok {
			next = o
		}
		switch {
		case err != nil:
			return err
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(cause, errLeft):
			return nil
		}
	}
}

// serve does what one view says and returns when that is done, or cannot be done, or ctx ends.
func (e *engine) serve(ctx context.Context, o order) error {
	e.control.post(func(s *mppb.Status) {
		s.View, s.Fault, s.Phase = o.view.Number, nil, mppb.Phase_READY
	})
	if o.rank < 0 || len(o.view.Members) == 0 {
		return e.rest(o)
	}
	if err := e.turnTo(ctx, o); err != nil {
		return err
	}
	v := &visit{engine: e, order: o}
	return v.run(ctx)
}

// settle turns the end of a view into what the coordinator hears of it, and returns what ends the engine.
func (e *engine) settle(ctx context.Context, o order, err error) error {
	var notFinite *allreduce.NotFiniteError
	var peer *allreduce.PeerError
	broken := errors.Is(err, allreduce.ErrBroken) || errors.As(err, &peer)
	switch {
	case err == nil, ctx.Err() != nil && (broken || errors.Is(err, context.Canceled)): // a newer view is why it broke
		return nil
	case errors.As(err, &notFinite):
		return e.diverged(o, notFinite)
	case errors.Is(err, errJob):
		e.fail(err)
		return e.end(err)
	case broken:
		e.fault(o, err)
		return nil
	}
	return err
}

// errJob is wrapped by errors that would meet every worker: the job cannot go on.
var errJob = errors.New("the job cannot go on")

// end makes an error end an engine that nobody could give another job.
func (e *engine) end(err error) error {
	if e.fatal {
		return err
	}
	return nil
}

// diverged tells that a shard has no finite gradient.
func (e *engine) diverged(o order, n *allreduce.NotFiniteError) error {
	r := e.replica
	who := "the sum of all shards"
	if n.Rank >= 0 {
		who = fmt.Sprintf("shard %d", n.Shard)
		if name := o.view.Members[n.Rank].GetName(); name != "" {
			who = fmt.Sprintf("shard %d, computed by %s,", n.Shard, name)
		}
	}
	err := fmt.Errorf("epoch %d, step %d: the loss or gradient of %s is no finite number; lower --lr or lengthen --warmup, and go on with --resume: %w",
		r.at.Done/r.steps()+1, r.at.Done%r.steps()+1, who, ErrDiverged)
	e.fail(err)
	return e.end(err)
}

// fail tells the coordinator that the job cannot go on.
func (e *engine) fail(err error) {
	e.control.post(func(s *mppb.Status) { s.Failure, s.Phase = err.Error(), mppb.Phase_READY })
	e.log.Warn("the job cannot go on", "job", e.job, "reason", err)
}

// fault tells the coordinator that the view cannot go on.
func (e *engine) fault(o order, err error) {
	f := &mppb.Fault{View: o.view.Number, Kind: allreduce.KindConnection, Text: err.Error()}
	var peer *allreduce.PeerError
	if errors.As(err, &peer) {
		f.Kind = peer.Kind
		if peer.Rank >= 0 && peer.Rank < len(o.view.Members) {
			f.Suspect = o.view.Members[peer.Rank].Worker
		}
	}
	e.control.post(func(s *mppb.Status) { s.Fault, s.Phase = f, mppb.Phase_READY })
	e.log.Info("the view broke", "view", o.view.Number, "kind", f.Kind, "suspect", f.Suspect, "reason", err)
}

// turnTo prepares for the job of a view, if it is another than before.
func (e *engine) turnTo(ctx context.Context, o order) error {
	if e.replica != nil && e.job == o.view.Job {
		return nil
	}
	e.leaveJob()
	e.control.post(func(s *mppb.Status) { s.Job = o.view.Job })
	var spec job.Spec
	if err := json.Unmarshal(o.view.Spec, &spec); err != nil {
		return fmt.Errorf("read the job's specification: %w: %w", errJob, err)
	}
	return e.prepare(ctx, o.view, spec)
}

// prepare builds the replica of a job.
func (e *engine) prepare(ctx context.Context, v *mppb.View, spec job.Spec) error {
	e.job, e.sinks = v.Job, e.sink(v.Job, e.sinks)
	if spec.Threads > 0 {
		if err := e.device.SetThreads(ctx, spec.Threads); err != nil {
			return err
		}
	}
	r, err := newReplica(ctx, replicaConfig{
		spec: spec, device: e.device, onDevice: e.onDevice || !e.device.IsCPU(), train: e.train, val: e.val, directory: v.Directory, beat: e.control.beat,
		tell: func(topic, text string, warning bool) {
			e.emit(metrics.Event{Kind: metrics.KindStory, Story: &metrics.Story{Topic: topic, Text: text, Warning: warning}})
		},
	})
	if err != nil {
		if ctx.Err() == nil && !errors.Is(err, ops.ErrOutOfMemory) && !errors.Is(err, ops.ErrDevice) { // those are this worker's alone
			err = fmt.Errorf("%w: %w", errJob, err)
		}
		return err
	}
	e.replica, e.saved, e.savedBest = r, nowhere, 0
	return nil
}

// leaveJob frees what belongs to a job.
func (e *engine) leaveJob() {
	e.feed.close()
	if e.replica != nil {
		e.replica.close()
	}
	e.replica, e.feed, e.pace, e.copying, e.writes, e.result, e.scores = nil, nil, nil, nil, false, nil, scores{}
	e.donor.keep("", func(position) bool { return false })
	e.control.post(func(s *mppb.Status) {
		s.Job, s.Update, s.CaughtUp, s.Validated, s.Ledger, s.Finished, s.Outcome, s.Failure = "", 0, false, 0, nil, false, nil, ""
	})
}

// rest is a view without this worker. Nobody at all computes when the job is paused: what is not in a checkpoint yet goes
// into one, for whoever goes on.
func (e *engine) rest(o order) error {
	r := e.replica
	if len(o.view.Members) > 0 || r == nil || e.job != o.view.Job || !e.writes || !r.whole || r.at.Done <= int(o.view.CheckpointUpdate) {
		return nil
	}
	return e.save(o.view)
}

// close frees everything and waits for what goes on in the background, which ends with the context that run was given.
func (e *engine) close() {
	e.saver.wait()
	e.leaveJob()
}

// emit gives an event the time and hands it to the job's sink.
func (e *engine) emit(x metrics.Event) {
	x.Time = time.Now()
	e.sinks.Emit(x)
}
