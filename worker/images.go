package worker

import (
	"fmt"
	"strconv"

	"mp/data"
	"mp/job"
)

// trainLoader delivers every shard from the next update to the last one of the run.
func (w *Worker) trainLoader() (*data.Loader, error) {
	recipe, err := data.NewRecipe(w.Spec.Augment)
	if err != nil {
		return nil, err
	}
	if w.Spec.Mixup > 0 || w.Spec.Cutmix > 0 {
		recipe.Mixup, recipe.Cutmix = w.Spec.Mixup, w.Spec.Cutmix
	}
	steps := w.sampler.Steps()
	return data.NewLoader(data.LoaderConfig{
		Images: w.Train, Sampler: w.sampler, Recipe: recipe, Seed: w.Spec.Seed, Shards: w.Spec.Shards,
		FirstEpoch: w.done / steps, FirstStep: w.done % steps, Epochs: w.Spec.Epochs,
		Size: w.sizes.At, MaxSize: w.sizes.Max(), BFloat16: w.Spec.Precision == job.BF16, ChannelsLast: w.Spec.ChannelsLast,
	})
}

// valLoader delivers all validation images once, in order, as an epoch's validation sees them.
func (w *Worker) valLoader(epoch int) (*data.Loader, error) {
	return NewImages(w.Val, ImageConfig{
		Batch: w.Spec.ValBatch, Scale: w.Spec.Scale, Interpolation: w.Spec.Interpolation, Seed: w.Spec.Seed, Epoch: epoch,
		BFloat16: w.Spec.Precision == job.BF16, ChannelsLast: w.Spec.ChannelsLast,
	})
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
	sequence, err := data.NewSequence(p.Len(), c.Batch)
	if err != nil {
		return nil, err
	}
	return data.NewLoader(data.LoaderConfig{
		Images: p, Sampler: sequence, Recipe: recipe, Seed: c.Seed, FirstEpoch: c.Epoch, Epochs: c.Epoch + 1,
		BFloat16: c.BFloat16, ChannelsLast: c.ChannelsLast,
	})
}
