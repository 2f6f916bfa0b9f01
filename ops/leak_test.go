package ops

import (
	"bytes"
	"context"
	"os"
	"runtime/debug"
	"strconv"
	"testing"

	torch "github.com/wangkuiyi/gotorch"
)

// resident returns the process's resident memory in bytes.
func resident(t *testing.T) int64 {
	t.Helper()
	debug.FreeOSMemory() // what Go's collector has not come to yet is no leak
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Skip("no /proc on this system")
	}
	_, rest, _ := bytes.Cut(text, []byte("VmRSS:"))
	kib, err := strconv.ParseInt(string(bytes.Fields(rest)[0]), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return kib << 10
}

func TestTenThousandStepsLeaveMemoryWhereItWas(t *testing.T) {
	d, err := OpenDevice(DeviceConfig{GPU: CPU, Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	conv := &Param{Name: "conv.weight", Shape: []int64{8, 3, 3, 3}}
	gamma := &Param{Name: "norm.weight", Shape: []int64{8}}
	beta := &Param{Name: "norm.bias", Shape: []int64{8}}
	head := &Param{Name: "head.weight", Shape: []int64{10, 8}}
	mean, variance := &Param{Name: "mean", Shape: []int64{8}}, &Param{Name: "var", Shape: []int64{8}}
	var params, stats *Flat
	if err := d.Do(context.Background(), func(s *Scope) (err error) {
		if params, err = NewFlat(s, []*Param{conv, gamma, beta, head}, Float32, true, true); err != nil {
			return err
		}
		stats, err = NewFlat(s, []*Param{mean, variance}, Float32, false, false)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer params.Free()
	defer stats.Free()

	image := make([]float32, 2*3*8*8)
	for i := range image {
		image[i] = float32(i%17) / 17
	}
	step := func(s *Scope) error {
		x := s.ChannelsLast(From(s, image, 2, 3, 8, 8))
		y := s.Conv2d(x, conv.Tensor(), torch.Tensor{}, ConvGeometry{Padding: 1})
		y = s.ReLUInPlace(s.BatchNorm(y, Norm{gamma.Tensor(), beta.Tensor(), mean.Tensor(), variance.Tensor()}, true))
		y = s.Dropout(s.GlobalAvgPool(s.MaxPool2d(y, 3, 2, 1)), .1, []uint64{1, 2})
		loss := s.CrossEntropy(s.Linear(y, head.Tensor(), torch.Tensor{}), From(s, []int64{1, 2}, 2), .1, ReduceMean)
		flat := s.Zeros(Float32, params.Len())
		params.Gather(s, s.Grad(loss, params.Leaves()...), flat)
		params.CopyFrom(s, s.Sub(params.Buffer(), s.Scale(flat, .01)))
		return nil
	}
	steps := 10000
	if testing.Short() {
		steps = 1000
	}
	var after100 int64
	for i := range steps {
		if err := d.Do(context.Background(), step); err != nil {
			t.Fatal(err)
		}
		if i == 99 {
			after100 = resident(t)
		}
	}
	if got := resident(t); float64(got) > 1.02*float64(after100) {
		t.Errorf("after %d steps %d bytes are resident, %.1f %% more than the %d after 100", steps, got,
			100*(float64(got)/float64(after100)-1), after100)
	} else {
		t.Logf("resident after 100 steps %d, after %d steps %d bytes", after100, steps, got)
	}
}

func TestSizesThatChangeDoNotEachKeepBlocks(t *testing.T) {
	d, err := OpenDevice(DeviceConfig{GPU: CPU, Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	const mib = 1 << 20
	TrimMemory()
	most := HostMemory().Used + 56*mib
	for size := int64(16); size <= 56; size += 2 { // in MiB; together 756
		if err := d.Do(t.Context(), func(s *Scope) error {
			c := s.Child()
			defer c.Close()
			c.Zeros(Float32, size*mib/4-64) // with the block's own head the size is a round one
			return c.Err()
		}); err != nil {
			t.Fatal(err)
		}
		if m := HostMemory(); m.Used+m.Cached > 2*most+64*mib {
			t.Fatalf("after blocks of 16 to %d MiB, one at a time, %d MiB are held", size, (m.Used+m.Cached)/mib)
		}
	}
}
