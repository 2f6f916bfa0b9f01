package cmd

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"google.golang.org/grpc"

	"mp/allreduce"
	"mp/allreduce/rpc"
	"mp/job"
	"mp/ops"
)

// measureRing is a child process of `mp bench ring`: one rank, and rank 0 prints the seconds of each call by length.
func measureRing(ctx context.Context, e *env, text string) error {
	var spec ringSpec
	if err := json.Unmarshal([]byte(text), &spec); err != nil {
		return fmt.Errorf("%w: --measure: %w", job.ErrConfig, err)
	}
	group, leave, err := joinRing(ctx, spec)
	if err != nil {
		return err
	}
	defer leave()
	var result [][]float64
	for _, length := range spec.Lengths {
		call := ringCall(spec, group, length)
		var seconds []float64
		for range spec.Rounds + 2 {
			start := time.Now()
			if err := call(ctx); err != nil {
				return err
			}
			seconds = append(seconds, time.Since(start).Seconds())
		}
		result = append(result, seconds[2:])
	}
	if _, err := group.Exchange(ctx, nil); err != nil {
		return err
	}
	if spec.Rank != 0 {
		return nil
	}
	return json.NewEncoder(e.stdout).Encode(result)
}

// ringKernels are the fast loops.
func ringKernels() allreduce.Kernels {
	return allreduce.Kernels{Exponents: ops.FixedExponents, Quantize: ops.FixedQuantize, Dequantize: ops.FixedDequantize, Add: ops.FixedAdd,
		Accumulate: ops.FixedAccumulate, Shorten: ops.FixedShorten, Lengthen: ops.FixedLengthen}
}

// ringCall returns one sum of a length, to be called again and again.
func ringCall(spec ringSpec, group allreduce.Group, length int) func(context.Context) error {
	if spec.What == ringSum {
		v := make([]int32, length)
		return func(ctx context.Context) error { return group.Sum(ctx, v) }
	}
	shard, out := make([]float32, length), make([]float32, length)
	for i := range shard {
		shard[i] = float32(i%1000-500) / 1000
	}
	terms := allreduce.Terms{Total: spec.Size, Shards: []int{spec.Rank}, Vectors: [][]float32{shard}, Kernels: ringKernels()}
	if spec.What == ringInt16 {
		terms.Residual = make([]float32, length)
	}
	return func(ctx context.Context) error { return allreduce.SumShards(ctx, group, terms, out) }
}

// joinRing listens, tells the other ranks where, and forms the group.
func joinRing(ctx context.Context, spec ringSpec) (group allreduce.Group, leave func(), err error) {
	network, address := "unix", filepath.Join(spec.Dir, fmt.Sprint("socket-", spec.Rank))
	if spec.TCP {
		network, address = "tcp", "127.0.0.1:0"
	}
	listener, err := net.Listen(network, address)
	if err != nil {
		return nil, nil, err
	}
	server, ring := grpc.NewServer(rpc.ServerOptions()...), rpc.NewServer()
	ring.Register(server)
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	leave = func() {
		ring.Close()
		server.Stop()
		<-served
	}
	said := listener.Addr().String()
	if !spec.TCP {
		said = "unix:" + said
	}
	file := addressFile(spec.Dir, spec.Rank)
	if err = os.WriteFile(file+"-", []byte(said), 0o600); err == nil {
		err = os.Rename(file+"-", file)
	}
	if err != nil {
		leave()
		return nil, nil, err
	}
	c := rpc.Config{Job: "bench", View: 1, Rank: spec.Rank, FailAfter: 30 * time.Second, Kernels: ringKernels(), Inline: spec.Inline, Connections: spec.Connections, Piece: spec.Piece}
	addresses, err := peerAddresses(ctx, spec.Dir, spec.Size)
	for _, a := range addresses {
		c.Members = append(c.Members, rpc.Member{Address: a})
	}
	if err == nil {
		group, err = ring.Form(ctx, c)
	}
	if err != nil {
		leave()
		return nil, nil, err
	}
	return group, leave, nil
}

// pause waits a little for another process.
func pause(ctx context.Context) error {
	select {
	case <-time.After(2 * time.Millisecond):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
