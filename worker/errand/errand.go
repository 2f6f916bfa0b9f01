// Package errand is what a cluster's workers do for clients beside their training: attacks on images of their packs.
//
// It owns the computing of one part of an attack, which is the same code for a lone device and for a worker, the service that
// a worker offers, and the crowd of workers that a client hands parts to. It must never import the worker or the coordinator:
// a worker lends it device, packs and door, and a client knows the coordinators by mppb alone.
//
// Start reading at Order and Networks.Attack (attack.go), then server.go for the worker's side and crowd.go for the client's;
// deal.go, which is pure, says who gets which part. worker/DESIGN.md says why.
package errand

import (
	"errors"
	"fmt"
	"strings"

	"mp/attack"
	"mp/job"
)

// ErrRefused is wrapped when every worker, or the coordinator, says that it cannot take an errand as it is: other images,
// another version, a network that it cannot build, a wrong token. Asking again does not help; the text has their reasons.
var ErrRefused = errors.New("refused by the cluster")

// ErrNobody is wrapped when no worker is left, or none was there, and the last one did not refuse.
var ErrNobody = errors.New("no worker is left")

// Order is an attack: all that the numbers depend on but the images, the networks and how these compute.
type Order struct {
	Attack  string
	Options attack.Options
	Target  int    // class to be taken for, with the goal attack.Given
	Seed    uint64 // start of what is drawn
}

// Precisions of a network under attack; job's, and float64 for those who look into rounding.
const FP64 = "fp64"

// checkPrecision refuses a word that is none.
func checkPrecision(word string) error {
	switch word {
	case job.FP32, job.BF16, FP64:
		return nil
	}
	return fmt.Errorf("%w: precision %q: choose %s", job.ErrConfig, word, strings.Join([]string{job.FP32, job.BF16, FP64}, ", "))
}

// Pictures says which of a part's changed images are wanted.
type Pictures struct {
	All   bool
	First int // of those that the measured network recognises before the attack
}

// Batch are images that are attacked together.
type Batch struct {
	IDs     []int32
	Labels  []int64
	Records []byte // as they lie in a pack: [N S S 3]
}

// Add adds an image.
func (b *Batch) Add(id int32, label int, record []byte) {
	b.IDs, b.Labels, b.Records = append(b.IDs, id), append(b.Labels, int64(label)), append(b.Records, record...)
}

// Found is what became of a batch. Lists are in its order.
type Found struct {
	Clean   [][]int   // the likeliest classes of each image before, at most five,
	After   [][]int   // and after the attack
	Linf    []float64 // of the change of each
	L2      []float64
	Queries int // of all
	Facts   attack.Facts
	Seconds float64   // of the device
	Kept    []int     // positions of the changed images that were wanted
	Images  []float32 // these, [N 3 S S]
}
