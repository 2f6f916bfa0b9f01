package rpc

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"

	"mp/allreduce"
	"mp/allreduce/allreducetest"
	"mp/trust"
)

// station is a process of its own, as far as a test can have one: a server with an address.
type station struct {
	*Server
	grpc    *grpc.Server
	address string
}

// newStation listens on a unix socket, or on TCP.
func newStation(t testing.TB, unix bool) *station { return newStationIn(t, unix, nil) }

// newStationIn is newStation in TLS, where a configuration is given.
func newStationIn(t testing.TB, unix bool, secure *tls.Config) *station {
	t.Helper()
	network, address := "tcp", "127.0.0.1:0"
	if unix {
		network, address = "unix", filepath.Join(t.TempDir(), "s")
	}
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	if secure != nil {
		l = tls.NewListener(l, secure)
	}
	s := &station{Server: NewServer(), grpc: grpc.NewServer(ServerOptions()...), address: l.Addr().String()}
	if unix {
		s.address = "unix:" + address
	}
	s.Register(s.grpc)
	served := make(chan struct{})
	go func() {
		s.grpc.Serve(l)
		close(served)
	}()
	t.Cleanup(func() {
		s.Close()
		s.grpc.Stop()
		<-served
	})
	return s
}

// form forms a group over n stations.
func form(t testing.TB, stations []*station, c Config) []allreduce.Group {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	c.Job = "job"
	if c.FailAfter == 0 {
		c.FailAfter = 10 * time.Second
	}
	for _, s := range stations {
		c.Members = append(c.Members, Member{Address: s.address})
	}
	groups := make([]allreduce.Group, len(stations))
	errs := make([]error, len(stations))
	var wg sync.WaitGroup
	for i, s := range stations {
		c := c
		c.Rank = i
		wg.Go(func() {
			if groups[i], errs[i] = s.Form(ctx, c); errs[i] != nil {
				cancel()
			}
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	return groups
}

func stations(t testing.TB, n int, unix bool) []*station {
	s := make([]*station, n)
	for i := range s {
		s[i] = newStation(t, unix)
	}
	return s
}

// TestConformanceInTLS is the ring between machines that trust one another, and nobody else.
func TestConformanceInTLS(t *testing.T) {
	worker := workerOf(t, "a secret that the ring shares")
	allreducetest.Run(t, func(t testing.TB, n int) []allreduce.Group {
		s := make([]*station, n)
		for i := range s {
			s[i] = newStationIn(t, false, worker.Server(trust.Worker))
		}
		return form(t, s, Config{Dial: worker.Over(trust.DialTCP, trust.Worker)})
	})
}

func TestARingLetsNobodyElseIn(t *testing.T) {
	worker := workerOf(t, "a secret that the ring shares")
	s := newStationIn(t, false, worker.Server(trust.Worker))
	for name, dial := range map[string]func(context.Context, string) (net.Conn, error){
		"another secret": workerOf(t, "a secret that others share").Over(trust.DialTCP, trust.Worker),
		"no TLS":         nil,
	} {
		stranger := newStation(t, false)
		ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
		_, err := stranger.Form(ctx, Config{Job: "job", View: 1, Rank: 1, Members: []Member{{s.address}, {stranger.address}}, FailAfter: time.Second, Dial: dial})
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: got %v, want that nobody answers", name, err)
		}
	}
}

func workerOf(t *testing.T, secret string) *trust.Identity {
	t.Helper()
	a, err := trust.NewAuthority(secret, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	i, err := a.Identity(trust.Party{Role: trust.Worker, Name: "test"})
	if err != nil {
		t.Fatal(err)
	}
	return i
}

func BenchmarkSumInTLS(b *testing.B) {
	a, err := trust.NewAuthority("a secret that the ring shares", time.Now)
	if err != nil {
		b.Fatal(err)
	}
	worker, err := a.Identity(trust.Party{Role: trust.Worker, Name: "bench"})
	if err != nil {
		b.Fatal(err)
	}
	for _, secure := range []bool{false, true} {
		b.Run(map[bool]string{false: "plain", true: "tls"}[secure], func(b *testing.B) {
			var c Config
			var config *tls.Config
			if secure {
				c.Dial, config = worker.Over(trust.DialTCP, trust.Worker), worker.Server(trust.Worker)
			}
			g := form(b, []*station{newStationIn(b, false, config), newStationIn(b, false, config)}, c)
			v := [2][]int32{make([]int32, 1<<20), make([]int32, 1<<20)}
			b.SetBytes(4 << 20)
			for b.Loop() {
				var wg sync.WaitGroup
				for i := range g {
					wg.Go(func() {
						if err := g[i].Sum(context.Background(), v[i]); err != nil {
							b.Error(err)
						}
					})
				}
				wg.Wait()
			}
		})
	}
}

func TestConformance(t *testing.T) {
	for name, v := range map[string]struct {
		unix bool
		Config
	}{
		"shared memory":            {unix: true},
		"tiny pieces, shared":      {unix: true, Config: Config{Piece: 8 << 10}},
		"streams":                  {},
		"tiny pieces, connections": {Config: Config{Piece: 1024, Connections: 3}},
		"streams of a unix socket": {unix: true, Config: Config{Inline: true, Piece: 5 << 10}},
	} {
		t.Run(name, func(t *testing.T) {
			allreducetest.Run(t, func(t testing.TB, n int) []allreduce.Group { return form(t, stations(t, n, v.unix), v.Config) })
		})
	}
}
