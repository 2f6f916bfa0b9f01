package cmd

import (
	"cmp"
	"context"
	"errors"
	"io"
	"maps"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"mp/metrics"
	"mp/metrics/nats"
	"mp/mppb"
)

// storyWorker is under what name the cluster's own events stand in NATS.
const storyWorker = "coordinator"

// past is what the coordinators remember of the job's story, and the number of the first event after it.
func (w *watcher) past(ctx context.Context) (told []metrics.Event, next uint64, err error) {
	err = askLeader(ctx, w.client, func(ctx context.Context, c mppb.ClusterClient) error {
		ctx, cancel := context.WithTimeout(ctx, historyWithin)
		defer cancel()
		told, next = nil, 0
		stream, err := c.Events(ctx, &mppb.EventsRequest{From: 1})
		if err != nil {
			return err
		}
		for {
			e, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return err
			}
			next = e.Sequence + 1
			if w.concerns(e) {
				told = append(told, storyEvent(e))
			}
		}
	})
	return told, next, err
}

// concerns says whether an event is news to whoever looks on at the job.
func (w *watcher) concerns(e *mppb.Event) bool {
	if e.Job == "" {
		return e.Topic == "leader"
	}
	return e.Job == w.id && e.Topic != "leave" // the view that follows from it says it again
}

// listen takes the job's story from any coordinator, until ctx ends or none can tell it.
func (w *watcher) listen(ctx context.Context, next uint64) error {
	at := w.at
	at.Logger = w.log // of all who ask the coordinators, one says when nobody answers
	client, err := mppb.NewClient(at)
	if err != nil {
		return err
	}
	defer client.Close()
	err = client.Do(ctx, func(ctx context.Context, conn grpc.ClientConnInterface) error {
		stream, err := mppb.NewClusterClient(conn).Events(ctx, &mppb.EventsRequest{From: next, Follow: true})
		if err != nil {
			return err
		}
		for {
			e, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				return status.Error(codes.Unavailable, "the story ended")
			}
			if err != nil {
				return err
			}
			next = e.Sequence + 1
			if !w.concerns(e) {
				continue
			}
			event := storyEvent(e)
			if event.View != nil && e.RecoverSeconds == 0 {
				event.View.Members = viewMembers(ctx, w.client, e)
			}
			if !w.send(ctx, heard{Event: event}) {
				return ctx.Err()
			}
			if e.Topic == "job" {
				select {
				case w.news <- struct{}{}:
				default: // it is about to look
				}
			}
		}
	})
	if ctx.Err() != nil {
		return nil
	}
	return clusterError(err)
}

// send hands an event to whoever shows it, and says whether there still is somebody.
func (w *watcher) send(ctx context.Context, e heard) bool {
	select {
	case w.events <- e:
		return true
	case <-ctx.Done():
		return false
	}
}

// searchEvery is the time between two searches for NATS servers: coordinators come and go, and each may have one.
const searchEvery = 3 * time.Second

// follow reads along at every NATS server that a coordinator names, until ctx ends. It tells how many it found at first.
func (w *watcher) follow(ctx context.Context, found chan<- int) {
	var all sync.WaitGroup
	defer all.Wait()
	following := map[string]bool{}
	tick := time.NewTicker(searchEvery)
	defer tick.Stop()
	for first := true; ; first = false {
		begun := 0
		for _, url := range w.servers(ctx) {
			if following[url] {
				continue
			}
			following[url] = true
			f, err := w.follower(url)
			if err != nil {
				w.log.Warn("steps cannot be shown", "error", err)
				continue
			}
			begun++
			all.Go(func() {
				old := true
				err := f.Run(ctx, func(e metrics.Event) { w.send(ctx, heard{e, old}) }, func() {
					old = false
					select {
					case w.caught <- struct{}{}:
					default: // it came late: nobody waits for it
					}
				})
				if err != nil {
					w.log.Warn("steps cannot be shown", "error", err)
				}
			})
		}
		if first {
			found <- begun
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func (w *watcher) follower(url string) (*nats.Follower, error) {
	kinds := []metrics.Kind{metrics.KindStart, metrics.KindStep, metrics.KindEpoch, metrics.KindValidation, metrics.KindStory, metrics.KindView}
	if w.env.verbose || w.env.json {
		kinds = append(kinds, metrics.KindWorker, metrics.KindGoodput)
	}
	c := nats.FollowConfig{Credentials: nats.Credentials{File: w.nats.file}, Job: w.id, Kinds: kinds, Logger: w.log}
	var err error
	if c.URL, c.TLS, err = w.nats.server(url); err != nil {
		return nil, err
	}
	return nats.NewFollower(c)
}

// servers are the NATS servers of all coordinators that answer.
func (w *watcher) servers(ctx context.Context) []string {
	urls := map[string]bool{}
	ctx, cancel := context.WithTimeout(ctx, searchEvery)
	defer cancel()
	var lead *mppb.ClusterStatus
	err := askLeader(ctx, w.client, func(ctx context.Context, c mppb.ClusterClient) error {
		var err error
		lead, err = c.Status(ctx, &mppb.StatusRequest{})
		return err
	})
	if err != nil {
		return nil // there is another time
	}
	if lead.NatsUrl != "" {
		urls[lead.NatsUrl] = true
	}
	if len(lead.Nodes) < 2 {
		return slices.Sorted(maps.Keys(urls))
	}
	for _, node := range lead.Nodes {
		if url := w.natsOf(ctx, node); url != "" {
			urls[url] = true
		}
	}
	return slices.Sorted(maps.Keys(urls))
}

// natsOf is the NATS server that one coordinator names; empty where none answers or has one.
func (w *watcher) natsOf(ctx context.Context, node string) string {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	client, err := mppb.NewClient(mppb.ClientConfig{Addresses: []string{node}, Token: w.at.Token, Dial: w.at.Dial})
	if err != nil {
		return ""
	}
	defer client.Close()
	url := ""
	_ = askLeader(ctx, client, func(ctx context.Context, c mppb.ClusterClient) error {
		s, err := c.Status(ctx, &mppb.StatusRequest{Own: true})
		url = s.GetNatsUrl()
		return err
	})
	return url
}

// recall shows shortly what has happened: where the run began, and the newest of its steps, validations and stories.
func (w *watcher) recall(past []metrics.Event) {
	var shown []metrics.Event
	for _, e := range past { // as they came: a stream is read in its own order, which is not quite that of its events' times
		if w.note(e) {
			shown = append(shown, e)
		}
	}
	slices.SortStableFunc(shown, func(a, b metrics.Event) int { return a.Time.Compare(b.Time) })
	left := map[string]int{}
	keep := make([]bool, len(shown))
	for i, e := range slices.Backward(shown) {
		class := historyClass(e)
		if room := cmp.Or(map[string]int{"start": 1}[class], w.o.history); class != "" && w.o.history > 0 && left[class] < room {
			keep[i] = true
			left[class]++
		}
	}
	for i, e := range shown {
		if !keep[i] {
			continue
		}
		if e.View != nil && e.View.Members == nil && e.View.RecoverSeconds == 0 {
			view := *e.View
			view.Members, e.View = w.crews[view.Number], &view
		}
		w.out.Emit(e)
	}
}

// historyClass groups kinds of events of which only the newest are shown; empty: none is.
func historyClass(e metrics.Event) string {
	switch {
	case e.Start != nil:
		return "start"
	case e.Step != nil:
		return "step"
	case e.Validation != nil:
		return "validation"
	case e.Story != nil, e.View != nil, e.Fault != nil, e.Leader != nil:
		return "story"
	}
	return ""
}
