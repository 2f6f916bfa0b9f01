package cmd

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"mp/data"
	"mp/job"
	"mp/model"
	"mp/ops"
	"mp/worker"
)

// networkFlags are what `mp evaluate` and `mp predict` have in common: which networks, and how images come to them.
type networkFlags struct {
	checkpoints   []string
	model         string
	conv          string
	mirror        bool
	scale         string
	interpolation string
	precision     string
	batch         int
	seed          uint64
	device        string
	threads       int
}

func (n *networkFlags) add(c *cobra.Command) {
	f := c.Flags()
	f.StringArrayVar(&n.checkpoints, "checkpoint", nil, "run directory, checkpoint, .safetensors or PyTorch file; several are averaged; needed")
	f.StringVar(&n.model, "model", "", "architecture, for files that do not name theirs: simplenet, simplevit, resnet18, scenenet; empty: the file's")
	f.StringVar(&n.conv, "conv", job.ConvLibrary, "whose convolution: library, own")
	f.BoolVar(&n.mirror, "mirror", false, "average the logits over the image and its mirror image")
	f.StringVar(&n.scale, "scale", job.ScaleNone, "short side before the centre crop in pixels, or none: 144 is the course's")
	f.StringVar(&n.interpolation, "interpolation", "bilinear", "how --scale resizes: nearest, bilinear, bicubic, random")
	f.StringVar(&n.precision, "precision", job.FP32, "numbers in the forward pass: fp32, bf16")
	f.IntVarP(&n.batch, "batch-size", "b", 100, "images a batch")
	f.Uint64Var(&n.seed, "seed", 0, "start of what --interpolation random draws")
	f.StringVar(&n.device, "device", job.DeviceAuto, "cpu, the number of a GPU, or auto")
	f.IntVar(&n.threads, "threads", 0, "CPU threads of one operation; 0: as many as cores")
}

// check refuses what cannot be before anything is opened.
func (n *networkFlags) check() error {
	if len(n.checkpoints) == 0 {
		return fmt.Errorf("%w: no network: give --checkpoint a run directory or a file of weights", job.ErrConfig)
	}
	for _, c := range []struct {
		flag, word string
		words      []string
	}{
		{"conv", n.conv, []string{job.ConvLibrary, job.ConvOwn}},
		{"precision", n.precision, []string{job.FP32, job.BF16}},
	} {
		if c.word != c.words[0] && c.word != c.words[1] {
			return fmt.Errorf("%w: --%s %q: choose %s or %s", job.ErrConfig, c.flag, c.word, c.words[0], c.words[1])
		}
	}
	if n.batch < 1 || n.threads < 0 {
		return fmt.Errorf("%w: --batch-size %d, --threads %d: choose a batch of at least 1 and no negative number of threads", job.ErrConfig, n.batch, n.threads)
	}
	return nil
}

// open opens the device and loads the networks; close frees both.
func (n *networkFlags) open(ctx context.Context, classes int) (e worker.Evaluation, close func(), err error) {
	word, err := pickDevice(n.device)
	if err != nil {
		return e, nil, err
	}
	threads := n.threads
	if threads == 0 {
		threads = cores()
	}
	device, err := openDevice(word, threads)
	if err != nil {
		return e, nil, err
	}
	e = worker.Evaluation{Device: device, Mirror: n.mirror}
	close = func() {
		_ = device.Do(context.Background(), func(*ops.Scope) error {
			for _, m := range e.Models {
				m.Free()
			}
			return nil
		})
		device.Close()
	}
	err = device.Do(ctx, func(s *ops.Scope) error {
		for _, path := range n.checkpoints {
			m, err := worker.LoadModel(s, path, n.model, model.Options{Classes: classes, OwnConv: n.conv == job.ConvOwn, ChannelsLast: true})
			if err != nil {
				return err
			}
			e.Models = append(e.Models, m)
		}
		return nil
	})
	if err != nil {
		close()
		return e, nil, err
	}
	return e, close, nil
}

// loader delivers the images as the flags say.
func (n *networkFlags) loader(p data.Images) (*data.Loader, error) {
	return worker.NewImages(p, worker.ImageConfig{
		Batch: n.batch, Scale: n.scale, Interpolation: n.interpolation, Seed: n.seed, BFloat16: n.precision == job.BF16, ChannelsLast: true,
	})
}

// newEvaluateCommand returns `mp evaluate`.
func newEvaluateCommand(e *env) *cobra.Command {
	var n networkFlags
	split, on := string(data.Val), ""
	c := &cobra.Command{
		Use:     "evaluate DATA --checkpoint F",
		Short:   "Measure top-1, top-5 and loss of one network or an ensemble",
		Example: "  mp evaluate miniplaces --checkpoint runs/20260102-030405-scenenet --mirror\n  mp evaluate miniplaces --checkpoint model_best.pth.tar --scale 144",
		Args:    exactArgs("DATA"),
	}
	n.add(c)
	c.Flags().StringVar(&split, "split", split, "images to evaluate on: train, val")
	c.Flags().StringVar(&on, "on", "", "evaluate on the changed images that attack --save wrote; empty: on those of DATA")
	c.RunE = func(c *cobra.Command, args []string) error {
		if err := n.check(); err != nil {
			return err
		}
		if split != string(data.Val) && split != string(data.Train) {
			return fmt.Errorf("%w: --split %q: choose train or val, whose labels are known", job.ErrConfig, split)
		}
		if on != "" {
			return evaluateSet(c.Context(), e, n, savedAttack{args[0], data.Split(split), on})
		}
		return evaluate(c.Context(), e, n, args[0], data.Split(split))
	}
	return c
}

// evaluated is the result of `mp evaluate` as JSON.
type evaluated struct {
	Images int     `json:"images"`
	Top1   float64 `json:"top1"` // per cent
	Top5   float64 `json:"top5"`
	Loss   float64 `json:"loss"`
}

func evaluate(ctx context.Context, e *env, n networkFlags, dir string, split data.Split) error {
	pack, err := openPack(ctx, e, dir, split)
	if err != nil {
		return err
	}
	defer pack.Close()
	networks, closeNetworks, err := n.open(ctx, len(pack.Classes()))
	if err != nil {
		return err
	}
	defer closeNetworks()
	loader, err := n.loader(pack)
	if err != nil {
		return err
	}
	defer loader.Close()
	bar := e.progress("evaluate", int64(pack.Len()))
	before := 0
	score, err := networks.Score(ctx, loader, func(done int) { bar.Add(int64(done - before)); before = done })
	bar.Finish()
	if err != nil {
		return err
	}
	return printScore(e, score)
}

func printScore(e *env, score worker.Score) error {
	if e.json {
		return e.printJSON(evaluated{score.Images, score.Top1, score.Top5, score.Loss})
	}
	fmt.Fprintf(e.stdout, "images  %6d\ntop-1   %6.2f %%\ntop-5   %6.2f %%\nloss    %6.4f\n", score.Images, score.Top1, score.Top5, score.Loss)
	return nil
}
