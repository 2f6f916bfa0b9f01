package errand

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"mp/attack"
	"mp/data"
	"mp/job"
	"mp/model"
	"mp/mppb"
	"mp/ops"
)

// ServerConfig is what a worker lends to errands. All fields but Logger are required.
type ServerConfig struct {
	Device     *ops.Device
	Train, Val *data.Pack
	Version    string // of the program
	FailAfter  func() time.Duration
	Progress   func() uint64 // grows with the worker's own work
	Logger     *slog.Logger  // nil: nothing is logged
}

// Server computes errands on a worker's device, one part at a time, beside whatever else the device does. Its methods may be
// called from any goroutine.
type Server struct {
	mppb.UnimplementedErrandsServer
	c       ServerConfig
	shelf   shelf
	errands chan struct{} // a place for each that may be open
	turn    chan struct{} // for the one that has the device
	looks   atomic.Uint64 // of networks at images, in all errands

	mu      sync.Mutex // guards what follows
	closed  bool
	serving sync.WaitGroup
}

const (
	openErrands  = 2               // each has two networks in the device's memory
	keepNetworks = 5 * time.Minute // after the last errand that wanted them
)

// NewServer returns the service; register it, and Close it after the gRPC server has stopped.
func NewServer(c ServerConfig) *Server {
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return &Server{c: c, shelf: shelf{patience: keepNetworks}, errands: make(chan struct{}, openErrands), turn: make(chan struct{}, 1)}
}

// Close waits until every errand has ended, which the end of their streams makes them do, and gives the networks up.
func (s *Server) Close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.serving.Wait()
	s.shelf.empty()
}

func (s *Server) open() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.serving.Add(1)
	}
	return !s.closed
}

// Attack is the RPC: one client's errand.
func (s *Server) Attack(stream grpc.BidiStreamingServer[mppb.ToErrand, mppb.FromErrand]) error {
	if !s.open() {
		return status.Error(codes.Unavailable, "this worker is leaving")
	}
	defer s.serving.Done()
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	e := &visit{Server: s, stream: stream, errand: first.GetErrand()}
	if err := e.admit(); err != nil {
		s.c.Logger.Warn("an errand is refused", "reason", err)
		return status.Error(codes.FailedPrecondition, err.Error())
	}
	ctx, cancel := context.WithCancel(stream.Context())
	var signs sync.WaitGroup
	signs.Go(func() { e.signs(ctx) })
	defer func() {
		cancel()
		signs.Wait()
	}()
	return e.serve(ctx)
}

// visit is one errand.
type visit struct {
	*Server
	stream   grpc.BidiStreamingServer[mppb.ToErrand, mppb.FromErrand]
	errand   *mppb.Errand
	pack     *data.Pack
	networks Networks

	mu sync.Mutex // of sending
}

// admit refuses an errand that this worker would compute otherwise than the client means, in a sentence that names both.
func (e *visit) admit() error {
	r, c := e.errand, e.c
	if r == nil {
		return errors.New("the call did not begin with an errand: use the same mp on both sides")
	}
	if r.Protocol != mppb.Protocol || r.Version != c.Version {
		return fmt.Errorf("this worker is mp %s (protocol %d) and you are mp %s (protocol %d): use the same on both sides", c.Version, mppb.Protocol, r.Version, r.Protocol)
	}
	for _, p := range []*data.Pack{c.Train, c.Val} {
		if string(p.Split()) == r.Split {
			e.pack = p
		}
	}
	if e.pack == nil {
		return fmt.Errorf("this worker has no %q images", r.Split)
	}
	if sum := e.pack.Hash(); hex.EncodeToString(sum[:]) != r.PackSha256 {
		return fmt.Errorf("this worker has other %s images: the %d of %s (SHA-256 %.12x), and you have %d of %s (SHA-256 %.12s): give DATA the images that the cluster has",
			r.Split, e.pack.Len(), e.pack.Path(), sum[:], r.Images, r.From, r.PackSha256)
	}
	if int(r.Classes) != len(e.pack.Classes()) {
		return fmt.Errorf("this worker's images are of %d classes and yours of %d", len(e.pack.Classes()), r.Classes)
	}
	if n := len(r.Networks); n < 1 || n > 2 || r.Threads < 1 || r.Threads > 4096 {
		return fmt.Errorf("an errand has one or two networks and at least one thread, not %d and %d", n, r.Threads)
	}
	return checkPrecision(r.Precision)
}

func (e *visit) send(m *mppb.FromErrand) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	m.Progress = e.looks.Load() + e.c.Progress()
	return e.stream.Send(m)
}

// signs says that the worker lives, until ctx ends or nobody listens.
func (e *visit) signs(ctx context.Context) {
	every := time.NewTicker(max(e.c.FailAfter()/signsWithin, 20*time.Millisecond))
	defer every.Stop()
	for {
		select {
		case <-every.C:
			if e.send(&mppb.FromErrand{}) != nil {
				return
			}
		case <-ctx.Done():
			return
		}
	}
}

// signsWithin is how many signs of life come within the silence that is allowed.
const signsWithin = 4

// serve takes the networks in and computes parts until the client has no more.
func (e *visit) serve(ctx context.Context) error {
	leave, err := wait(ctx, e.Server.errands)
	if err != nil {
		return err
	}
	defer leave()
	texts, err := e.receive()
	if err != nil {
		return err
	}
	defer e.free()
	if err := e.build(ctx, texts); err != nil {
		return err
	}
	if err := e.send(&mppb.FromErrand{Message: &mppb.FromErrand_Ready{Ready: &mppb.ErrandReady{}}}); err != nil {
		return err
	}
	e.c.Logger.Info("an errand begins", "networks", len(texts), "threads", e.errand.Threads, "precision", e.errand.Precision)
	parts := 0
	defer func() { e.c.Logger.Info("an errand ends", "parts", parts) }()
	for {
		m, err := e.hear()
		if err != nil {
			return ended(err)
		}
		if err := e.part(ctx, m.GetPart()); err != nil {
			return err
		}
		parts++
	}
}

// hear returns the client's next message that is more than a sign of life.
func (e *visit) hear() (*mppb.ToErrand, error) {
	for {
		m, err := e.stream.Recv()
		if err != nil || m.GetMessage() != nil {
			return m, err
		}
	}
}

// ended is nil where the client has closed its side.
func ended(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// wait takes a place, and returns what gives it back.
func wait(ctx context.Context, places chan struct{}) (leave func(), err error) {
	select {
	case places <- struct{}{}:
		return func() { <-places }, nil
	case <-ctx.Done():
		return nil, status.FromContextError(ctx.Err()).Err()
	}
}

// receive has the networks brought that are not here.
func (e *visit) receive() ([][]byte, error) {
	texts := make([][]byte, len(e.errand.Networks))
	var lacks []string
	for i, n := range e.errand.Networks {
		if texts[i] = e.shelf.find(n.Sha256); texts[i] == nil {
			lacks = append(lacks, n.Sha256)
		}
	}
	if len(lacks) == 0 {
		return texts, nil
	}
	if err := e.send(&mppb.FromErrand{Message: &mppb.FromErrand_Ready{Ready: &mppb.ErrandReady{Lacks: lacks}}}); err != nil {
		return nil, err
	}
	for i, n := range e.errand.Networks {
		if texts[i] != nil {
			continue
		}
		a := arrival{name: n}
		for whole := false; !whole; {
			m, err := e.hear()
			if err == nil {
				whole, err = a.take(m.GetNetwork())
			} else {
				return nil, err
			}
			if err != nil {
				return nil, status.Error(codes.DataLoss, err.Error())
			}
			e.looks.Add(1)
		}
		texts[i] = a.text
		e.shelf.put(parcel{n, a.text})
	}
	return texts, nil
}

// build makes the models.
func (e *visit) build(ctx context.Context, texts [][]byte) error {
	e.networks.Precision = e.errand.Precision
	for _, text := range texts {
		n, err := decode(text)
		if err != nil {
			return status.Error(codes.InvalidArgument, err.Error())
		}
		err = e.beside(ctx, func(s *ops.Scope, _ *ops.Guest) error {
			m, err := n.Build(s, ModelOptions(int(e.errand.Classes), e.errand.Precision))
			if err == nil {
				e.networks.Models = append(e.networks.Models, m)
			}
			return err
		})
		if errors.Is(err, model.ErrConfig) {
			return status.Errorf(codes.InvalidArgument, "this worker cannot build your network for its %d classes: %v", e.errand.Classes, err)
		}
		if err != nil {
			return failed(ctx, err)
		}
	}
	return nil
}

// free frees the models. The client may be gone, the device is not.
func (e *visit) free() {
	_ = e.c.Device.Do(context.Background(), func(*ops.Scope) error {
		e.networks.Free()
		return nil
	})
}

// beside computes on the device when it is this errand's turn, giving way to the worker's own work.
func (e *visit) beside(ctx context.Context, f func(*ops.Scope, *ops.Guest) error) error {
	leave, err := wait(ctx, e.turn)
	if err != nil {
		return err
	}
	defer leave()
	return e.c.Device.DoBeside(ctx, int(e.errand.Threads), f)
}

// part computes one part and says what was found.
func (e *visit) part(ctx context.Context, m *mppb.AttackPart) error {
	p, err := partOf(m)
	if err != nil {
		return status.Error(codes.InvalidArgument, err.Error())
	}
	batch, err := e.batch(p.IDs)
	if err != nil {
		return status.Error(codes.Aborted, err.Error())
	}
	var found Found
	err = e.beside(ctx, func(s *ops.Scope, g *ops.Guest) error {
		n := e.networks
		n.Look = func() {
			e.looks.Add(1)
			g.GiveWay()
		}
		var err error
		found, err = n.Attack(ctx, s, p.Order, batch, p.Pictures)
		return err
	})
	if err != nil {
		return failed(ctx, err)
	}
	messages, err := found.messages(m.Number)
	if err != nil {
		return status.Error(codes.Aborted, err.Error())
	}
	for _, m := range messages {
		if err := e.send(m); err != nil {
			return err
		}
	}
	return nil
}

// batch reads images of the pack.
func (e *visit) batch(ids []int32) (Batch, error) {
	var b Batch
	for _, id := range ids {
		if id < 0 || int(id) >= e.pack.Len() {
			return b, fmt.Errorf("image %d of %d", id, e.pack.Len())
		}
	}
	if err := e.pack.Check(ids); err != nil {
		return b, err
	}
	for _, id := range ids {
		b.Add(id, e.pack.Label(int(id)), e.pack.Record(int(id)))
	}
	return b, nil
}

// failed is the status of an errand whose computing ended with an error.
func failed(ctx context.Context, err error) error {
	switch {
	case ctx.Err() != nil:
		return status.FromContextError(ctx.Err()).Err()
	case errors.Is(err, attack.ErrConfig), errors.Is(err, job.ErrConfig):
		return status.Error(codes.InvalidArgument, err.Error())
	}
	return status.Error(codes.Aborted, err.Error())
}
