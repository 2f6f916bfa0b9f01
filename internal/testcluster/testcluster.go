// Package testcluster is a whole cluster in one process: coordinators with real raft, workers that train on painted images,
// and faults on demand. It is for tests only and owns no rule: what must hold is what the tests say.
//
// A worker that is killed ends at once, its connections with it, as after kill -9; what only a real process can suffer
// (SIGSTOP, a crash in native code) is for `mp drill`. Start reading at Config, then at the tests.
package testcluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"

	"mp/coordinator"
	"mp/data"
	"mp/job"
	"mp/metrics"
	"mp/mppb"
	"mp/ops"
	"mp/ops/pixel"
	"mp/trust"
	"mp/worker"
)

// Config says what cluster to start.
type Config struct {
	Coordinators int           // 0: one
	MinWorkers   int           // 0: one
	FailAfter    time.Duration // 0: three seconds, so that a machine with much else to do does not pass for a fault
	Version      string        // of the program; empty: test
	Secure       bool          // everybody speaks TLS, with certificates of the cluster's own
}

// patience bounds every wait: a cluster on a busy machine of two cores is slow, a cluster that hangs is wrong.
const patience = 3 * time.Minute

// Cluster is a running Config. Its methods are for the test's goroutine; they fail the test when the cluster does not do
// what is waited for. Everything ends with the test.
type Cluster struct {
	t      testing.TB
	config Config
	dir    string
	train  *data.Pack
	val    *data.Pack
	nodes  []*node
	client *mppb.Client

	authority *trust.Authority // nil: plain TCP

	mu      sync.Mutex
	workers map[string]*Worker
	hooks   []hook
}

// node is a coordinator through all its lives.
type node struct {
	id, address string
	listener    net.Listener // held from before the first life, so that nobody else takes the port
	cancel      context.CancelCauseFunc
	done        chan struct{}
}

// hook is called once, when the first worker reports an update from a number on.
type hook struct {
	update int
	call   func()
}

// New starts the coordinators.
func New(t testing.TB, c Config) *Cluster {
	t.Helper()
	if c.Coordinators == 0 {
		c.Coordinators = 1
	}
	if c.MinWorkers == 0 {
		c.MinWorkers = 1
	}
	if c.FailAfter == 0 {
		c.FailAfter = 3 * time.Second
	}
	if c.Version == "" {
		c.Version = "test"
	}
	k := &Cluster{t: t, config: c, dir: t.TempDir(), workers: map[string]*Worker{}}
	if c.Secure {
		var err error
		if k.authority, err = trust.NewAuthority("the secret of a cluster of tests", time.Now); err != nil {
			t.Fatal(err)
		}
	}
	k.paint()
	var addresses []string
	for i := range c.Coordinators {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		n := &node{id: fmt.Sprintf("coordinator-%d", i+1), address: l.Addr().String(), listener: l}
		k.nodes = append(k.nodes, n)
		addresses = append(addresses, n.address)
	}
	t.Cleanup(k.stop)
	for i := range k.nodes {
		k.StartCoordinator(i)
	}
	var err error
	if k.client, err = k.newClient(addresses...); err != nil {
		t.Fatal(err)
	}
	return k
}

// identity is who somebody is; nil without TLS.
func (k *Cluster) identity(role trust.Role, name string) *trust.Identity {
	k.t.Helper()
	if k.authority == nil {
		return nil
	}
	i, err := k.authority.Identity(trust.Party{Role: role, Name: name})
	if err != nil {
		k.t.Fatal(err)
	}
	return i
}

func (k *Cluster) newClient(addresses ...string) (*mppb.Client, error) {
	c := mppb.ClientConfig{Addresses: addresses, FailAfter: k.config.FailAfter}
	if who := k.identity(trust.Client, "test"); who != nil {
		c.Dial = who.Over(trust.DialTCP, trust.Coordinator)
	}
	return mppb.NewClient(c)
}

type decoder struct{}

func (decoder) Decode(jpegs [][]byte, dst []byte) []error { return pixel.Decode(jpegs, dst) }

// paint makes the images that every worker trains on.
func (k *Cluster) paint() {
	k.t.Helper()
	ctx := k.t.Context()
	dir := filepath.Join(k.dir, "images")
	if err := data.Synth(ctx, data.SynthConfig{Dir: dir, Classes: 4, Train: 80, Val: 24, Seed: 1}); err != nil {
		k.t.Fatal(err)
	}
	root, err := data.OpenRoot(dir)
	if err != nil {
		k.t.Fatal(err)
	}
	open := func(split data.Split) *data.Pack {
		path := data.PackPath(dir, split)
		if err := data.WritePack(ctx, data.PackConfig{Root: root, Split: split, Path: path, Decoder: decoder{}}); err != nil {
			k.t.Fatal(err)
		}
		p, err := data.OpenPack(path)
		if err != nil {
			k.t.Fatal(err)
		}
		k.t.Cleanup(func() { p.Close() })
		return p
	}
	k.train, k.val = open(data.Train), open(data.Val)
}

// Spec is a short job in which everything is that could tell one run from another: a batch in four shards, images that
// grow, averages, a last batch that is not full. 80 images in batches of 12 are 7 updates an epoch.
func Spec(t testing.TB, model string, epochs int) job.Spec {
	t.Helper()
	s, err := job.Default(job.Spec{Model: model, Epochs: epochs})
	if err != nil {
		t.Fatal(err)
	}
	s.Data, s.BatchSize, s.Shards, s.Threads, s.Seed, s.EMA, s.Warmup, s.PrintFreq, s.ValBatch = "d", 12, 4, 1, 7, 0.9, 0.5, 1, 6
	if model != job.ModelSimpleViT {
		s.ImageSize = fmt.Sprintf("32:0-%d,48:%d-", epochs-2, epochs-1)
	}
	if err := s.Validate(); err != nil {
		t.Fatal(err)
	}
	return s
}

// StartCoordinator starts a coordinator, counted from 0, for the first time or again.
func (k *Cluster) StartCoordinator(i int) {
	k.t.Helper()
	n := k.nodes[i]
	c := coordinator.DefaultConfig()
	c.ID, c.Listen, c.FailAfter, c.MinWorkers, c.Version = n.id, n.address, k.config.FailAfter, k.config.MinWorkers, k.config.Version
	c.DataDir, c.RunsDir = filepath.Join(k.dir, n.id, "raft"), filepath.Join(k.dir, n.id, "runs")
	c.Listener, n.listener = n.listener, nil
	c.Logger = k.logger(n.id)
	if c.Trust = k.identity(trust.Coordinator, n.id); c.Trust != nil {
		c.Desk = trust.NewDesk(k.authority)
	}
	if len(k.nodes) > 1 {
		for _, p := range k.nodes {
			c.Peers = append(c.Peers, coordinator.Peer{ID: p.id, Address: p.address})
		}
	}
	running, err := coordinator.New(c)
	if err != nil {
		k.t.Fatalf("start %s: %v", n.id, err)
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	n.cancel, n.done = cancel, make(chan struct{})
	go func() {
		defer close(n.done)
		if err := running.Run(ctx); err != nil {
			k.t.Errorf("%s: %v", n.id, err)
		}
	}()
}

// KillCoordinator ends a coordinator as a crash does.
func (k *Cluster) KillCoordinator(i int) {
	k.t.Helper()
	k.nodes[i].cancel(coordinator.ErrCrash)
	<-k.nodes[i].done
}

// Folder is where a coordinator keeps its raft log (raft) and runs (runs).
func (k *Cluster) Folder(i int) string { return filepath.Join(k.dir, k.nodes[i].id) }

// LoseCoordinator ends a coordinator as a crash does, and its disk with it.
func (k *Cluster) LoseCoordinator(i int) {
	k.t.Helper()
	k.KillCoordinator(i)
	err := os.RemoveAll(k.Folder(i))
	for end := time.Now().Add(patience); err != nil && time.Now().Before(end); err = os.RemoveAll(k.Folder(i)) {
		time.Sleep(time.Millisecond) // a call that was being answered may still lay a file down: the crash is within this process
	}
	if err != nil {
		k.t.Fatal(err)
	}
}

// Leader waits for a leader and returns its number, counted from 0.
func (k *Cluster) Leader() int {
	k.t.Helper()
	var s *mppb.ClusterStatus
	k.ask(func(ctx context.Context, c mppb.ClusterClient) error {
		var err error
		s, err = c.Status(ctx, &mppb.StatusRequest{})
		return err
	})
	for i, n := range k.nodes {
		if n.id == s.Leader {
			return i
		}
	}
	k.t.Fatalf("nobody leads: %v", s)
	return 0
}

// ask calls the leader, whoever it is.
func (k *Cluster) ask(f func(ctx context.Context, c mppb.ClusterClient) error) {
	k.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	err := k.client.Do(ctx, func(ctx context.Context, conn grpc.ClientConnInterface) error {
		return f(ctx, mppb.NewClusterClient(conn))
	})
	if err != nil {
		k.t.Fatalf("ask the cluster: %v", err)
	}
}

// Addresses are where the coordinators are, as --coordinator takes them.
func (k *Cluster) Addresses() string {
	var all []string
	for _, n := range k.nodes {
		all = append(all, n.address)
	}
	return strings.Join(all, ",")
}

// Client reaches the leader.
func (k *Cluster) Client() *mppb.Client { return k.client }

// Images is the folder of what the workers train on.
func (k *Cluster) Images() string { return filepath.Dir(k.train.Path()) }

// Val are the images that the workers validate on.
func (k *Cluster) Val() *data.Pack { return k.val }

// Workers waits until n workers belong to the cluster.
func (k *Cluster) Workers(n int) {
	k.t.Helper()
	k.Eventually(fmt.Sprintf("%d workers", n), func() bool {
		var r *mppb.WorkersReply
		k.ask(func(ctx context.Context, c mppb.ClusterClient) error {
			var err error
			r, err = c.Workers(ctx, &mppb.WorkersRequest{})
			return err
		})
		return len(r.Workers) == n
	})
}

// Submit hands in a job and returns its identity.
func (k *Cluster) Submit(s job.Spec) string {
	k.t.Helper()
	text, err := json.Marshal(s)
	if err != nil {
		k.t.Fatal(err)
	}
	var j *mppb.Job
	k.ask(func(ctx context.Context, c mppb.ClusterClient) error {
		var err error
		j, err = c.Submit(ctx, &mppb.SubmitRequest{Spec: text})
		return err
	})
	return j.Id
}

// Steer asks something of a job.
func (k *Cluster) Steer(id string, verb mppb.SteerRequest_Verb) {
	k.t.Helper()
	k.ask(func(ctx context.Context, c mppb.ClusterClient) error {
		_, err := c.Steer(ctx, &mppb.SteerRequest{Id: id, Verb: verb})
		return err
	})
}

// Show is what the cluster knows of a job.
func (k *Cluster) Show(id string) *mppb.JobDetail {
	k.t.Helper()
	var d *mppb.JobDetail
	k.ask(func(ctx context.Context, c mppb.ClusterClient) error {
		var err error
		d, err = c.Show(ctx, &mppb.JobName{Id: id})
		return err
	})
	return d
}

// Until waits for something to become true of a job.
func (k *Cluster) Until(id, what string, ok func(*mppb.JobDetail) bool) *mppb.JobDetail {
	k.t.Helper()
	deadline := time.Now().Add(patience)
	for {
		d := k.Show(id)
		if ok(d) {
			return d
		}
		if d.Job.State == mppb.Job_DONE || time.Now().After(deadline) {
			k.t.Fatalf("waited in vain for %s; %s is %s at update %d: %s\n%s", what, id, d.Job.State, d.Job.Update, d.Job.Reason, story(d))
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// Eventually waits for something to become true.
func (k *Cluster) Eventually(what string, ok func() bool) {
	k.t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			k.t.Fatalf("waited in vain for %s", what)
		}
	}
}

// Fetch asks one coordinator, counted from 0, for the files of a job's run as it knows them now, and returns the folder with
// them. A node that is behind may name a file that is no more: that is an error.
func (k *Cluster) Fetch(i int, id string) (dir string, err error) {
	k.t.Helper()
	client, err := k.newClient(k.nodes[i].address)
	if err != nil {
		return "", err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var list *mppb.FileList
	err = client.Do(ctx, func(ctx context.Context, conn grpc.ClientConnInterface) error {
		var err error
		list, err = mppb.NewClusterClient(conn).ListFiles(ctx, &mppb.JobName{Id: id})
		return err
	})
	if err != nil {
		return "", err
	}
	dir = k.t.TempDir()
	for _, f := range list.Files {
		to := filepath.Join(dir, f.Path)
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			return "", err
		}
		if _, err := client.Download(ctx, &mppb.FileName{Job: id, Path: f.Path}, to); err != nil {
			return "", err
		}
	}
	return dir, nil
}

// Finish waits for a job's end and checks that its ledger proves every epoch.
func (k *Cluster) Finish(id string) *mppb.Outcome {
	k.t.Helper()
	d := k.Until(id, "the job's end", func(d *mppb.JobDetail) bool {
		switch d.Job.State {
		case mppb.Job_FAILED, mppb.Job_CANCELLED:
			k.t.Fatalf("%s is %s: %s\n%s", id, d.Job.State, d.Job.Reason, story(d))
		}
		return d.Job.State == mppb.Job_DONE
	})
	if len(d.Ledger) == 0 {
		k.t.Errorf("%s has no ledger", id)
	}
	for _, l := range d.Ledger {
		if !l.Whole || l.Missing != 0 || l.Repeated != 0 || l.Images != l.ExpectedImages || l.Hash != l.ExpectedHash {
			k.t.Errorf("%s, epoch %d: not every image once: %v", id, l.Epoch+1, l)
		}
	}
	if d.Job.Outcome.GetSha256() == "" || d.Job.Outcome.GetOptimizerSha256() == "" {
		k.t.Errorf("%s has no outcome: %v", id, d.Job.Outcome)
	}
	if t := k.t; t.Failed() {
		t.Log(story(d))
	}
	return d.Job.Outcome
}

// Story is the cluster's story of a job so far, a line an event.
func (k *Cluster) Story(id string) string {
	k.t.Helper()
	return story(k.Show(id))
}

func story(d *mppb.JobDetail) string {
	var b strings.Builder
	for _, e := range d.Events {
		mark := " "
		if e.Warning {
			mark = "!"
		}
		fmt.Fprintf(&b, "%s%s%-10s %s", time.Unix(0, e.Time).Format("15:04:05.000"), mark, e.Topic, e.Text)
		if e.Advice != "" {
			fmt.Fprintf(&b, " (%s)", e.Advice)
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// SameBits fails the test unless two runs ended alike to the last bit: weights, optimizer, and which epoch was best.
func SameBits(t testing.TB, what string, got, want *mppb.Outcome) {
	t.Helper()
	if got.GetSha256() != want.GetSha256() || got.GetOptimizerSha256() != want.GetOptimizerSha256() || got.GetBestEpoch() != want.GetBestEpoch() ||
		got.GetBestTop1() != want.GetBestTop1() || got.GetBestTop5() != want.GetBestTop5() || got.GetCheckpoint() != want.GetCheckpoint() {
		t.Errorf("%s:\n got %v\nwant %v", what, got, want)
	}
}

// At calls something once, from a worker's goroutine, when the job has reached an update.
func (k *Cluster) At(update int, call func()) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.hooks = append(k.hooks, hook{update, call})
}

// seen is a worker's sink: it knows when updates happen.
type seen struct{ cluster *Cluster }

// Emit calls the hooks that are due.
func (s seen) Emit(e metrics.Event) {
	if e.Step == nil {
		return
	}
	k := s.cluster
	k.mu.Lock()
	var due, left []hook
	for _, h := range k.hooks {
		if e.Step.Update >= h.update {
			due = append(due, h)
		} else {
			left = append(left, h)
		}
	}
	k.hooks = left
	k.mu.Unlock()
	for _, h := range due {
		h.call()
	}
}

// logger writes to the test's log when the test is verbose and fails.
func (k *Cluster) logger(name string) *slog.Logger {
	return slog.New(slog.NewTextHandler(testLog{k.t}, &slog.HandlerOptions{Level: slog.LevelInfo})).With("who", name)
}

type testLog struct{ t testing.TB }

func (l testLog) Write(p []byte) (int, error) {
	l.t.Log(strings.TrimSpace(string(p)))
	return len(p), nil
}

// stop ends everything that still runs.
func (k *Cluster) stop() {
	k.mu.Lock()
	var all []*Worker
	for _, w := range k.workers {
		all = append(all, w)
	}
	k.mu.Unlock()
	for _, w := range all {
		w.Kill()
	}
	if k.client != nil {
		k.client.Close()
	}
	for _, n := range k.nodes {
		if n.cancel != nil {
			n.cancel(nil)
			<-n.done
		}
		if n.listener != nil {
			n.listener.Close()
		}
	}
}

// Worker is a worker of the cluster, in this process.
type Worker struct {
	Name   string
	node   *worker.Node
	cancel context.CancelFunc
	done   chan struct{}
	err    error // of its run, once done is closed
}

// Start starts a worker under a name, for the first time or again. Each has a device of its own and is a machine of its
// own, so that the ring goes through the network's stack.
func (k *Cluster) Start(name string, change ...func(*worker.NodeConfig)) *Worker {
	k.t.Helper()
	device, err := ops.OpenDevice(ops.DeviceConfig{GPU: ops.CPU, Threads: 1})
	if err != nil {
		k.t.Fatal(err)
	}
	c := worker.DefaultNodeConfig()
	for _, n := range k.nodes {
		c.Coordinators = append(c.Coordinators, n.address)
	}
	c.Listen, c.Host, c.Machine, c.DeviceName, c.Name, c.Version = "127.0.0.1:0", "host-"+name, "machine-"+name, "cpu:0", "worker "+name, k.config.Version
	c.Device, c.Train, c.Val, c.Scratch, c.Logger = device, k.train, k.val, filepath.Join(k.dir, "scratch-"+name), k.logger(name)
	c.Trust = k.identity(trust.Worker, name)
	c.Sinks = func(string, string, uint64) (metrics.Sink, error) { return seen{k}, nil }
	for _, f := range change {
		f(&c)
	}
	node, err := worker.NewNode(c)
	if err != nil {
		k.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	w := &Worker{Name: name, node: node, cancel: cancel, done: make(chan struct{})}
	k.mu.Lock()
	k.workers[name] = w
	k.mu.Unlock()
	go func() {
		defer close(w.done)
		w.err = node.Run(ctx)
		device.Close()
	}()
	return w
}

// Crash makes the worker end as kill -9 does; it does not wait.
func (w *Worker) Crash() { w.cancel() }

// Kill makes the worker end as kill -9 does, and waits.
func (w *Worker) Kill() {
	w.cancel()
	<-w.done
}

// Drain asks the worker to leave, as SIGTERM does; it does not wait.
func (w *Worker) Drain() { w.node.Drain() }

// Ended waits for the worker's end and returns what its run did.
func (k *Cluster) Ended(w *Worker) error {
	k.t.Helper()
	select {
	case <-w.done:
		return w.err
	case <-time.After(patience):
		k.t.Fatalf("%s has not ended within %s", w.Name, patience)
		return errors.New("unreachable")
	}
}
