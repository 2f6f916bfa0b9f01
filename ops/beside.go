package ops

// #include "csrc/ops.h"
import "C"

import (
	"context"
	"time"
)

// Guest is long work on a device that has other work too: it gives way between its steps.
type Guest struct {
	device  *Device
	ctx     context.Context
	threads int
	since   time.Time // when the step in hand began
	err     error     // of changing the number of threads
}

// DoBeside is Do for long work of less weight, with intra-op threads of its own. f calls GiveWay between its steps; work that
// others ask the device for meanwhile runs there, on the device's own number of threads, as if f were not. Two of them at a
// time would run one inside the other: callers let one end before the next begins.
func (d *Device) DoBeside(ctx context.Context, threads int, f func(s *Scope, g *Guest) error) error {
	return d.Do(ctx, func(s *Scope) (err error) {
		g := &Guest{device: d, ctx: ctx, threads: threads, since: time.Now()}
		defer func() { // also where f panics
			if g.turnTo(d.Threads()); err == nil {
				err = g.err
			}
		}()
		if g.turnTo(threads); g.err != nil {
			return g.err
		}
		return f(s, g)
	})
}

// GiveWay does what others wait for. If anybody does, they have the device for as long as the step since the last call took,
// so that both get on; if nobody does, it returns at once. It is called on the device's thread.
func (g *Guest) GiveWay() {
	began := time.Now()
	select {
	case f := <-g.device.work:
		before := C.mp_set_grad_enabled(1)
		g.turnTo(g.device.Threads())
		f()
		g.serve(time.NewTimer(time.Until(began.Add(began.Sub(g.since)))))
		g.turnTo(g.threads)
		C.mp_set_grad_enabled(before)
	default:
	}
	g.since = time.Now()
}

// serve does others' work until the time is over.
func (g *Guest) serve(until *time.Timer) {
	defer until.Stop()
	for {
		select {
		case f := <-g.device.work:
			f()
		case <-until.C:
			return
		case <-g.ctx.Done():
			return
		}
	}
}

// turnTo changes the thread's number of intra-op threads, and not what the device remembers as its own.
func (g *Guest) turnTo(threads int) {
	if threads == g.device.now {
		return
	}
	var message [C.MP_ERR]C.char
	if err := check(C.mp_set_threads(C.int(threads), &message[0]), "set threads", &message); err != nil && g.err == nil {
		g.err = err
	}
	g.device.now = threads
}
