package worker

import (
	"context"
	"errors"
	"fmt"
	"slices"

	torch "github.com/wangkuiyi/gotorch"

	"mp/checkpoint"
	"mp/data"
	"mp/job"
	"mp/metrics"
	"mp/model"
	"mp/ops"
	"mp/optim"
)

// replicaConfig is what a replica is made of.
type replicaConfig struct {
	spec       job.Spec
	device     *ops.Device
	onDevice   bool // vectors are the device's alone, as on a GPU
	train, val *data.Pack
	directory  string // of the run: where --resume is the run's own
	// tell is for sentences about how the run begins; beat for signs that work goes on: one a shard, and one for each turn
	// of a loop within a shard.
	tell func(topic, text string, warning bool)
	beat func()
}

// replica is the state of one job on one device: weights, running statistics, optimizer, average, and how far it is. All
// replicas of a job that are at the same position hold the same bits. It is for one goroutine.
type replica struct {
	replicaConfig
	sizes     job.Sizes
	schedule  optim.Schedule
	sampler   *data.Sampler
	model     *model.Model
	optimizer *optim.Optimizer
	average   *optim.Average // of the weights, nil where the job has none
	layout    layout

	adversary *adversary   // nil: images are not attacked
	signs     []int32      // of the perturbation of the batch under way: see replay.go
	held      []int32      // training images that are held out, for the watchdog, ascending; nil: none
	unmoved   torch.Tensor // the weights while they are perturbed; else undefined

	before torch.Tensor    // the model's buffers before the step
	sum    *vector         // what the group adds up in a step
	shards map[int]*vector // finished shards of the next update
	spare  []*vector

	whole   bool   // holds a state: first values, a checkpoint's, or a peer's
	touched bool   // weights are not the first values
	moved   bool   // it went on since it began
	began   string // SHA-256 of the state that it began with; empty: not computed yet
	at      position
	norm    float64 // of the last step's gradient before clipping; 0 where nothing is clipped
	best    best    // of all validations so far
	last    tally   // of the last validation
	watched watched // of the same, on the images held out
	epochs  []ledgerEntry
}

// position is how far a run is. Positions are ordered: an epoch's validation comes after its last update, and replays of a
// batch after that.
type position struct {
	Done      int `json:"done"`      // batches done, each with one update or, in free adversarial training, with several
	Validated int `json:"validated"` // epochs done, validation included
	Replay    int `json:"replay"`    // updates done with the batch under way
}

// nowhere is the position of no state.
var nowhere = position{Done: -1, Validated: -1}

func (p position) before(o position) bool {
	return slices.Compare([]int{p.Done, p.Validated, p.Replay}, []int{o.Done, o.Validated, o.Replay}) < 0
}

// best is the validation that the best checkpoint is of.
type best struct {
	Score
	epoch   int                 // epochs completed then; 0: none yet
	update  int                 // updates done then
	weights []checkpoint.Tensor // what was validated; nil where that is in a checkpoint this replica started from
}

// newReplica builds a job's model and optimizer at their first values. It holds no state yet: see begin. Close it.
func newReplica(ctx context.Context, c replicaConfig) (*replica, error) {
	r := &replica{replicaConfig: c, shards: map[int]*vector{}}
	if err := r.spec.Validate(); err != nil {
		return nil, err
	}
	if t, v := len(c.train.Classes()), len(c.val.Classes()); t != v {
		return nil, fmt.Errorf("train: %s has %d classes and %s has %d; pack both from the same folder: %w",
			c.train.Path(), t, c.val.Path(), v, job.ErrConfig)
	}
	var err error
	if r.sizes, err = job.ParseSizes(r.spec.ImageSize); err != nil {
		return nil, err
	}
	if r.held, err = data.HoldOut(c.train, r.spec.AdvWatchImages); err != nil {
		return nil, fmt.Errorf("--adv-watch-images: %w", err)
	}
	if r.sampler, err = data.NewSamplerWithout(r.held, r.spec.Seed, c.train.Len(), r.spec.BatchSize, false); err != nil {
		return nil, err
	}
	if r.schedule, err = optim.NewSchedule(r.spec.Schedule, r.spec.LR, r.spec.Warmup, r.spec.Epochs, r.sampler.Steps()*r.spec.Replays()); err != nil {
		return nil, fmt.Errorf("%w: %w", job.ErrConfig, err)
	}
	if r.adversary, err = newAdversary(r); err != nil {
		return nil, err
	}
	if err := r.device.Do(ctx, r.build); err != nil {
		r.close()
		return nil, advise(err)
	}
	for _, p := range []*data.Pack{r.train, r.val} {
		if err := r.device.Keep(ctx, p.Records()); err != nil {
			r.close()
			return nil, advise(err)
		}
	}
	if err := r.newSum(ctx); err != nil {
		r.close()
		return nil, err
	}
	return r, nil
}

// build makes everything that lives on the device.
func (r *replica) build(s *ops.Scope) error {
	var err error
	r.model, err = model.New(s, r.spec.Model, model.Options{
		Classes:      len(r.train.Classes()),
		OwnConv:      r.spec.Conv == job.ConvOwn,
		ChannelsLast: r.spec.ChannelsLast,
		Seed:         r.spec.Seed,
	})
	if err != nil {
		return err
	}
	decays := func(name string) bool { return r.spec.DecayAll || !r.model.NoDecay(name) }
	if r.optimizer, err = optim.New(s, optimizerConfig(r.spec), r.model.Params, decays); err != nil {
		return err
	}
	if r.spec.EMA > 0 {
		r.average, err = optim.NewAverage(s, optim.AverageConfig{Decay: r.spec.EMA, Warmup: true}, r.model.Params, r.model.Buffers)
		if err != nil {
			return err
		}
	}
	r.layout = newLayout(r.model)
	r.before = s.Release(s.Zeros(ops.Float32, r.model.Buffers.Len()))
	return s.Err()
}

func optimizerConfig(s job.Spec) optim.Config {
	c := optim.DefaultConfig(s.Optimizer)
	c.Momentum, c.Nesterov, c.WeightDecay = s.Momentum, s.Nesterov, s.WeightDecay
	return c
}

// steps is the number of batches of an epoch; total of the run.
func (r *replica) steps() int { return r.sampler.Steps() }
func (r *replica) total() int { return r.spec.Epochs * r.sampler.Steps() }

// images is the number of images of a step.
func (r *replica) images(step int) int { return r.sampler.Size(step, 0, 1) }

// validationDue says whether the next thing to do at p is a validation.
func (r *replica) validationDue(p position) bool { return p.Done == (p.Validated+1)*r.steps() }

// finished says whether p is the end of the run.
func (r *replica) finished(p position) bool { return p.Validated >= r.spec.Epochs }

// memory is what the process occupies of the device in bytes, 0 where that is unknown: a figure is no reason to stop.
func (r *replica) memory() int64 {
	n, err := r.device.MemoryInUse()
	if err != nil {
		return 0
	}
	return n
}

// gpuOf is how a device's GPU is used, nil where that is unknown.
func gpuOf(d *ops.Device) *metrics.GPU {
	u, ok := d.Use()
	if !ok {
		return nil
	}
	g := &metrics.GPU{UsedBytes: u.Used, TotalBytes: u.Total}
	if u.Busy >= 0 {
		g.Busy = &u.Busy
	}
	return g
}

// close frees the replica's tensors. Device and packs are the caller's.
func (r *replica) close() {
	_ = r.device.Do(context.Background(), func(*ops.Scope) error { // a closed device has nothing left to free
		r.forget()
		if r.sum != nil {
			r.spare = append(r.spare, r.sum)
		}
		for _, v := range r.spare {
			ops.Free(v.whole)
		}
		ops.Free(r.before)
		ops.Free(r.unmoved)
		if r.average != nil {
			r.average.Free()
		}
		if r.optimizer != nil {
			r.optimizer.Free()
		}
		if r.model != nil {
			r.model.Free()
		}
		r.spare, r.sum = nil, nil
		return nil
	})
}

// advise says what to do about an error that a person can do something about.
func advise(err error) error {
	if errors.Is(err, ops.ErrOutOfMemory) {
		return fmt.Errorf("%w; lower --batch-size, raise --shards (a worker computes one shard at a time), or halve activations with --precision bf16", err)
	}
	return err
}
