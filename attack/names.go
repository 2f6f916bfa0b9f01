package attack

import (
	"fmt"
	"math"
	"slices"
	"strings"
)

// Start is where a climb begins.
type Start int

// The starts.
const (
	StartClean   Start = iota // at the image
	StartUniform              // at a random point of the ball
	StartNormal               // at Gaussian noise of deviation 0.001, as TRADES does
)

// Options is what an attack may be asked for. An option that an attack does not have is left at its default.
type Options struct {
	Norm     Norm
	Eps      float64 // radius of the ball, values of [0, 1] (course: normalised units); cw and deepfool give up beyond it
	Steps    int     // gradient steps; square: queries
	StepSize float64 // 0: 2.5 Eps / Steps
	Restarts int
	Goal     Goal
	Loss     Loss
	Start    Start
	Decay    float64 // of accumulated gradients
	EOT      int     // gradients averaged for a step
	Classes  int     // how many rivals apgd-t and fab-t try, deepfool looks at
	// Leave settles a sample when it is first fooled. For measuring accuracy: it changes no verdict and saves the rest of the
	// steps. For training leave it off: the loss would be smaller.
	Leave bool

	Most, Fixed, Ascend bool // course: take the most confident label; keep the first; make the loss greater
}

func (o Options) step() float64 {
	if o.StepSize > 0 {
		return o.StepSize
	}
	return 2.5 * o.Eps / float64(max(o.Steps, 1))
}

// row is one attack of the table.
type row struct {
	name     string
	what     string
	defaults Options
	norms    []Norm
	goals    []Goal
	make     func(Options) Attack
}

// eps is the default radius in l-infinity, the field's for images.
const eps = 8. / 255

func table() []row {
	linf, both := []Norm{Linf}, []Norm{Linf, L2}
	none, any := []Goal{Untargeted}, []Goal{Untargeted, LeastLikely, Given}
	return []row{
		{"course", "the reference course's PGD, in normalised units", Options{Eps: .1, Steps: 10, StepSize: .01}, linf, none, newCourse},
		{"fgsm", "one step of the gradient's sign", Options{Eps: eps, Steps: 1}, both, any, fgsm},
		{"rfgsm", "a random step, then one of the gradient's sign", Options{Eps: eps, Steps: 1, StepSize: eps / 2}, linf, any, rfgsm},
		{"fgsm-rs", "a uniform start, then 1.25 eps along the sign", Options{Eps: eps, Steps: 1, StepSize: 1.25 * eps, Start: StartUniform}, linf, any, fgsmRS},
		{"nfgsm", "noise of 2 eps, then eps along the sign, outside the ball", Options{Eps: eps, Steps: 1, StepSize: eps}, linf, any, nfgsm},
		{"bim", "many small steps of the gradient's sign", Options{Eps: eps, Steps: 10, Leave: true}, both, any, pgd},
		{"pgd", "the same from a random start", Options{Eps: eps, Steps: 20, Start: StartUniform, Leave: true}, both, any, pgd},
		{"mifgsm", "steps along accumulated gradients", Options{Eps: eps, Steps: 10, Decay: 1}, linf, any, mifgsm},
		{"difgsm", "the same, seen at random sizes and places", Options{Eps: eps, Steps: 10}, linf, any, difgsm},
		{"tifgsm", "the same with blurred gradients", Options{Eps: eps, Steps: 10}, linf, any, tifgsm},
		{"cw", "least l2 by Adam in the space of tanh (Carlini & Wagner); --restarts searches for its constant", Options{Norm: L2, Eps: 3, Steps: 100, Restarts: 5}, []Norm{L2}, any, newCW},
		{"deepfool", "shortest steps over linearised boundaries", Options{Norm: L2, Eps: 3, Steps: 50, Classes: 9}, both, none, newDeepFool},
		{"apgd-ce", "PGD that chooses its steps, on the cross-entropy", Options{Eps: eps, Steps: 100, Leave: true}, both, any, apgdCE},
		{"apgd-dlr", "the same on the difference of logits ratio", Options{Eps: eps, Steps: 100, Loss: DLR, Leave: true}, both, any, apgdCE},
		{"apgd-t", "the same towards each of the likeliest wrong classes", Options{Eps: eps, Steps: 100, Classes: 9, Leave: true}, both, none, apgdT},
		{"fab-t", "steps to the boundary to each of the likeliest wrong classes", Options{Eps: eps, Steps: 100, Classes: 9, Leave: true}, both, none, fabT},
		{"square", "random squares, without gradients; --steps counts queries", Options{Eps: eps, Steps: 5000, Leave: true}, both, any, newSquare},
		{"autoattack", "apgd-ce, apgd-t, fab-t and square one after another", Options{Eps: eps, Steps: 100, Classes: 9, Leave: true}, both, none, newAutoAttack},
		{"eotpgd", "PGD with gradients averaged over a network's lots", Options{Eps: eps, Steps: 10, EOT: 2, Start: StartUniform}, both, any, eotPGD},
	}
}

// Names returns the attacks that New knows.
func Names() []string {
	var names []string
	for _, r := range table() {
		names = append(names, r.name)
	}
	return names
}

// About returns a line about each of Names.
func About() []string {
	var lines []string
	for _, r := range table() {
		lines = append(lines, r.what)
	}
	return lines
}

func find(name string) (row, error) {
	i := slices.IndexFunc(table(), func(r row) bool { return r.name == name })
	if i < 0 {
		return row{}, fmt.Errorf("%w: no attack %q: choose one of %s", ErrConfig, name, strings.Join(Names(), ", "))
	}
	return table()[i], nil
}

// Defaults returns the options of an attack as its authors chose them, at 8/255 in l-infinity.
func Defaults(name string) (Options, error) {
	r, err := find(name)
	return r.defaults, err
}

// New makes the attack called name.
func New(name string, o Options) (Attack, error) {
	r, err := find(name)
	if err != nil {
		return nil, err
	}
	if err := r.check(o); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return r.make(o), nil
}

// check says what of the options this attack cannot do.
func (r row) check(o Options) error {
	positive := func(v float64) bool { return v > 0 && !math.IsInf(v, 0) }
	switch {
	case !positive(o.Eps):
		return fmt.Errorf("%w: eps %g: want a positive number such as 8/255", ErrConfig, o.Eps)
	case o.Steps < 1:
		return fmt.Errorf("%w: %d steps: want at least 1", ErrConfig, o.Steps)
	case o.StepSize < 0 || math.IsInf(o.StepSize, 0) || math.IsNaN(o.StepSize):
		return fmt.Errorf("%w: step size %g: want a positive number, or 0 for 2.5 eps / steps", ErrConfig, o.StepSize)
	case o.Restarts < 0 || o.EOT < 0 || o.Classes < 0:
		return fmt.Errorf("%w: %d restarts, %d looks, %d classes: none may be negative", ErrConfig, o.Restarts, o.EOT, o.Classes)
	case !slices.Contains(r.norms, o.Norm):
		return fmt.Errorf("%w: it has no %s norm", ErrConfig, o.Norm)
	case !slices.Contains(r.goals, o.Goal):
		return fmt.Errorf("%w: it cannot be %s", ErrConfig, o.Goal)
	case o.Loss == KL && o.Goal != Untargeted:
		return fmt.Errorf("%w: the loss kl has no target", ErrConfig)
	}
	return nil
}
