package data

import (
	"fmt"
	"strings"

	"mp/ops/pixel"
)

// Recipe says how images are varied. Draw and Mix are pure: what they return depends on their arguments alone, never on
// the worker or the goroutine that asks. A Recipe may be used from any number of goroutines.
type Recipe struct {
	Name string
	// Mixup and Cutmix are the parameter alpha of the Beta(alpha, alpha) from which shares are drawn (Zhang et al.,
	// "mixup", 2018; Yun et al., "CutMix", 2019); 0: never. With both, each batch takes one of them.
	Mixup, Cutmix float64

	kind kind
	vary variation  // of kind varied
	val  validation // of kind validated
}

// kind is which transform a recipe draws. A function in its place would send every stream of random numbers to the heap.
type kind int

const (
	unknown kind = iota
	unchanged
	flipped
	coursed
	varied
	validated
)

// recipes is the table of names for training.
func recipes() []Recipe {
	return []Recipe{
		{Name: "none", kind: unchanged},
		{Name: "flip", kind: flipped},
		{Name: "course", kind: coursed},
		{Name: "best", kind: varied, vary: bestVariation()},
		{Name: "strong", kind: varied, vary: strongVariation(), Mixup: 0.2, Cutmix: 1},
	}
}

// RecipeNames lists the names that NewRecipe knows.
func RecipeNames() []string {
	var names []string
	for _, r := range recipes() {
		names = append(names, r.Name)
	}
	return names
}

// NewRecipe returns the training recipe of a name:
//   - none: the image as it is;
//   - flip: mirrored half the time, shifted by up to 8 pixels;
//   - course: the reference's, to the number;
//   - best: random resized crop, flip, colour jitter;
//   - strong: the same with TrivialAugment, random erasing, mixup and cutmix, for long runs.
//
// An unknown name is ErrData.
func NewRecipe(name string) (Recipe, error) {
	for _, r := range recipes() {
		if r.Name == name {
			return r, nil
		}
	}
	return Recipe{}, badf("no augmentation %q: choose one of %s", name, strings.Join(RecipeNames(), ", "))
}

// NewValRecipe returns the recipe of a validation: the short side scaled to scale pixels and the middle cut out, or
// with scale 0 the image as it is. interpolation is nearest, bilinear, bicubic, or random: one of the three for each image and
// epoch, as the reference does.
func NewValRecipe(scale int, interpolation string) (Recipe, error) {
	if scale != 0 && (scale < 1 || scale > 1024) {
		return Recipe{}, badf("validate at a scale of %d pixels: choose 1 to 1024, or none", scale)
	}
	v := validation{scale: scale}
	switch interpolation {
	case "nearest":
		v.how = pixel.Nearest
	case "bilinear":
		v.how = pixel.Bilinear
	case "bicubic":
		v.how = pixel.Bicubic
	case "random":
		v.random = true
	default:
		return Recipe{}, badf("no interpolation %q: choose nearest, bilinear, bicubic or random", interpolation)
	}
	return Recipe{Name: "val", kind: validated, val: v}, nil
}

// Draw returns what happens to image sample in an epoch, for an output of size x size pixels, but for its mixing.
func (p *Recipe) Draw(seed uint64, epoch int, sample int32, size int) pixel.Warp {
	r := seeded([]uint64{seed, uint64(epoch), uint64(sample), purposeAugment})
	switch p.kind {
	case flipped:
		return drawFlip(&r, size)
	case coursed:
		return drawCourse(&r, size)
	case varied:
		return p.vary.draw(&r, size)
	case validated:
		return p.val.draw(&r, size)
	}
	return pixel.Identity(size)
}

// Mixes says whether the recipe gives images soft targets.
func (p *Recipe) Mixes() bool { return p.Mixup > 0 || p.Cutmix > 0 }

// String is the recipe in a few words.
func (p *Recipe) String() string {
	if !p.Mixes() {
		return p.Name
	}
	return fmt.Sprintf("%s, mixup %g, cutmix %g", p.Name, p.Mixup, p.Cutmix)
}
