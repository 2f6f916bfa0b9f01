// Package devicecheck holds a device to what the CPU computes in float64: every operation and its gradient, every network,
// every attack and explanation, the optimizers' update and the gathering of images.
//
// It owns the suite of `mp doctor --compute`. It must never read data sets or checkpoints, nor know of workers: what it
// computes follows from names and seeds, so that it runs anywhere within minutes. Start reading at Run.
package devicecheck

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	torch "github.com/wangkuiyi/gotorch"

	"mp/ops"
)

// ErrDiffers is wrapped by the error of a suite in which the device was further off than it may be.
var ErrDiffers = errors.New("the device computes something else")

// Config says what is held to what.
type Config struct {
	Device *ops.Device // the one in question
	Host   *ops.Device // a CPU
	Heard  func(Row)   // is told every row as soon as it is known; may be nil
	// Save is given what the device computed in float32, with what it was computed of, for a comparison elsewhere; may be nil.
	Save func(name string, shape []int64, values []float64)
}

// Row is one thing that was computed on both.
type Row struct {
	Group   string  `json:"group"`
	Name    string  `json:"name"`
	Off     float64 `json:"off"`   // largest difference, as a share of the norm of what the CPU computes in float64
	Limit   float64 `json:"limit"` // what it may be; 0: the same bits
	Seconds float64 `json:"seconds"`
	Trouble string  `json:"trouble,omitempty"` // why it could not be computed
}

// Good says whether the device did as it should.
func (r Row) Good() bool { return r.Trouble == "" && r.Off <= r.Limit } // a NaN is not

// check is a suite under way.
type check struct {
	Config
	rows  []Row
	saved map[string]bool // names that Save was given
}

// Run computes everything on both devices and returns a row for each thing. The error is ctx's, ErrDiffers, or what made the
// device useless.
func Run(ctx context.Context, config Config) ([]Row, error) {
	c := &check{Config: config, saved: map[string]bool{}}
	for _, group := range []func(context.Context) error{c.operations, c.networks, c.updates, c.sums, c.images, c.attacks, c.explanations} {
		if err := group(ctx); err != nil {
			return c.rows, err
		}
	}
	bad := 0
	for _, r := range c.rows {
		if !r.Good() {
			bad++
		}
	}
	if bad > 0 {
		return c.rows, fmt.Errorf("%w: %d of %d things", ErrDiffers, bad, len(c.rows))
	}
	return c.rows, nil
}

// hold adds a row: f returns how far off the device is. It returns what ends the suite.
func (c *check) hold(ctx context.Context, group, name string, limit float64, f func() (float64, error)) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	began := time.Now()
	off, err := f()
	row := Row{Group: group, Name: name, Off: off, Limit: limit, Seconds: time.Since(began).Seconds()}
	if err != nil {
		row.Off, row.Trouble = -1, err.Error()
	} else if math.IsNaN(off) || math.IsInf(off, 0) { // JSON has no number for it
		row.Off, row.Trouble = -1, "results that are no numbers"
	}
	c.rows = append(c.rows, row)
	if c.Heard != nil {
		c.Heard(row)
	}
	if errors.Is(err, ops.ErrDevice) {
		return err
	}
	return nil
}

// distance is the Euclidean distance of two vectors as a share of the second's length.
func distance(got, want []float64) float64 {
	if len(got) != len(want) {
		return math.Inf(1)
	}
	var off, length float64
	for i := range want {
		off += (got[i] - want[i]) * (got[i] - want[i])
		length += want[i] * want[i]
	}
	if off == 0 {
		return 0
	}
	return math.Sqrt(off / length)
}

// furthest is the greatest distance of several pairs of vectors.
func furthest(got, want [][]float64) float64 {
	if len(got) != len(want) {
		return math.Inf(1)
	}
	off := 0.0
	for i := range want {
		if d := distance(got[i], want[i]); !(d <= off) {
			off = d
		}
	}
	return off
}

// draw returns n numbers in [-1, 1), each of which is a float32: a function of name and i.
func draw(name string, n int64) []float64 {
	z := uint64(0xcbf29ce484222325)
	for _, c := range []byte(name) {
		z = (z ^ uint64(c)) * 0x100000001b3
	}
	out := make([]float64, n)
	for i := range out {
		z += 0x9e3779b97f4a7c15
		x := (z ^ z>>30) * 0xbf58476d1ce4e5b9
		x = (x ^ x>>27) * 0x94d049bb133111eb
		out[i] = float64(float32(float64((x^x>>31)>>11)*0x1p-52 - 1))
	}
	return out
}

// tensor returns such numbers on the scope's device.
func tensor(s *ops.Scope, name string, d ops.DType, shape ...int64) torch.Tensor {
	return s.To(ops.From(s, draw(name, ops.Numel(shape)), shape...), d)
}

// keep gives Save a tensor's elements, the first of that name.
func (c *check) keep(s *ops.Scope, name string, t torch.Tensor) {
	if c.Save == nil || c.saved[name] {
		return
	}
	if v := ops.Values[float64](s, t); s.Err() == nil {
		c.saved[name] = true
		c.Save(name, t.Shape(), v)
	}
}

// nameOf is a type of numbers, as PyTorch has it.
func nameOf(d ops.DType) string {
	return map[ops.DType]string{ops.Float64: "float64", ops.Float32: "float32", ops.BFloat16: "bfloat16"}[d]
}
