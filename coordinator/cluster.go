package coordinator

import (
	"bytes"
	"context"
	"encoding/json"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"mp/coordinator/membership"
	"mp/mppb"
)

// maxSpecBytes bounds what a job may bring into the replicated state.
const maxSpecBytes = 64 << 10

// Submit appends a job to the queue. Asked again with the same key, or the same directory and specification, it answers with
// the same job: whoever lost the answer may ask again.
func (c *cluster) Submit(ctx context.Context, req *mppb.SubmitRequest) (*mppb.Job, error) {
	r := c.reigns.Load()
	if r == nil {
		return nil, c.notLeader()
	}
	switch {
	case len(req.Spec) > maxSpecBytes:
		return nil, status.Errorf(codes.InvalidArgument, "the specification has %d bytes; %d is the most", len(req.Spec), maxSpecBytes)
	case !json.Valid(req.Spec):
		return nil, status.Error(codes.InvalidArgument, "the specification is not JSON")
	}
	if req.Directory != "" {
		if err := checkElement(req.Directory); err != nil {
			return nil, status.Errorf(codes.InvalidArgument, "the run's directory must be one plain name: %v", err)
		}
		var same *mppb.Job
		c.fsm.read(func(s *membership.State) {
			for _, j := range s.Jobs {
				if j.Directory == req.Directory && !j.State.Ended() && sameJSON(j.Spec, req.Spec) {
					same = fromJob(s, j)
				}
			}
		})
		if same != nil {
			return same, nil
		}
	}
	result, err := r.propose(ctx, membership.Command{Submit: &membership.Submit{
		Spec: req.Spec, Directory: req.Directory, Data: toDataset(req.Data), MinWorkers: req.MinWorkers, Key: req.Key,
	}})
	if err := c.grpcError(result, err); err != nil {
		return nil, err
	}
	return c.Job(result.Job)
}

func sameJSON(a, b []byte) bool {
	var x, y bytes.Buffer
	return json.Compact(&x, a) == nil && json.Compact(&y, b) == nil && bytes.Equal(x.Bytes(), y.Bytes())
}

// Job is what this node knows of a job, a NotFound if nothing. A node that does not lead may be behind, and answers also when
// no other coordinator does.
func (c *Coordinator) Job(id string) (*mppb.Job, error) {
	var job *mppb.Job
	c.fsm.read(func(s *membership.State) {
		if j := s.Job(id); j != nil {
			job = fromJob(s, j)
		}
	})
	if job == nil {
		return nil, status.Errorf(codes.NotFound, "no job %q: `mp jobs` lists them", id)
	}
	return job, nil
}

// elsewhere is the error that sends a client to the leader: another node's state may be old, and would not say so.
func (c *Coordinator) elsewhere() error {
	if c.Leads() {
		return nil
	}
	return c.notLeader()
}

func (c *cluster) Jobs(context.Context, *mppb.JobsRequest) (*mppb.JobsReply, error) {
	if err := c.elsewhere(); err != nil {
		return nil, err
	}
	return &mppb.JobsReply{Jobs: c.Coordinator.Jobs()}, nil
}

// Jobs are those that this node knows, in the order in which they came. A node that does not lead may be behind.
func (c *Coordinator) Jobs() []*mppb.Job {
	var all []*mppb.Job
	c.fsm.read(func(s *membership.State) {
		for _, j := range s.Jobs {
			all = append(all, fromJob(s, j))
		}
	})
	return all
}

// shownEvents is how many of a job's events Show gives.
const shownEvents = 100

func (c *cluster) Show(ctx context.Context, name *mppb.JobName) (*mppb.JobDetail, error) {
	if err := c.elsewhere(); err != nil {
		return nil, err
	}
	if _, err := c.Job(name.Id); err != nil {
		return nil, err
	}
	detail := &mppb.JobDetail{}
	err := c.withSeen(ctx, func(s *membership.State, seen func(uint64) membership.Seen) {
		j := s.Job(name.Id)
		if j == nil {
			return
		}
		detail.Job, detail.Ledger, detail.Checkpoints = fromJob(s, j), fromLedger(j.Ledger()), fromCheckpoints(j)
		if s.View.Job == j.ID {
			for _, m := range s.View.Members {
				if w := s.Worker(m.Worker); w != nil {
					detail.Workers = append(detail.Workers, fromWorker(s, w, seen(w.ID)))
				}
			}
		}
		for i := len(s.Events) - 1; i >= 0 && len(detail.Events) < shownEvents; i-- {
			if s.Events[i].Job == j.ID {
				detail.Events = append(detail.Events, fromEvent(s.Events[i]))
			}
		}
	})
	for i, j := 0, len(detail.Events)-1; i < j; i, j = i+1, j-1 {
		detail.Events[i], detail.Events[j] = detail.Events[j], detail.Events[i]
	}
	return detail, err
}

// Workers are those who are in.
func (c *cluster) Workers(ctx context.Context, _ *mppb.WorkersRequest) (*mppb.WorkersReply, error) {
	if err := c.elsewhere(); err != nil {
		return nil, err
	}
	reply := &mppb.WorkersReply{FailAfterMs: milliseconds(c.times.FailAfter)}
	err := c.withSeen(ctx, func(s *membership.State, seen func(uint64) membership.Seen) {
		for _, w := range s.Workers {
			reply.Workers = append(reply.Workers, fromWorker(s, w, seen(w.ID)))
		}
	})
	return reply, err
}

// withSeen calls look with the state and with what the leader's loop knows of a worker.
func (c *Coordinator) withSeen(ctx context.Context, look func(*membership.State, func(uint64) membership.Seen)) error {
	r := c.reigns.Load()
	if r == nil {
		return c.notLeader()
	}
	err := r.ask(ctx, func() {
		c.fsm.read(func(s *membership.State) {
			look(s, func(worker uint64) membership.Seen { return r.brain.Seen(s, worker) })
		})
	})
	if err != nil {
		return c.grpcError(membership.Result{}, err)
	}
	return nil
}

func (c *cluster) Steer(ctx context.Context, req *mppb.SteerRequest) (*mppb.Job, error) {
	r := c.reigns.Load()
	if r == nil {
		return nil, c.notLeader()
	}
	verbs := map[mppb.SteerRequest_Verb]membership.Verb{
		mppb.SteerRequest_PAUSE: membership.Pause, mppb.SteerRequest_RESUME: membership.Resume,
		mppb.SteerRequest_DRAIN: membership.Drain, mppb.SteerRequest_CANCEL: membership.Cancel,
	}
	verb, ok := verbs[req.Verb]
	if !ok {
		return nil, status.Errorf(codes.InvalidArgument, "nothing is to be done: %s", req.Verb)
	}
	result, err := r.propose(ctx, membership.Command{Steer: &membership.Steer{Job: req.Id, Verb: verb}})
	if err := c.grpcError(result, err); err != nil {
		return nil, err
	}
	return c.Job(req.Id)
}

func (c *cluster) Status(_ context.Context, req *mppb.StatusRequest) (*mppb.ClusterStatus, error) {
	if !req.Own {
		if err := c.elsewhere(); err != nil {
			return nil, err
		}
	}
	id, _ := c.Leader()
	reply := &mppb.ClusterStatus{Leader: id, NatsUrl: c.cfg.NATSURL}
	for _, p := range c.peers() {
		reply.Nodes = append(reply.Nodes, p.Address)
	}
	c.fsm.read(func(s *membership.State) { reply.RaftIndex = s.Index })
	return reply, nil
}

// eventsAtOnce bounds how long the state is locked for a reader.
const eventsAtOnce = 256

// Events is answered by any node, in raft's order; a client that lost its node goes on at another, from the next number on.
func (c *cluster) Events(req *mppb.EventsRequest, stream mppb.Cluster_EventsServer) error {
	next := max(req.From, 1)
	for {
		changed := c.fsm.wait()
		var batch []*mppb.Event
		more := false
		c.fsm.read(func(s *membership.State) {
			if len(s.Events) == 0 {
				return
			}
			next = max(next, s.Events[0].Sequence) // older ones are forgotten
			for i := next - s.Events[0].Sequence; i < uint64(len(s.Events)); i++ {
				if more = len(batch) == eventsAtOnce; more {
					return
				}
				next++
				if e := s.Events[i]; req.Job == "" || req.Job == e.Job {
					batch = append(batch, fromEvent(e))
				}
			}
		})
		for _, e := range batch {
			if err := stream.Send(e); err != nil {
				return err
			}
		}
		switch {
		case more:
			continue
		case !req.Follow:
			return nil
		}
		select {
		case <-changed:
		case <-stream.Context().Done():
			return stream.Context().Err()
		case <-c.stopping:
			return c.notLeader()
		}
	}
}
