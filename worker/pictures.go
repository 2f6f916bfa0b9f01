package worker

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	torch "github.com/wangkuiyi/gotorch"

	"mp/attack"
	"mp/data"
	"mp/explain"
	"mp/job"
	"mp/metrics"
	"mp/model"
	"mp/ops"
)

// After each validation the worker that speaks first shows some training images as they were augmented in the epoch, where
// the network looks in them and, in adversarial training, what an attack makes of them. Nothing of it enters a deed: images,
// augmentation and the attack's starts are functions of the job and the epoch, the network is in evaluation mode, and the
// gradients are the images' alone. So the run's bits are the same with and without, whoever draws.

// Legend: N images, S side of the image, K classes.

// How many images are shown, and of these how many attacked: three tiles an image, and noise does not compress.
const (
	shownImages    = 8
	attackedImages = 4
)

// tileSide is how large the smallest images are drawn.
const tileSide = 128

// picture makes the pictures of the epoch that ended and hands them to the sink. What fails is told and stops nothing,
// but for weights that cannot be put back.
func (v *visit) picture(ctx context.Context) error {
	r := v.replica
	if !r.spec.Pictures {
		return nil
	}
	if err := r.swap(ctx); err != nil {
		return err
	}
	found, err := r.look(ctx)
	if back := r.swap(context.Background()); back != nil {
		return back
	}
	var all []metrics.Picture
	if err == nil {
		all, err = found.draw(r)
	}
	if err != nil && ctx.Err() == nil {
		v.emit(metrics.Event{Kind: metrics.KindStory, Story: &metrics.Story{Topic: "picture", Warning: true,
			Text: fmt.Sprintf("no pictures of epoch %d: %v", r.at.Validated, err), Advice: "training goes on; --pictures=false leaves them out"}})
	}
	for _, p := range all {
		v.emit(metrics.Event{Kind: metrics.KindPicture, Picture: &p})
	}
	return nil
}

// chosen are n of the images that the run trains on: those of the smallest fingerprints, so that no order of the list favours
// a class.
func (r *replica) chosen(n int) []int32 {
	ids := make([]int32, 0, r.sampler.Images())
	for id := range int32(r.train.Len()) {
		if _, held := slices.BinarySearch(r.held, id); !held {
			ids = append(ids, id)
		}
	}
	slices.SortFunc(ids, func(a, b int32) int { return cmp.Compare(data.Fingerprint(a), data.Fingerprint(b)) })
	return ids[:min(n, len(ids))]
}

// looked is what the network has to say about some training images.
type looked struct {
	tiles    []data.Tile // as augmented, with their classes
	says     []int64     // the network's choice
	sure     []float64   // the probability it gives it
	maps     []float32   // [N S S], saliency
	attacked []float32   // [N' 3 S S] of 0 to 1, of the first N' images; nil where the job trains without attacks
	fooled   []int64     // what the network takes those for
}

// look computes all that is shown of the epoch that ended.
func (r *replica) look(ctx context.Context) (*looked, error) {
	epoch := r.at.Validated - 1
	recipe, err := data.NewRecipe(r.spec.Augment)
	if err != nil {
		return nil, err
	}
	recipe.Mixup, recipe.Cutmix = r.spec.Mixup, r.spec.Cutmix
	ids := r.chosen(shownImages)
	preview := data.Preview{Pack: r.train, IDs: ids, Recipe: recipe, Seed: r.spec.Seed, Epoch: epoch, Size: r.sizes.At(epoch)}
	found := &looked{}
	if found.tiles, err = preview.Tiles(); err != nil {
		return nil, err
	}
	err = r.device.Do(ctx, func(s *ops.Scope) error {
		net := r.net(model.Mode{})
		pixels := r.pixels(s, found.tiles)
		x := net.Normalise(s, pixels)
		s.NoGrad(func() {
			sure, says := s.TopK(s.Softmax(viewed{r}.Logits(s, x, nil), 1), 1)
			found.says, found.sure = ops.Values[int64](s, says), ops.Values[float64](s, sure)
		})
		if err := s.Err(); err != nil {
			return err
		}
		found.maps = ops.Values[float32](s, explain.Saliency{}.Attribute(s, viewed{r}, explain.Batch{Images: x, Labels: found.says}))
		if err := s.Err(); err != nil || r.adversary == nil {
			return err
		}
		n := min(attackedImages, len(ids))
		batch := attack.Batch{X: s.Narrow(pixels, 0, 0, int64(n)), Keys: attack.Keys(r.spec.Seed, uint64(epoch), ids[:n])}
		for _, id := range ids[:n] {
			batch.Labels = append(batch.Labels, int64(r.train.Label(int(id))))
		}
		pgd, err := r.watchdog()
		if err != nil {
			return err
		}
		moved, err := pgd.Perturb(ctx, s, net, batch)
		if err != nil {
			return err
		}
		s.NoGrad(func() {
			_, says := s.TopK(s.To(net.Logits(s, moved.X), ops.Float32), 1)
			found.fooled = ops.Values[int64](s, says)
		})
		found.attacked = ops.Values[float32](s, moved.X)
		return s.Err()
	})
	return found, err
}

// pixels are the tiles as a tensor [N 3 S S] of 0 to 1, laid out as the network wants it.
func (r *replica) pixels(s *ops.Scope, tiles []data.Tile) torch.Tensor {
	side := int64(tiles[0].Side)
	var all []byte
	for _, t := range tiles {
		all = append(all, t.Pixels...)
	}
	return s.Run(func(c *ops.Scope) torch.Tensor {
		bytes := c.To(ops.From(c, all, int64(len(tiles)), side, side, 3), ops.Float32)
		x := c.Permute(c.Scale(bytes, 1./255), 0, 3, 1, 2)
		if !r.spec.ChannelsLast {
			x = c.Contiguous(x)
		}
		return x
	})
}

// viewed is a replica's network as explanations see it.
type viewed struct{ r *replica }

// Logits returns [N K] in float32, whatever the job computes in.
func (n viewed) Logits(s *ops.Scope, x torch.Tensor, p *explain.Probe) torch.Tensor {
	n.r.beat()
	if n.r.spec.Precision == job.BF16 {
		x = s.To(x, ops.BFloat16)
	}
	return s.To(n.r.model.Forward(s, x, model.Mode{Probe: (*model.Probe)(p)}), ops.Float32)
}

// Layers names the layers that a probe sees.
func (n viewed) Layers() []string { return n.r.model.Layers() }

// Traits are not looked into: saliency fits every network.
func (n viewed) Traits() explain.Traits { return explain.Traits{} }

// draw makes the sheets.
func (l *looked) draw(r *replica) ([]metrics.Picture, error) {
	var out []metrics.Picture
	add := func(tag, what string, s data.Sheet, tilesAnImage int) error {
		s.Title = fmt.Sprintf("epoch %d, update %d", r.at.Validated, r.at.Done)
		s.Subtitle = what
		s.Zoom = max(1, tileSide/l.tiles[0].Side)
		png, err := within(s, tilesAnImage, metrics.MaxPictureBytes)
		if err != nil {
			return err
		}
		out = append(out, metrics.Picture{Tag: tag, Caption: s.Title + ": " + what, Epoch: r.at.Validated, Update: r.at.Done,
			File: metrics.PictureFile(r.at.Done, tag), PNG: png})
		return nil
	}
	if err := add(metrics.TagImages, "training images as the network saw them in this epoch", data.Sheet{Columns: 4, Tiles: l.tiles}, 1); err != nil {
		return out, err
	}
	if err := add(metrics.TagSaliency, "where the network looks: red where the gradient of the loss of its own answer exceeds twice its mean; and all of it",
		data.Sheet{Columns: 8, Tiles: l.salient(r)}, 2); err != nil || l.attacked == nil {
		return out, err
	}
	what := fmt.Sprintf("images attacked by PGD-%d within %s: as they are, attacked, and the change, amplified", watchSteps, r.spec.AdvEps)
	return out, add(metrics.TagAdversarial, what, data.Sheet{Columns: 6, Tiles: l.changed(r)}, 3)
}

// salient are two tiles an image: the reference's overlay, and the map.
func (l *looked) salient(r *replica) []data.Tile {
	var out []data.Tile
	for i, t := range l.tiles {
		m := l.maps[i*t.Side*t.Side : (i+1)*t.Side*t.Side]
		out = append(out,
			data.Tile{Pixels: explain.Red(t.Pixels, m), Side: t.Side, Title: t.Title, Note: fmt.Sprintf("says %s, %.0f %%", r.class(l.says[i]), 100*l.sure[i])},
			data.Tile{Pixels: explain.Heat(m), Side: t.Side, Title: "saliency"})
	}
	return out
}

// changed are three tiles an attacked image.
func (l *looked) changed(r *replica) []data.Tile {
	var out []data.Tile
	for i, says := range l.fooled {
		t := l.tiles[i]
		values := 3 * t.Side * t.Side
		c := attack.NewChange(t.Pixels, l.attacked[i*values:(i+1)*values])
		out = append(out,
			data.Tile{Pixels: t.Pixels, Side: t.Side, Title: t.Title, Note: "says " + r.class(l.says[i])},
			data.Tile{Pixels: c.After, Side: t.Side, Title: "attacked", Note: "says " + r.class(says)},
			data.Tile{Pixels: c.Difference, Side: t.Side, Title: "change", Note: c.String()})
	}
	return out
}

// class is a class as people say it.
func (r *replica) class(i int64) string { return strings.ReplaceAll(r.train.Classes()[i], "_", " ") }

// within draws a sheet of at most so many bytes: where all images take more, fewer are shown.
func within(s data.Sheet, tilesAnImage, bytes int) ([]byte, error) {
	for {
		png, err := s.PNG()
		images := len(s.Tiles) / tilesAnImage
		switch {
		case err != nil:
			return nil, err
		case len(png) <= bytes:
			return png, nil
		case images <= 1:
			return nil, fmt.Errorf("a picture of one image has %d bytes, %d can be sent", len(png), bytes)
		}
		s.Tiles = s.Tiles[:(images+1)/2*tilesAnImage]
	}
}
