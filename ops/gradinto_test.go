package ops

import (
	"context"
	"errors"
	"math"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	torch "github.com/wangkuiyi/gotorch"
)

// chain is a network of layers y = relu(w y), one parameter each, and its loss; flaw, where not nil, sees every layer's result.
func chain(s *Scope, f *Flat, layers int, flaw func(i int, y torch.Tensor)) torch.Tensor {
	y := s.Offset(s.Zeros(Float32, 4, 8), .5)
	for i := range layers {
		y = s.ReLU(s.Linear(y, f.Params()[i].Tensor(), torch.Tensor{}))
		if flaw != nil {
			flaw(i, y)
		}
	}
	return s.Sum(s.Mul(y, y))
}

func newChain(s *Scope, layers int) (*Flat, error) {
	var params []*Param
	for i := range layers {
		params = append(params, &Param{Name: string(rune('a' + i)), Shape: []int64{8, 8}})
	}
	f, err := NewFlat(s, params, Float32, false, true)
	if err != nil {
		return nil, err
	}
	w := make([]float32, f.Len())
	for i := range w {
		w[i] = float32(math.Sin(float64(i)))
	}
	f.CopyFrom(s, From(s, w, f.Len()))
	return f, s.Err()
}

func TestGradIntoEqualsGradAndGather(t *testing.T) {
	on(t, func(s *Scope) error {
		f, err := newChain(s, 5) // the last of them is used nowhere
		if err != nil {
			return err
		}
		defer f.Free()
		leaves := f.Leaves()[:4]
		want := s.Zeros(Float32, f.Len())
		f.Gather(s, append(s.Grad(chain(s, f, 4, nil), leaves...), s.Zeros(Float32, 8, 8)), want)
		for range 2 { // hooks of the first pass are gone in the second
			into := s.Offset(s.Zeros(Float32, f.Len()), 7)
			ready := NewProgress()
			s.GradInto(chain(s, f, 4, nil), f, into, ready)
			if got, want := Values[float32](s, into), Values[float32](s, want); !slices.Equal(got, want) {
				t.Errorf("gradients are %v, want %v", got, want)
			}
			if err := ready.Wait(context.Background(), 0); err != nil {
				t.Errorf("after the call, Wait says %v", err)
			}
		}
		for i, g := range s.Grad(chain(s, f, 4, nil), leaves...) {
			if !Defined(g) {
				t.Errorf("after GradInto, Grad gives nothing for leaf %d", i)
			}
		}
		return nil
	})
}

func TestGradIntoCountsFromTheEnd(t *testing.T) {
	on(t, func(s *Scope) error {
		const layers = 20
		f, err := newChain(s, layers)
		if err != nil {
			return err
		}
		defer f.Free()
		ready := NewProgress()
		var seen []int64
		watching, watched := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(watched)
			seen = append(seen, ready.from.Load())
			close(watching)
			for {
				from := ready.from.Load()
				if seen[len(seen)-1] != from {
					seen = append(seen, from)
				}
				if from == 0 {
					return
				}
				runtime.Gosched()
			}
		}()
		into := s.Zeros(Float32, f.Len())
		<-watching
		s.GradInto(chain(s, f, layers, nil), f, into, ready)
		if s.Err() != nil {
			ready.from.Store(0)
		}
		<-watched
		for i, from := range seen[1:] {
			if from >= seen[i] || from%64 != 0 {
				t.Errorf("progress went from %d to %d, want a fall to where a parameter starts", seen[i], from)
			}
		}
		t.Logf("seen: %v", seen)
		return nil
	})
}

// The rectifier of layer 4 is broken: the layers behind it have their gradients, the call fails, and whoever waits is told.
func TestErrorInBackwardWakesTheWaiter(t *testing.T) {
	d, err := OpenDevice(DeviceConfig{GPU: CPU, Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	ready := NewProgress()
	waited := make(chan error, 1)
	go func() { waited <- ready.Wait(context.Background(), 0) }()
	err = d.Do(context.Background(), func(s *Scope) error {
		f, err := newChain(s, 10)
		if err != nil {
			return err
		}
		defer f.Free()
		loss := chain(s, f, 10, func(i int, y torch.Tensor) {
			if i == 4 {
				s.NoGrad(func() { s.AddInPlace(y, y) })
			}
		})
		s.GradInto(loss, f, s.Zeros(Float32, f.Len()), ready)
		return nil
	})
	if err == nil || !strings.Contains(err.Error(), "inplace operation") {
		t.Errorf("error is %v, want one that names the in-place operation", err)
	}
	select {
	case got := <-waited:
		if !errors.Is(err, got) {
			t.Errorf("the waiter got %v, the call %v", got, err)
		}
	case <-time.After(10 * time.Second):
		t.Error("the waiter was not woken")
	}
	if from := ready.from.Load(); from != 5*64 {
		t.Errorf("elements %d.. were final when the pass failed, want %d..", from, 5*64)
	}
}

func TestGradIntoOfAFailedScopeEndsTheProgress(t *testing.T) {
	d, err := OpenDevice(DeviceConfig{GPU: CPU, Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	ready := NewProgress()
	lost := errors.New("lost")
	err = d.Do(context.Background(), func(s *Scope) error {
		s.Fail(lost)
		s.GradInto(torch.Tensor{}, &Flat{}, torch.Tensor{}, ready)
		return nil
	})
	if got := ready.Wait(context.Background(), 0); !errors.Is(err, lost) || !errors.Is(got, lost) {
		t.Errorf("the call failed with %v, the waiter with %v, want both to say %q", err, got, lost)
	}
}

func TestGradIntoOfBadArguments(t *testing.T) {
	for _, c := range []struct {
		name string
		call func(s *Scope, f *Flat)
		want string
	}{
		{"undefined loss", func(s *Scope, f *Flat) { s.GradInto(torch.Tensor{}, f, s.Zeros(Float32, f.Len()), nil) }, "undefined"},
		{"undefined buffer", func(s *Scope, f *Flat) { s.GradInto(chain(s, f, 2, nil), f, torch.Tensor{}, nil) }, "undefined"},
		{"short buffer", func(s *Scope, f *Flat) { s.GradInto(chain(s, f, 2, nil), f, s.Zeros(Float32, f.Len()-1), nil) }, "view b"},
		{"vector", func(s *Scope, f *Flat) {
			s.GradInto(s.Scale(f.Params()[0].Tensor(), 2), f, s.Zeros(Float32, f.Len()), nil)
		}, "64 elements"},
		{"no graph", func(s *Scope, f *Flat) { s.GradInto(s.Sum(f.Buffer()), f, s.Zeros(Float32, f.Len()), nil) }, "no graph"},
		{"no leaves", func(s *Scope, f *Flat) {
			plain, err := NewFlat(s, []*Param{{Name: "mean", Shape: []int64{3}}}, Float32, false, false)
			if err != nil {
				s.Fail(err)
				return
			}
			defer plain.Free()
			s.GradInto(chain(s, f, 2, nil), plain, s.Zeros(Float32, plain.Len()), nil)
		}, "mean asks for no gradient"},
	} {
		t.Run(c.name, func(t *testing.T) {
			d, err := OpenDevice(DeviceConfig{GPU: CPU, Threads: 1})
			if err != nil {
				t.Fatal(err)
			}
			defer d.Close()
			err = d.Do(context.Background(), func(s *Scope) error {
				f, err := newChain(s, 2)
				if err != nil {
					return err
				}
				defer f.Free()
				c.call(s, f)
				return nil
			})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error is %v, want one that says %q", err, c.want)
			}
		})
	}
}

func TestWaitEndsWithItsContext(t *testing.T) {
	ready := NewProgress()
	ctx, cancel := context.WithCancel(context.Background())
	waited := make(chan error, 1)
	go func() { waited <- ready.Wait(ctx, 5) }()
	cancel()
	if err := <-waited; !errors.Is(err, context.Canceled) {
		t.Errorf("Wait says %v, want %v", err, context.Canceled)
	}
	ready.from.Store(5)
	if err := ready.Wait(ctx, 5); err != nil {
		t.Errorf("what is final is final for an ended context too; Wait says %v", err)
	}
}

func TestGradIntoBesideHasBothGradients(t *testing.T) {
	on(t, func(s *Scope) error {
		f, err := newChain(s, 3)
		if err != nil {
			return err
		}
		defer f.Free()
		x := s.Offset(s.Zeros(Float32, 4, 8), .5)
		loss := func(leaf torch.Tensor) torch.Tensor {
			y := leaf
			for _, p := range f.Params() {
				y = s.ReLU(s.Linear(y, p.Tensor(), torch.Tensor{}))
			}
			return s.Sum(s.Mul(y, y))
		}
		want, wanted := s.Zeros(Float32, f.Len()), s.Leaf(x)
		s.GradInto(loss(wanted), f, want, nil)
		input := Values[float32](s, s.Grad(loss(wanted), wanted)[0])
		into, leaf, ready := s.Offset(s.Zeros(Float32, f.Len()), 7), s.Leaf(x), NewProgress()
		grad := s.GradIntoBeside(loss(leaf), f, into, ready, leaf)
		if got := Values[float32](s, grad); !slices.Equal(got, input) {
			t.Errorf("the input's gradient is %v, want %v", got, input)
		}
		if got, want := Values[float32](s, into), Values[float32](s, want); !slices.Equal(got, want) {
			t.Errorf("the parameters' gradients are %v, want %v", got, want)
		}
		if err := ready.Wait(t.Context(), 0); err != nil {
			t.Errorf("after the call, Wait says %v", err)
		}
		return s.Err()
	})
}
