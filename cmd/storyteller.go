package cmd

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"sync"
	"time"

	"mp/metrics"
	"mp/mppb"
)

// storyteller takes the cluster's events from the coordinator, which must not wait, and brings them to the runs that they
// are about and to whoever else wants them. To runs they go as metrics do: through NATS where there is one, so that a run's
// files tell everything in one order, once.
type storyteller struct {
	hub   *hub
	story func(*mppb.Event) // may be nil
	token string            // of the cluster
	log   *slog.Logger

	mu    sync.Mutex
	queue []*mppb.Event
	wake  chan struct{} // closed when there is something in queue and run waits

	sinks map[string]metrics.Sink // by job; of run alone
}

// openStories bounds how many jobs' sinks are kept open: one runs, others may be queued.
const openStories = 4

// hear queues an event. It never blocks.
func (t *storyteller) hear(e *mppb.Event) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.queue = append(t.queue, e)
	if t.wake != nil {
		close(t.wake)
		t.wake = nil
	}
}

// take returns what is queued, or else what is closed when something comes.
func (t *storyteller) take() ([]*mppb.Event, <-chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.queue) > 0 {
		events := t.queue
		t.queue = nil
		return events, nil
	}
	if t.wake == nil {
		t.wake = make(chan struct{})
	}
	return nil, t.wake
}

// run tells events until ctx ends and nothing is queued.
func (t *storyteller) run(ctx context.Context) error {
	t.sinks = map[string]metrics.Sink{}
	for {
		events, wait := t.take()
		for _, e := range events {
			if t.story != nil {
				t.story(e)
			}
			if err := t.keep(ctx, e); err != nil {
				return errors.Join(err, t.close())
			}
		}
		if len(events) > 0 {
			continue
		}
		select {
		case <-wait:
		case <-ctx.Done():
			if last, _ := t.take(); len(last) > 0 {
				t.mu.Lock()
				t.queue = append(last, t.queue...)
				t.mu.Unlock()
				continue
			}
			return t.close()
		}
	}
}

// keep brings an event to the run that it is about.
func (t *storyteller) keep(ctx context.Context, e *mppb.Event) error {
	if e.Job == "" {
		return nil
	}
	s, ok := t.sinks[e.Job]
	if !ok {
		if len(t.sinks) >= openStories {
			if err := t.close(); err != nil {
				return err
			}
		}
		var err error
		if s, err = t.sink(e.Job); err != nil || s == nil {
			return err
		}
		t.sinks[e.Job] = s
	}
	out := storyEvent(e)
	if out.View != nil {
		out.View.Members = t.members(ctx, e)
	}
	s.Emit(out)
	return nil
}

func (t *storyteller) sink(job string) (metrics.Sink, error) {
	if t.hub.natsURL == "" {
		return t.hub.runs.sink(job)
	}
	return t.hub.nats.sink(t.hub.natsURL, job, storyWorker, t.log)
}

// close sends what is left and closes the sinks.
func (t *storyteller) close() error {
	var errs []error
	for id, s := range t.sinks {
		if c, ok := s.(io.Closer); ok {
			errs = append(errs, c.Close())
		}
		delete(t.sinks, id)
	}
	return errors.Join(errs...)
}

// members are those of a view, if it is still in force when they are asked for.
func (t *storyteller) members(ctx context.Context, e *mppb.Event) []metrics.ViewMember {
	client, err := t.hub.client(t.token)
	if err != nil {
		return nil
	}
	defer client.Close()
	return viewMembers(ctx, client, e)
}

// viewMembers are those of the view that an event tells of; nil when it is not in force any more.
func viewMembers(ctx context.Context, client *mppb.Client, e *mppb.Event) []metrics.ViewMember {
	d, err := showOnce(ctx, client, e.Job)
	if err != nil || d.GetJob().GetView() != e.View {
		return nil
	}
	all := []metrics.ViewMember{}
	for _, w := range d.Workers {
		if w.View != e.View {
			continue
		}
		m := metrics.ViewMember{Worker: w.Worker, Name: w.Name, Shards: make([]int, len(w.Shards))}
		for i, s := range w.Shards {
			m.Shards[i] = int(s)
		}
		all = append(all, m)
	}
	return all
}

// storyEvent is an event of the cluster as the run's files and the console know it.
func storyEvent(e *mppb.Event) metrics.Event {
	out := metrics.Event{Time: time.Unix(0, e.Time)}
	switch e.Topic {
	case "view":
		out.Kind = metrics.KindView
		out.View = &metrics.View{Number: e.View, Reason: e.Text, Advice: e.Advice, Update: int(e.Update), DetectSeconds: e.DetectSeconds,
			RecoverSeconds: e.RecoverSeconds, Warning: e.Warning}
	case "fault", "slow", "quarantine":
		out.Kind = metrics.KindFault
		out.Fault = &metrics.Fault{Worker: e.Worker, Text: e.Text, Advice: e.Advice, View: e.View, DetectSeconds: e.DetectSeconds}
	default:
		out.Kind = metrics.KindStory
		out.Story = &metrics.Story{Topic: e.Topic, Text: e.Text, Advice: e.Advice, Warning: e.Warning}
	}
	return out
}
