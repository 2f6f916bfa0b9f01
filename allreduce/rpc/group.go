package rpc

import (
	"context"
	"fmt"
	"hash/crc32"
	"net"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"

	"mp/allreduce"
)

// group is one member of a ring. Its goroutines read the neighbours' streams; operations run in their callers'.
type group struct {
	Config
	born        time.Time
	left, right *control
	max, sum    *lane
	flight      flight // of what the left neighbour sends

	done    chan struct{}  // closed when the group is broken or closed
	told    chan struct{}  // closed when the neighbours have been told
	heard   chan struct{}  // closed when the left neighbour has heard it
	cut     chan struct{}  // closed when nothing touches the network any more
	torn    chan struct{}  // closed when everything that the group started has ended
	running sync.WaitGroup // its goroutines

	streams context.Context // of the streams to the right
	cancel  context.CancelFunc

	mu      sync.Mutex // guards what follows
	err     error      // why it is broken
	active  int        // operations under way
	users   int        // operations and others that use what tearDown frees last
	unused  *sync.Cond // users has become 0
	leaving error      // a neighbour left; breaks the group once nothing is under way
	late    []time.Duration
	sockets []net.Conn         // to the right
	clients []*grpc.ClientConn // to the right
	taken   map[string]bool    // streams of the left neighbour that came
	refusal string             // why the right neighbour was not reached at the last try
	reached time.Time          // when a connection to it was last made
	missed  int                // tries to make one since
	missing int                // streams of the left neighbour that have not come yet
	whole   chan struct{}      // closed when missing is 0
}

// newGroup makes a member that is connected to nobody.
func newGroup(c Config) *group {
	n := len(c.Members)
	if c.Connections == 0 {
		c.Connections = 1
	}
	c.Kernels = c.Kernels.WithDefaults()
	g := &group{Config: c, born: time.Now(), late: make([]time.Duration, n),
		done: make(chan struct{}), told: make(chan struct{}), heard: make(chan struct{}), cut: make(chan struct{}), torn: make(chan struct{}),
		whole: make(chan struct{}), missing: 2 + c.Connections, taken: map[string]bool{}}
	g.unused = sync.NewCond(&g.mu)
	g.left, g.right = newControl(g, (c.Rank+n-1)%n), newControl(g, (c.Rank+1)%n)
	g.max, g.sum = newLane(g, 1), newLane(g, c.Connections)
	g.streams, g.cancel = context.WithCancel(context.Background())
	return g
}

// checksum continues a CRC-32C.
func (g *group) checksum(crc uint32, b []byte) uint32 {
	return crc32.Update(crc, castagnoli, b)
}

// sample continues a CRC-32C by the beginning of every page. It stands in for the whole where nothing but this program
// could change what is between, in shared memory: there it tells a slot that was overwritten before it was read.
func (g *group) sample(crc uint32, b []byte) uint32 {
	const page, part = 4096, 256
	for lo := 0; lo < len(b); lo += page {
		crc = crc32.Update(crc, castagnoli, b[lo:min(lo+part, len(b))])
	}
	return crc
}

func (g *group) Rank() int { return g.Config.Rank }
func (g *group) Size() int { return len(g.Members) }

func (g *group) Skew() []time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.late)
}

// Close says goodbye and waits until the right neighbour has taken everything, but not for long, and until all that the
// group started has ended.
func (g *group) Close() error {
	g.mu.Lock()
	first, active := g.err == nil, g.active
	if first {
		g.err = fmt.Errorf("%w: closed here", allreduce.ErrBroken)
		close(g.done)
	}
	g.mu.Unlock()
	if first {
		word := broken{Rank: g.Rank(), Kind: allreduce.KindConnection, Text: errLeft.Error()}
		if active > 0 {
			g.tearDown(frameBroken, word)
		} else {
			g.tearDown(frameBye, word)
		}
	}
	<-g.torn
	return nil
}

// fail breaks the group; the first cause counts.
func (g *group) fail(cause error) { g.end(frameBroken, cause) }

// end is fail with the kind of last word that the neighbours get.
func (g *group) end(kind byte, cause error) {
	g.mu.Lock()
	first := g.err == nil
	if first {
		g.err = fmt.Errorf("%w: %w", allreduce.ErrBroken, cause)
		close(g.done)
	}
	g.mu.Unlock()
	if first {
		go g.tearDown(kind, g.wordOf(cause)) // ends by itself; Close waits for it
	}
}

// leave breaks the group when nothing is under way: what is may still get all it needs, here and at the neighbours.
func (g *group) leave(cause error) {
	g.mu.Lock()
	busy := g.active > 0
	if busy && g.leaving == nil {
		g.leaving = cause
	}
	g.mu.Unlock()
	if !busy {
		g.end(frameBye, cause)
	}
}

// failed returns why the group is broken, after nothing of the caller's memory is used any more.
func (g *group) failed() error {
	<-g.cut
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.err
}

// begin enters an operation; end must follow. When ctx ends, the group breaks.
func (g *group) begin(ctx context.Context) (end func(), err error) {
	if err := ctx.Err(); err != nil {
		g.fail(err)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.err != nil {
		return nil, g.err
	}
	g.active++
	g.users++
	stop := context.AfterFunc(ctx, func() { g.fail(ctx.Err()) })
	return func() {
		stop()
		g.mu.Lock()
		g.active--
		var leaving error
		if g.active == 0 {
			leaving = g.leaving
		}
		g.mu.Unlock()
		g.release()
		if leaving != nil {
			g.end(frameBye, leaving)
		}
	}, nil
}

// use keeps tearDown from freeing what the caller uses, until it calls release; false: too late.
func (g *group) use() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.err != nil {
		return false
	}
	g.users++
	return true
}

func (g *group) release() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.users--; g.users == 0 {
		g.unused.Broadcast()
	}
}

// tearDown ends everything in the reverse order of its beginning. done is closed already.
func (g *group) tearDown(kind byte, word broken) {
	limit, stop := context.WithTimeout(context.Background(), g.FailAfter/4)
	defer stop()
	// The neighbours hear first why their streams end, so that they do not blame this member.
	var tellers sync.WaitGroup
	g.mu.Lock()
	connected := map[*control]bool{g.left: g.left.pipe != nil, g.right: g.right.pipe != nil}
	g.mu.Unlock()
	for c, is := range connected {
		if is {
			tellers.Go(func() { c.say(kind, word) })
		}
	}
	said := make(chan struct{})
	go func() {
		tellers.Wait()
		close(said)
	}()
	select {
	case <-said:
	case <-limit.Done(): // a neighbour takes nothing
	}
	close(g.told) // the left neighbour's lanes end
	await := func(c *control) {
		if connected[c] && (word.Kind != allreduce.KindSilence || word.Rank != c.rank) {
			select {
			case <-c.ended:
			case <-limit.Done():
			}
		}
	}
	// What was sent is lost if the connection ends before the right neighbour has read it. It ends its side when it is done.
	if kind == frameBye {
		g.max.closeSend()
		g.sum.closeSend()
	}
	go func() {
		await(g.left)
		close(g.heard)
	}()
	await(g.right)
	g.cancel()
	g.mu.Lock()
	sockets, clients := g.sockets, g.clients
	g.mu.Unlock()
	for _, s := range sockets {
		if t, ok := s.(interface{ NetConn() net.Conn }); ok {
			s = t.NetConn() // TLS would say goodbye first
		}
		s.Close() // else a writer that waits for a stopped peer would hold up the next line
	}
	for _, c := range clients {
		c.Close()
	}
	close(g.cut)
	<-g.heard
	<-said
	g.mu.Lock()
	for g.users > 0 {
		g.unused.Wait()
	}
	g.mu.Unlock()
	g.running.Wait()
	if g.sum.box != nil {
		g.sum.box.close()
	}
	if g.sum.theirs != nil {
		unix.Munmap(g.sum.theirs)
	}
	close(g.torn)
}

// gone is the error of an operation to which nothing more comes: whoever left is at fault, by the left neighbour's last word.
func (g *group) gone() error {
	select {
	case <-g.left.said:
	case <-g.done:
	case <-time.After(verdict):
	}
	g.mu.Lock()
	cause := g.leaving
	g.mu.Unlock()
	if cause == nil {
		cause = &allreduce.PeerError{Rank: g.left.rank, Kind: allreduce.KindConnection, Err: errLeft}
	}
	g.fail(cause)
	return g.failed()
}

// verdict is how long an operation waits for the control stream's word.
const verdict = 100 * time.Millisecond

// lost is the error of an operation whose stream to or from a neighbour failed: the control stream knows better why, if it
// says so soon.
func (g *group) lost(c *control, err error) error {
	select {
	case <-g.done:
	case <-time.After(verdict):
		g.fail(c.gone(err))
	}
	return g.failed()
}
