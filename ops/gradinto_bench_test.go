package ops_test

import (
	"context"
	"testing"
	"time"

	torch "github.com/wangkuiyi/gotorch"
	"golang.org/x/sys/unix"

	"mp/model"
	"mp/model/modeltest"
	"mp/ops"
)

// The backward pass of each network on 16 images, alternately gathered after the pass (Grad, Gather) and written during it
// (GradInto). written/gathered is the ratio of their processor times; left-at-half is the share of the pass that is left when half of
// the buffer, counted from its end, is final: an all-reduce of that half can hide behind it.
//
//	go test ./ops -run '^$' -bench GradInto -benchtime 10x
func BenchmarkGradInto(b *testing.B) {
	for _, arch := range model.Names() {
		b.Run(arch, func(b *testing.B) {
			d, err := ops.OpenDevice(ops.DeviceConfig{GPU: ops.CPU, Threads: 1})
			if err != nil {
				b.Fatal(err)
			}
			defer d.Close()
			if err := d.Do(context.Background(), func(s *ops.Scope) error { return compareBackward(b, s, arch) }); err != nil {
				b.Fatal(err)
			}
		})
	}
}

func compareBackward(b *testing.B, s *ops.Scope, arch string) error {
	m, err := model.New(s, arch, model.Options{Classes: 100, ChannelsLast: true})
	if err != nil {
		return err
	}
	defer m.Free()
	data := &modeltest.Golden{Classes: 100, Batch: 16, Size: 128}
	x, labels := s.ChannelsLast(data.Images(s, ops.Float32)), data.Labels(s)
	buffer := s.Zeros(ops.Float32, m.Params.Len())
	pass := func(backward func(c *ops.Scope, loss torch.Tensor)) (wall, processor time.Duration) {
		c := s.Child()
		defer c.Close()
		logits := m.Forward(c, x, model.Mode{Train: true, Keys: make([]uint64, data.Batch)})
		loss := c.CrossEntropy(logits, labels, .1, ops.ReduceMean)
		b.StartTimer()
		defer b.StopTimer()
		begin, used := time.Now(), processorTime(b)
		backward(c, loss)
		return time.Since(begin), processorTime(b) - used
	}
	var gathered, written, all, left time.Duration
	b.StopTimer()
	for i := range b.N + 1 { // the first one warms up
		_, g := pass(func(c *ops.Scope, loss torch.Tensor) {
			m.Params.Gather(c, c.Grad(loss, m.Params.Leaves()...), buffer)
		})
		ready, half := ops.NewProgress(), make(chan time.Time, 1)
		go func() {
			ready.Wait(context.Background(), m.Params.Len()/2) //nolint:errcheck // the call's own error is told
			half <- time.Now()
		}()
		wall, w := pass(func(c *ops.Scope, loss torch.Tensor) { c.GradInto(loss, m.Params, buffer, ready) })
		l := time.Since(<-half)
		if i > 0 {
			gathered, written, all, left = gathered+g, written+w, all+wall, left+l
		}
	}
	b.ReportMetric(float64(written)/float64(gathered), "written/gathered")
	b.ReportMetric(float64(left)/float64(all), "left-at-half")
	return s.Err()
}

// processorTime is what the device's thread has used; on the CPU with one thread, the backward pass runs there.
func processorTime(b *testing.B) time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t); err != nil {
		b.Fatal(err)
	}
	return time.Duration(t.Nano())
}
