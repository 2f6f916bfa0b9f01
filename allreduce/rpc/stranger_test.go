package rpc

import (
	"context"
	"errors"
	"hash/crc32"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"

	"mp/allreduce"
)

// TestAnAddressThatIsNoRing forms a ring with one that listens and speaks something else, or nothing.
func TestAnAddressThatIsNoRing(t *testing.T) {
	listen := func(t *testing.T, talk func(net.Conn)) string {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		var talks sync.WaitGroup
		talks.Go(func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				talks.Go(func() {
					defer c.Close()
					talk(c)
				})
			}
		})
		t.Cleanup(func() {
			l.Close()
			talks.Wait()
		})
		return l.Addr().String()
	}
	const patience = 300 * time.Millisecond
	for name, c := range map[string]struct {
		address func(t *testing.T) string
		kind    string // of the PeerError; none: it is waited for
		says    string
	}{
		"one that hangs up": {func(t *testing.T) string { return listen(t, func(net.Conn) {}) }, "", "does not answer as a ring does"},
		"a web server of old": {func(t *testing.T) string {
			return listen(t, func(c net.Conn) {
				io.WriteString(c, "HTTP/1.1 400 Bad Request\r\n\r\n")
				io.Copy(io.Discard, c)
			})
		}, "", "HTTP/1.1"},
		"one that is silent": {func(t *testing.T) string {
			return listen(t, func(c net.Conn) { io.Copy(io.Discard, c) })
		}, "", "it says nothing"},
		"another gRPC service": {func(t *testing.T) string {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			s, served := grpc.NewServer(), make(chan struct{})
			go func() {
				s.Serve(l)
				close(served)
			}()
			t.Cleanup(func() {
				s.Stop()
				<-served
			})
			return l.Addr().String()
		}, allreduce.KindProtocol, "unknown service mp.allreduce.Ring"},
	} {
		t.Run(name, func(t *testing.T) {
			s, address := newStation(t, false), c.address(t)
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			if c.kind != "" {
				ctx, cancel = context.WithTimeout(context.Background(), 20*time.Second)
			}
			defer cancel()
			_, err := s.Form(ctx, Config{Members: []Member{{s.address}, {address}}, FailAfter: time.Second})
			if c.kind != "" {
				blames(t, err, 1, c.kind)
			} else if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "rank 1 at "+address) {
				t.Errorf("got %v, want the context's error and rank 1's address", err)
			}
			if err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v, want it to say %q", err, c.says)
			}
			t.Log(err)
		})
	}
}

// TestWhatNobodyShouldSend lets rank 1 send rank 0 a frame that does not belong there.
func TestWhatNobodyShouldSend(t *testing.T) {
	payload := bytesOf([]int32{1, 2, 3, 4})
	good := header{kind: frameData, op: opSum, seq: 1, total: 16, length: 16}
	for name, c := range map[string]struct {
		change func(*header)
		body   []byte
		kind   string
	}{
		"a wrong checksum":           {func(h *header) { h.crc ^= 4 }, payload, allreduce.KindChecksum},
		"a changed place":            {func(h *header) { h.offset, h.crc = 4, h.crc^4 }, payload, allreduce.KindChecksum},
		"another operation":          {func(h *header) { h.seq = 9 }, payload, allreduce.KindProtocol},
		"another kind of operation":  {func(h *header) { h.op = opExchange }, payload, allreduce.KindProtocol},
		"a piece of a wrong size":    {func(h *header) { h.length = 12 }, payload[:12], allreduce.KindProtocol},
		"a piece of another place":   {func(h *header) { h.offset = 4 }, payload, allreduce.KindProtocol},
		"another step":               {func(h *header) { h.step = 1 }, payload, allreduce.KindProtocol},
		"a length that is not there": {func(h *header) { h.length = 1 << 30 }, payload, allreduce.KindProtocol},
		"memory that is not shared":  {func(h *header) { h.shared, h.slot = true, 1<<40 }, nil, allreduce.KindProtocol},
		"memory outside":             {func(h *header) { h.shared, h.slot = true, ^uint64(0)-7 }, nil, allreduce.KindProtocol},
		"a greeting":                 {func(h *header) { h.kind = frameHello }, payload, allreduce.KindProtocol},
		"too large a message":        {func(h *header) { h.length = 5 << 20 }, make([]byte, 5<<20), allreduce.KindProtocol},
		"no frame at all":            {func(h *header) { h.kind = 0 }, []byte{1}, allreduce.KindProtocol},
	} {
		t.Run(name, func(t *testing.T) {
			g := form(t, stations(t, 2, true), Config{})
			f := &outgoing{header: good}
			if c.body != nil {
				f.body = mem.SliceBuffer(c.body)
				f.crc = g[1].(*group).checksum(0, c.body)
			}
			c.change(&f.header)
			if err := g[1].(*group).sum.out[0].SendMsg(f); err != nil {
				t.Fatal(err)
			}
			err := g[0].Sum(context.Background(), []int32{1, 2, 3, 4})
			blames(t, err, 1, c.kind)
			t.Log(err)
			for err = nil; err == nil; { // the first sum may have all it needs
				err = g[1].Sum(context.Background(), []int32{1, 2, 3, 4})
			}
			blames(t, err, 1, c.kind)
		})
	}
}

// TestAMessageTooLongToExchange lets rank 1 send what its own Exchange refuses.
func TestAMessageTooLongToExchange(t *testing.T) {
	for name, size := range map[string]int{"longer than may be": allreduce.MaxMessage + 1, "longer than it says": 100} {
		t.Run(name, func(t *testing.T) {
			g := form(t, stations(t, 2, false), Config{})
			body := make([]byte, size)
			f := &outgoing{header: header{kind: frameData, op: opExchange, seq: 1, total: uint64(max(size, allreduce.MaxMessage)), length: uint32(size)}, body: mem.SliceBuffer(body)}
			f.crc = g[1].(*group).checksum(0, body)
			if err := g[1].(*group).sum.out[0].SendMsg(f); err != nil {
				t.Fatal(err)
			}
			_, err := g[0].Exchange(context.Background(), nil)
			blames(t, err, 1, allreduce.KindProtocol)
			t.Log(err)
		})
	}
}

func TestStrangersAreTold(t *testing.T) {
	s := newStation(t, false)
	dial := func(options ...grpc.CallOption) *grpc.ClientConn {
		c, err := grpc.NewClient(s.address, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(options...))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	ours := dial(grpc.ForceCodecV2(codec{}))
	for name, c := range map[string]struct {
		first *outgoing
		code  codes.Code
	}{
		"no greeting":      {&outgoing{header: header{kind: frameData}}, codes.InvalidArgument},
		"not JSON":         {&outgoing{header: header{kind: frameHello, length: 1}, body: mem.SliceBuffer("{")}, codes.InvalidArgument},
		"another protocol": {encode(frameHello, hello{Protocol: protocol + 1}), codes.FailedPrecondition},
		"wrong length":     {&outgoing{header: header{kind: frameHello, length: 7}}, codes.Internal},
	} {
		stream, err := ours.NewStream(t.Context(), &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, LinkMethod)
		if err != nil {
			t.Fatal(err)
		}
		stream.SendMsg(c.first)
		if err := stream.RecvMsg(new(incoming)); status.Code(err) != c.code {
			t.Errorf("%s got %v, want %v", name, err, c.code)
		} else {
			t.Log(err)
		}
	}
}

// No bit of a frame can change without anybody seeing it.
func TestChangedFramesAreSeen(t *testing.T) {
	body := []byte("sixteen bytes...")
	sent := &outgoing{header: header{kind: frameData, op: opSum, step: 1, seq: 2, total: 64, offset: 32, length: 16, lead: -5, sent: 7}, body: mem.SliceBuffer(body)}
	sent.crc = crc32.Checksum(body, castagnoli)
	good, err := codec{}.Marshal(sent)
	if err != nil {
		t.Fatal(err)
	}
	read := func(data []byte) (*incoming, error) {
		f := new(incoming)
		return f, codec{}.Unmarshal(mem.BufferSlice{mem.SliceBuffer(data)}, f)
	}
	data := good.Materialize()
	if f, err := read(data); err != nil || f.header != sent.header || !f.intact() {
		t.Fatalf("as it was sent: %+v, intact %t, %v", f.header, f.intact(), err)
	}
	for i := range 8 * len(data) {
		changed := slices.Clone(data)
		changed[i/8] ^= 1 << (i % 8)
		f, err := read(changed)
		if err == nil && f.intact() {
			t.Errorf("bit %d of byte %d changed: %+v", i%8, i/8, f.header)
		}
	}
}

func FuzzFrame(f *testing.F) {
	for _, frame := range []*outgoing{{header: header{kind: frameData, length: 3}, body: mem.SliceBuffer("abc")}, encode(frameHello, hello{}), {}} {
		data, err := codec{}.Marshal(frame)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data.Materialize())
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var in incoming
		if (codec{}).Unmarshal(mem.BufferSlice{mem.SliceBuffer(b)}, &in) == nil && !in.shared && len(in.bytes()) != int(in.length) {
			t.Errorf("%d bytes have a body of %d, the header says %d", len(b), len(in.bytes()), in.length)
		}
	})
}
