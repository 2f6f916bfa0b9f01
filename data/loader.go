package data

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"

	"mp/ops/pixel"
)

// ErrEnd is returned by Loader.Next when every batch has been delivered.
var ErrEnd = errors.New("no more batches")

var errClosed = errors.New("load images: the loader is closed")

// Images is what a loader reads: a Pack. Its methods are called from several goroutines at once and must not change what
// they returned before.
type Images interface {
	Len() int
	Classes() []string
	// Label returns the class of image i, -1 where it is unknown.
	Label(i int) int
	// Records returns the pixels of all images, RecordBytes each.
	Records() []byte
	// Check verifies images before their first use.
	Check(ids []int32) error
}

// LoaderConfig says what a Loader delivers.
type LoaderConfig struct {
	Images  Images
	Sampler *Sampler
	Recipe  Recipe
	Seed    uint64 // of augmentation, mixing and keys

	// Shards is into how many parts a step's batch is cut, 1 where it is 0; Mine are those delivered, in this order: all
	// where it is nil.
	Shards int
	Mine   []int

	// The first batch is of step FirstStep of epoch FirstEpoch, the last one the last of epoch Epochs-1.
	FirstEpoch, FirstStep int
	Epochs                int

	// Size is the side of the images of an epoch, and MaxSize the largest it returns; nil and 0 mean ImageSize.
	Size    func(epoch int) int
	MaxSize int

	Form         Form
	Stage        Stage // of Raw batches; nil: plain memory
	BFloat16     bool  // float32 where false
	ChannelsLast bool

	Workers int // goroutines that prepare batches; 0: one for each processor
	Ahead   int // batches prepared or held at a time; 0: twice Workers, and at least all of one step and one more
}

// Loader prepares batches ahead of their use and delivers them in order: step by step, and in a step shard by shard. What
// it delivers does not depend on the number of goroutines. After the first turn of its ring nothing is allocated,
// but by a validation that scales.
type Loader struct {
	c     LoaderConfig
	steps int // of an epoch
	total int // batches to deliver

	classes int

	slots []*Batch    // batch seq is prepared in slots[seq % len(slots)]
	work  chan *Batch // slots to fill, each with the seq it is to hold

	next   int // seq that Next returns; of the caller's goroutine
	broken error

	stop    chan struct{}
	stopped sync.Once
	running sync.WaitGroup
}

// NewLoader checks the configuration, allocates the ring and starts to fill it. Close the loader.
func NewLoader(c LoaderConfig) (*Loader, error) {
	l, err := newLoader(c)
	if err != nil {
		return nil, err
	}
	c = l.c
	most := (c.Sampler.batch-1)/c.Shards + 1
	for i := range min(c.Ahead, l.total) {
		b, err := l.newSlot(most)
		if err != nil {
			l.free()
			return nil, err
		}
		b.seq = i
		l.slots = append(l.slots, b)
	}
	l.work = make(chan *Batch, len(l.slots))
	for _, b := range l.slots {
		l.work <- b
	}
	for range min(c.Workers, len(l.slots)) {
		l.running.Go(l.fillAll)
	}
	return l, nil
}

// newLoader fills in what the configuration leaves out and checks it.
func newLoader(c LoaderConfig) (*Loader, error) {
	c.Shards = max(c.Shards, 1)
	if c.Mine == nil {
		for i := range c.Shards {
			c.Mine = append(c.Mine, i)
		}
	}
	if c.Size == nil {
		c.Size, c.MaxSize = func(int) int { return ImageSize }, ImageSize
	}
	if c.Stage == nil || c.Form != Raw {
		c.Stage = plain{}
	}
	if c.Workers < 1 {
		c.Workers = runtime.GOMAXPROCS(0)
	}
	if c.Ahead < 1 {
		c.Ahead = max(2*c.Workers, len(c.Mine)+1)
	}
	l := &Loader{c: c, steps: c.Sampler.Steps(), classes: len(c.Images.Classes()), stop: make(chan struct{})}
	done := c.FirstEpoch*l.steps + c.FirstStep
	all := c.Epochs * l.steps
	switch {
	case c.Images.Len() != c.Sampler.list:
		return nil, badf("load images: %d of them but a sampler for %d", c.Images.Len(), c.Sampler.list)
	case len(c.Mine) == 0:
		return nil, badf("load images: no shard to deliver")
	case c.FirstEpoch < 0 || c.FirstStep < 0 || done > all:
		return nil, badf("load images: from step %d of epoch %d, but there are %d epochs of %d steps", c.FirstStep, c.FirstEpoch, c.Epochs, l.steps)
	case c.MaxSize < 1 || c.MaxSize > 1024:
		return nil, badf("load images of %d pixels a side: choose 1 to 1024", c.MaxSize)
	case c.Recipe.kind == unknown:
		return nil, badf("load images: no recipe")
	case c.Ahead < len(c.Mine):
		return nil, badf("load images: %d batches ahead, but a step has %d", c.Ahead, len(c.Mine))
	}
	for _, s := range c.Mine {
		if s < 0 || s >= c.Shards {
			return nil, badf("load images: shard %d of %d", s, c.Shards)
		}
	}
	l.total = (all - done) * len(c.Mine)
	return l, nil
}

// newSlot allocates a batch of up to n images.
func (l *Loader) newSlot(n int) (*Batch, error) {
	b := &Batch{loader: l, ready: make(chan struct{}, 1)}
	bytes := n * l.spec(l.c.MaxSize).Bytes()
	if l.c.Form != Finished {
		bytes = n * RecordBytes
	}
	var err error
	if b.room, b.free, err = l.c.Stage.Room(bytes); err != nil {
		return nil, fmt.Errorf("allocate a batch of %d images, %d bytes: %w", n, bytes, err)
	}
	b.IDs, b.Labels, b.Keys = make([]int32, 0, n), make([]int64, 0, n), make([]uint64, 0, n)
	b.Warps = make([]pixel.Warp, 0, n)
	if l.c.Form != Finished {
		b.dense = b.room
	}
	if l.c.Recipe.Mixes() {
		b.soft = make([]float32, n*l.classes)
	}
	return b, nil
}

func (l *Loader) spec(size int) pixel.OutSpec {
	s := pixel.OutSpec{Size: size, DType: pixel.F32, Layout: pixel.NCHW}.ImageNet()
	if l.c.BFloat16 {
		s.DType = pixel.BF16
	}
	if l.c.ChannelsLast {
		s.Layout = pixel.NHWC
	}
	return s
}

// Next returns the next batch, blocking until it is prepared. The caller releases it; as many as the ring holds may be
// held at once, and one more waits for ever. For one goroutine. After an error every later call returns the same one, unless
// it was the context's.
func (l *Loader) Next(ctx context.Context) (*Batch, error) {
	if l.broken != nil {
		return nil, l.broken
	}
	select {
	case <-l.stop:
		return nil, errClosed
	default:
	}
	if l.next >= l.total {
		return nil, ErrEnd
	}
	b := l.slots[l.next%len(l.slots)]
	select {
	case <-b.ready:
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-l.stop:
		return nil, errClosed
	}
	if b.err != nil {
		l.broken = b.err
		return nil, b.err
	}
	l.next++
	b.held.Store(true)
	return b, nil
}

// Close stops the goroutines, waits for them and frees the memory of all batches. A second call does nothing.
func (l *Loader) Close() {
	l.stopped.Do(func() {
		close(l.stop)
		l.running.Wait()
		l.free()
	})
}

func (l *Loader) free() {
	for _, b := range l.slots {
		b.X, b.Records = nil, nil
		l.c.Stage.Emptied(b.room)
		b.free()
	}
}

// fillAll fills slots until the loader is closed.
func (l *Loader) fillAll() {
	for {
		select {
		case <-l.stop:
			return
		case b := <-l.work:
			l.c.Stage.Emptied(b.room)
			if b.err = l.fill(b); b.err == nil {
				b.err = l.c.Stage.Filled(b.Records)
			}
			b.ready <- struct{}{}
		}
	}
}

// fill prepares batch b.seq.
func (l *Loader) fill(b *Batch) error {
	c := &l.c
	step := c.FirstEpoch*l.steps + c.FirstStep + b.seq/len(c.Mine)
	b.Epoch, b.Step, b.Shard = step/l.steps, step%l.steps, c.Mine[b.seq%len(c.Mine)]
	b.Size = c.Size(b.Epoch)
	if b.Size < 1 || b.Size > c.MaxSize {
		return badf("load images of epoch %d: %d pixels a side, beyond the %d allowed", b.Epoch, b.Size, c.MaxSize)
	}
	b.Spec = l.spec(b.Size)
	b.IDs = c.Sampler.appendShard(b.IDs[:0], b.Epoch, b.Step, b.Shard, c.Shards)
	if err := c.Images.Check(b.IDs); err != nil {
		return fmt.Errorf("load step %d of epoch %d: %w", b.Step, b.Epoch, err)
	}
	b.Labels, b.Keys, b.Warps = b.Labels[:0], b.Keys[:0], b.Warps[:0]
	for _, id := range b.IDs {
		keys := seeded([]uint64{c.Seed, uint64(b.Epoch), uint64(id), purposeLayers})
		b.Keys = append(b.Keys, keys.Uint64())
		b.Labels = append(b.Labels, int64(c.Images.Label(int(id))))
		b.Warps = append(b.Warps, c.Recipe.Draw(c.Seed, b.Epoch, id, b.Size))
	}
	c.Recipe.Mix(c.Seed, b.Epoch, b.Step, b.Shard, b.Warps, b.Size)
	b.Soft = nil
	if c.Recipe.Mixes() {
		if err := b.soften(l.classes); err != nil {
			return err
		}
	}
	b.Records, b.Index = c.Images.Records(), b.IDs
	switch {
	case c.Recipe.val.exact(b.Size):
		if err := b.shown(c.Recipe.val); err != nil {
			return fmt.Errorf("load step %d of epoch %d: %w", b.Step, b.Epoch, err)
		}
	case c.Form == Raw:
		all := b.Records
		b.gathered()
		for i, id := range b.IDs {
			copy(b.Records[i*RecordBytes:(i+1)*RecordBytes], all[int(id)*RecordBytes:])
		}
	}
	if c.Form != Finished {
		return nil
	}
	b.X = b.room[:len(b.IDs)*b.Spec.Bytes()]
	return pixel.Gather(b.X, b.Records, b.Index, b.Warps, b.Spec)
}

// gathered makes room for the batch's records one after another.
func (b *Batch) gathered() {
	if b.dense == nil {
		b.dense = make([]byte, cap(b.IDs)*RecordBytes)
	}
	for i := len(b.count); i < len(b.IDs); i++ {
		b.count = append(b.count, int32(i))
	}
	b.Records, b.Index = b.dense[:len(b.IDs)*RecordBytes], b.count[:len(b.IDs)]
}

// shown scales the batch's records by v beforehand and leaves their warps nothing to do.
func (b *Batch) shown(v validation) error {
	all := b.Records
	b.gathered()
	if err := v.show(b.Records, all, b.IDs, b.Warps); err != nil {
		return err
	}
	for i := range b.Warps {
		b.Warps[i] = pixel.Identity(b.Size)
	}
	return nil
}

// soften writes what each image shows of each class into Soft.
func (b *Batch) soften(classes int) error {
	b.Soft = b.soft[:len(b.IDs)*classes]
	clear(b.Soft)
	for i := range b.Warps {
		own, mate := b.Labels[i], b.Labels[b.Warps[i].Mate]
		if own < 0 || mate < 0 {
			return badf("mix images %d and %d: the class of one is unknown", b.IDs[i], b.IDs[b.Warps[i].Mate])
		}
		share := ownShare(&b.Warps[i], b.Size)
		b.Soft[i*classes+int(own)] += share
		b.Soft[i*classes+int(mate)] += 1 - share
	}
	return nil
}

var _ Images = (*Pack)(nil)
