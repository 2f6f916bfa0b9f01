package cmd

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"mp/job"
	"mp/mppb"
	"mp/trust"
)

// fleetConfig is a cluster of real processes on this machine, to be hurt.
type fleetConfig struct {
	program      string // this one
	dir          string // for everything the cluster writes
	data         string // folder of packs
	coordinators int
	called       string // what their names begin with; empty: coordinator
	minWorkers   int
	failAfter    time.Duration
	nats         string // as --nats
	hosts        bool   // each process on a host of its own; else all on this one
	secret       string // of a cluster that speaks TLS; empty: it does not
	small        string // folder of each coordinator that is a small disk of its own: data or runs; empty: none
	seed         uint64 // of what the network does
}

// fleet is a running cluster of processes. Its methods are for one goroutine; what it watches is gathered by others.
type fleet struct {
	fleetConfig
	nodes   []*node
	workers map[string]*process
	client  *mppb.Client
	cancel  context.CancelFunc
	wait    sync.WaitGroup
	network *hosts   // nil: all are on this machine's
	disks   []string // small ones, to be unmounted

	mu     sync.Mutex
	job    *mppb.Job // as last seen
	detail *mppb.JobDetail
	events []*mppb.Event
	steps  []commit // one entry whenever more updates were seen to be committed
}

// node is one coordinator; it keeps its address and its folder through every life.
type node struct {
	id, address string
	environ     []string // beside what all have
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
	if err := f.begin(ctx); err != nil {
		f.close()
		return nil, err
	}
	return f, nil
}

func (f *fleet) begin(ctx context.Context) (err error) {
	if f.hosts {
		if f.network, err = newHosts(f.seed); err != nil {
			return err
		}
	}
	for i := range f.coordinators {
		n := &node{id: cmp.Or(f.called, "coordinator") + "-" + strconv.Itoa(i+1)}
		if n.address, err = f.place(n.id, coordinatorPort); err != nil {
			return err
		}
		f.nodes = append(f.nodes, n)
		if f.small != "" {
			if err := f.smallDisk(filepath.Join(f.dir, n.id, f.small)); err != nil {
				return err
			}
		}
	}
	for _, n := range f.nodes {
		if err := f.startNode(n); err != nil {
			return err
		}
	}
	if f.client, err = f.clientOf(strings.Split(f.addresses(), ",")...); err != nil {
		return err
	}
	_, err = f.leader(ctx)
	return err
}

// clientOf is a client of the coordinators at some addresses.
func (f *fleet) clientOf(addresses ...string) (*mppb.Client, error) {
	dial, err := f.dialer()
	if err != nil {
		return nil, err
	}
	return mppb.NewClient(mppb.ClientConfig{Addresses: addresses, FailAfter: f.failAfter, Dial: dial})
}

// place is where a process listens that has a name: on its host, or at a free port of this machine.
func (f *fleet) place(name string, port uint16) (string, error) {
	if f.network == nil {
		return freeAddress()
	}
	h, err := f.network.at(name)
	if err != nil {
		return "", err
	}
	return h.address(port), nil
}

// dialer is how the drill reaches the coordinators; nil: by plain TCP.
func (f *fleet) dialer() (func(context.Context, string) (net.Conn, error), error) {
	var dial trust.Dialer
	if f.network != nil {
		dial = f.network.dial
	}
	if f.secret == "" {
		return dial, nil
	}
	if dial == nil {
		dial = trust.DialTCP
	}
	a, err := trust.NewAuthority(f.secret, time.Now)
	if err != nil {
		return nil, err
	}
	me, err := a.Identity(trust.Party{Role: trust.Client, Name: "drill"})
	if err != nil {
		return nil, err
	}
	return me.Over(dial, trust.Coordinator), nil
}

// start starts a process of the cluster, on its host and with the cluster's secret, which no argument shows.
func (f *fleet) start(name string, args []string, environ ...string) (*process, error) {
	tls := tlsOff
	c := processConfig{name: name, program: f.program, log: filepath.Join(f.dir, strings.ReplaceAll(name, " ", "-")+".log")}
	c.env = append(childEnv(os.Environ()), environ...)
	if f.secret != "" {
		tls = tlsOn
		c.env = append(c.env, twin("token")+"="+f.secret)
	}
	c.args = append(args, "--tls", tls)
	if f.network != nil {
		h, err := f.network.at(name)
		if err != nil {
			return nil, err
		}
		c.enter = h.enter
	}
	return startProcess(c)
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
	p, err := f.start(n.id, args, n.environ...)
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

// workerName is the name of a worker, its process and its host.
func workerName(number int) string { return "worker " + strconv.Itoa(number) }

// startWorker starts the worker with a number from 1 on, again if it has ended, with further arguments.
func (f *fleet) startWorker(number int, more ...string) (*process, error) {
	return f.startWorkerIn(number, nil, more...)
}

// startWorkerIn is startWorker with more in its environment.
func (f *fleet) startWorkerIn(number int, environ []string, more ...string) (*process, error) {
	name := workerName(number)
	if p := f.workers[name]; p != nil {
		select {
		case <-p.done:
		default:
			return nil, fmt.Errorf("%s is running", name)
		}
	}
	listen := "127.0.0.1:0"
	if f.network != nil {
		var err error
		if listen, err = f.place(name, workerPort); err != nil {
			return nil, err
		}
	}
	args := append([]string{"worker", "--cpu", "--slot", strconv.Itoa(number), "--threads", "1", "--coordinator", f.addresses(), "--data", f.data, "--name", name,
		"--listen", listen, "--scratch", filepath.Join(f.dir, "scratch-"+strconv.Itoa(number))}, more...)
	p, err := f.start(name, args, environ...)
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
		p := f.workers[workerName(i)]
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
	if f.network != nil {
		f.network.close()
	}
	f.unmount()
}

// errLines names the logs where the reason of a failed drill stands.
func (f *fleet) errLines(err error) error {
	if err == nil || errors.Is(err, context.Canceled) {
		return err
	}
	return fmt.Errorf("%w (logs in %s)", err, f.dir)
}
