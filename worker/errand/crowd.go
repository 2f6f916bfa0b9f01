package errand

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"

	"mp/data"
	"mp/job"
	"mp/mppb"
)

// CrowdConfig is what a client needs to have a cluster's workers attack images. All fields but Token, Dial, Stuck and
// Logger are required.
type CrowdConfig struct {
	Client *mppb.Client // of the coordinators
	Token  string       // what workers ask for; empty: nothing
	// Dial opens connections to workers, with TLS where they speak it. Nil: plain TCP.
	Dial func(ctx context.Context, address string) (net.Conn, error)

	Version   string     // of the program
	Pack      *data.Pack // that the images are of; the workers have an equal one
	Networks  []Network  // the one that is measured; the one that is attacked where it is another
	Precision string
	Threads   int // of one operation on the CPU, at least 1

	Wait   time.Duration // how long to look for a coordinator, and for a worker where none is left
	Stuck  time.Duration // how long a worker's work may stand still; 0: ten times the cluster's --fail-after, and a minute at least
	Logger *slog.Logger  // nil: nothing is logged
}

// Crowd is the workers of a cluster on an errand. One Task after another.
type Crowd struct {
	c       CrowdConfig
	errand  *mppb.Errand
	parcels map[string]parcel // by SHA-256
}

// NewCrowd checks the configuration. It connects to nobody yet.
func NewCrowd(c CrowdConfig) (*Crowd, error) {
	if c.Client == nil || c.Pack == nil || len(c.Networks) < 1 || len(c.Networks) > 2 || c.Threads < 1 {
		return nil, fmt.Errorf("%w: an errand needs a cluster, a pack, one or two networks and at least one thread", job.ErrConfig)
	}
	if err := checkPrecision(c.Precision); err != nil {
		return nil, err
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	sum := c.Pack.Hash()
	w := &Crowd{c: c, parcels: map[string]parcel{}, errand: &mppb.Errand{
		Protocol: mppb.Protocol, Version: c.Version, Split: string(c.Pack.Split()), PackSha256: hex.EncodeToString(sum[:]), Images: uint32(c.Pack.Len()),
		From: c.Pack.Path(), Classes: uint32(len(c.Pack.Classes())), Threads: uint32(c.Threads), Precision: c.Precision,
	}}
	for _, n := range c.Networks {
		p, err := pack(n)
		if err != nil {
			return nil, err
		}
		w.errand.Networks = append(w.errand.Networks, p.name)
		w.parcels[p.name.Sha256] = p
	}
	return w, nil
}

// Task is parts, in the order in which they are to be taken. Its functions are called from Run's goroutine.
type Task struct {
	Parts int
	Part  func(i int) Part           // when a worker is to have it, perhaps more than once
	Came  func(i int)                // when it is computed
	Take  func(i int, f Found) error // in order; an error ends the task
}

// Run has every part computed by whoever belongs to the cluster, also by those who come meanwhile. A part whose worker dies,
// is silent or cannot compute it goes to another one. It blocks until all is taken, until nobody is left, or until ctx ends.
func (w *Crowd) Run(ctx context.Context, t Task) error {
	ctx, cancel := context.WithCancel(ctx)
	var all sync.WaitGroup
	defer all.Wait()
	defer cancel()
	rosters, lost := make(chan *mppb.WorkersReply), make(chan error, 1)
	all.Go(func() {
		if err := w.scout(ctx, rosters); err != nil {
			lost <- err
		}
	})
	r := &run{Crowd: w, Task: t, deal: newDeal(t.Parts), news: make(chan news), hands: map[uint64]*hand{}, past: map[uint64]*record{}, found: map[int]Found{}, alone: time.Now()}
	for r.taken < t.Parts {
		select {
		case roster := <-rosters:
			for _, h := range r.enlist(roster) {
				all.Go(func() {
					err := h.run(ctx)
					select {
					case r.news <- news{hand: h, err: err}:
					case <-ctx.Done():
					}
				})
			}
			if err := r.anybody(); err != nil {
				return err
			}
		case n := <-r.news:
			if err := r.hear(n); err != nil {
				return err
			}
		case err := <-lost:
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// scoutEvery is how often the coordinator is asked who is there.
const scoutEvery = time.Second

// scout asks the coordinator who is there, again and again. Only the first time has to succeed: afterwards work goes on without
// one.
func (w *Crowd) scout(ctx context.Context, rosters chan<- *mppb.WorkersReply) error {
	every := time.NewTicker(scoutEvery)
	defer every.Stop()
	var roster *mppb.WorkersReply
	for {
		patience, cancel := context.WithTimeout(ctx, w.c.Wait)
		err := w.c.Client.Do(patience, func(ctx context.Context, conn grpc.ClientConnInterface) error {
			reply, err := mppb.NewClusterClient(conn).Workers(ctx, &mppb.WorkersRequest{})
			if err == nil {
				roster = reply
			}
			return err
		})
		cancel()
		switch what, why := judge(err); {
		case err == nil || roster != nil:
		case what == verdictRefused:
			return fmt.Errorf("%w: %s", ErrRefused, why)
		default:
			return fmt.Errorf("ask who computes: %w", err)
		}
		select {
		case rosters <- roster:
		case <-ctx.Done():
			return nil
		}
		select {
		case <-every.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// run is one task under way.
type run struct {
	*Crowd
	Task
	deal  *deal
	news  chan news
	hands map[uint64]*hand
	past  map[uint64]*record // workers whose hands have ended
	found map[int]Found      // computed, and not taken yet
	taken int
	alone time.Time // since when nobody computes; zero: somebody does
	mixed bool      // it was told that devices differ
}

// record is what is known of a worker that was of no use.
type record struct {
	name  string
	what  verdict
	why   string
	times int
}

// lives is how often a worker is tried whose connection breaks while the coordinator has it.
const lives = 3

// enlist makes hands for workers that have none, and returns them.
func (r *run) enlist(roster *mppb.WorkersReply) []*hand {
	failAfter := max(time.Duration(roster.FailAfterMs)*time.Millisecond, 100*time.Millisecond)
	p := pace{silence: 2 * failAfter, stuck: r.c.Stuck}
	if p.stuck == 0 {
		p.stuck = max(10*failAfter, time.Minute)
	}
	var made []*hand
	kinds := map[string]bool{}
	for _, w := range roster.Workers {
		kind, _, _ := strings.Cut(w.Device, ":")
		kinds[kind] = true
		if x := r.past[w.Worker]; r.hands[w.Worker] != nil || x != nil && (x.what != verdictGone || x.times >= lives) {
			continue
		}
		h := &hand{crowd: r.Crowd, worker: w, pace: p, parts: make(chan numbered, ahead), news: r.news}
		r.hands[w.Worker] = h
		made = append(made, h)
	}
	if len(kinds) > 1 && !r.mixed {
		r.mixed = true
		r.c.Logger.Warn("the workers compute on devices of different kinds: an image's last bits depend on who attacks it")
	}
	return made
}

// anybody is an error when nobody is left who could go on.
func (r *run) anybody() error {
	if len(r.hands) > 0 {
		r.alone = time.Time{}
		return nil
	}
	if r.alone.IsZero() {
		r.alone = time.Now()
	}
	var reasons []error
	refused, hope := true, len(r.past) == 0
	for _, x := range slices.SortedFunc(maps.Values(r.past), func(a, b *record) int { return cmp.Compare(a.name, b.name) }) {
		refused = refused && x.what == verdictRefused
		hope = hope || x.what == verdictGone // whoever starts workers may start it again
		reasons = append(reasons, fmt.Errorf("%s: %s", x.name, x.why))
	}
	if hope && time.Since(r.alone) < r.c.Wait {
		return nil
	}
	switch {
	case len(reasons) == 0:
		return fmt.Errorf("%w: %w", ErrNobody, errAlone)
	case refused:
		return fmt.Errorf("%w: %w", ErrRefused, errors.Join(reasons...))
	}
	return fmt.Errorf("%w, %d of %d parts are done: %w", ErrNobody, r.Parts-r.deal.todo, r.Parts, errors.Join(reasons...))
}

// maxEnds is how many workers may end with a part before the part is to blame.
const maxEnds = 3

// hear acts on news of a hand.
func (r *run) hear(n news) error {
	id := n.hand.worker.Worker
	switch {
	case n.err != nil:
		return r.lose(n.hand, n.err)
	case n.ready:
		r.deal.join(id)
	case n.found != nil:
		if r.deal.done(id, n.part) {
			r.found[n.part] = *n.found
			r.Came(n.part)
			if err := r.take(); err != nil {
				return err
			}
		}
	}
	r.hand()
	return nil
}

// take takes what is next in order.
func (r *run) take() error {
	for {
		f, ok := r.found[r.taken]
		if !ok {
			return nil
		}
		delete(r.found, r.taken)
		if err := r.Take(r.taken, f); err != nil {
			return err
		}
		r.taken++
	}
}

// hand gives parts to whoever is to have some.
func (r *run) hand() {
	for id, h := range r.hands {
		for {
			i, ok := r.deal.next(id)
			if !ok {
				break
			}
			h.parts <- numbered{i, r.Part(i)} // there is room: see ahead
		}
	}
}

// lose takes a worker out.
func (r *run) lose(h *hand, err error) error {
	id := h.worker.Worker
	delete(r.hands, id)
	what, why := judge(err)
	x := r.past[id]
	if x == nil {
		x = &record{name: h.worker.Name}
		r.past[id] = x
	}
	x.what, x.why, x.times = what, why, x.times+1
	part, ends := r.deal.leave(id)
	r.c.Logger.Warn("a worker computes no more of this attack; others do its part", "worker", x.name, "reason", why)
	if ends >= maxEnds {
		return fmt.Errorf("part %d of %d has ended %d workers, of %s the last: %s", part+1, r.Parts, ends, x.name, why)
	}
	r.hand()
	return nil
}
