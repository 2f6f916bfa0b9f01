package cmd

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"google.golang.org/grpc"

	"mp/job"
	"mp/mppb"
)

// fleetConfig is a cluster of real processes on this machine, to be hurt.
type fleetConfig struct {
	program      string // this one
	dir          string // for everything the cluster writes
	data         string // folder of packs
	coordinators int
	minWorkers   int
	failAfter    time.Duration
	nats         string // as --nats
}

// fleet is a running cluster of processes. Its methods are for one goroutine; what it watches is gathered by others.
type fleet struct {
	fleetConfig
	nodes   []*node
	workers map[string]*process
	client  *mppb.Client
	cancel  context.CancelFunc
	wait    sync.WaitGroup

	mu     sync.Mutex
	job    *mppb.Job // as last seen
	detail *mppb.JobDetail
	events []*mppb.Event
	steps  []commit // one entry whenever more updates were seen to be committed
}

// node is one coordinator; it keeps its address and its folder through every life.
type node struct {
	id, address string
	*process
}

// commit is the moment at which an update was seen to be committed.
type commit struct {
	at      time.Time
	update  uint64
	workers uint32
}

// newFleet starts the coordinators and waits for a leader.
func newFleet(ctx context.Context, c fleetConfig) (*fleet, error) {
	f := &fleet{fleetConfig: c, workers: map[string]*process{}}
	var all []string
	for i := range c.coordinators {
		address, err := freeAddress()
		if err != nil {
			return nil, err
		}
		f.nodes = append(f.nodes, &node{id: "coordinator-" + strconv.Itoa(i+1), address: address})
		all = append(all, address)
	}
	for _, n := range f.nodes {
		if err := f.startNode(n); err != nil {
			f.close()
			return nil, err
		}
	}
	var err error
	if f.client, err = mppb.NewClient(mppb.ClientConfig{Addresses: all, FailAfter: c.failAfter}); err != nil {
		f.close()
		return nil, err
	}
	if _, err := f.leader(ctx); err != nil {
		f.close()
		return nil, err
	}
	return f, nil
}

// freeAddress is a free port of this machine's own interface.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("find a free port: %w", err)
	}
	defer l.Close()
	return l.Addr().String(), nil
}

// startNode starts a coordinator, for the first time or again.
func (f *fleet) startNode(n *node) error {
	folder := filepath.Join(f.dir, n.id)
	args := []string{"coordinator", "--id", n.id, "--listen", n.address, "--data-dir", filepath.Join(folder, "data"), "--runs", filepath.Join(folder, "runs"),
		"--nats", f.nats, "--http", httpNone, "--min-workers", strconv.Itoa(max(f.minWorkers, 1)), "--fail-after", f.failAfter.String()}
	if len(f.nodes) > 1 {
		var peers []string
		for _, p := range f.nodes {
			peers = append(peers, p.id+"="+p.address)
		}
		args = append(args, "--peers", strings.Join(peers, ","))
	}
	p, err := startProcess(processConfig{name: n.id, program: f.program, args: args, log: filepath.Join(f.dir, n.id+".log")})
	if err != nil {
		return err
	}
	n.process = p
	return nil
}

// addresses lists the coordinators for a flag.
func (f *fleet) addresses() string {
	var all []string
	for _, n := range f.nodes {
		all = append(all, n.address)
	}
	return strings.Join(all, ",")
}

// startWorker starts the worker with a number from 1 on, again if it has ended.
func (f *fleet) startWorker(number int, more ...string) (*process, error) {
	name := "worker " + strconv.Itoa(number)
	if p := f.workers[name]; p != nil {
		select {
		case <-p.done:
		default:
			return nil, fmt.Errorf("%s is running", name)
		}
	}
	args := append([]string{"worker", "--cpu", "--slot", strconv.Itoa(number), "--threads", "1", "--coordinator", f.addresses(), "--data", f.data, "--name", name,
		"--listen", "127.0.0.1:0", "--scratch", filepath.Join(f.dir, "scratch-"+strconv.Itoa(number))}, more...)
	p, err := startProcess(processConfig{name: name, program: f.program, args: args, log: filepath.Join(f.dir, "worker-"+strconv.Itoa(number)+".log")})
	if err != nil {
		return nil, err
	}
	f.workers[name] = p
	return p, nil
}

// running lists the workers whose processes live.
func (f *fleet) running() []*process {
	var all []*process
	for i := 1; i <= 64; i++ {
		p := f.workers["worker "+strconv.Itoa(i)]
		if p == nil {
			continue
		}
		select {
		case <-p.done:
		default:
			all = append(all, p)
		}
	}
	return all
}

// leader returns the coordinator that leads.
func (f *fleet) leader(ctx context.Context) (*node, error) {
	var s *mppb.ClusterStatus
	err := askLeader(ctx, f.client, func(ctx context.Context, c mppb.ClusterClient) error {
		var err error
		s, err = c.Status(ctx, &mppb.StatusRequest{})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("ask who leads: %w", err)
	}
	for _, n := range f.nodes {
		if n.id == s.Leader {
			return n, nil
		}
	}
	return nil, fmt.Errorf("nobody leads: the coordinator says %q", s.Leader)
}

// submit hands in a job and begins to watch it; it may be called again once that job is at its end.
func (f *fleet) submit(ctx context.Context, s job.Spec) error {
	if f.cancel != nil {
		f.cancel()
		f.wait.Wait()
	}
	text, err := json.Marshal(s)
	if err != nil {
		return fmt.Errorf("write job as JSON: %w", err)
	}
	request := &mppb.SubmitRequest{Spec: text, Key: rand.Text()}
	err = askLeader(ctx, f.client, func(ctx context.Context, c mppb.ClusterClient) error {
		var err error
		f.job, err = c.Submit(ctx, request)
		return err
	})
	if err != nil {
		return fmt.Errorf("submit: %w", err)
	}
	id := f.job.Id
	f.events, f.steps, f.detail = nil, nil, nil
	watch, cancel := context.WithCancel(context.WithoutCancel(ctx))
	f.cancel = cancel
	f.wait.Go(func() { f.watchJob(watch, id) })
	f.wait.Go(func() { f.watchEvents(watch) })
	return nil
}

// glance is the time between two looks at the job; what drills measure is this exact.
const glance = 20 * time.Millisecond

func (f *fleet) watchJob(ctx context.Context, id string) {
	tick := time.NewTicker(glance)
	defer tick.Stop()
	for ctx.Err() == nil {
		err := askLeader(ctx, f.client, func(ctx context.Context, c mppb.ClusterClient) error {
			d, err := c.Show(ctx, &mppb.JobName{Id: id})
			if err == nil {
				f.saw(d)
			}
			return err
		})
		if err != nil && ctx.Err() == nil {
			return // the cluster forgot the job: whoever waits for it will say so
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}

func (f *fleet) saw(d *mppb.JobDetail) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if n := len(f.steps); n == 0 || d.Job.Update != f.steps[n-1].update {
		f.steps = append(f.steps, commit{time.Now(), d.Job.Update, d.Job.Workers})
	}
	f.job, f.detail = d.Job, d
}

// watchEvents follows the event log, by whichever coordinator leads, without a gap.
func (f *fleet) watchEvents(ctx context.Context) {
	from := uint64(1)
	for ctx.Err() == nil {
		_ = f.client.Do(ctx, func(ctx context.Context, conn grpc.ClientConnInterface) error {
			stream, err := mppb.NewClusterClient(conn).Events(ctx, &mppb.EventsRequest{From: from, Follow: true})
			for err == nil {
				var e *mppb.Event
				if e, err = stream.Recv(); err != nil {
					break
				}
				from = e.Sequence + 1
				f.mu.Lock()
				f.events = append(f.events, e)
				f.mu.Unlock()
			}
			return err
		})
		select {
		case <-time.After(glance):
		case <-ctx.Done():
		}
	}
}

// now is the job as last seen.
func (f *fleet) now() *mppb.Job {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.job
}

// workersNow is what the leader knows of its workers.
func (f *fleet) workersNow() []*mppb.WorkerInfo {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.detail.GetWorkers()
}

// eventsSince are the events from a moment on that a filter lets through.
func (f *fleet) eventsSince(at time.Time, keep func(*mppb.Event) bool) []*mppb.Event {
	f.mu.Lock()
	defer f.mu.Unlock()
	var found []*mppb.Event
	for _, e := range f.events {
		if e.Time >= at.UnixNano() && keep(e) {
			found = append(found, e)
		}
	}
	return found
}

// nextCommit is the time from a moment to the first commit after it; 0 while there is none.
func (f *fleet) nextCommit(at time.Time) time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, s := range f.steps {
		if s.at.After(at) {
			return s.at.Sub(at)
		}
	}
	return 0
}

// longestPause is the longest time between two commits from a moment on.
func (f *fleet) longestPause(from time.Time) time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	longest, last := time.Duration(0), from
	for _, s := range f.steps {
		if s.at.After(from) {
			longest, last = max(longest, s.at.Sub(last)), s.at
		}
	}
	return longest
}

// until polls until ok, or says in its error what it waited for.
func (f *fleet) until(ctx context.Context, limit time.Duration, what string, ok func() bool) error {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	tick := time.NewTicker(glance)
	defer tick.Stop()
	over := !goesOn(f.now().GetState())
	for !ok() {
		if !over && !goesOn(f.now().GetState()) { // little will happen after this
			over = true
			timer.Reset(min(limit, 10*time.Second))
		}
		select {
		case <-tick.C:
		case <-timer.C:
			j := f.now()
			return fmt.Errorf("waited in vain for %s; the job is %s at update %d of %d: %s", what, strings.ToLower(j.GetState().String()), j.GetUpdate(), j.GetUpdates(), j.GetReason())
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// untilUpdate waits for an update to be committed.
func (f *fleet) untilUpdate(ctx context.Context, update uint64) error {
	return f.until(ctx, time.Minute, fmt.Sprintf("update %d", update), func() bool { return f.now().GetUpdate() >= update })
}

// untilWorkers waits until a view has as many workers that compute.
func (f *fleet) untilWorkers(ctx context.Context, n int) error {
	return f.until(ctx, time.Minute, count(n, "worker that computes", "workers that compute"), func() bool { return f.computing() == n })
}

// computing is the number of workers that have shards.
func (f *fleet) computing() int {
	n := 0
	for _, w := range f.workersNow() {
		if w.View > 0 && len(w.Shards) > 0 {
			n++
		}
	}
	return n
}

// untilEnd waits for the job's end.
func (f *fleet) untilEnd(ctx context.Context, limit time.Duration) (*mppb.Job, error) {
	err := f.until(ctx, limit, "the job's end", func() bool { return !goesOn(f.now().GetState()) })
	j := f.now()
	if err == nil && j.State != mppb.Job_DONE {
		err = fmt.Errorf("the job is %s: %s", strings.ToLower(j.State.String()), j.Reason)
	}
	return j, err
}

// close kills everything and waits for its end.
func (f *fleet) close() {
	if f.cancel != nil {
		f.cancel()
	}
	if f.client != nil {
		_ = f.client.Close()
	}
	f.wait.Wait()
	var all []*process
	all = append(all, f.running()...)
	for _, n := range f.nodes {
		if n.process != nil {
			all = append(all, n.process)
		}
	}
	for _, p := range all {
		p.signal(syscall.SIGKILL)
		<-p.done
	}
}

// errLines names the logs where the reason of a failed drill stands.
func (f *fleet) errLines(err error) error {
	if err == nil || errors.Is(err, context.Canceled) {
		return err
	}
	return fmt.Errorf("%w (logs in %s)", err, f.dir)
}
