package membership

import (
	"fmt"
	"math"
	"slices"
	"strings"
)

// Bounds of what State keeps, so that its memory has one.
const (
	maxEvents      = 10_000
	maxWorkers     = 10_000
	maxOpenJobs    = 1_000 // that have not ended
	maxEndedJobs   = 100
	maxFiles       = 2_000 // of a job
	maxNodes       = 16    // that a file is listed on
	maxQuarantines = 1_000
	maxText        = 1_000 // bytes of an event's text
	maxWord        = 256   // bytes of a name, address, hash
	maxSpec        = 64 << 10
)

// Apply executes one entry of the log. It is deterministic and total: a command that cannot be executed is a Result.Err and
// changes nothing but Index. Entries at or below Index are ignored. It keeps what c points to, which must not change any more.
func (s *State) Apply(index uint64, c Command) Result {
	if index <= s.Index {
		return fail("entry %d comes after %d: %w", index, s.Index, ErrStale)
	}
	s.Index = index
	if n := c.count(); n != 1 {
		return fail("entry %d says %d things instead of one: %w", index, n, ErrCommand)
	}
	a := &apply{State: s, time: c.Time}
	switch {
	case c.Progress != nil:
		return a.progress(c.Progress)
	case c.Join != nil:
		return a.join(c.Join)
	case c.Leave != nil:
		return a.leave(c.Leave)
	case c.SetView != nil:
		return a.setView(c.SetView)
	case c.Submit != nil:
		return a.submit(c.Submit)
	case c.Steer != nil:
		return a.steer(c.Steer)
	case c.Start != nil:
		return a.start(c.Start)
	case c.End != nil:
		return a.end(c.End)
	case c.RollBack != nil:
		return a.rollBack(c.RollBack)
	case c.File != nil:
		return a.file(c.File)
	case c.Checkpoint != nil:
		return a.checkpoint(c.Checkpoint)
	case c.Quarantine != nil:
		return a.quarantine(c.Quarantine)
	case c.Release != nil:
		return a.release(c.Release)
	default:
		return a.note(c.Note)
	}
}

func (c *Command) count() int {
	n := 0
	for _, set := range []bool{c.Join != nil, c.Leave != nil, c.SetView != nil, c.Progress != nil, c.Submit != nil, c.Steer != nil, c.Start != nil,
		c.End != nil, c.RollBack != nil, c.File != nil, c.Checkpoint != nil, c.Quarantine != nil, c.Release != nil, c.Note != nil} {
		if set {
			n++
		}
	}
	return n
}

// apply is one entry being executed.
type apply struct {
	*State
	time   int64
	events []Event
}

func fail(format string, args ...any) Result { return Result{Err: fmt.Errorf(format, args...)} }

// tell appends to the story.
func (a *apply) tell(e Event) {
	a.Sequence++
	e.Sequence, e.Time = a.Sequence, a.time
	e.Text, e.Advice = clip(e.Text, maxText), clip(e.Advice, maxText)
	if len(a.Events) >= maxEvents {
		a.Events = a.Events[len(a.Events)-maxEvents+1:]
	}
	a.Events = append(a.Events, e)
	a.events = append(a.events, e)
}

// clip cuts a text to at most n bytes of valid UTF-8.
func clip(s string, n int) string {
	if len(s) > n {
		s = s[:n]
	}
	return strings.ToValidUTF8(s, "")
}

// finite is x, or 0 where JSON could not say it.
func finite(x float64) float64 {
	if math.IsNaN(x) || math.IsInf(x, 0) {
		return 0
	}
	return x
}

func (a *apply) join(j *Join) Result {
	if len(a.Workers) >= maxWorkers {
		return fail("%d workers are in: %w", len(a.Workers), ErrState)
	}
	h := j.Hello
	for _, word := range []*string{&h.Version, &h.Host, &h.Machine, &h.Device, &h.Address, &h.UnixSocket, &h.Name,
		&h.Data.TrainSHA256, &h.Data.ValSHA256, &h.Data.Directory} {
		*word = clip(*word, maxWord)
	}
	if r := a.unfit(h); r != nil {
		return Result{Refusal: r, Err: fmt.Errorf("%s: %w", r.Text, ErrRefused)}
	}
	if w := a.claimant(h); w != nil {
		r := taken(w)
		return Result{Refusal: r, Err: fmt.Errorf("%s: %w", r.Text, ErrRefused)}
	}
	w := &Worker{ID: a.Index, Hello: h, Joined: a.time}
	a.Workers = append(a.Workers, w)
	a.roster++
	text := w.name() + " joined"
	if h.Previous != 0 {
		text += fmt.Sprintf(" again (it was number %d)", h.Previous)
	}
	a.tell(Event{Topic: TopicJoin, Worker: w.ID, Text: text})
	return Result{Worker: w.ID, Events: a.events}
}

// unfit says why a worker cannot be in, or nil.
func (s *State) unfit(h Hello) *Refusal {
	no := func(advice, format string, args ...any) *Refusal {
		return &Refusal{Kind: Configuration, Text: clip(fmt.Sprintf(format, args...), maxText), Advice: advice}
	}
	if h.Machine == "" || h.Device == "" || h.Address == "" {
		return no("this is a fault of the program that says so", "a worker on host %s names no machine, device or address (%q, %q, %q)", h.Host, h.Machine, h.Device, h.Address)
	}
	version, data, whose := "", Dataset{}, ""
	if j := s.Running(); j != nil {
		version, data, whose = j.Version, j.Data, j.ID
	}
	if len(s.Workers) > 0 {
		w := s.Workers[0]
		if h.Protocol != w.Hello.Protocol {
			return no("start the same version of mp everywhere", "%s on host %s speaks protocol %d, %s speaks %d", h.Device, h.Host, h.Protocol, w.short(), w.Hello.Protocol)
		}
		if version == "" {
			version = w.Hello.Version
		}
		if data == (Dataset{}) {
			data, whose = w.Hello.Data, w.short()
		}
	}
	if version != "" && h.Version != version {
		return no("start the same version of mp everywhere; to change it, drain the job and start all workers again",
			"%s on host %s runs version %s, the others %s", h.Device, h.Host, h.Version, version)
	}
	if what := data.differs(h.Data); what != "" {
		return no("give every worker the same data set: compare mp data show on both machines", "the images of %s on host %s (%s) are not those of %s: %s", h.Device, h.Host, h.Data.Directory, whose, what)
	}
	return nil
}

// differs says how other is not the same images, or "". What one of them does not say is not compared.
func (d Dataset) differs(other Dataset) string {
	number := func(what string, a, b uint32) string {
		if a != 0 && b != 0 && a != b {
			return fmt.Sprintf("%d %s instead of %d", b, what, a)
		}
		return ""
	}
	hash := func(what, a, b string) string {
		if a != "" && b != "" && a != b {
			return fmt.Sprintf("%s have SHA-256 %.12s instead of %.12s", what, b, a)
		}
		return ""
	}
	for _, s := range []string{
		number("classes", d.Classes, other.Classes),
		number("training images", d.TrainImages, other.TrainImages),
		number("validation images", d.ValImages, other.ValImages),
		hash("training images", d.TrainSHA256, other.TrainSHA256),
		hash("validation images", d.ValSHA256, other.ValSHA256),
	} {
		if s != "" {
			return s
		}
	}
	return ""
}

// claimant returns who has the device already, or nil.
func (s *State) claimant(h Hello) *Worker {
	for _, w := range s.Workers {
		if w.Hello.Device == h.Device && w.Hello.Machine == h.Machine {
			return w
		}
	}
	return nil
}

// taken refuses a second worker of one device.
func taken(w *Worker) *Refusal {
	return &Refusal{Kind: Configuration, Text: fmt.Sprintf("%s of host %s is taken by %s (process %d)", w.Hello.Device, w.Hello.Host, w.short(), w.Hello.PID),
		Advice: "choose another device, or stop the worker that has it"}
}

// verbs is how people hear of the causes.
func (c Cause) verb() string {
	switch c {
	case Vanished:
		return "vanished"
	case Failed:
		return "failed"
	case Silent:
		return "fell silent"
	case Stuck:
		return "is stuck"
	case Accused:
		return "broke the ring again and again"
	case Absent:
		return "did not come back"
	case Drained:
		return "was drained"
	case Finished:
		return "finished"
	}
	return ""
}

// advice is what a person can do about a cause.
func (c Cause) advice(w *Worker) string {
	switch c {
	case Vanished:
		return "see the end of its output and the kernel's log on host " + w.Hello.Host + " (out of memory? killed?)"
	case Failed:
		return "its output on host " + w.Hello.Host + " ends with the same; start it again once that is mended"
	case Silent:
		return "look whether host " + w.Hello.Host + " is up, overloaded or cut off; the process may have been stopped"
	case Stuck:
		return "get the stacks of process " + fmt.Sprint(w.Hello.PID) + " on host " + w.Hello.Host + " (kill -QUIT), then start it again"
	case Accused:
		return "check the network and the memory of host " + w.Hello.Host
	case Absent:
		return "look whether host " + w.Hello.Host + " reaches the coordinators"
	}
	return ""
}

func (a *apply) leave(l *Leave) Result {
	i, ok := a.find(l.Worker)
	if !ok {
		return fail("remove worker %d: %w", l.Worker, ErrUnknown)
	}
	if l.Cause.verb() == "" {
		return fail("remove worker %d for cause %q: %w", l.Worker, l.Cause, ErrCommand)
	}
	w := a.Workers[i]
	m := a.View.member(w.ID)
	e := Event{Topic: TopicLeave, Worker: w.ID, Text: w.name() + " " + l.Cause.verb(), View: a.View.Number, DetectSeconds: finite(l.DetectSeconds), Warning: l.Cause.Fault()}
	if j := a.Running(); j != nil && m != nil {
		e.Job, e.Update = j.ID, j.Update
		if l.Cause != Failed { // whose last words say where
			e.Text += " " + j.at()
		}
	}
	if l.Text != "" {
		e.Text += ": " + l.Text
	}
	e.Text = clip(e.Text, maxText/2)
	if l.Cause.Fault() {
		e.Advice = l.Cause.advice(w)
	}
	if m != nil {
		switch {
		case a.First == nil && l.Cause.Fault():
			a.First = &Cut{Worker: w.ID, Text: e.Text, Advice: e.Advice, DetectSeconds: e.DetectSeconds, Count: 1}
		case a.First != nil:
			a.First.Count++
			if len(a.First.More) < 3 {
				a.First.More = append(a.First.More, w.short()+" "+l.Cause.verb())
			}
		}
	}
	a.Workers = slices.Delete(a.Workers, i, i+1)
	a.roster++
	a.tell(e)
	return Result{Worker: w.ID, Refusal: l.refusal(e), Events: a.events}
}

// refusal is what the worker is told, if it can still hear.
func (l *Leave) refusal(e Event) *Refusal {
	switch l.Cause {
	case Drained:
		return &Refusal{Kind: RefuseDrained, Text: "its shards are with others"}
	case Finished:
		return &Refusal{Kind: RefuseFinished, Text: "nothing is left to do"}
	}
	return &Refusal{Kind: Fenced, Text: e.Text, Advice: "say Hello again for a new identity"}
}

func (a *apply) note(n *Note) Result {
	if n.Topic == "" || n.Text == "" {
		return fail("note without topic or text: %w", ErrCommand)
	}
	e := Event{Topic: clip(n.Topic, maxWord), Text: n.Text, Advice: n.Advice, Warning: n.Warning, Worker: n.Worker, View: a.View.Number}
	if n.Job != "" {
		j := a.Job(n.Job)
		if j == nil {
			return fail("note about job %q: %w", clip(n.Job, maxWord), ErrUnknown)
		}
		if n.Waits {
			if j.State != JobQueued {
				return fail("note why %s does not start although it is %s: %w", j.ID, j.State, ErrState)
			}
			j.Reason = clip(n.Text, maxText)
		}
		e.Job, e.Update = j.ID, j.Update
	}
	a.tell(e)
	return Result{Events: a.events}
}
