package errand

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"mp/attack"
	"mp/data"
	"mp/job"
	"mp/model"
	"mp/mppb"
	"mp/ops"
	"mp/ops/pixel"
)

// stage is what a test has: images, a network, and a cluster that says who its workers are.
type stage struct {
	t          *testing.T
	train, val *data.Pack
	networks   []Network
	client     *mppb.Client
	workers    atomic.Pointer[[]*mppb.WorkerInfo]
	short      bool // two parts are enough
}

type decoder struct{}

func (decoder) Decode(jpegs [][]byte, dst []byte) []error { return pixel.Decode(jpegs, dst) }

func newStage(t *testing.T) *stage {
	t.Helper()
	s := &stage{t: t}
	s.train = paint(t, 1)
	s.val = open(t, filepath.Dir(s.train.Path()), data.Val)
	s.networks = []Network{weights(t, 4, 3), weights(t, 4, 8)}
	s.workers.Store(&[]*mppb.WorkerInfo{})
	server := grpc.NewServer()
	mppb.RegisterClusterServer(server, roster{stage: s})
	address := serve(t, server)
	var err error
	if s.client, err = mppb.NewClient(mppb.ClientConfig{Addresses: []string{address}}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.client.Close() })
	return s
}

// paint makes images and opens those to train on.
func paint(t *testing.T, seed uint64) *data.Pack {
	t.Helper()
	dir := t.TempDir()
	if err := data.Synth(t.Context(), data.SynthConfig{Dir: dir, Classes: 4, Train: 4, Val: 5, Seed: seed}); err != nil {
		t.Fatal(err)
	}
	return open(t, dir, data.Train)
}

func open(t *testing.T, dir string, split data.Split) *data.Pack {
	t.Helper()
	root, err := data.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	path := data.PackPath(dir, split)
	if err := data.WritePack(t.Context(), data.PackConfig{Root: root, Split: split, Path: path, Decoder: decoder{}}); err != nil {
		t.Fatal(err)
	}
	p, err := data.OpenPack(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

// weights is an untrained network.
func weights(t *testing.T, classes int, seed uint64) Network {
	t.Helper()
	n := Network{Arch: job.ModelSceneNet, Arrays: map[string]model.Array{}}
	onDevice(t, func(s *ops.Scope) error {
		m, err := model.New(s, n.Arch, model.Options{Classes: classes, Seed: seed})
		if err != nil {
			return err
		}
		defer m.Free()
		for _, flat := range []*ops.Flat{m.Params, m.Buffers} {
			for _, p := range flat.Params() {
				v, err := flat.ReadParam(p)
				if err != nil {
					return err
				}
				n.Arrays[p.Name] = model.Array{Shape: p.Shape, Data: v}
			}
		}
		return nil
	})
	return n
}

func device(t *testing.T) *ops.Device {
	t.Helper()
	d, err := ops.OpenDevice(ops.DeviceConfig{GPU: ops.CPU, Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func onDevice(t *testing.T, f func(*ops.Scope) error) {
	t.Helper()
	d := device(t)
	defer d.Close()
	if err := d.Do(t.Context(), f); err != nil {
		t.Fatal(err)
	}
}

// roster is a coordinator that says who is there.
type roster struct {
	mppb.UnimplementedClusterServer
	*stage
}

func (r roster) Workers(context.Context, *mppb.WorkersRequest) (*mppb.WorkersReply, error) {
	return &mppb.WorkersReply{Workers: *r.workers.Load(), FailAfterMs: 2000}, nil
}

// serve starts a server and returns its address.
func serve(t *testing.T, s *grpc.Server) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Serve(l) }()
	t.Cleanup(func() { s.Stop(); <-done })
	return l.Addr().String()
}

// join lets a worker be at an address.
func (s *stage) join(address string) {
	all := append([]*mppb.WorkerInfo{}, *s.workers.Load()...)
	n := len(all) + 1
	all = append(all, &mppb.WorkerInfo{Worker: uint64(n), Name: fmt.Sprintf("worker %d", n), Device: "cpu:0", Address: address})
	s.workers.Store(&all)
}

// worker starts a worker as it should be, changed before.
func (s *stage) worker(change ...func(*ServerConfig)) *grpc.Server {
	s.t.Helper()
	c := ServerConfig{Device: device(s.t), Train: s.train, Val: s.val, Version: "test", FailAfter: func() time.Duration { return 2 * time.Second }, Progress: func() uint64 { return 0 }}
	for _, f := range change {
		f(&c)
	}
	errands := NewServer(c)
	s.t.Cleanup(func() { // after the server has stopped
		errands.Close()
		c.Device.Close()
	})
	server := grpc.NewServer()
	mppb.RegisterErrandsServer(server, errands)
	s.join(serve(s.t, server))
	return server
}

// strange starts a worker that does what f says.
func (s *stage) strange(f func(grpc.BidiStreamingServer[mppb.ToErrand, mppb.FromErrand]) error) {
	server := grpc.NewServer()
	mppb.RegisterErrandsServer(server, odd{attack: f})
	s.join(serve(s.t, server))
}

type odd struct {
	mppb.UnimplementedErrandsServer
	attack func(grpc.BidiStreamingServer[mppb.ToErrand, mppb.FromErrand]) error
}

func (o odd) Attack(stream grpc.BidiStreamingServer[mppb.ToErrand, mppb.FromErrand]) error {
	return o.attack(stream)
}

// ready says that parts may come, and waits for one.
func ready(stream grpc.BidiStreamingServer[mppb.ToErrand, mppb.FromErrand]) error {
	if _, err := stream.Recv(); err != nil {
		return err
	}
	if err := stream.Send(&mppb.FromErrand{Message: &mppb.FromErrand_Ready{Ready: &mppb.ErrandReady{}}}); err != nil {
		return err
	}
	_, err := stream.Recv()
	return err
}

func (s *stage) config() CrowdConfig {
	return CrowdConfig{Client: s.client, Version: "test", Pack: s.val, Networks: slices.Clone(s.networks), Precision: job.FP32, Threads: 1, Wait: 300 * time.Millisecond}
}

// parts are the images in twos, with two attacks on each.
func (s *stage) parts() []Part {
	var out []Part
	for from := 0; from < s.val.Len(); from += 2 {
		for _, name := range []string{"pgd", "fgsm"} {
			o, err := attack.Defaults(name)
			if err != nil {
				s.t.Fatal(err)
			}
			o.Steps = min(o.Steps, 2)
			p := Part{Order: Order{Attack: name, Options: o, Seed: 5}, Pictures: Pictures{All: name == "pgd", First: 1}}
			for i := from; i < min(from+2, s.val.Len()); i++ {
				p.IDs = append(p.IDs, int32(i))
			}
			out = append(out, p)
		}
		if s.short {
			break
		}
	}
	return out
}

// alone computes the parts with one device.
func (s *stage) alone(c CrowdConfig) []Found {
	s.t.Helper()
	var out []Found
	onDevice(s.t, func(scope *ops.Scope) error {
		n := Networks{Precision: c.Precision}
		for _, w := range c.Networks {
			m, err := w.Build(scope, ModelOptions(4, c.Precision))
			if err != nil {
				return err
			}
			n.Models = append(n.Models, m)
		}
		defer n.Free()
		for _, p := range s.parts() {
			var b Batch
			for _, id := range p.IDs {
				b.Add(id, s.val.Label(int(id)), s.val.Record(int(id)))
			}
			f, err := n.Attack(s.t.Context(), scope, p.Order, b, p.Pictures)
			if err != nil {
				return err
			}
			f.Seconds = 0
			out = append(out, f)
		}
		return nil
	})
	return out
}

// crowd has the parts computed by whoever is there.
func (s *stage) crowd(c CrowdConfig) ([]Found, error) {
	s.t.Helper()
	w, err := NewCrowd(c)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(s.t.Context(), 5*time.Minute) // a busy machine is slow, a crowd that hangs is wrong
	defer cancel()
	parts := s.parts()
	var out []Found
	came := map[int]bool{}
	err = w.Run(ctx, Task{
		Parts: len(parts), Part: func(i int) Part { return parts[i] }, Came: func(i int) { came[i] = true },
		Take: func(i int, f Found) error {
			if i != len(out) || !came[i] {
				return fmt.Errorf("part %d is taken after %d others; it has come: %v", i, len(out), came[i])
			}
			f.Seconds = 0
			out = append(out, f)
			return nil
		},
	})
	return out, err
}

// Whoever computes, and whatever becomes of some of them: the same bits.
func TestAnyCrowdFindsTheSame(t *testing.T) {
	s := newStage(t)
	c := s.config()
	want := s.alone(c)
	if len(want[0].Images) != 2*imageValues || reflect.DeepEqual(want[0].Images, want[2].Images) {
		t.Fatalf("the parts have %d values, or are all the same: they could not tell one from another", len(want[0].Images))
	}
	same := func(what string) {
		t.Helper()
		got, err := s.crowd(c)
		if err != nil {
			t.Errorf("%s: %v", what, err)
		} else if !reflect.DeepEqual(got, want) {
			t.Errorf("%s finds something else than one device", what)
		}
	}
	s.worker()
	same("one worker")
	s.worker()
	s.worker()
	same("three workers")
	s.strange(func(stream grpc.BidiStreamingServer[mppb.ToErrand, mppb.FromErrand]) error { // as one that is killed
		if err := ready(stream); err != nil {
			return err
		}
		return status.Error(codes.Unavailable, "going away")
	})
	s.strange(func(grpc.BidiStreamingServer[mppb.ToErrand, mppb.FromErrand]) error { // as one whose memory is full
		return status.Error(codes.Aborted, "out of memory")
	})
	s.worker(func(c *ServerConfig) { c.Version = "another" })
	same("three workers among others of no use")
}

// A worker of whom nothing is heard loses its part to another one, here to one that comes only then.
func TestASilentWorkerLosesItsPart(t *testing.T) {
	s := newStage(t)
	s.short = true
	c := s.config()
	c.Networks, c.Wait = c.Networks[:1], time.Minute
	want := s.alone(c)
	given := make(chan struct{}, lives)
	s.strange(func(stream grpc.BidiStreamingServer[mppb.ToErrand, mppb.FromErrand]) error {
		if err := ready(stream); err != nil {
			return err
		}
		<-stream.Context().Done()
		given <- struct{}{}
		return nil
	})
	late := make(chan struct{})
	go func() {
		defer close(late)
		<-given
		s.worker()
	}()
	got, err := s.crowd(c)
	<-late
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("found %d of %d parts, or something else; %v", len(got), len(want), err)
	}
}

// What ends a talk by itself is silence, or work that stands still; never work that goes on, nor idleness.
func TestSilenceAndStandstill(t *testing.T) {
	for _, c := range []struct {
		name string
		held int
		says func(i int) *mppb.FromErrand // nil: nothing
		want string                       // empty: it goes on
	}{
		{"silence", 1, nil, "no sign of life for 80ms"},
		{"standstill", 1, func(int) *mppb.FromErrand { return &mppb.FromErrand{Progress: 7} }, "its work has stood still for 240ms"},
		{"work", 1, func(i int) *mppb.FromErrand { return &mppb.FromErrand{Progress: uint64(i)} }, ""},
		{"idleness", 0, func(int) *mppb.FromErrand { return &mppb.FromErrand{Progress: 7} }, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			h := &hand{worker: &mppb.WorkerInfo{}, pace: pace{silence: 80 * time.Millisecond, stuck: 240 * time.Millisecond}, parts: make(chan numbered, ahead)}
			if c.want == "" { // a busy machine must not pass for silence
				h.pace = pace{silence: 800 * time.Millisecond, stuck: time.Second}
			}
			enough := time.Now().Add(3 * h.pace.stuck / 2)
			talk := talk{hand: h, ctx: ctx, ready: true, held: make([]numbered, c.held)}
			heard, spoken := make(chan *mppb.FromErrand), make(chan struct{})
			go func() { // an unbuffered message is heard when it is sent
				defer close(spoken)
				for i := 1; c.says != nil && ctx.Err() == nil; i++ {
					select {
					case heard <- c.says(i):
					case <-ctx.Done():
					}
					if c.want == "" && time.Now().After(enough) {
						cancel()
					}
					time.Sleep(time.Millisecond)
				}
			}()
			err := talk.loop(make(chan *mppb.ToErrand), heard, make(chan error))
			cancel()
			<-spoken
			if c.want == "" && !errors.Is(err, context.Canceled) || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

func TestACrowdOfNoUse(t *testing.T) {
	s, other := newStage(t), paint(t, 2)
	for _, c := range []struct {
		name  string
		build func(*stage)
		ask   func(*CrowdConfig)
		is    error
		want  []string
	}{
		{"nobody", func(*stage) {}, nil, ErrNobody, []string{"start some with `mp worker`"}},
		{"a wrong token", func(s *stage) { s.worker() }, func(c *CrowdConfig) {
			server := grpc.NewServer(grpc.UnaryInterceptor(func(context.Context, any, *grpc.UnaryServerInfo, grpc.UnaryHandler) (any, error) {
				return nil, status.Error(codes.Unauthenticated, "the token is wrong")
			}))
			mppb.RegisterClusterServer(server, mppb.UnimplementedClusterServer{})
			var err error
			if c.Client, err = mppb.NewClient(mppb.ClientConfig{Addresses: []string{serve(t, server)}}); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { c.Client.Close() })
		}, ErrRefused, []string{"refused by the cluster: the token is wrong"}},
		{"another version", func(s *stage) { s.worker() }, func(c *CrowdConfig) { c.Version = "newer" }, ErrRefused, []string{"worker 1: this worker is mp test", "you are mp newer"}},
		{"other images", func(s *stage) { s.worker(func(c *ServerConfig) { c.Train = other }) }, func(c *CrowdConfig) { c.Pack = paint(t, 3) }, ErrRefused,
			[]string{"other train images", other.Path(), "you have 4 of"}},
		{"a network of other classes", func(s *stage) { s.worker() }, func(c *CrowdConfig) { c.Networks = []Network{weights(t, 7, 1)} }, ErrRefused, []string{"cannot build your network", "4 classes"}},
		{"a network that nobody knows", func(s *stage) { s.worker() }, func(c *CrowdConfig) { c.Networks = []Network{{Arch: "alexnet"}} }, ErrRefused, []string{`"alexnet"`}},
		{"a worker without errands", func(s *stage) { s.join(serve(t, grpc.NewServer())) }, nil, ErrRefused, []string{"it knows no errands"}},
		{"nobody at the address", func(s *stage) { s.join("127.0.0.1:1") }, nil, ErrNobody, []string{"0 of 6 parts", "worker 1: it cannot be reached at 127.0.0.1:1"}},
		{"a part that no worker survives", func(s *stage) {
			for range 3 {
				s.strange(func(stream grpc.BidiStreamingServer[mppb.ToErrand, mppb.FromErrand]) error {
					if err := ready(stream); err != nil {
						return err
					}
					return status.Error(codes.Aborted, "a logit of sample 0 is NaN")
				})
			}
		}, nil, nil, []string{"a logit of sample 0 is NaN"}},
		{"a worker that answers nonsense", func(s *stage) {
			s.strange(func(stream grpc.BidiStreamingServer[mppb.ToErrand, mppb.FromErrand]) error {
				if err := ready(stream); err != nil {
					return err
				}
				return stream.Send(&mppb.FromErrand{Message: &mppb.FromErrand_Found{Found: &mppb.AttackFound{Clean: []int32{1}}}})
			})
		}, nil, ErrNobody, []string{"of 2 images come 1 and 0 classes"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s.workers.Store(&[]*mppb.WorkerInfo{})
			c.build(s)
			config := s.config()
			if c.ask != nil {
				c.ask(&config)
			}
			found, err := s.crowd(config)
			if err == nil || c.is != nil && !errors.Is(err, c.is) || len(found) != 0 {
				t.Fatalf("found %d parts, %v; want %v", len(found), err, c.is)
			}
			for _, want := range c.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q says nothing of %q", err, want)
				}
			}
		})
	}
}

// Networks stay with a worker, two of them, by content; damaged ones do not arrive.
func TestNetworksTravelOnce(t *testing.T) {
	s := newStage(t)
	s.short = true
	asked := &atomic.Int32{}
	device := device(t)
	errands := NewServer(ServerConfig{Device: device, Train: s.train, Val: s.val, Version: "test", FailAfter: func() time.Duration { return time.Second }, Progress: func() uint64 { return 0 }})
	t.Cleanup(func() {
		errands.Close()
		device.Close()
	})
	server := grpc.NewServer(grpc.StreamInterceptor(func(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		return handler(srv, counted{stream, asked})
	}))
	mppb.RegisterErrandsServer(server, errands)
	s.join(serve(t, server))
	c := s.config()
	for i, want := range []int32{2, 0, 1, 1} {
		asked.Store(0)
		if i == 2 {
			c.Networks[1] = weights(t, 4, 99)
		}
		if i == 3 {
			c.Networks[0] = weights(t, 4, 100)
		}
		if _, err := s.crowd(c); err != nil || asked.Load() != want {
			t.Errorf("errand %d brought %d networks, want %d; %v", i, asked.Load(), want, err)
		}
	}
	p, err := pack(s.networks[0])
	if err != nil {
		t.Fatal(err)
	}
	for _, harm := range []func(*mppb.FilePart){
		func(f *mppb.FilePart) { f.Data = append([]byte{}, f.Data...); f.Data[5]++ },
		func(f *mppb.FilePart) {
			f.Data = append([]byte{}, f.Data...)
			f.Data[5]++
			f.Crc32C = mppb.Checksum(f.Data)
		},
		func(f *mppb.FilePart) { f.Offset++ },
	} {
		a, damaged := arrival{name: p.name}, false
		for i, piece := range p.pieces() {
			if i == len(p.pieces())-1 {
				harm(piece)
			}
			if _, err := a.take(piece); err != nil {
				damaged = true
			}
		}
		if !damaged {
			t.Error("a damaged network arrives")
		}
	}
}

// counted counts the networks that a worker asks for.
type counted struct {
	grpc.ServerStream
	asked *atomic.Int32
}

func (c counted) SendMsg(m any) error {
	if f, ok := m.(*mppb.FromErrand); ok {
		c.asked.Add(int32(len(f.GetReady().GetLacks())))
	}
	return c.ServerStream.SendMsg(m)
}

// More errands than a worker has room for wait, with signs of life, until one ends.
func TestAnErrandWaitsForRoom(t *testing.T) {
	s := newStage(t)
	s.worker(func(c *ServerConfig) { c.FailAfter = func() time.Duration { return 80 * time.Millisecond } })
	conn, err := grpc.NewClient("passthrough:///"+(*s.workers.Load())[0].Address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	config := s.config()
	crowd, err := NewCrowd(config)
	if err != nil {
		t.Fatal(err)
	}
	var streams []mppb.Errands_AttackClient
	for range openErrands + 1 {
		stream, err := mppb.NewErrandsClient(conn).Attack(t.Context())
		if err == nil {
			err = stream.Send(&mppb.ToErrand{Message: &mppb.ToErrand_Errand{Errand: crowd.errand}})
		}
		if err != nil {
			t.Fatal(err)
		}
		if len(streams) < openErrands {
			for m := (*mppb.FromErrand)(nil); m.GetReady() == nil; { // it has its place
				if m, err = stream.Recv(); err != nil {
					t.Fatal(err)
				}
			}
		}
		streams = append(streams, stream)
	}
	last := streams[openErrands]
	for range 5 {
		if m, err := last.Recv(); err != nil || m.Message != nil {
			t.Fatalf("one errand too many hears %v, %v; want signs of life alone", m, err)
		}
	}
	if err := streams[0].CloseSend(); err != nil {
		t.Fatal(err)
	}
	for m := (*mppb.FromErrand)(nil); m.GetReady() == nil; {
		if m, err = last.Recv(); err != nil {
			t.Fatal(err)
		}
	}
}
