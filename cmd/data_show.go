package cmd

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"mp/data"
)

// showOptions is what `mp data show` is asked for.
type showOptions struct {
	split, class, recipe, out string
	step, epoch, images       int
	size, columns, zoom       int
	batchSize, shards         int
	seed                      uint64
	draws                     bool
}

// newDataShow returns `mp data show`.
func newDataShow(e *env) *cobra.Command {
	var o showOptions
	c := &cobra.Command{
		Use:   "show DIR|PACK",
		Short: "Draw a contact sheet of a class, or of a batch as training sees it",
		Long: "show writes a PNG of pictures with their classes. --class shows images of one class as they are; --batch shows the\n" +
			"images of one training step as --augment, --seed and --batch-size of `mp train` make them. A folder without a pack is\n" +
			"packed first.",
		Example: "  mp data show miniplaces --class abbey\n  mp data show miniplaces --batch 0 --recipe strong --draws --out batch.png",
		Args:    exactArgs("DIR"),
		RunE: func(c *cobra.Command, args []string) error {
			if o.class != "" && c.Flags().Changed("batch") {
				return usageError{verb: c.CommandPath(), err: fmt.Errorf("--class and --batch contradict each other: give one of them")}
			}
			if !c.Flags().Changed("recipe") && o.class != "" {
				o.recipe = "none"
			}
			return showData(c.Context(), e, args[0], o)
		},
	}
	f := c.Flags()
	f.StringVar(&o.class, "class", "", "show images of this class; empty: of all")
	f.IntVar(&o.step, "batch", 0, "show the batch of this step, counted from 0")
	f.StringVar(&o.recipe, "recipe", "best", "augmentation: "+strings.Join(data.RecipeNames(), ", ")+"; with --class none where it is left out")
	f.StringVar(&o.split, "split", string(data.Train), "train, val or test")
	f.StringVar(&o.out, "out", "sheet.png", "file to write")
	f.IntVar(&o.images, "images", 48, "pictures at most")
	f.IntVar(&o.columns, "columns", 8, "pictures in a row")
	f.IntVar(&o.zoom, "zoom", 1, "size of a pixel")
	f.IntVar(&o.size, "image-size", data.ImageSize, "side of the pictures in pixels")
	f.IntVar(&o.epoch, "epoch", 0, "epoch, counted from 0")
	f.IntVar(&o.batchSize, "batch-size", 128, "images a step")
	f.IntVar(&o.shards, "shards", 1, "parts of a step, which mix their images apart")
	f.Uint64Var(&o.seed, "seed", 0, "seed of the run")
	f.BoolVar(&o.draws, "draws", false, "say below each picture what was drawn instead of its file")
	return c
}

// showResult is the result of `mp data show`.
type showResult struct {
	File   string    `json:"file"`
	Pack   string    `json:"pack"`
	Recipe string    `json:"recipe"`
	Images []shownAs `json:"images"`
}

// shownAs is one picture of a sheet.
type shownAs struct {
	Name  string `json:"name"`
	Class string `json:"class"`
}

func showData(ctx context.Context, e *env, dir string, o showOptions) error {
	p, err := showPack(ctx, e, dir, data.Split(o.split))
	if err != nil {
		return err
	}
	defer p.Close()
	if o.size < 1 || o.size > 1024 || o.columns < 1 || o.zoom < 1 || o.zoom > 8 || o.images < 1 || o.shards < 1 {
		return fmt.Errorf("%w: choose --image-size 1 to 1024, --zoom 1 to 8, and at least 1 for --columns, --images and --shards", data.ErrData)
	}
	recipe, err := data.NewRecipe(o.recipe)
	if err != nil {
		return err
	}
	ids, title, err := o.choose(p)
	if err != nil {
		return err
	}
	view := data.Preview{Pack: p, IDs: ids, Recipe: recipe, Seed: o.seed, Epoch: o.epoch, Step: o.step, Size: o.size, Shards: o.shards, Draws: o.draws}
	tiles, err := view.Tiles()
	if err != nil {
		return err
	}
	tiles, ids = tiles[:min(len(tiles), o.images)], ids[:min(len(ids), o.images)]
	subtitle := fmt.Sprintf("%s   ·   %d of %d images   ·   augmentation %s   ·   seed %d, epoch %d", p.Path(), len(tiles), p.Len(), recipe.String(), o.seed, o.epoch)
	if err := (data.Sheet{Title: title, Subtitle: subtitle, Columns: o.columns, Zoom: o.zoom, Tiles: tiles}).WriteFile(o.out); err != nil {
		return err
	}
	if e.json {
		result := showResult{File: o.out, Pack: p.Path(), Recipe: recipe.String(), Images: []shownAs{}}
		for i, id := range ids {
			result.Images = append(result.Images, shownAs{p.Name(int(id)), tiles[i].Title})
		}
		return e.printJSON(result)
	}
	_, err = fmt.Fprintf(e.human(), "%s: %d pictures of %s\n", o.out, len(tiles), p.Path())
	return err
}

// showPack opens a pack by its file or by the folder it belongs to.
func showPack(ctx context.Context, e *env, path string, split data.Split) (*data.Pack, error) {
	if strings.HasSuffix(path, ".pack") {
		return data.OpenPack(path)
	}
	if !slices.Contains([]data.Split{data.Train, data.Val, data.Test}, split) {
		return nil, fmt.Errorf("%w: --split %s: choose train, val or test", data.ErrData, split)
	}
	return openPack(ctx, e, path, split)
}

// choose returns the images asked for and what they are.
func (o showOptions) choose(p *data.Pack) (ids []int32, title string, err error) {
	if o.class == "" {
		s, err := data.NewSampler(o.seed, p.Len(), min(o.batchSize, p.Len()), true)
		if err != nil {
			return nil, "", err
		}
		if o.step < 0 || o.step >= s.Steps() || o.epoch < 0 {
			return nil, "", fmt.Errorf("%w: --batch %d: an epoch has batches 0 to %d", data.ErrData, o.step, s.Steps()-1)
		}
		return s.Batch(o.epoch, o.step), fmt.Sprintf("Batch %d", o.step), nil
	}
	class := slices.Index(p.Classes(), o.class)
	if class < 0 {
		return nil, "", fmt.Errorf("%w: no class %q in %s; it has %s", data.ErrData, o.class, p.Path(), some(p.Classes(), o.class))
	}
	for i := range p.Len() {
		if p.Label(i) == class && len(ids) < o.images {
			ids = append(ids, int32(i))
		}
	}
	if len(ids) == 0 {
		return nil, "", fmt.Errorf("%w: no image of class %s in %s", data.ErrData, o.class, p.Path())
	}
	return ids, strings.ReplaceAll(o.class, "_", " "), nil
}

// some names the classes that a person may have meant: those with the same beginning, else the first few.
func some(classes []string, like string) string {
	var near []string
	for n := len(like); n > 0 && len(near) == 0; n-- {
		for _, c := range classes {
			if strings.HasPrefix(c, like[:n]) && len(near) < 5 {
				near = append(near, c)
			}
		}
	}
	if len(near) == 0 {
		near = classes[:min(5, len(classes))]
	}
	return strings.Join(near, ", ")
}
