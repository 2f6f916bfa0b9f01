package cmd

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"mp/job"
	"mp/mppb"
)

// liveOptions is what `mp bench control --live` is asked for.
type liveOptions struct {
	workers   int
	rounds    int
	rest      time.Duration // how long the steady state is looked at
	failAfter time.Duration
}

// benchControlLive measures one real coordinator in a process of its own, with a log on disk, under a crowd in this one.
func benchControlLive(ctx context.Context, e *env, o liveOptions) (err error) {
	if o.workers < 2 || o.workers > 10_000 || o.rounds < 1 || o.rest < time.Second || o.failAfter < 100*time.Millisecond {
		return fmt.Errorf("%w: --live: 2 to 10000; --rounds: at least 1; --rest: at least 1s; --fail-after: at least 100ms", job.ErrConfig)
	}
	dir, err := os.MkdirTemp("", "mp-bench-control-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	program, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	f, err := newFleet(ctx, fleetConfig{program: program, dir: dir, coordinators: 1, failAfter: o.failAfter, nats: natsNone})
	if err != nil {
		return err
	}
	defer f.close()
	b := &liveBench{liveOptions: o, fleet: f, node: f.nodes[0], crowd: newCrowd(f.nodes[0].address, o.failAfter, o.workers), say: func(format string, args ...any) {
		fmt.Fprintf(e.human(), format+"\n", args...)
	}}
	rows, err := b.run(ctx)
	if err != nil {
		return fmt.Errorf("%w\nthe coordinator's last words: %q", err, lastLines(f.nodes[0].log, 3))
	}
	return printBench(e, rows)
}

// liveBench is one such measurement.
type liveBench struct {
	liveOptions
	fleet *fleet
	node  *node
	crowd *crowd
	say   func(format string, args ...any)
	job   *mppb.Job
	group int // of the crowd that share a connection
	rows  []benchRow
}

func (b *liveBench) add(what string, value float64, unit string) {
	b.rows = append(b.rows, benchRow{Name: fmt.Sprintf("%d workers: %s", b.workers, what), Value: value, Unit: unit})
}

// against adds a figure that has a goal.
func (b *liveBench) against(goal float64, what string, value float64, unit string) {
	b.add(what, value, unit)
	r := &b.rows[len(b.rows)-1]
	r.Ratio, r.Peer = value/goal, fmt.Sprintf("goal of %g %s", goal, unit)
}

func (b *liveBench) run(ctx context.Context) ([]benchRow, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer b.crowd.wait.Wait()
	defer cancel()
	spec := fmt.Appendf(nil, `{"name": "crowd", "shards": %d, "batch-size": %d, "epochs": 100000, "keep-checkpoints": 2}`, b.workers, b.workers)
	err := askLeader(ctx, b.fleet.client, func(ctx context.Context, c mppb.ClusterClient) (err error) {
		b.job, err = c.Submit(ctx, &mppb.SubmitRequest{Spec: spec})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("submit: %w", err)
	}
	if b.group, err = sharing(b.workers); err != nil {
		return nil, err
	}
	b.add("that share a connection", float64(b.group), "workers")
	b.crowd.wait.Go(func() { b.crowd.run(ctx) })
	for _, part := range []func(context.Context) error{b.begin, b.steady, b.faults, b.look} {
		if err := part(ctx); err != nil {
			return nil, err
		}
	}
	return b.rows, nil
}

// begin lets all of them join.
func (b *liveBench) begin(ctx context.Context) error {
	start := time.Now()
	if err := b.crowd.add(ctx, b.workers, b.group); err != nil {
		return err
	}
	if err := b.crowd.until(ctx, "wait for all to be in one view", func() bool { return b.crowd.settled() && len(b.crowd.all) == b.workers }); err != nil {
		return err
	}
	took := time.Since(start)
	b.say("%d workers are in one view after %s", b.workers, took.Round(time.Millisecond))
	b.add("all at once come into one view", took.Seconds(), "s")
	from := b.crowd.update
	return b.crowd.until(ctx, "wait for the first updates", func() bool { return b.crowd.update >= from+20 })
}

// spent is what the coordinator's process has used so far.
type spent struct {
	at              time.Time
	cpu             time.Duration
	arrived, folder uint64 // bytes at all workers, and in its folder
	written         uint64 // bytes it gave to its disk
	index           uint64 // of the raft log
	update          uint64
	views           int
}

func (b *liveBench) usage(ctx context.Context) (u spent, err error) {
	s := &mppb.ClusterStatus{}
	if err := askLeader(ctx, b.fleet.client, func(ctx context.Context, c mppb.ClusterClient) error {
		s, err = c.Status(ctx, &mppb.StatusRequest{})
		return err
	}); err != nil {
		return u, fmt.Errorf("ask the coordinator how it is: %w", err)
	}
	var t unix.Timespec
	const schedClock = 2 // clock_getcpuclockid(3): the low bits of a process's clock
	if err := unix.ClockGettime(int32(^b.node.pid)<<3|schedClock, &t); err != nil {
		return u, fmt.Errorf("read the coordinator's processor time: %w", err)
	}
	proc := filepath.Join("/proc", strconv.Itoa(b.node.pid))
	if u.written, err = procFigure(filepath.Join(proc, "io"), "write_bytes:"); err != nil {
		return u, err
	}
	if u.folder, err = folderSize(filepath.Join(b.fleet.dir, b.node.id, "data")); err != nil {
		return u, err
	}
	b.crowd.mu.Lock()
	defer b.crowd.mu.Unlock()
	u.at, u.cpu, u.arrived, u.index, u.update, u.views = time.Now(), time.Duration(t.Nano()), b.crowd.arrived.Load(), s.RaftIndex, b.crowd.update, b.crowd.views
	return u, nil
}

// procFigure reads the number behind a word in a file of /proc.
func procFigure(path, word string) (uint64, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		var value uint64
		if _, err := fmt.Sscanf(line, word+" %d", &value); err == nil {
			return value, nil
		}
	}
	return 0, fmt.Errorf("%s has no %s", path, word)
}

func folderSize(dir string) (uint64, error) {
	size := uint64(0)
	err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			size += uint64(info.Size())
		}
		return err
	})
	return size, err
}

// steady measures what it costs when nothing happens but steps.
func (b *liveBench) steady(ctx context.Context) error {
	from, err := b.usage(ctx)
	if err != nil {
		return err
	}
	timer := time.NewTimer(b.rest)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
		return ctx.Err()
	}
	to, err := b.usage(ctx)
	if err != nil {
		return err
	}
	seconds := to.at.Sub(from.at).Seconds()
	b.say("%.1f s of steps: %d updates, %s of processor", seconds, to.update-from.update, (to.cpu - from.cpu).Round(time.Millisecond))
	b.add("steady: updates", float64(to.update-from.update)/seconds, "1/s")
	if to.views != from.views {
		b.say("the view changed meanwhile: the machine does other work")
	}
	share := (to.cpu - from.cpu).Seconds() / seconds
	b.against(1, "steady: coordinator's processor in a step of 100 ms", 100*share, "% of a core")
	b.add("steady: the same, by worker", share*1e6/float64(b.workers), "us/s")
	b.add("steady: sent by the coordinator", float64(to.arrived-from.arrived)/seconds, "bytes/s")
	b.add("steady: entries of the raft log", float64(to.index-from.index)/seconds, "1/s")
	b.add("steady: written to disk", float64(to.written-from.written)/seconds, "bytes/s")
	b.add("steady: growth of its folder", (float64(to.folder)-float64(from.folder))/seconds, "bytes/s")
	return nil
}

// faults kills some, lets others join, and measures how long it takes until everybody knows.
func (b *liveBench) faults(ctx context.Context) error {
	c := b.crowd
	var first, all, alone, many, joins []float64
	from, err := b.usage(ctx)
	if err != nil {
		return err
	}
	for round := range b.rounds {
		deaths := 1
		if round%4 == 3 {
			deaths = max(2, b.workers/100)
		}
		at := c.kill(deaths)
		if err := c.until(ctx, "wait for a view without the dead", c.whole); err != nil {
			return err
		}
		c.mu.Lock()
		sooner, later := c.firstAt.Sub(at).Seconds(), c.allAt.Sub(at).Seconds()
		c.mu.Unlock()
		first, all = append(first, sooner), append(all, later)
		if deaths == 1 {
			alone = append(alone, later)
		} else {
			many = append(many, later)
		}
		at = time.Now()
		if err := c.add(ctx, deaths, b.group); err != nil {
			return err
		}
		if err := c.until(ctx, "wait for a view with those who joined", func() bool { return c.whole() && len(c.members) == len(c.all) }); err != nil {
			return err
		}
		joins = append(joins, time.Since(at).Seconds())
		if err := c.until(ctx, "wait for shards for those who joined", c.settled); err != nil {
			return err
		}
		b.say("round %d: %d died, the first had the next view after %.3f s, all after %.3f s", round+1, deaths, sooner, later)
		until := c.update + 5
		if err := c.until(ctx, "wait for updates", func() bool { return c.update >= until }); err != nil {
			return err
		}
	}
	to, err := b.usage(ctx)
	if err != nil {
		return err
	}
	views := float64(to.views - from.views)
	b.add("deaths: rounds", float64(b.rounds), "rounds")
	b.add("a death: next view at the first, median", quantile(first, 0.5), "s")
	b.against(2, "a death: next view at all, median", quantile(all, 0.5), "s")
	b.against(2, "a death: next view at all, 99th percentile", quantile(all, 0.99), "s")
	b.add("one death: next view at all, median", quantile(alone, 0.5), "s")
	if len(many) > 0 {
		b.add(fmt.Sprintf("%d deaths at once: next view at all, median", max(2, b.workers/100)), quantile(many, 0.5), "s")
	}
	b.add("joining: from Hello to a view with it at all, median", quantile(joins, 0.5), "s")
	b.add("faults: views", views, "views")
	b.add("faults: sent a view", float64(to.arrived-from.arrived)/views, "bytes")
	b.add("faults: coordinator's processor a view, steps between included", (to.cpu-from.cpu).Seconds()/views, "s")
	b.add("faults: coordinator's processor", 100*(to.cpu-from.cpu).Seconds()/to.at.Sub(from.at).Seconds(), "% of a core")
	return nil
}

// quantile is the smallest value that a share of them does not exceed.
func quantile(x []float64, share float64) float64 {
	slices.Sort(x)
	return x[min(len(x)-1, int(share*float64(len(x))))]
}

// look measures what is there in the end, and checks the proof of what the crowd did.
func (b *liveBench) look(ctx context.Context) error {
	proc := filepath.Join("/proc", strconv.Itoa(b.node.pid), "status")
	for _, m := range []struct{ what, word string }{{"resident memory in the end", "VmRSS:"}, {"resident memory at most", "VmHWM:"}} {
		kib, err := procFigure(proc, m.word)
		if err != nil {
			return err
		}
		b.add(m.what, float64(kib)/1024, "MiB")
	}
	u, err := b.usage(ctx)
	if err != nil {
		return err
	}
	b.add("raft log and snapshots in the end", float64(u.folder)/(1<<20), "MiB")
	b.add("entries of the raft log in the end", float64(u.index), "entries")
	b.crowd.mu.Lock()
	lost, refused := len(b.crowd.lost), b.crowd.refused
	if lost > 0 {
		b.say("a session ended although nobody was killed: %s", b.crowd.lost[0])
	}
	b.crowd.mu.Unlock()
	b.add("sessions that ended although nobody was killed", float64(lost), "sessions")
	b.add("tries to join that were in vain", float64(refused), "tries")
	var d *mppb.JobDetail
	if err := askLeader(ctx, b.fleet.client, func(ctx context.Context, c mppb.ClusterClient) error {
		d, err = c.Show(ctx, &mppb.JobName{Id: b.job.Id})
		return err
	}); err != nil {
		return fmt.Errorf("ask for the ledger: %w", err)
	}
	proven := 0
	for _, l := range d.Ledger {
		switch i := newLedgerInfo(l); {
		case i.Proven:
			proven++
		case i.Whole || i.Missing > 0 || i.Repeated > 0:
			return fmt.Errorf("the ledger of epoch %d misses %d images and repeats %d; this is a fault of mp, please report it", i.Epoch, i.Missing, i.Repeated)
		}
	}
	b.add("epochs proven by the ledger", float64(proven), "epochs")
	return nil
}

// sharing is how many of the crowd must share a connection so that file descriptors suffice, here and in the coordinator.
func sharing(workers int) (int, error) {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return 0, fmt.Errorf("read the limit of open files: %w", err)
	}
	const others = 200
	room := max(1, int(min(limit.Cur, 1<<20))-others)
	return (workers + workers/10 + room - 1) / room, nil
}
