package cmd

import (
	"context"
	"fmt"
	"net"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"mp/mppb"
)

// understudy is a worker that computes nothing and speaks the protocol as one that does: Hello, then its status at every
// change and once a heartbeat, over a connection of its own or shared with others.
type understudy struct {
	crowd *crowd
	slot  int // its device
	conn  *grpc.ClientConn
	wire  *metred // of conn
	stop  context.CancelFunc
	wake  chan struct{}

	// Guarded by crowd.mu.
	identity uint64
	beat     time.Duration // as it was welcomed with
	view     uint64        // number of the view that it has
	caught   bool          // it has the whole state
	fault    *mppb.Fault
	dead     bool // we killed it
}

// metred counts what arrives on a connection.
type metred struct {
	arrived *atomic.Uint64
	current atomic.Pointer[metredConn]
}

type metredConn struct {
	net.Conn
	arrived *atomic.Uint64
}

func (c *metredConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.arrived.Add(uint64(n))
	return n, err
}

func (c *metred) dial(ctx context.Context, address string) (net.Conn, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	k := &metredConn{conn, c.arrived}
	c.current.Store(k)
	return k, nil
}

// order is what an understudy reads of a message: which, and a view's number. The other 90 bytes of each of a thousand
// members are a thousand machines' work to decode, not this one's; the crowd decodes each view once.
type order struct {
	view uint64
	raw  []byte
}

// glimpse is protobuf's codec, except that an order is not decoded.
type glimpse struct{ encoding.CodecV2 }

func (g glimpse) Unmarshal(data mem.BufferSlice, v any) error {
	o, ok := v.(*order)
	if !ok {
		return g.CodecV2.Unmarshal(data, v)
	}
	o.raw, o.view = data.Materialize(), 0
	const viewField, numberField = 2, 2 // ToWorker.view, View.number
	number, kind, n := protowire.ConsumeTag(o.raw)
	if n < 0 || number != viewField || kind != protowire.BytesType {
		return nil // another message, or none
	}
	view, n := protowire.ConsumeBytes(o.raw[n:])
	for n >= 0 && len(view) > 0 {
		number, kind, n = protowire.ConsumeTag(view)
		if n < 0 {
			break
		}
		view = view[n:]
		if number == numberField && kind == protowire.VarintType {
			o.view, n = protowire.ConsumeVarint(view)
			break
		}
		n = protowire.ConsumeFieldValue(number, kind, view)
		view = view[max(n, 0):]
	}
	if n < 0 {
		return fmt.Errorf("read the number of a view: %w", protowire.ParseError(n))
	}
	return nil
}

// belong keeps a session open until ctx ends, as workers do: one that broke or could not be opened is tried again.
func (u *understudy) belong(ctx context.Context) {
	for {
		err := u.attend(ctx)
		if ctx.Err() != nil {
			return
		}
		u.crowd.lose(u, err)
		timer := time.NewTimer(crowdStep)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
	}
}

// attend is one session, until the stream ends.
func (u *understudy) attend(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	desc := grpc.StreamDesc{ServerStreams: true, ClientStreams: true}
	stream, err := u.conn.NewStream(ctx, &desc, mppb.Control_Session_FullMethodName, grpc.ForceCodecV2(glimpse{encoding.GetCodecV2("proto")}))
	if err != nil {
		return err
	}
	if err := stream.SendMsg(&mppb.FromWorker{Message: &mppb.FromWorker_Hello{Hello: u.crowd.helloOf(u)}}); err != nil {
		return err
	}
	var o order
	for len(o.raw) == 0 { // signs of life come before the welcome of a coordinator that has much to do
		if err := stream.RecvMsg(&o); err != nil {
			return err
		}
	}
	m := &mppb.ToWorker{}
	if err := proto.Unmarshal(o.raw, m); err != nil {
		return err
	}
	w := m.GetWelcome()
	if w == nil {
		return fmt.Errorf("instead of a welcome came %s", m)
	}
	u.crowd.welcome(u, w)
	ended := make(chan error, 1)
	go func() { ended <- u.listen(stream) }()
	every := time.NewTicker(time.Duration(w.HeartbeatMs) * time.Millisecond)
	defer every.Stop()
	for last := time.Duration(0); ; {
		st, beat := u.crowd.statusOf(u)
		if beat != last {
			every.Reset(beat)
			last = beat
		}
		if err := stream.SendMsg(&mppb.FromWorker{Message: &mppb.FromWorker_Status{Status: st}}); err != nil {
			return <-ended // which knows why
		}
		select {
		case <-u.wake:
		case <-every.C:
		case err := <-ended:
			return err
		}
	}
}

func (u *understudy) listen(stream grpc.ClientStream) error {
	for {
		var o order
		if err := stream.RecvMsg(&o); err != nil {
			return err
		}
		switch {
		case o.view != 0:
			if err := u.crowd.take(u, o); err != nil {
				return err
			}
		case len(o.raw) > 0:
			m := &mppb.ToWorker{}
			if err := proto.Unmarshal(o.raw, m); err != nil {
				return err
			}
			if r := m.GetRefusal(); r != nil {
				return fmt.Errorf("%s: %s", r.Kind, r.Text)
			}
		}
	}
}

// hello says that eight of them share a machine, as eight GPUs do. crowd.mu is held.
func (u *understudy) hello() *mppb.Hello {
	host := u.slot / 8
	return &mppb.Hello{
		Protocol: mppb.Protocol, Version: version(), Host: fmt.Sprintf("host-%d", host), Machine: fmt.Sprintf("%032x", host), Device: fmt.Sprintf("cuda:%d", u.slot%8),
		Address: fmt.Sprintf("10.%d.%d.%d:7071", host>>16, host>>8&255, host&255), UnixSocket: fmt.Sprintf("/tmp/mp-worker-%d/ring.sock", u.slot),
		Data: u.crowd.data, Pid: uint32(10_000 + u.slot), Name: fmt.Sprintf("worker %d", u.slot+1), Previous: u.identity,
	}
}

func (u *understudy) speakUp() {
	select {
	case u.wake <- struct{}{}:
	default:
	}
}
