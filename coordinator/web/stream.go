package web

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"time"
)

// Bounds of a stream.
const (
	maxStreams   = 256              // at once
	maxBatch     = 256 << 10        // bytes of lines that are read before they are written
	aliveEvery   = 10 * time.Second // a sign of life where there is nothing to tell
	stateEvery   = 300 * time.Millisecond
	retryAfterMS = 1000
)

// outlet writes server-sent events to one browser. It keeps at most one batch: what the browser has not taken stays in the
// run's files.
type outlet struct {
	w       http.ResponseWriter
	control *http.ResponseController
	within  time.Duration // takeWithin
	text    bytes.Buffer
	spoke   time.Time
}

// openOutlet begins a stream.
func (s *Server) openOutlet(w http.ResponseWriter) (*outlet, func(), error) {
	if n := s.live.streams.Add(1); n > maxStreams {
		s.live.streams.Add(-1)
		w.Header().Set("Retry-After", "10")
		return nil, nil, fmt.Errorf("%d pages are looking at this server already", maxStreams)
	}
	h := w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Accel-Buffering", "no")
	o := &outlet{w: w, control: http.NewResponseController(w), within: s.takeWithin}
	fmt.Fprintf(&o.text, "retry: %d\n\n", retryAfterMS)
	return o, func() { s.live.streams.Add(-1) }, nil
}

// event adds an event; id may be empty. data is one line.
func (o *outlet) event(id, name string, data []byte) {
	if id != "" {
		fmt.Fprintf(&o.text, "id: %s\n", id)
	}
	fmt.Fprintf(&o.text, "event: %s\ndata: %s\n\n", name, data)
}

// flush brings what was added to the browser.
func (o *outlet) flush() error {
	if o.text.Len() == 0 {
		if time.Since(o.spoke) < aliveEvery {
			return nil
		}
		o.text.WriteString(": still here\n\n")
	}
	if err := o.control.SetWriteDeadline(time.Now().Add(o.within)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return err
	}
	_, err := o.w.Write(o.text.Bytes())
	o.text.Reset()
	o.spoke = time.Now()
	return errors.Join(err, o.control.Flush())
}

// changing sends a value whenever it is another than before.
type changing struct {
	last []byte
	at   time.Time
}

func (c *changing) tell(o *outlet, name string, value any) error {
	text, err := json.Marshal(value)
	if err != nil {
		return fmt.Errorf("write %s as JSON: %w", name, err)
	}
	c.at = time.Now()
	if !bytes.Equal(text, c.last) {
		c.last = text
		o.event("", name, text)
	}
	return nil
}

// serveRunStream sends a run's lines from the cursor on, and what else the package's comment names.
func (s *Server) serveRunStream(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("name")
	word := r.Header.Get("Last-Event-ID")
	if word == "" {
		word = r.URL.Query().Get("from")
	}
	at, err := parseCursor(word)
	if err != nil {
		fail(w, http.StatusBadRequest, "%v", err)
		return
	}
	dir, err := s.shelf.open(name)
	if err != nil {
		refuse(w, err)
		return
	}
	defer dir.Close()
	o, done, err := s.openOutlet(w)
	if err != nil {
		fail(w, http.StatusServiceUnavailable, "%v", err)
		return
	}
	defer done()
	watcher, leave := s.live.watch(name)
	defer leave()
	f := follower{server: s, name: name, dir: dir, at: at, out: o}
	f.run(r.Context(), watcher)
}

// follower is one browser that follows a run.
type follower struct {
	server          *Server
	name            string
	dir             *os.Root
	at              cursor
	out             *outlet
	state, progress changing
}

// run sends until the browser or this server goes.
func (f *follower) run(ctx context.Context, w *watcher) {
	tick := time.NewTicker(f.server.cfg.LookEvery)
	defer tick.Stop()
	settled := time.NewTimer(0) // fires when a state that was held back may be sent
	defer settled.Stop()
	for last := false; ; {
		more, err := f.once(ctx, last)
		if err != nil || last && !more {
			return // its browser comes again with the cursor
		}
		if more {
			continue
		}
		select {
		case <-w.woken:
			if wait := stateEvery - time.Since(f.state.at); wait > 0 {
				settled.Reset(wait)
			}
		case <-tick.C:
		case <-settled.C:
		case <-ctx.Done():
			return
		case <-f.server.closing:
			last = true
		}
	}
}

// once sends what is there. more says that not all lines fitted.
func (f *follower) once(ctx context.Context, last bool) (more bool, err error) {
	p, moved, err := openPair(f.dir, f.at)
	if err != nil {
		return false, f.failed(err)
	}
	if moved {
		f.out.event("0.0", "reset", []byte("{}"))
		f.at = cursor{}
		return false, errors.Join(f.out.flush(), errors.New("other files"))
	}
	defer p.close()
	for _, t := range []*tail{p.events, p.metrics} {
		for f.out.text.Len() < maxBatch {
			line, err := t.next()
			if err != nil {
				return false, f.failed(err)
			}
			if line == nil {
				break
			}
			if f.at = p.cursor(); json.Valid(line) {
				f.out.event(f.at.String(), "line", line)
			}
		}
	}
	if more = f.out.text.Len() >= maxBatch; more {
		return true, f.out.flush()
	}
	if time.Since(f.state.at) >= stateEvery || last {
		b, err := f.server.shelf.book(f.name, f.dir)
		if err != nil {
			return false, f.failed(err)
		}
		if err := f.state.tell(f.out, "state", b.states(f.server.ask(ctx, f.name), time.Now())); err != nil {
			return false, err
		}
	}
	if done, ok := f.server.live.at(f.name); ok {
		if err := f.progress.tell(f.out, "progress", done); err != nil {
			return false, err
		}
	}
	if last {
		f.out.event("", "end", []byte("{}"))
	}
	return false, f.out.flush()
}

// failed tells the browser why there is nothing more.
func (f *follower) failed(err error) error {
	text, marshal := json.Marshal(map[string]string{"error": err.Error()})
	if marshal != nil {
		return errors.Join(err, marshal)
	}
	f.out.event("", "trouble", text)
	return errors.Join(err, f.out.flush())
}

// serveStream sends the list of runs whenever it changes.
func (s *Server) serveStream(w http.ResponseWriter, r *http.Request) {
	o, done, err := s.openOutlet(w)
	if err != nil {
		fail(w, http.StatusServiceUnavailable, "%v", err)
		return
	}
	defer done()
	tick := time.NewTicker(s.cfg.LookEvery)
	defer tick.Stop()
	var runs changing
	for last := false; ; {
		l, err := s.listing(r.Context())
		if err == nil {
			err = runs.tell(o, "runs", l)
		}
		if last {
			o.event("", "end", []byte("{}"))
		}
		if errors.Join(err, o.flush()) != nil || last {
			return
		}
		select {
		case <-tick.C:
		case <-r.Context().Done():
			return
		case <-s.closing:
			last = true
		}
	}
}
