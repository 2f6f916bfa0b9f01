// Package explain owns the attributions: which pixels of an image made a network say what it says. Each method is a file;
// picture.go paints what they find, deletion.go, infidelity.go and sanity.go measure how far to believe it.
//
// It imports ops (and gotorch's tensor type) and nothing else of this program: what it explains is the small interface Network.
// Everything is computed for a batch at a time on the device, and what is random is a function of the sample's key, never
// of the batch it is in. Images are those that the network sees: normalised, so that 0 is the mean colour of the data set.
//
// Start reading at Network, then Methods, then saliency.go.
package explain

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	torch "github.com/wangkuiyi/gotorch"

	"mp/ops"
)

// Legend: N samples, C channels, H height, W width, K classes, A heads, T tokens, B groups of tokens, M masks.

// ErrConfig is wrapped by every error that another try does not cure: a method or layer that is not there, a network that a
// method cannot explain, impossible settings.
var ErrConfig = errors.New("wrong request for an explanation")

// Network is what is explained. It belongs to the goroutine of its device.
type Network interface {
	// Logits returns the logits [N K] of images x [N 3 H W], in x's dtype, as in evaluation. The result belongs to s; a graph
	// leads back to x where x asks for a gradient. The probe may be nil. An error becomes the scope's.
	Logits(s *ops.Scope, x torch.Tensor, p *Probe) torch.Tensor
	// Layers names the layers that a probe sees, the last one last.
	Layers() []string
	// Traits says what the network is made of.
	Traits() Traits
}

// Traits say which methods fit a network.
type Traits struct {
	Rectifiers bool // it has rectifiers, all of which a probe can replace
	Attention  bool // it has attention layers between the tokens of a square grid
}

// Probe looks into a forward pass, and may change it. Any function may be nil. The scopes they are given end before the pass
// does: what they keep they make in a scope of their own.
type Probe struct {
	// Layer is given the result y [N C H W] of each layer that Layers names, and returns what the layers after it see: y, or a
	// tensor of its shape that they may overwrite.
	Layer func(s *ops.Scope, name string, y torch.Tensor) torch.Tensor
	// ReLU takes the place of every rectifier. It may overwrite x.
	ReLU func(s *ops.Scope, x torch.Tensor) torch.Tensor
	// Attention is given what each attention layer averages values with, softmax(q kT / sqrt(D)) [B A T T]. B is N times the
	// number of windows; windows, and the tokens in each, lie row by row.
	Attention func(s *ops.Scope, name string, weights torch.Tensor)
}

// Batch is what is explained together.
type Batch struct {
	Images torch.Tensor // [N 3 H W], normalised; the caller's
	Labels []int64      // N: the class whose logit is explained, such as the network's own choice
	Keys   []uint64     // N: from Key; what random methods draw for a sample is a function of its key alone
}

// Method finds out which pixels matter.
type Method interface {
	// Attribute returns [N 3 H W], how much each element of the image adds to the label's logit, or [N 1 h w], how much each
	// place does, perhaps coarser than the image. The result belongs to s; errors become the scope's.
	Attribute(s *ops.Scope, n Network, b Batch) torch.Tensor
	// Check says whether the method can explain n; the error is ErrConfig.
	Check(n Network) error
}

// Entry is a row of the table of methods.
type Entry struct {
	Name    string
	Summary string // for people
	Coarse  bool   // finds regions rather than single pixels
	New     func(c Config) Method
}

// Methods is the table of methods, the reference's first.
func Methods() []Entry {
	return []Entry{
		{"saliency", "gradient of the loss, the largest of three channels (Simonyan et al., 2013)", false, func(Config) Method { return Saliency{} }},
		{"inputxgradient", "gradient of the logit times the image (Shrikumar et al., 2016)", false, func(Config) Method { return InputXGradient{} }},
		{"smoothgrad", "mean gradient of noisy copies (Smilkov et al., 2017)", false, func(c Config) Method { return SmoothGrad{Samples: c.Samples, Noise: c.Noise} }},
		{"integratedgradients", "gradients from the mean colour to the image (Sundararajan et al., 2017)", false, func(c Config) Method { return IntegratedGradients{Steps: c.Steps} }},
		{"gradcam", "feature maps weighted with their gradients (Selvaraju et al., 2016)", true, func(c Config) Method { return GradCAM{Layer: c.Layer} }},
		{"guidedbackprop", "gradient through rectifiers that stop what is negative (Springenberg et al., 2014)", false, func(Config) Method { return GuidedBackprop{} }},
		{"occlusion", "what the logit loses when a patch is hidden (Zeiler & Fergus, 2013)", true, func(c Config) Method { return Occlusion{Window: c.Window, Stride: c.Stride} }},
		{"rise", "mean of random masks, weighted with what the network says behind them (Petsiuk et al., 2018)", true, func(c Config) Method { return RISE{Masks: c.Masks, Grid: c.Grid, Keep: c.Keep} }},
		{"rollout", "attention followed through all layers (Abnar & Zuidema, 2020); of any class", true, func(Config) Method { return Rollout{} }},
	}
}

// Config is what the methods' names do not say.
type Config struct {
	Layer   string  // Grad-CAM: whose result is weighted; "" means the last of Network.Layers
	Samples int     // SmoothGrad: noisy copies of an image, at least 1
	Noise   float64 // SmoothGrad: deviation of the noise, as a part of the image's own range, above 0
	Steps   int     // integrated gradients: points between the mean colour and the image, at least 1
	Window  int64   // occlusion: side of the hidden square in pixels, at least 1
	Stride  int64   // occlusion: pixels from one square to the next, 1 to Window
	Masks   int     // RISE: masks of an image, at least 1
	Grid    int64   // RISE: cells of a mask along a side, at least 1
	Keep    float64 // RISE: probability that a cell is seen, between 0 and 1
}

// DefaultConfig returns the papers' settings, with a tenth to a quarter of RISE's 4,000 masks.
func DefaultConfig() Config {
	return Config{Samples: 25, Noise: .15, Steps: 50, Window: 16, Stride: 8, Masks: 1000, Grid: 7, Keep: .5}
}

// Validate reports the first impossible setting.
func (c Config) Validate() error {
	for _, r := range []struct {
		bad  bool
		text string
	}{
		{c.Samples < 1, fmt.Sprintf("%d noisy copies: choose at least 1", c.Samples)},
		{!(c.Noise > 0) || c.Noise > 10, fmt.Sprintf("noise of %g: choose more than 0 of the image's range, such as 0.15", c.Noise)},
		{c.Steps < 1 || c.Steps > 10000, fmt.Sprintf("%d steps of integrated gradients: choose 1 to 10,000", c.Steps)},
		{c.Window < 1, fmt.Sprintf("a window of %d pixels: choose at least 1", c.Window)},
		{c.Stride < 1 || c.Stride > c.Window, fmt.Sprintf("a stride of %d pixels with a window of %d: choose 1 to %[2]d, so that every pixel is hidden once", c.Stride, c.Window)},
		{c.Masks < 1, fmt.Sprintf("%d masks: choose at least 1", c.Masks)},
		{c.Grid < 1, fmt.Sprintf("a grid of %d cells: choose at least 1", c.Grid)},
		{!(c.Keep > 0 && c.Keep < 1), fmt.Sprintf("a cell is seen with probability %g: choose one between 0 and 1", c.Keep)},
	} {
		if r.bad {
			return fmt.Errorf("%w: %s", ErrConfig, r.text)
		}
	}
	return nil
}

// Find returns the methods of these names, in their order; "all" stands for those that fit the network. The error says which
// there are.
func Find(names []string, n Network, c Config) ([]Entry, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	table := Methods()
	var all []string
	for _, e := range table {
		all = append(all, e.Name)
	}
	var found []Entry
	take := func(e Entry) {
		if !slices.ContainsFunc(found, func(f Entry) bool { return f.Name == e.Name }) {
			found = append(found, e)
		}
	}
	for _, name := range names {
		if name == "all" {
			for _, e := range table {
				if e.New(c).Check(n) == nil {
					take(e)
				}
			}
			continue
		}
		i := slices.Index(all, name)
		if i < 0 {
			return nil, fmt.Errorf("%w: no method %q: choose of %s, or all", ErrConfig, name, strings.Join(all, ", "))
		}
		if err := table[i].New(c).Check(n); err != nil {
			return nil, err
		}
		take(table[i])
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("%w: no method: choose of %s, or all", ErrConfig, strings.Join(all, ", "))
	}
	return found, nil
}
