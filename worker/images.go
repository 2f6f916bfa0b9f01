package worker

import (
	"context"
	"fmt"
	"slices"
	"strconv"

	"mp/data"
	"mp/job"
	"mp/ops"
)

// form is how images of a pack come to a device: with our kernel a GPU makes them itself, of records that it keeps or gets.
func form(d *ops.Device, p data.Images) data.Form {
	switch {
	case d == nil || d.IsCPU() || !d.Gathers(): // on a CPU the loader's goroutines make them ahead
		return data.Finished
	case d.Kept(p.Records()):
		return data.Ordered
	}
	return data.Raw
}

// stage is where records wait that a GPU gets batch by batch.
func stage(d *ops.Device) data.Stage {
	if d == nil || d.IsCPU() {
		return nil
	}
	return d.Stage()
}

// feed delivers a member's shards, update after update. It outlives a view whose successor gives the member the same shards.
type feed struct {
	replica *replica
	mine    []int // shards of every step, in the order of delivery
	loader  *data.Loader
	update  int // the one that delivery is in
	given   int // shards of it that were delivered

	held []*data.Batch // of the update under way, where several are made with a batch
	of   int           // which that is
}

// newFeed starts to prepare shards from the replica's next update on to the last of the run. Close it.
func newFeed(r *replica, mine []int) (*feed, error) {
	f := &feed{replica: r, mine: mine, update: r.at.Done}
	if len(mine) == 0 || r.at.Done == r.total() {
		return f, nil
	}
	recipe, err := data.NewRecipe(r.spec.Augment)
	if err != nil {
		return nil, err
	}
	recipe.Mixup, recipe.Cutmix = r.spec.Mixup, r.spec.Cutmix
	steps := r.steps()
	f.loader, err = data.NewLoader(data.LoaderConfig{
		Images: r.train, Sampler: r.sampler, Recipe: recipe, Seed: r.spec.Seed, Shards: r.spec.Shards, Mine: mine,
		FirstEpoch: r.at.Done / steps, FirstStep: r.at.Done % steps, Epochs: r.spec.Epochs,
		Size: r.sizes.At, MaxSize: r.sizes.Max(), Form: form(r.device, r.train), Stage: stage(r.device), BFloat16: r.spec.Precision == job.BF16 && r.adversary == nil, ChannelsLast: r.spec.ChannelsLast,
	})
	if err != nil {
		return nil, err
	}
	return f, nil
}

// serves says whether the feed can go on for these shards of the replica's next update: what it has delivered of that one
// must have been computed.
func (f *feed) serves(mine []int) bool {
	if f == nil || !slices.Equal(f.mine, mine) {
		return false
	}
	delivered := mine[:f.given]
	switch f.replica.at.Done {
	case f.update:
	case f.update - 1: // which it has delivered
		if f.given > 0 {
			return false
		}
		delivered = mine
	default:
		return false
	}
	for _, s := range delivered {
		if f.replica.size(s) > 0 && !f.replica.computed(s) && !f.holds(s) {
			return false
		}
	}
	return true
}

// missing are the shards of the next update that have images and are not computed.
func (f *feed) missing() []int {
	var out []int
	for _, s := range f.mine {
		if f.replica.size(s) > 0 && !f.replica.computed(s) {
			out = append(out, s)
		}
	}
	return out
}

// keeps says whether batches are needed again after their first update.
func (f *feed) keeps() bool { return f.replica.spec.Replays() > 1 }

// holds says whether a shard of the next update is here already.
func (f *feed) holds(shard int) bool {
	return f.of == f.replica.at.Done && slices.ContainsFunc(f.held, func(b *data.Batch) bool { return b.Shard == shard })
}

// next delivers the next shard of the replica's next update that is missing. Give it to done.
func (f *feed) next(ctx context.Context) (*data.Batch, error) {
	if f.of != f.replica.at.Done {
		for _, b := range f.held {
			b.Release()
		}
		f.held, f.of = nil, f.replica.at.Done
	}
	for _, b := range f.held {
		if !f.replica.computed(b.Shard) {
			return b, nil
		}
	}
	for {
		b, err := f.loader.Next(ctx)
		if err != nil {
			return nil, fmt.Errorf("load update %d: %w", f.update+1, err)
		}
		update := f.update
		if f.given++; f.given == len(f.mine) {
			f.given = 0
			f.update++
		}
		wanted := update == f.replica.at.Done && len(b.IDs) > 0
		missing := wanted && !f.replica.computed(b.Shard)
		if wanted && f.keeps() {
			f.held = append(f.held, b)
		} else if !missing {
			b.Release()
		}
		if missing {
			return b, nil
		}
	}
}

// done takes back what next delivered.
func (f *feed) done(b *data.Batch) {
	if !f.keeps() {
		b.Release()
	}
}

func (f *feed) close() {
	if f != nil && f.loader != nil {
		f.loader.Close()
	}
}

// size is the number of images of a shard of the next update.
func (r *replica) size(shard int) int {
	return r.sampler.Size(r.at.Done%r.steps(), shard, r.spec.Shards)
}

// ImageConfig says how images come to a network that only answers.
type ImageConfig struct {
	Batch         int    // images at a time
	Scale         string // short side before the centre crop in pixels, or job.ScaleNone
	Interpolation string // how Scale resizes; random draws one for each image and epoch
	Seed          uint64 // of what random draws
	Epoch         int    // likewise
	BFloat16      bool   // float32 where false
	ChannelsLast  bool
	Device        *ops.Device // that the images are for; nil: they come finished

	only  []int32 // images to deliver, in this order; nil: all
	parts int     // into how many parts a validation is cut: a batch is of Batch*parts images; 0: one
	mine  []int   // those delivered; nil: all
	step  int     // the first batch
}

// sequence is how n images are cut into batches of all parts.
func (c ImageConfig) sequence(n int) (*data.Sampler, error) {
	batch := c.Batch * max(c.parts, 1)
	if c.only == nil {
		return data.NewSequence(n, batch)
	}
	return data.NewSequenceOf(c.only, n, batch)
}

// NewImages delivers every image of p once, in order, the last batch perhaps smaller. Close the loader.
func NewImages(p data.Images, c ImageConfig) (*data.Loader, error) {
	scale := 0
	if c.Scale != job.ScaleNone {
		var err error
		if scale, err = strconv.Atoi(c.Scale); err != nil {
			return nil, fmt.Errorf("%w: --scale %q: want a number of pixels, or %s", job.ErrConfig, c.Scale, job.ScaleNone)
		}
	}
	recipe, err := data.NewValRecipe(scale, c.Interpolation)
	if err != nil {
		return nil, err
	}
	sequence, err := c.sequence(p.Len())
	if err != nil {
		return nil, err
	}
	return data.NewLoader(data.LoaderConfig{
		Images: p, Sampler: sequence, Recipe: recipe, Seed: c.Seed, Shards: max(c.parts, 1), Mine: c.mine, Form: form(c.Device, p), Stage: stage(c.Device),
		FirstEpoch: c.Epoch, FirstStep: c.step, Epochs: c.Epoch + 1,
		BFloat16: c.BFloat16, ChannelsLast: c.ChannelsLast,
	})
}
