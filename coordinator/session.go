package coordinator

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"mp/coordinator/membership"
	"mp/mppb"
)

// session is one worker's stream. Two goroutines serve it: one receives and posts to the reign's loop; the other, the call's
// own, sends what the loop put in the outbox. The loop waits for neither.
type session struct {
	hello membership.Hello

	// Of the loop.
	worker uint64 // 0: not welcome yet
	number uint64 // of the session, as membership counts
	view   uint64 // number of the view it was sent last
	lost   string // why the stream ended, once it has

	mu     sync.Mutex
	orders []any // messages to send, in order; at most a handful
	next   *prepared
	over   bool
	why    error // with over: what the call returns
	wake   chan struct{}
}

func newSession(h membership.Hello) *session {
	return &session{hello: h, wake: make(chan struct{}, 1)}
}

func (s *session) put(change func()) {
	s.mu.Lock()
	if !s.over {
		change()
	}
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *session) send(m *mppb.ToWorker) { s.put(func() { s.orders = append(s.orders, m) }) }

// sendView sends a view, in place of one that has not been sent yet.
func (s *session) sendView(p *prepared) { s.put(func() { s.next = p }) }

// end makes the call return err after what is in the outbox.
func (s *session) end(err error) { s.put(func() { s.over, s.why = true, err }) }

// refuse ends the session with a Refusal.
func (s *session) refuse(r *membership.Refusal) {
	s.put(func() {
		s.orders = append(s.orders, &mppb.ToWorker{Message: &mppb.ToWorker_Refusal{Refusal: fromRefusal(r)}})
		s.over = true
	})
}

// take empties the outbox.
func (s *session) take() (orders []any, over bool, why error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	orders, s.orders = s.orders, nil
	if s.next != nil && !s.over {
		orders = append(orders, s.next)
		s.next = nil
	}
	return orders, s.over, s.why
}

// Session is the RPC: a worker's whole membership.
func (c *control) Session(stream mppb.Control_SessionServer) error {
	r := c.reigns.Load()
	if r == nil {
		return c.notLeader()
	}
	hello := make(chan *session, 1)
	broken := make(chan error, 1)
	ctx := stream.Context()
	c.background.Go(func() { broken <- c.receive(ctx, r, stream, hello) }) // ends when this call has returned, at the latest
	patience := time.NewTimer(3 * max(c.cfg.FailAfter, time.Second))
	defer patience.Stop()
	var s *session
	select {
	case s = <-hello:
	case err := <-broken:
		return err
	case <-patience.C:
		return status.Error(codes.DeadlineExceeded, "the session did not begin with a Hello")
	case <-r.ended:
		return c.notLeader()
	}
	// A worker whose coordinator is silent looks for another: see mppb.Client.
	alive := time.NewTicker(c.times.FailAfter / 3)
	defer alive.Stop()
	had := uint64(0) // number of the view that was sent last
	for {
		select {
		case <-s.wake:
			orders, over, why := s.take()
			for _, o := range orders {
				var err error
				switch m := o.(type) {
				case *mppb.ToWorker:
					err = stream.Send(m)
				case *prepared:
					err = m.sendTo(stream, had)
					had = m.view.Number
				}
				if err != nil {
					return err
				}
			}
			if over {
				return why
			}
		case <-alive.C:
			if err := stream.Send(&mppb.ToWorker{}); err != nil {
				return err
			}
		case err := <-broken:
			return err
		case <-r.ended:
			return c.notLeader()
		}
	}
}

// receive posts what a worker says to the loop, from Hello to the end of the stream.
func (c *control) receive(ctx context.Context, r *reign, stream mppb.Control_SessionServer, hello chan<- *session) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	h := first.GetHello()
	if h == nil {
		return status.Error(codes.InvalidArgument, "the session did not begin with a Hello")
	}
	s := newSession(toHello(h))
	hello <- s
	if refusal := c.checkHello(ctx, h); refusal != nil {
		s.refuse(refusal)
		return c.ignore(stream)
	}
	if err := r.post(ctx, s); err != nil {
		return c.notLeader()
	}
	for {
		m, err := stream.Recv()
		at := c.elapsed()
		if err == nil {
			err = checkStatus(m)
		}
		if err != nil {
			r.post(context.Background(), gone{s, at, whyGone(err)}) // the loop takes it, or has ended
			return err
		}
		st := m.GetStatus()
		if st == nil {
			continue
		}
		if err := r.post(ctx, heard{s, at, toStatus(st)}); err != nil && errors.Is(err, errEnded) {
			return c.notLeader()
		}
	}
}

// ignore reads on until the worker has read its refusal and gone.
func (c *control) ignore(stream mppb.Control_SessionServer) error {
	for {
		if _, err := stream.Recv(); err != nil {
			return err
		}
	}
}

// whyGone is the end of a stream in words.
func whyGone(err error) string {
	switch {
	case err == io.EOF:
		return "closed its session"
	case status.Code(err) == codes.Canceled, status.Code(err) == codes.Unavailable:
		return "connection reset"
	}
	return status.Convert(err).Message()
}

const (
	maxHelloText = 1024
	maxLedger    = 4096
)

// checkHello refuses what need not go through the log.
func (c *control) checkHello(ctx context.Context, h *mppb.Hello) *membership.Refusal {
	if c.cfg.Token != "" && !sameToken(h.Token, c.cfg.Token) && !sameToken(tokenOf(ctx), c.cfg.Token) {
		return &membership.Refusal{Kind: membership.Configuration, Text: "the token is missing or wrong", Advice: "pass --token as the coordinators have it"}
	}
	d := h.Data
	for _, text := range []string{h.Version, h.Host, h.Machine, h.Device, h.Address, h.UnixSocket, h.Name, d.GetTrainSha256(), d.GetValSha256(), d.GetDirectory()} {
		if len(text) > maxHelloText {
			return &membership.Refusal{Kind: membership.Configuration, Text: fmt.Sprintf("the Hello has a text of %d bytes; %d is the most", len(text), maxHelloText), Advice: "use the same mp everywhere"}
		}
	}
	return nil
}

// checkStatus refuses what no worker says.
func checkStatus(m *mppb.FromWorker) error {
	st := m.GetStatus()
	switch {
	case m.GetHello() != nil:
		return status.Error(codes.InvalidArgument, "said Hello twice")
	case len(st.GetLedger()) > maxLedger:
		return status.Errorf(codes.InvalidArgument, "reported %d pieces of the ledger at once", len(st.Ledger))
	case st == nil:
		return nil
	}
	// What cannot be written in JSON cannot go through the log.
	for _, x := range []*float64{&st.ShardSeconds, &st.StepSeconds, &st.ImagesPerSecond, &st.ArrivalSkew, &st.InboundDelay} {
		finite(x)
	}
	if o := st.Outcome; o != nil {
		finite(&o.BestTop1)
		finite(&o.BestTop5)
	}
	return nil
}

func finite(x *float64) {
	if math.IsNaN(*x) || math.IsInf(*x, 0) {
		*x = 0
	}
}

// tokenOf is the token in a call's metadata.
func tokenOf(ctx context.Context) string {
	if v := metadata.ValueFromIncomingContext(ctx, mppb.TokenKey); len(v) == 1 {
		return v[0]
	}
	return ""
}
