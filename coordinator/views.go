package coordinator

import (
	"sync"

	"google.golang.org/grpc"

	"mp/coordinator/membership"
	"mp/mppb"
)

// publish sends the view in force to whoever does not have it.
func (r *reign) publish() {
	var view *mppb.View
	var outside []uint64
	r.c.fsm.read(func(s *membership.State) {
		for worker, session := range r.sessions {
			switch {
			case s.Worker(worker) == nil:
				if !r.busy { // else its Leave is on its way back from the log, with what to tell it
					outside = append(outside, worker)
				}
			case session.view == s.View.Number || view != nil:
			case r.latest != nil && r.latest.view.Number == s.View.Number:
				view = r.latest.view
			default:
				view = fromView(s, r.c.times)
			}
		}
	})
	for _, worker := range outside {
		r.dismiss(worker, nil)
	}
	if view == nil {
		return
	}
	if r.latest == nil || r.latest.view.Number != view.Number {
		var before *mppb.View
		if r.latest != nil {
			before = r.latest.view
		}
		r.latest = prepare(view, before)
	}
	for _, s := range r.sessions {
		if s.view != view.Number {
			s.view = view.Number
			s.sendView(r.latest)
		}
	}
}

// prepared is a view for many streams, encoded once: as a whole, and as what has changed for those who have the one before.
type prepared struct {
	view         *mppb.View
	whole, since encoded
	before       uint64 // number of the view that since goes out from; 0: none
}

// encoded is a message that is encoded when somebody needs it.
type encoded struct {
	message *mppb.ToWorker
	once    sync.Once
	text    grpc.PreparedMsg
	err     error
}

func prepare(v, before *mppb.View) *prepared {
	p := &prepared{view: v, before: before.GetNumber()}
	p.whole.message = &mppb.ToWorker{Message: &mppb.ToWorker_View{View: v}}
	if p.before != 0 {
		p.since.message = &mppb.ToWorker{Message: &mppb.ToWorker_View{View: v.Since(before)}}
	}
	return p
}

// sendTo sends the view to a stream on which the view had was the last.
func (p *prepared) sendTo(stream mppb.Control_SessionServer, had uint64) error {
	e := &p.whole
	if p.before != 0 && had == p.before {
		e = &p.since
	}
	e.once.Do(func() { e.err = e.text.Encode(stream, e.message) })
	if e.err != nil {
		return e.err
	}
	return stream.SendMsg(&e.text)
}
