package rpc

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"

	"mp/allreduce"
	"mp/allreduce/allreducetest"
)

// station is a process of its own, as far as a test can have one: a server with an address.
type station struct {
	*Server
	grpc    *grpc.Server
	address string
}

// newStation listens on a unix socket, or on TCP.
func newStation(t testing.TB, unix bool) *station {
	t.Helper()
	network, address := "tcp", "127.0.0.1:0"
	if unix {
		network, address = "unix", filepath.Join(t.TempDir(), "s")
	}
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
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
