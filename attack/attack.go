// Package attack owns ways to change images a little so that a network errs: the course's PGD, gradient attacks, attacks of
// least distance, attacks by queries, and their ensemble.
//
// It imports ops (and gotorch's tensor type) and nothing else of this program: what is attacked is a Victim, whose weights,
// statistics and gradients no attack touches. Everything random is a function of a sample's key, never of the batch or the
// worker that the sample is in.
//
// Start reading at Attack, then names.go, the table of what there is, then ascent.go, the loop that most attacks share.
package attack

import (
	"context"
	"errors"
	"fmt"

	torch "github.com/wangkuiyi/gotorch"

	"mp/ops"
)

// Legend: N images, C channels, H height, W width, K classes.

// ErrConfig is wrapped by every error that another try does not cure: an attack that is not there, impossible options, labels
// that the network does not know.
var ErrConfig = errors.New("wrong attack configuration")

// Victim is a classifier under attack. It is called on its device's thread only.
type Victim interface {
	// Logits returns [N K] for images x [N C H W] in [0, 1]: normalisation is its own, batch norms are in evaluation mode
	// unless the caller of the attack wants it otherwise, and nothing of the victim changes. Outside NoGrad the result has
	// a graph back to x. An attack asks for the gradient of x alone.
	Logits(s *ops.Scope, x torch.Tensor) torch.Tensor
}

// Batch is what is attacked. The attack keeps nothing of it and changes nothing in it.
type Batch struct {
	X       torch.Tensor // [N C H W] in [0, 1], float32 or float64; bfloat16 is attacked in float32
	Labels  []int64      // N: true classes
	Targets []int64      // N: classes to be taken for, with Given only
	Keys    []uint64     // N: one a sample, from Keys; may be nil for attacks that draw nothing
}

// Result is what became of a batch.
type Result struct {
	X       torch.Tensor // [N C H W], float32 or float64; belongs to the scope that the attack was given
	Queries []int        // N: images of each sample that the victim saw
	Facts   Facts        // of autoattack alone
}

// Attack changes images. It holds no state: one may be used for any number of batches.
type Attack interface {
	// Perturb blocks until it is done or ctx ends, which it looks at between steps.
	Perturb(ctx context.Context, s *ops.Scope, v Victim, b Batch) (Result, error)
}

// Norm measures how far an image was moved.
type Norm int

// The norms.
const (
	Linf Norm = iota // the largest change of a value
	L2               // the Euclidean length of the change
)

func (n Norm) String() string {
	if n == L2 {
		return "l2"
	}
	return "linf"
}

// ParseNorm is String's inverse.
func ParseNorm(word string) (Norm, error) {
	switch word {
	case "linf":
		return Linf, nil
	case "l2":
		return L2, nil
	}
	return 0, fmt.Errorf("%w: norm %q: choose linf or l2", ErrConfig, word)
}

// Goal is what counts as a success.
type Goal int

// The goals.
const (
	Untargeted  Goal = iota // any class but the true one
	LeastLikely             // the class that the victim holds for least likely before the attack
	Given                   // Batch.Targets
)

func (g Goal) String() string { return [...]string{"untargeted", "least-likely", "targeted"}[g] }

// Loss is what a gradient attack makes greater.
type Loss int

// The losses.
const (
	CrossEntropy Loss = iota
	DLR               // difference of logits ratio (Croce & Hein, 2020), which no scaling of the logits blinds
	KL                // divergence from the clean image's probabilities (TRADES, Zhang et al., 2019): needs no label
)

func (l Loss) String() string { return [...]string{"ce", "dlr", "kl"}[l] }

// ParseLoss is String's inverse.
func ParseLoss(word string) (Loss, error) {
	for _, l := range []Loss{CrossEntropy, DLR, KL} {
		if l.String() == word {
			return l, nil
		}
	}
	return 0, fmt.Errorf("%w: loss %q: choose ce, dlr or kl", ErrConfig, word)
}
