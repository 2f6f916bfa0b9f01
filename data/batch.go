package data

import (
	"sync/atomic"

	"mp/ops/pixel"
)

// purposeLayers goes on where the list in rand.go ends: what layers draw for one sample, such as dropped paths.
const purposeLayers uint64 = 5

// Batch is one shard of one step: N images of Size x Size pixels, ready for a network. It belongs to the loader that
// delivered it, and to the caller until Release. Everything in it but X's address is a function of (seed, epoch, step,
// shard).
type Batch struct {
	Epoch, Step, Shard int
	Size               int // side of the images
	// X holds the normalised images: float32 or bfloat16, N C H W or, channels last, N H W C. It is memory outside Go's heap,
	// at an address that is a multiple of 4096.
	X      []byte
	IDs    []int32   // N: which images of the pack
	Labels []int64   // N: their classes, -1 where unknown
	Soft   []float32 // N x classes: targets, where the recipe mixes images; else nil
	Keys   []uint64  // N: for the random decisions of layers about a sample

	spec  pixel.OutSpec
	soft  []float32 // room for Soft
	warps []pixel.Warp
	room  []byte // for X

	scaled []byte  // of a validation that scales: its records,
	index  []int32 // and 0, 1, 2 ...

	loader *Loader
	seq    int // position in the order of delivery
	err    error
	ready  chan struct{}
	held   atomic.Bool
}

// BFloat16 says whether X holds bfloat16.
func (b *Batch) BFloat16() bool { return b.spec.DType == pixel.BF16 }

// ChannelsLast says whether X is N H W C.
func (b *Batch) ChannelsLast() bool { return b.spec.Layout == pixel.NHWC }

// Release gives the batch back to its loader, which overwrites it. It must be called once.
func (b *Batch) Release() {
	if !b.held.CompareAndSwap(true, false) {
		panic("data: a batch was released twice")
	}
	b.seq += len(b.loader.slots)
	if b.seq < b.loader.total {
		b.loader.work <- b // has room for every slot
	}
}
