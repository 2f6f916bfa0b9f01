package ops

// #include "csrc/ops.h"
import "C"

import (
	"context"
	"fmt"
	"math"
	"runtime"
	"slices"
	"sync/atomic"
	"time"
	"unsafe"

	torch "github.com/wangkuiyi/gotorch"
)

// GradInto computes d loss / d leaf for all of f's leaves, as Grad does, and writes each into its place in the buffer into
// [at least f.Len()], laid out as f is, as soon as the backward pass has it. A leaf that the loss does not depend on gets
// zeros; the gaps between parameters are left as they are. It frees the graph.
//
// ready, which may be nil, tells other goroutines how far the writing has come; it ends with this call, whether the call
// works or not, and a scope that has failed before ends it with that error. A ready serves one call. On a GPU GradInto
// returns when the device has finished, and ready counts what the device has finished.
func (s *Scope) GradInto(loss torch.Tensor, f *Flat, into torch.Tensor, ready *Progress) {
	s.GradIntoBeside(loss, f, into, ready, torch.Tensor{})
}

// GradIntoBeside is GradInto, and returns d loss / d beside too, for a leaf that is none of f's, in the same backward pass;
// the zero Tensor for an undefined beside.
func (s *Scope) GradIntoBeside(loss torch.Tensor, f *Flat, into torch.Tensor, ready *Progress, beside torch.Tensor) torch.Tensor {
	if ready == nil {
		ready = NewProgress()
	}
	var grad torch.Tensor
	if s.err == nil && Defined(beside) {
		grad = s.call("empty_like", beside)
	}
	s.gradInto(loss, f, into, ready, beside, grad)
	ready.end(s.err)
	if s.err != nil {
		return torch.Tensor{}
	}
	return grad
}

// gradInto writes the gradient of beside, where that is defined, into grad.
func (s *Scope) gradInto(loss torch.Tensor, f *Flat, into torch.Tensor, ready *Progress, beside, grad torch.Tensor) {
	if s.err != nil {
		return
	}
	if !Defined(loss) || !Defined(into) {
		s.Fail(fmt.Errorf("gradient into a buffer: %w", errUndefined))
		return
	}
	n := len(f.params)
	if n == 0 {
		return
	}
	c := s.Child()
	defer c.Close()
	leaves, offsets := make([]C.mp_tensor, n, n+1), make([]C.int64_t, n, n+1)
	for i, p := range f.laid {
		leaves[i], offsets[i] = handle(p.leaf), C.int64_t(p.offset)
		if leaves[i] == nil {
			s.Fail(fmt.Errorf("gradient into a buffer: parameter %s asks for no gradient", p.Name))
			return
		}
	}
	views := f.viewsOf(c, into, f.laid)
	if c.err != nil {
		return
	}
	if Defined(beside) { // before the first parameter: it holds up nobody who waits for those
		leaves, views, offsets = slices.Insert(leaves, 0, handle(beside)), slices.Insert(views, 0, handle(grad)), slices.Insert(offsets, 0, 0)
	}
	message := s.message()
	status := C.mp_grad_into(handle(loss), &leaves[0], &views[0], &offsets[0], C.int(len(leaves)), (*C.int64_t)(unsafe.Pointer(ready.from)), &message[0])
	runtime.KeepAlive(loss)
	runtime.KeepAlive(beside)
	if status != C.MP_OK {
		s.Fail(check(status, "gradient", message))
	}
}

// Progress tells how much of a buffer GradInto has written. The backward pass stores one word; whoever waits looks at it
// now and then, so that the pass never waits for a goroutine. All methods may be called from any goroutine.
type Progress struct {
	from *atomic.Int64 // elements from.. are final; C++ stores here, so it lies in memory without pointers
	done chan struct{} // closed when the call has ended
	err  error         // why it failed; set before done is closed
}

// NewProgress returns the progress of a call that has not begun.
func NewProgress() *Progress {
	p := &Progress{from: new(atomic.Int64), done: make(chan struct{})}
	p.from.Store(math.MaxInt64)
	return p
}

func (p *Progress) end(err error) {
	p.err = err
	close(p.done)
}

// How often Wait looks: an eighth of the time it has waited, within these bounds. A millisecond is little beside a bucket
// of gradients, and a thousand looks a second cost less than one core's percent.
const (
	lookOften  = 50 * time.Microsecond
	lookSeldom = time.Millisecond
)

// Wait blocks until elements lo.. of the buffer are final (nil), the call has failed (its error, also for elements that
// were final before), or ctx ends while they are not final (ctx's error).
func (p *Progress) Wait(ctx context.Context, lo int64) error {
	select {
	case <-p.done:
		return p.err
	default:
	}
	if p.from.Load() <= lo {
		return nil
	}
	begin := time.Now()
	timer := time.NewTimer(lookOften)
	defer timer.Stop()
	for {
		select {
		case <-p.done:
			return p.err
		case <-ctx.Done():
			return ctx.Err()
		case <-timer.C:
		}
		if p.from.Load() <= lo {
			return nil
		}
		timer.Reset(min(max(time.Since(begin)/8, lookOften), lookSeldom))
	}
}
