package data

import (
	"sync/atomic"

	"golang.org/x/sys/unix"

	"mp/ops/pixel"
)

// purposeLayers goes on where the list in rand.go ends: what layers draw for one sample, such as dropped paths.
const purposeLayers uint64 = 5

// Form is what a batch brings of its images.
type Form int

const (
	// Finished images are normalised and ready for a network.
	Finished Form = iota
	// Raw images are records, with what pixel.Gather is to make of them: for a device that does that itself.
	Raw
	// Ordered images are only that, and the pack's records are where they are: for a device that keeps a copy of those.
	Ordered
)

// Stage is where the records of Raw batches wait for a device. Its methods are called from several goroutines.
type Stage interface {
	// Room returns memory for the records of a batch, outside Go's heap, and what frees it.
	Room(bytes int) (memory []byte, free func(), err error)
	// Filled says that a batch's records are there, from the beginning of its room on. They stay until Emptied.
	Filled(records []byte) error
	// Emptied says that a room's records will change now, if it has any.
	Emptied(room []byte)
}

// plain is memory from which nobody copies ahead.
type plain struct{}

func (plain) Room(bytes int) (memory []byte, free func(), err error) {
	memory, err = unix.Mmap(-1, 0, bytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return nil, nil, err
	}
	_ = unix.Madvise(memory, unix.MADV_HUGEPAGE)           // faster where the system has them
	return memory, func() { _ = unix.Munmap(memory) }, nil // nothing to do about an error
}

func (plain) Filled([]byte) error { return nil }
func (plain) Emptied([]byte)      {}

// Batch is one shard of one step: N images of Size x Size pixels. It belongs to the loader that delivered it, and to the
// caller until Release. Everything in it but X's address is a function of (seed, epoch, step, shard).
type Batch struct {
	Epoch, Step, Shard int
	Size               int // side of the images
	// X holds the normalised images: float32 or bfloat16, N C H W or, channels last, N H W C. It is memory outside Go's heap,
	// at an address that is a multiple of 4096. Of images that are not Finished, X is nil, and they are what pixel.Gather makes
	// of Records, Index, Warps and Spec, each here until Release.
	X       []byte
	Records []byte // of all images of the pack, or as many as Index counts
	Index   []int32
	Warps   []pixel.Warp
	Spec    pixel.OutSpec
	IDs     []int32   // N: which images of the pack
	Labels  []int64   // N: their classes, -1 where unknown
	Soft    []float32 // N x classes: targets, where the recipe mixes images; else nil
	Keys    []uint64  // N: for the random decisions of layers about a sample

	soft []float32 // room for Soft
	room []byte    // for X or Raw records
	free func()    // frees room

	dense []byte  // room for records one after another, as a validation scales them,
	count []int32 // and 0, 1, 2 ...

	loader *Loader
	seq    int // position in the order of delivery
	err    error
	ready  chan struct{}
	held   atomic.Bool
}

// BFloat16 says whether X holds bfloat16.
func (b *Batch) BFloat16() bool { return b.Spec.DType == pixel.BF16 }

// ChannelsLast says whether X is N H W C.
func (b *Batch) ChannelsLast() bool { return b.Spec.Layout == pixel.NHWC }

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
