package coordinator

import (
	"fmt"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"mp/mppb"
)

// What many workers cost: MP_TEST_WORKERS=1000 go test -v -run ManyWorkers ./coordinator
func TestManyWorkers(t *testing.T) {
	count, err := strconv.Atoi(os.Getenv("MP_TEST_WORKERS"))
	if err != nil {
		t.Skip("MP_TEST_WORKERS is no number")
	}
	const rest = 5 * time.Second
	c := newCluster(t, 1, func(cfg *Config) { cfg.FailAfter = 10 * time.Second }) // the workers share this machine with it
	c.leader()
	c.submit(fmt.Sprintf(`{"name": "test", "shards": %d, "batch-size": %d, "epochs": 1000, "keep-checkpoints": 2}`, count, count))
	conn, err := mppb.Connect(mppb.ClientConfig{FailAfter: 10 * time.Second}, c.nodes[0].cfg.Listen)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	type light struct {
		stream mppb.Control_SessionClient
		view   atomic.Uint64
		update uint64
	}
	var all []*light
	var wg sync.WaitGroup
	var bytes, newest atomic.Uint64
	ctx, cancel := contextOf(t)
	defer wg.Wait()
	defer cancel()
	began := time.Now()
	for i := range count {
		stream, err := mppb.NewControlClient(conn).Session(ctx)
		if err != nil {
			t.Fatal(err)
		}
		w := &light{stream: stream}
		all = append(all, w)
		device := fmt.Sprintf("cpu:%d", i)
		if err := stream.Send(&mppb.FromWorker{Message: &mppb.FromWorker_Hello{Hello: &mppb.Hello{
			Protocol: mppb.Protocol, Host: "host", Machine: "machine", Device: device, Address: fmt.Sprintf("10.0.%d.%d:7071", i/250, i%250), Data: &testData, Name: "worker " + device,
		}}}); err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			for {
				m, err := stream.Recv()
				if err != nil {
					return
				}
				if v := m.GetView(); v != nil {
					bytes.Store(uint64(len(v.Members)))
					w.view.Store(v.Number)
					newest.Store(max(newest.Load(), v.Number))
				}
			}
		})
	}
	send := func() {
		for _, w := range all {
			if v := w.view.Load(); v > 0 {
				w.update++
				w.stream.Send(&mppb.FromWorker{Message: &mppb.FromWorker_Status{Status: &mppb.Status{
					Job: "job-1", View: v, Phase: mppb.Phase_COMPUTING, CaughtUp: true, Update: w.update, Progress: w.update, ShardSeconds: 0.1, StepSeconds: 0.1,
				}}})
			} else {
				w.stream.Send(&mppb.FromWorker{Message: &mppb.FromWorker_Status{Status: &mppb.Status{Phase: mppb.Phase_READY}}})
			}
		}
	}
	everybody := func() bool {
		n := newest.Load()
		for _, w := range all {
			if w.view.Load() != n || n == 0 {
				return false
			}
		}
		return bytes.Load() == uint64(len(all))
	}
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for !everybody() {
		<-tick.C
		send()
	}
	t.Logf("%d workers are in one view after %s", count, time.Since(began).Round(time.Millisecond))

	cpu := func() time.Duration {
		var u syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
			t.Fatal(err)
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	used, rounds := cpu(), 0
	for began := time.Now(); time.Since(began) < rest; rounds++ {
		send()
		<-tick.C
	}
	used = cpu() - used
	t.Logf("%d rounds of signs of life: %s of processor a worker and sign, both sides together", rounds, used/time.Duration(rounds*count))

	// One worker dies.
	used = cpu()
	began = time.Now()
	all[count/2].stream.CloseSend()
	all = append(all[:count/2], all[count/2+1:]...)
	for !everybody() {
		<-tick.C
		send()
	}
	t.Logf("one died: all others have the next view after %s and %s of processor, both sides together", time.Since(began).Round(time.Millisecond), (cpu() - used).Round(time.Millisecond))
}
