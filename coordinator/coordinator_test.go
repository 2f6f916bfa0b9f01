package coordinator

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"mp/mppb"
)

func TestOneNodeRunsAJob(t *testing.T) {
	t.Parallel()
	began := time.Now()
	c := newCluster(t, 1, nil)
	n := c.leader()
	t.Logf("one node leads %s after New", time.Since(began).Round(time.Millisecond))
	job := c.submit(testSpec)
	a, b := c.twoWorkers()
	c.until("progress is recorded", func() bool { return c.show(job.Id).Job.Update > 5 })
	again := c.submit(testSpec)
	if again.Id != job.Id {
		t.Errorf("asked again, Submit made %s beside %s", again.Id, job.Id)
	}
	d := c.show(job.Id)
	if len(d.Workers) != 2 || d.Workers[0].Phase != mppb.Phase_COMPUTING || d.Job.State != mppb.Job_RUNNING {
		t.Errorf("got %v", d)
	}
	// The node stops and starts again: the workers keep who they are, the view stays.
	id, view := a.now()
	c.end(n, ErrCrash)
	c.start(n)
	c.until("the worker is back", func() bool { a.mu.Lock(); defer a.mu.Unlock(); return len(a.identity) == 2 })
	c.until("progress goes on", func() bool { return c.show(job.Id).Job.Update > d.Job.Update+5 })
	if newID, newView := a.now(); (newID != id || newView.Number != view.Number) && !c.starved() {
		t.Errorf("worker %d in view %d was worker %d in view %d", newID, newView.Number, id, view.Number)
	}
	// A worker drains.
	b.change(func(w *testWorker) { w.status.Leaving = true })
	if err := <-b.done; err == nil || b.refusal.GetKind() != mppb.Refusal_DRAINED {
		t.Errorf("drained: got %v, %v", b.refusal, err)
	}
	b.done <- nil
	c.until("the other has all shards", func() bool { return a.in(1) })
	if err := c.ask(func(ctx context.Context, cluster mppb.ClusterClient) error {
		j, err := cluster.Steer(ctx, &mppb.SteerRequest{Id: job.Id, Verb: mppb.SteerRequest_CANCEL})
		if err == nil && j.State != mppb.Job_CANCELLED {
			t.Errorf("state is %s after cancel", j.State)
		}
		return err
	}); err != nil {
		t.Error(err)
	}
	err := c.ask(func(ctx context.Context, cluster mppb.ClusterClient) error {
		_, err := cluster.Steer(ctx, &mppb.SteerRequest{Id: job.Id, Verb: mppb.SteerRequest_RESUME})
		return err
	})
	if status.Code(err) != codes.FailedPrecondition {
		t.Errorf("resume after cancel: %v, want FAILED_PRECONDITION", err)
	}
}

func TestTheLeaderDies(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3, func(cfg *Config) { cfg.FailAfter = time.Second }) // the default
	first := c.leader()
	job := c.submit(testSpec)
	a, b := c.twoWorkers()
	id, view := a.now()

	c.end(first, ErrCrash)
	died := time.Now()
	second := c.leader()
	change := time.Since(died)
	c.until("both are back", func() bool {
		a.mu.Lock()
		defer a.mu.Unlock()
		b.mu.Lock()
		defer b.mu.Unlock()
		return a.welcomed.After(died) && b.welcomed.After(died)
	})
	back := time.Since(died)
	update := c.show(job.Id).Job.Update
	c.until("progress goes on", func() bool { return c.show(job.Id).Job.Update > update })
	t.Logf("leader killed: the next leads after %s, both workers are back after %s", change.Round(time.Millisecond), back.Round(time.Millisecond))
	if change > 2*time.Second && !c.starved() {
		t.Errorf("a new leader after %s, want 2s", change)
	}
	if newID, newView := a.now(); (newID != id || newView.Number != view.Number) && !c.starved() {
		t.Errorf("worker %d in view %d was worker %d in view %d: a change of leader must change nothing", newID, newView.Number, id, view.Number)
	}

	// It comes back as a follower, and follows.
	c.start(first)
	c.until("the old leader has caught up", func() bool {
		_, err := first.Job(job.Id)
		return err == nil && !first.Leads()
	})
	c.until("all are ready", func() bool { return readiness(c.nodes...) == nil })
	// A follower dies: nobody notices.
	var follower *testNode
	for _, n := range c.nodes {
		if n != second && n != first {
			follower = n
		}
	}
	c.end(follower, ErrCrash)
	update = c.show(job.Id).Job.Update
	c.until("progress goes on without a follower", func() bool { return c.show(job.Id).Job.Update > update+3 })
	if newID, newView := a.now(); (newID != id || newView.Number != view.Number) && !c.starved() {
		t.Errorf("a follower's death made worker %d of view %d one %d of %d", id, view.Number, newID, newView.Number)
	}
	// The leader stops in order: it hands over.
	c.start(follower)
	c.until("the follower answers", func() bool { id, _ := follower.Leader(); return id != "" })
	stopped := time.Now()
	c.end(second, nil)
	c.leader(second)
	t.Logf("leader stopped in order: the next leads after %s", time.Since(stopped).Round(time.Millisecond))
	// All stop and start: the job goes on by itself.
	for _, n := range c.nodes {
		c.end(n, ErrCrash)
	}
	for i, n := range c.nodes {
		c.start(n)
		if i == 0 { // and is alone
			if err := n.Ready(); err == nil {
				t.Errorf("coordinator %s is ready without a leader", n.cfg.ID)
			}
		}
	}
	c.leader()
	update = c.show(job.Id).Job.Update
	c.until("progress goes on after all died", func() bool { return c.show(job.Id).Job.Update > update })
	if newID, _ := a.now(); newID != id && !c.starved() {
		t.Errorf("worker %d is %d after all coordinators died", id, newID)
	}
	// The story can be read from any node, from its beginning.
	for _, n := range c.nodes {
		c.until("the story is whole on "+n.cfg.ID, func() bool { return c.story(n) != "" })
		if s := c.story(n); !strings.HasPrefix(s, "1 ") || !strings.Contains(s, "submitted") {
			t.Errorf("coordinator %s tells %q", n.cfg.ID, s)
		}
	}
}

// readiness is why one of the nodes is not ready.
func readiness(nodes ...*testNode) error {
	for _, n := range nodes {
		if err := n.Ready(); err != nil {
			return err
		}
	}
	return nil
}

// story reads the events of one node.
func (c *testCluster) story(n *testNode) string {
	var b strings.Builder
	err := c.clientAt(n.cfg.Listen).Do(c.context(), func(ctx context.Context, conn grpc.ClientConnInterface) error {
		stream, err := mppb.NewClusterClient(conn).Events(ctx, &mppb.EventsRequest{})
		for err == nil {
			var e *mppb.Event
			if e, err = stream.Recv(); err == nil {
				b.WriteString(strings.Join([]string{fmt.Sprint(e.Sequence), e.Topic, e.Text, ""}, " "))
			}
		}
		return err
	})
	if err != nil && err.Error() != "EOF" {
		c.t.Fatal(err)
	}
	return b.String()
}

func TestABrokenSessionIsNoticedAtOnce(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1, nil)
	c.submit(testSpec)
	a, b := c.twoWorkers()
	b.cancel()
	began := time.Now()
	c.until("the other has all shards", func() bool { return a.in(1) })
	took := time.Since(began)
	t.Logf("session broken: the next view is there after %s", took.Round(time.Millisecond))
	if took > 200*time.Millisecond && !c.starved() {
		t.Errorf("the next view came after %s, want 200ms", took)
	}
	if _, v := a.now(); !strings.Contains(v.Reason, "vanished") {
		t.Errorf("the reason is %q", v.Reason)
	}
}

func TestSilenceIsFenced(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1, nil)
	c.submit(testSpec)
	a, b := c.twoWorkers()
	b.change(func(w *testWorker) { w.silent = true })
	began := time.Now()
	c.until("the other has all shards", func() bool { return a.in(1) })
	took := time.Since(began)
	t.Logf("worker silent: the next view is there after %s", took.Round(time.Millisecond))
	if took > failAfter*3/2 && !c.starved() {
		t.Errorf("the next view came after %s, want %s and a little more", took, failAfter)
	}
	<-b.done
	b.done <- nil
	if b.refusal.GetKind() != mppb.Refusal_FENCED || !strings.Contains(b.refusal.Text, "no sign of life") {
		t.Errorf("the silent one was told %v, want FENCED", b.refusal)
	}
	// It comes back as somebody new.
	old, _ := b.now()
	again := c.worker("cpu:1", func(h *mppb.Hello) { h.Previous = old })
	c.until("it is in again", func() bool { return again.in(2) })
	if id, _ := again.now(); id == old {
		t.Errorf("it is worker %d again", id)
	}
}

func TestWhoDoesNotFitIsRefused(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1, func(cfg *Config) { cfg.Version, cfg.Token = "v1", "secret" })
	hello := func(change func(*mppb.Hello)) *mppb.FromWorker {
		h := &mppb.Hello{Protocol: mppb.Protocol, Version: "v1", Host: "h", Machine: "m", Device: "cpu:0", Address: "h:1", Token: "secret", Data: &testData}
		change(h)
		return &mppb.FromWorker{Message: &mppb.FromWorker_Hello{Hello: h}}
	}
	c.leader()
	bare, err := mppb.Connect(mppb.ClientConfig{}, c.nodes[0].cfg.Listen) // without a token in the metadata
	if err != nil {
		t.Fatal(err)
	}
	defer bare.Close()
	for _, k := range []struct {
		name   string
		first  *mppb.FromWorker
		second *mppb.FromWorker
		text   string     // of a Refusal
		code   codes.Code // or of the stream's end
	}{
		{"protocol", hello(func(h *mppb.Hello) { h.Protocol++ }), nil, "protocol", 0},
		{"version", hello(func(h *mppb.Hello) { h.Version = "v2" }), nil, "version v2", 0},
		{"token", hello(func(h *mppb.Hello) { h.Token = "guess" }), nil, "token", 0},
		{"long name", hello(func(h *mppb.Hello) { h.Name = strings.Repeat("x", 5000) }), nil, "5000 bytes", 0},
		{"no hello", &mppb.FromWorker{Message: &mppb.FromWorker_Status{Status: &mppb.Status{}}}, nil, "", codes.InvalidArgument},
		{"empty", &mppb.FromWorker{}, nil, "", codes.InvalidArgument},
		{"too long", hello(func(h *mppb.Hello) { h.Name = strings.Repeat("x", 5<<20) }), nil, "", codes.ResourceExhausted},
		{"two hellos", hello(func(h *mppb.Hello) {}), hello(func(h *mppb.Hello) {}), "", codes.InvalidArgument},
	} {
		stream, err := mppb.NewControlClient(bare).Session(c.context(), grpc.MaxCallSendMsgSize(64<<20))
		if err != nil {
			t.Fatal(err)
		}
		if err := stream.Send(k.first); err != nil {
			t.Fatal(err)
		}
		if k.second != nil {
			stream.Send(k.second)
		}
		var text string
		for err == nil {
			var m *mppb.ToWorker
			if m, err = stream.Recv(); err == nil && m.GetRefusal() != nil {
				text = m.GetRefusal().Text
			}
		}
		switch {
		case k.text != "" && (!strings.Contains(text, k.text) || !errors.Is(err, io.EOF)):
			t.Errorf("%s: got refusal %q, end %v; want %q and EOF", k.name, text, err, k.text)
		case k.text == "" && status.Code(err) != k.code:
			t.Errorf("%s: got %v, want %s", k.name, err, k.code)
		}
	}
	// Other calls too.
	if _, err := mppb.NewClusterClient(bare).Jobs(c.context(), &mppb.JobsRequest{}); status.Code(err) != codes.Unauthenticated {
		t.Errorf("Jobs without a token: %v", err)
	}
	for name, req := range map[string]*mppb.SubmitRequest{
		"no JSON": {Spec: []byte("shards: 4")}, "no shards": {Spec: []byte(`{"shards": 0}`)},
		"long": {Spec: []byte(`{"name": "` + strings.Repeat("x", maxSpecBytes) + `"}`)}, "path": {Spec: []byte(testSpec), Directory: "../x"},
	} {
		if err := c.ask(func(ctx context.Context, cluster mppb.ClusterClient) error {
			_, err := cluster.Submit(ctx, req)
			return err
		}); status.Code(err) != codes.InvalidArgument {
			t.Errorf("Submit %s: %v, want INVALID_ARGUMENT", name, err)
		}
	}
}

// A request whose answer was lost may reach the next leader as well.
func TestARequestMakesOneJob(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3, nil)
	ask := func(key string) (job *mppb.Job) {
		if err := c.ask(func(ctx context.Context, cluster mppb.ClusterClient) (err error) {
			job, err = cluster.Submit(ctx, &mppb.SubmitRequest{Spec: []byte(testSpec), Key: key})
			return err
		}); err != nil {
			t.Fatal(err)
		}
		return job
	}
	n := c.leader()
	first := ask("a")
	c.end(n, ErrCrash)
	if again := ask("a"); again.Id != first.Id {
		t.Errorf("asked again, the next leader made %s beside %s", again.Id, first.Id)
	}
	if other := ask("b"); other.Id == first.Id {
		t.Errorf("another request is answered with the same job")
	}
}
