package cmd

import (
	"context"
	"fmt"

	"mp/data"
	"mp/job"
	"mp/model"
	"mp/ops"
	"mp/optim"
)

// dryRun shows what a run would be. The model's memory is measured on the CPU, with tiny batches.
func dryRun(ctx context.Context, e *env, s job.Spec, trainPack, valPack *data.Pack) error {
	facts, err := planFacts(ctx, s, trainPack, valPack)
	if err != nil {
		return err
	}
	if e.json {
		return e.printJSON(struct {
			Job   job.Spec  `json:"job"`
			Facts job.Facts `json:"facts"`
		}{s, facts})
	}
	fmt.Fprint(e.stdout, s.DryRun(facts, e.width(e.stdout)))
	return nil
}

func planFacts(ctx context.Context, s job.Spec, trainPack, valPack *data.Pack) (job.Facts, error) {
	f := job.Facts{ValImages: valPack.Len(), HeldOut: s.AdvWatchImages}
	held, err := heldOut(s, trainPack)
	if err != nil {
		return f, err
	}
	sampler, err := data.NewSamplerWithout(held, s.Seed, trainPack.Len(), s.BatchSize, false)
	if err != nil {
		return f, err
	}
	f.TrainImages, f.StepsPerEpoch = sampler.Images(), sampler.Steps()
	sizes, err := job.ParseSizes(s.ImageSize)
	if err != nil {
		return f, err
	}
	schedule, err := optim.NewSchedule(s.Schedule, s.LR, s.Warmup, s.Epochs, f.StepsPerEpoch*s.Replays())
	if err != nil {
		return f, err
	}
	for epoch := range s.Epochs {
		step := epoch * f.StepsPerEpoch
		f.Rates = append(f.Rates, job.RateFact{Epoch: epoch + 1, Step: step, Rate: schedule.Rate(step * s.Replays()), Size: sizes.At(epoch)})
	}
	u, err := summarise(ctx, s, len(trainPack.Classes()), sizes.Max())
	if err != nil {
		return f, err
	}
	f.Parameters = u.Params
	for _, r := range u.Rows {
		l := job.LayerFact{Name: r.Name, Kind: r.Kind, Parameters: r.Params, MACs: r.MACs}
		for _, d := range r.Shape {
			l.Output = append(l.Output, int(d))
		}
		f.Layers = append(f.Layers, l)
	}
	image := int64(ops.SizeOf(precision(s))) * 3 * int64(sizes.Max()*sizes.Max())
	f.Memory = []job.MemoryFact{
		{What: "weights and statistics", Bytes: u.ParamBytes + u.BufferBytes},
		{What: "gradients", Bytes: u.GradientBytes},
		{What: "optimizer and averages", Bytes: u.OptimizerBytes},
		{What: "activations of a shard", Bytes: u.ActivationBytes},
		{What: "images of a batch, prefetched", Bytes: 4 * image * int64(s.BatchSize)},
	}
	return f, nil
}

// heldOut are the training images that a run does not train on.
func heldOut(s job.Spec, trainPack *data.Pack) ([]int32, error) {
	held, err := data.HoldOut(trainPack, s.AdvWatchImages)
	if err != nil {
		return nil, fmt.Errorf("--adv-watch-images: %w", err)
	}
	return held, nil
}

// summarise measures one shard of the run.
func summarise(ctx context.Context, s job.Spec, classes, size int) (*model.Summary, error) {
	device, err := openDevice(job.DeviceCPU, 1)
	if err != nil {
		return nil, err
	}
	defer device.Close()
	slots := int64(1)
	if s.Optimizer == job.AdamW {
		slots = 2
	}
	if s.EMA > 0 {
		slots++
	}
	var u *model.Summary
	err = device.Do(ctx, func(scope *ops.Scope) error {
		m, err := model.New(scope, s.Model, model.Options{Classes: classes, OwnConv: s.Conv == job.ConvOwn, ChannelsLast: s.ChannelsLast, Seed: s.Seed})
		if err != nil {
			return err
		}
		defer m.Free()
		u, err = m.Summarize(scope, model.SummaryConfig{
			Batch: int64((s.BatchSize + s.Shards - 1) / s.Shards), Size: int64(size), DType: precision(s), Slots: slots,
		})
		return err
	})
	return u, err
}

func precision(s job.Spec) ops.DType {
	if s.Precision == job.BF16 {
		return ops.BFloat16
	}
	return ops.Float32
}
